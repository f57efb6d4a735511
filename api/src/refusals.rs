//! How controllers begin to refuse questions, where commands know that again: a control plane of another release says the same.

/// Of a kind of resource that is not counted; the kind follows.
pub const NO_STATS_BY: &str = "there are no stats by";
/// Of rows by what a request asks for, where that is not known.
pub const PATHS_ARE_COUNTED: &str = "paths, methods and statuses are counted";

//! The tests of the whole mesh are in `tests/`; this crate has no code of its own.

//! Measurements of Conduit that anyone can run again: `bench/README.md` says how.
//!
//! - [`serve`]: a server that costs next to nothing. [`load`]: requests to it at a constant rate, each timed from the moment
//!   at which it was due. [`report`]: what came out, and two of them beside each other.
//! - [`proxy`]: what a request costs a proxy, ours and others. [`train`]: all of its work once, for a profile of it.
//! - [`memory`]: what the processes of a local mesh hold. [`control_plane`]: controllers alone, and many proxies at them.
//!   [`kubernetes`]: controllers in a cluster.

pub mod control_plane;
pub mod identity;
pub mod kubernetes;
pub mod load;
pub mod memory;
pub mod proxy;
pub mod report;
pub mod serve;
pub mod train;

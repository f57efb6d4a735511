//! Breaks a control plane of real processes on purpose, while clients write and read, and checks what they were told.
//!
//! ```text
//!   faults (by seed) ──► cluster: kill -9, SIGSTOP, SIGTERM, lost disks
//!   clients ──► cluster: proposals, reads ──► history ──► check ──► verdict
//! ```
//!
//! [`history`] and [`faults`] are pure. The same seed breaks the same things at the same times; what the processes make of
//! that is up to the machine, and therefore a history is checked and never compared.

pub mod clients;
pub mod cluster;
pub mod drills;
pub mod faults;
pub mod history;
pub mod run;
pub mod workloads;

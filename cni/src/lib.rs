//! Redirects pods' traffic where pods may not do it themselves.
//!
//! ```text
//!   container runtime ─► plugin ─► agent (a Unix socket of the node) ─► API server: this pod
//!                          │ ◄──── arguments, as `conduit-proxy init` gets them
//!                          └─► nftables rules in the pod's network namespace
//! ```
//!
//! - [`plugin`]: what the runtime says by the CNI specification, and what it is told. It holds no credentials.
//! - [`agent`]: answers plugins, and keeps the plugin on its node: the program itself, and its entry in the network's configuration.
//! - [`conf`]: that entry, in whatever files there are. No I/O.
//! - [`question`]: what plugins and agents say to each other.

pub mod agent;
pub mod conf;
pub mod plugin;
pub mod question;

/// The program's name, as the network's configuration has it.
pub const PLUGIN: &str = "conduit-cni";

/// Of the CNI specification, which the plugin speaks.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

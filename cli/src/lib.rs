//! The `conduit` command.
//!
//! - [`args`]: what can be typed; [`global`]: beside every command. [`resource`]: how workloads are named. [`failure`]: how everything that goes wrong is said.
//! - [`control_plane`]: finding a replica that answers. [`address`]: where replicas are. [`kubernetes`]: which cluster they are in.
//!   [`transport`]: how calls get there.
//! - One module per command, which asks in the file of that name and writes in pure functions beside it: [`version`],
//!   [`ca`], [`identity`], [`check`], [`stat`], [`edges`], [`tap`], [`top`], [`raft`], [`wait`], [`history`], [`get`], [`pods`], [`routes`] (apply, delete, diff, rollback),
//!   [`completion`], [`dashboard`], [`explain`], [`slo`], [`alerts`]. [`yaml`] and [`gateway`] read what people write.
//! - [`install`], [`inject`]: manifests for Kubernetes, made without asking anybody. [`upgrade`]: the same for what is there already; [`prune`], [`uninstall`]: what is
//!   to be deleted there. [`installation`]: what there is.
//! - [`plugin`]: commands of others.
//! - [`table`], [`printable`], [`stdout`]: what all of them write with.

pub mod address;
pub mod alerts;
pub mod args;
pub mod authority;
pub mod ca;
pub mod check;
pub mod completion;
pub mod control_plane;
pub mod dashboard;
pub mod diagnostics;
pub mod edges;
pub mod explain;
pub mod failure;
pub mod fetch;
pub mod gateway;
pub mod get;
pub mod global;
pub mod history;
pub mod identity;
pub mod inject;
pub mod install;
pub mod installation;
pub mod kubernetes;
pub mod local;
pub mod output;
pub mod plugin;
pub mod pods;
pub mod printable;
pub mod profile;
pub mod prune;
pub mod raft;
pub mod resource;
pub mod routes;
pub mod slo;
pub mod stat;
pub mod stdout;
pub mod table;
pub mod tap;
pub mod time;
pub mod top;
pub mod transport;
pub mod uninstall;
pub mod upgrade;
pub mod version;
pub mod wait;
pub mod yaml;

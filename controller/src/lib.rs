//! The control-plane process: actors around one replicated state machine.
//!
//! ```text
//!  Kubernetes/file ► platform (leader only) ─► consensus ─► applied state ─► discovery ─► proxies
//!                                                 ▲            │                            │
//!                                              learning ◄──────┼──── who speaks first ──────┘
//!                                               alerts ◄───────┤
//!                                            authority ◄───────┴──► api ◄─► peer (the other replicas)
//!                                                │                   ▲
//!  proxies ─► identity (CSR + token) ─► issuer ◄─┘     proxies ─► telemetry, tap
//! ```
//!
//! A file named like its folder is pure and decides; `actor.rs` and `server.rs` beside it are its shell, and do.

pub mod admin;
pub mod alerts;
pub mod api;
pub mod app;
pub mod authority;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod explain;
pub mod identity;
pub mod learning;
pub mod peer;
pub mod platform;
pub mod propose;
pub mod seed;
pub mod serve;
pub mod tap;
pub mod telemetry;
pub mod web;
pub mod webhook;

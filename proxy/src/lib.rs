//! The sidecar: carries its application's traffic, and is noticed by nobody.
//!
//! ```text
//!   application ──► outbound ──► (mutual TLS) ──► inbound ──► application
//!                      │  ▲                          │
//!                 balance │ destination         telemetry, tap
//!                         │                          │
//!                     discovery ◄── control plane ◄──┘
//! ```
//!
//! [`outbound`] and [`inbound`] are each direction's request path, to be read from top to bottom. [`worker`] is a data thread;
//! everything that speaks to the control plane runs on another, and reaches the data threads by snapshots.

pub mod admin;
pub mod alike;
pub mod app;
pub mod balance;
pub mod buffer;
pub mod buffered;
pub mod cache;
pub mod callers;
pub mod client_hello;
pub mod config;
pub mod connect;
pub mod control;
pub mod destination;
pub mod detect;
pub mod discovery;
pub mod forward;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod io;
pub mod journal;
pub mod listeners;
pub mod live;
pub mod original;
pub mod outbound;
pub mod policy;
pub mod route;
pub mod tap;
pub mod telemetry;
pub mod turns;
pub mod worker;
pub mod workload_api;

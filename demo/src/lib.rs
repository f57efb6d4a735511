//! The application that the local mesh demonstrates itself with: people, and a bot, vote for emoji.
//!
//! ```text
//! vote-bot ──HTTP/1.1──► web ──gRPC──► emoji      what can be voted for
//!                         └────gRPC──► voting     counts; fails for one emoji on purpose
//! ```
//!
//! [`web`], [`emoji`], [`voting`] and [`vote_bot`] are one process each. [`catalog`] is the table of all emoji.

pub mod backend;
pub mod catalog;
pub mod emoji;
pub mod proto;
mod reflection;
pub mod shutdown;
pub mod vote_bot;
pub mod voting;
pub mod web;

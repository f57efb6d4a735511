//! When to ask another replica.

use std::error::Error as _;

use tonic::{Code, Status};

/// Whether an error says something about one replica or its connection rather than about what was asked.
pub fn is_of_replica(status: &Status) -> bool {
    // That a body has broken off comes without its cause from gRPC-Web.
    let broken = status.source().is_some() || status.message().starts_with("tonic-web:");
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) || broken
}

//! What a plugin asks its node's agent, and the answer: a line of JSON each.

use serde::{Deserialize, Serialize};

/// Longer lines are nobody's: names of Kubernetes are short, and arguments are ports.
pub const LINE_BYTES_MAX: u64 = 1 << 16;

/// A pod, as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Of the pod.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// Which of those that have had this name. Not every runtime says it.
    pub uid: Option<String>,
}

/// What is to become of its traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It goes to the proxy: the arguments of `conduit-proxy init`.
    Redirect(Vec<String>),
    /// It goes its way.
    Leave,
    /// It is not known; why, for people. The runtime tries again.
    Unknown(String),
}

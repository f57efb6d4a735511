//! Requests by what they ask for and how they end. Pure.

use std::sync::Arc;

use conduit_api::{
    grpc,
    proto::{
        public::{Group, stat_request::By},
        telemetry::{EndCounts, PathCounts, end_counts::End},
    },
};

use super::{
    counts::{Counts, latencies},
    names::{OTHER, cut},
};

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    method: Arc<str>,
    path: Arc<str>,
    end: Ended,
    success: bool,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Http(u32),
    Grpc(u32),
    Reset,
    /// One of too many ways.
    Other,
}

impl Path {
    /// The rows that a report has of one path, and whether each is a success.
    pub(super) fn rows(counts: PathCounts) -> impl Iterator<Item = (Self, Counts)> {
        let (method, path): (Arc<str>, Arc<str>) = (cut(&counts.method).into(), cut(&counts.path).into());
        let mutual = counts.mutual;
        counts.ends.into_iter().map(move |end| {
            let key = Self {
                method: method.clone(),
                path: path.clone(),
                end: match end.end {
                    Some(End::HttpStatus(status)) => Ended::Http(status),
                    Some(End::GrpcStatus(status)) => Ended::Grpc(status),
                    Some(End::Reset(_)) => Ended::Reset,
                    None => Ended::Other,
                },
                success: end.success,
            };
            (key, counted(&end, mutual))
        })
    }

    /// What tells it apart from others by each of `by`, in that order.
    pub(super) fn values(&self, by: &[By]) -> Vec<String> {
        let value = |by: &By| match by {
            By::Method => self.method.to_string(),
            By::Path => self.path.to_string(),
            By::Status => match self.end {
                Ended::Http(status) => status.to_string(),
                Ended::Grpc(status) => grpc::status_name(status),
                Ended::Reset => "reset".to_owned(),
                Ended::Other => "__other__".to_owned(),
            },
            By::Class => if self.success { "success" } else { "failure" }.to_owned(),
            By::Route | By::Service | By::Unspecified => String::new(),
        };
        by.iter().map(value).collect()
    }

    /// What it is counted under when there are too many.
    pub(super) fn past_the_budget(&self) -> Self {
        let other: Arc<str> = OTHER.into();
        Self { method: other.clone(), path: other, end: Ended::Other, success: self.success }
    }

    /// Bytes of its text.
    pub(super) fn text_len(&self) -> usize {
        self.method.len() + self.path.len()
    }
}

fn counted(end: &EndCounts, mutual: bool) -> Counts {
    let (success, failure) = if end.success { (end.count, 0) } else { (0, end.count) };
    Counts { success, failure, tls: if mutual { end.count } else { 0 }, latencies: latencies(&end.latency) }
}

/// The values of a group, in the order of `by`.
pub fn values(group: &Group, by: &[By]) -> Vec<String> {
    let value = |by: &By| match by {
        By::Method => group.method.clone(),
        By::Path => group.path.clone(),
        By::Status => group.status.clone(),
        By::Class => group.class.clone(),
        By::Route => group.route.clone(),
        By::Service => group.service.clone(),
        By::Unspecified => String::new(),
    };
    by.iter().map(value).collect()
}

/// The group of these values; none without any.
pub fn group(by: &[By], values: Vec<String>) -> Option<Group> {
    let mut group = Group::default();
    let is_any = !values.is_empty();
    for (by, value) in by.iter().zip(values) {
        match by {
            By::Method => group.method = value,
            By::Path => group.path = value,
            By::Status => group.status = value,
            By::Class => group.class = value,
            By::Route => group.route = value,
            By::Service => group.service = value,
            By::Unspecified => {}
        }
    }
    is_any.then_some(group)
}

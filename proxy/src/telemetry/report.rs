//! Tells the control plane what was counted, a little at a time.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::proto::{
    common::{self, ResourceRef, tls},
    telemetry::{LatencyBucket, ReportRequest, RequestCounts, TcpCounts, telemetry_client::TelemetryClient},
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::transport::Channel;
use tracing::debug;

use super::{Direction, Labels, Telemetry, Tls, Totals};
use crate::control::{Controllers, Rotation};

/// Between two reports: what a person who watches `stat` waits for.
const INTERVAL: Duration = Duration::from_secs(2);
/// A replica that has not taken a report by then is not waited for.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports, for ever. What a report could not deliver is in the next one.
pub struct Reporter {
    /// Who is told.
    pub controllers: Controllers,
    /// What is told.
    pub telemetry: Telemetry,
    /// Of the pod.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
}

impl Reporter {
    /// Runs until the proxy ends.
    pub async fn run(self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rotation = self.controllers.rotation();
        let (mut told, mut told_at) = (BTreeMap::new(), Instant::now());
        let (incarnation, mut sequence) = (rand::random(), 0);
        let mut channel = None;
        loop {
            ticks.tick().await;
            let totals = self.telemetry.totals();
            let (requests, tcp) = differences(&told, &totals);
            let interval_ms = u32::try_from(told_at.elapsed().as_millis()).unwrap_or(u32::MAX);
            if requests.is_empty() && tcp.is_empty() {
                told_at = Instant::now();
                continue;
            }
            sequence += 1;
            let (namespace, pod) = (self.namespace.clone(), self.pod.clone());
            let report = ReportRequest { namespace, pod, incarnation, sequence, interval_ms, requests, tcp };
            match self.report(&mut channel, &rotation, report).await {
                Ok(()) => (told, told_at) = (totals, Instant::now()),
                Err(error) => {
                    debug!(error = %format_args!("{error:#}"), "a report waits for the next one");
                    channel = None;
                }
            }
        }
    }

    async fn report(
        &self,
        channel: &mut Option<Channel>,
        rotation: &Rotation,
        report: ReportRequest,
    ) -> anyhow::Result<()> {
        let channel = match channel {
            Some(channel) => channel,
            None => channel.insert(timeout(REPORT_TIMEOUT, self.controllers.connect(rotation)).await??),
        };
        timeout(REPORT_TIMEOUT, TelemetryClient::new(channel.clone()).report(report)).await??;
        Ok(())
    }
}

/// What was counted since `before`.
fn differences(
    before: &BTreeMap<Labels, Totals>,
    after: &BTreeMap<Labels, Totals>,
) -> (Vec<RequestCounts>, Vec<TcpCounts>) {
    let (mut requests, mut tcp) = (Vec::new(), Vec::new());
    let nothing = Totals::default();
    for (labels, after) in after {
        let before = before.get(labels).unwrap_or(&nothing);
        if before == after {
            continue;
        }
        requests.extend(request_counts(labels, before, after));
        tcp.extend(tcp_counts(labels, before, after));
    }
    (requests, tcp)
}

fn request_counts(labels: &Labels, before: &Totals, after: &Totals) -> Option<RequestCounts> {
    let by_success = |totals: &Totals, success| -> u64 {
        totals.ends().filter(|(end, _)| end.is_success() == success).map(|(_, count)| count).sum()
    };
    let success = by_success(after, true) - by_success(before, true);
    let failure = by_success(after, false) - by_success(before, false);
    let latency: Vec<_> = after
        .latency
        .iter()
        .map(|(index, count)| (*index, count - before.latency.get(index).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .map(|(index, count)| LatencyBucket { index, count })
        .collect();
    (success + failure > 0 || !latency.is_empty()).then(|| RequestCounts {
        direction: direction(labels).into(),
        authority: labels.authority.clone(),
        peer: peer(labels),
        tls: Some(tls(&labels.tls)),
        success,
        failure,
        latency,
    })
}

fn tcp_counts(labels: &Labels, before: &Totals, after: &Totals) -> Option<TcpCounts> {
    let counts = TcpCounts {
        direction: direction(labels).into(),
        peer: peer(labels),
        tls: Some(tls(&labels.tls)),
        opened: after.tcp_opened - before.tcp_opened,
        closed: after.tcp_closed - before.tcp_closed,
        read_bytes: after.tcp_read_bytes - before.tcp_read_bytes,
        write_bytes: after.tcp_write_bytes - before.tcp_write_bytes,
    };
    (counts.opened + counts.closed + counts.read_bytes + counts.write_bytes > 0).then_some(counts)
}

fn direction(labels: &Labels) -> common::Direction {
    match labels.direction {
        Direction::Inbound => common::Direction::Inbound,
        Direction::Outbound => common::Direction::Outbound,
    }
}

/// The workload that a request went to, or the pod where it has none.
fn peer(labels: &Labels) -> Option<ResourceRef> {
    let peer = labels.destination.as_ref()?;
    let (kind, name) = peer.workload.clone().unwrap_or_else(|| ("pod".to_owned(), peer.pod.clone()));
    Some(ResourceRef { kind, namespace: peer.namespace.clone(), name })
}

/// How a connection is secured, as the wire says it.
pub fn tls(tls: &Tls) -> common::Tls {
    let state = match tls {
        Tls::Mutual(_) => tls::State::Mutual,
        Tls::NoIdentity => tls::State::NoIdentity,
        Tls::Loopback => tls::State::Loopback,
        Tls::Passthrough => tls::State::Passthrough,
    };
    let peer_id = if let Tls::Mutual(peer) = tls { peer.to_string() } else { String::new() };
    common::Tls { state: state.into(), peer_id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::End;

    #[test]
    fn only_what_is_new_is_told() {
        let telemetry = Telemetry::default();
        let labels = crate::telemetry::tests::labels("web");
        let thread = telemetry.thread();
        let counters = thread.counters(&labels);
        counters.end(End::Http(200));
        counters.latency(Duration::from_millis(1));
        let first = telemetry.totals();
        assert_eq!(differences(&first, &first), (vec![], vec![]));
        counters.end(End::Grpc(2));
        counters.latency(Duration::from_millis(1));
        let (requests, tcp) = differences(&first, &telemetry.totals());
        assert!(tcp.is_empty());
        assert_eq!((requests.len(), requests[0].success, requests[0].failure), (1, 0, 1));
        assert_eq!(requests[0].latency.iter().map(|bucket| bucket.count).collect::<Vec<_>>(), [1]);
    }
}

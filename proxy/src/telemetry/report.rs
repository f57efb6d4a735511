//! Tells the control plane what was counted, a little at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use conduit_api::proto::{
    common::{self, ResourceRef, tls},
    telemetry::{
        self, EndCounts, LatencyBucket, PathCounts, ReportRequest, RequestCounts, TcpCounts, end_counts,
        telemetry_client::TelemetryClient,
    },
};
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::{
    Direction, End, HistogramTotals, Labels, Meant, Peer, Telemetry, Tls, Totals,
    paths::{EndTotals, PathTotals, Pattern, end_of},
    transport::{ConnectionLabels, ConnectionTotals, Side},
};
use crate::control::Controllers;

/// Between two reports: what a person who watches `stat` waits for.
const INTERVAL: Duration = Duration::from_secs(2);
/// Who has nothing to tell says so that often, and open connections on which nothing happens are told again: what was said earlier is not believed for
/// much longer, and a replica that was killed may have heard something since that nobody else knows of.
const REFRESH: Duration = Duration::from_secs(10);
/// Of one report: what is more is told in several. Controllers take four megabytes.
const REPORT_BYTES_MAX: usize = 1 << 20;
/// A replica that has not taken a report by then is not waited for.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports, for ever. A report that was not taken is sent again as it was, with what came since in a later one: a replica
/// that took it and could not say so knows its number, and does not count it twice.
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

/// What is told next. Pure.
struct Reports {
    incarnation: u64,
    sequence: u64,
    told: Sums,
    told_at: Instant,
    /// When the last report was made.
    made_at: Instant,
    /// When all open connections were told.
    refreshed_at: Option<Instant>,
    /// The reports that are not known to have been taken, and the sums that they lead to.
    untold: Option<(VecDeque<ReportRequest>, Sums)>,
    /// The first of them was sent before.
    is_repeated: bool,
    /// Who has taken the last one.
    memory: u64,
}

/// Everything that was counted since the proxy started.
#[derive(Default)]
struct Sums {
    requests: BTreeMap<Labels, Totals>,
    /// By what is told of them.
    connections: BTreeMap<ConnectionLabels, ConnectionTotals>,
    paths: BTreeMap<Arc<Pattern>, PathTotals>,
}

impl Sums {
    fn of(telemetry: &Telemetry) -> Self {
        let mut connections: BTreeMap<ConnectionLabels, ConnectionTotals> = BTreeMap::new();
        for (labels, totals) in telemetry.connections() {
            // One side of each connection's path tells enough: the peer's.
            let side = match labels.direction {
                Direction::Inbound => Side::Source,
                Direction::Outbound => Side::Destination,
            };
            if labels.side == side {
                connections.entry(told_labels(labels)).or_default().merge(&totals);
            }
        }
        Self { requests: telemetry.requests(), connections, paths: telemetry.paths() }
    }

    /// What was counted since `before`; with `all`, all connections that are open too.
    fn since(&self, before: &Self, all: bool) -> (Vec<RequestCounts>, Vec<TcpCounts>) {
        let (no_requests, no_connections) = (Totals::default(), ConnectionTotals::default());
        let requests = self.requests.iter().filter_map(|(labels, after)| {
            request_counts(labels, before.requests.get(labels).unwrap_or(&no_requests), after)
        });
        let tcp = self.connections.iter().filter_map(|(labels, after)| {
            tcp_counts(labels, before.connections.get(labels).unwrap_or(&no_connections), after, all)
        });
        (requests.collect(), tcp.collect())
    }

    /// The same of what the application was asked for.
    fn paths_since(&self, before: &Self) -> Vec<PathCounts> {
        let nothing = PathTotals::default();
        let paths = self
            .paths
            .iter()
            .filter_map(|(pattern, after)| path_counts(pattern, before.paths.get(pattern).unwrap_or(&nothing), after));
        paths.collect()
    }
}

/// What connections are told by: not by the name that a client asks for.
fn told_labels(labels: ConnectionLabels) -> ConnectionLabels {
    let tls = match labels.tls {
        Tls::Passthrough(_) => Tls::Passthrough(None),
        tls => tls,
    };
    let destination = labels.destination.map(|peer| match &peer.service {
        Some(_) => Arc::new(Peer { service: None, ..Peer::clone(&peer) }),
        None => peer,
    });
    ConnectionLabels { tls, destination, ..labels }
}

impl Reports {
    fn new(now: Instant, incarnation: u64) -> Self {
        Self {
            incarnation,
            sequence: 0,
            told: Sums::default(),
            told_at: now,
            made_at: now,
            refreshed_at: None,
            untold: None,
            is_repeated: false,
            memory: 0,
        }
    }

    /// The report to send: the last one, if it was not taken, or what was counted since.
    fn next(&mut self, now: Instant, sums: impl FnOnce() -> Sums) -> Option<ReportRequest> {
        if self.untold.is_none() {
            let sums = sums();
            let refresh = self.refreshed_at.is_none_or(|at| now.saturating_duration_since(at) >= REFRESH);
            if refresh {
                self.refreshed_at = Some(now);
            }
            let (requests, tcp) = sums.since(&self.told, refresh);
            if requests.is_empty() && tcp.is_empty() && !refresh {
                self.told_at = now;
                return None;
            }
            let paths = sums.paths_since(&self.told);
            let since = |at: &mut Instant| ms(now.saturating_duration_since(std::mem::replace(at, now)));
            let (interval_ms, mut since_previous_ms) = (since(&mut self.told_at), since(&mut self.made_at));
            let mut parts = Parts::of(requests, tcp, paths);
            for part in &mut parts {
                self.sequence += 1;
                (part.incarnation, part.sequence) = (self.incarnation, self.sequence);
                (part.interval_ms, part.since_previous_ms) = (interval_ms, Some(since_previous_ms));
                since_previous_ms = 0;
            }
            self.untold = Some((parts, sums));
        }
        let next = self.untold.as_ref().and_then(|(reports, _)| reports.front().cloned())?;
        // It may have waited for somebody to take it.
        let waited = ms(now.saturating_duration_since(self.made_at));
        let since_previous_ms = next.since_previous_ms.map(|since| since.saturating_add(waited));
        Some(ReportRequest { previous_memory: self.memory, is_repeated: self.is_repeated, since_previous_ms, ..next })
    }

    /// It is sent now: if nobody says that it was taken, it may have been all the same.
    fn sent(&mut self) {
        self.is_repeated = true;
    }

    /// It was taken, by a controller that keeps it there; one that has not taken the last one does not know yet what is open.
    fn taken(&mut self, memory: u64) {
        self.is_repeated = false;
        let before = std::mem::replace(&mut self.memory, memory);
        if before != memory && before != 0 {
            self.refreshed_at = None;
        }
        if let Some((reports, _)) = &mut self.untold {
            reports.pop_front();
        }
        if let Some((_, sums)) = self.untold.take_if(|(reports, _)| reports.is_empty()) {
            self.told = sums;
        }
    }

    /// Some of what there was to tell is still to be told.
    fn is_behind(&self) -> bool {
        self.untold.is_some()
    }
}

/// Reports that are small enough, each.
#[derive(Default)]
struct Parts {
    full: VecDeque<ReportRequest>,
    last: ReportRequest,
    bytes: usize,
}

impl Parts {
    fn of(requests: Vec<RequestCounts>, tcp: Vec<TcpCounts>, paths: Vec<PathCounts>) -> VecDeque<ReportRequest> {
        let mut parts = Self::default();
        requests.into_iter().for_each(|row| parts.with_room_for(&row).requests.push(row));
        tcp.into_iter().for_each(|row| parts.with_room_for(&row).tcp.push(row));
        paths.into_iter().for_each(|row| parts.with_room_for(&row).paths.push(row));
        parts.full.push_back(parts.last);
        parts.full
    }

    fn with_room_for(&mut self, row: &impl Message) -> &mut ReportRequest {
        // Before each row there are a tag and its length.
        let bytes = row.encoded_len() + 10;
        if self.bytes > 0 && self.bytes + bytes > REPORT_BYTES_MAX {
            self.full.push_back(std::mem::take(&mut self.last));
            self.bytes = 0;
        }
        self.bytes += bytes;
        &mut self.last
    }
}

impl Reporter {
    /// Runs until the proxy ends.
    pub async fn run(self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.controllers.certified().await;
        let mut reports = Reports::new(Instant::now(), rand::random());
        loop {
            ticks.tick().await;
            // What is not told yet must not be forgotten.
            if !reports.is_behind() {
                self.telemetry.forget_unused(Instant::now());
            }
            while let Some(report) = reports.next(Instant::now(), || Sums::of(&self.telemetry)) {
                let late = reports.told_at.elapsed() >= INTERVAL;
                let report = ReportRequest { namespace: self.namespace.clone(), pod: self.pod.clone(), ..report };
                match self.report(report, || reports.sent()).await {
                    Ok(memory) => reports.taken(memory),
                    Err(error) => {
                        debug!(error = %format_args!("{error:#}"), "a report waits for the next turn");
                        break;
                    }
                }
                // What was counted while that one waited follows at once, and so does the rest of what was too much for one.
                if !late && !reports.is_behind() {
                    break;
                }
            }
        }
    }

    /// Where it is kept; `sent` is called once there is somebody to send it to.
    async fn report(&self, report: ReportRequest, sent: impl FnOnce()) -> anyhow::Result<u64> {
        let shared = timeout(REPORT_TIMEOUT, self.controllers.shared()).await??;
        let mut client = TelemetryClient::new(shared.channel.clone());
        sent();
        let reported = timeout(REPORT_TIMEOUT, client.report(report)).await;
        if !matches!(reported, Ok(Ok(_))) {
            self.controllers.give_up(&shared).await;
        }
        Ok(reported??.into_inner().memory)
    }
}

fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn request_counts(labels: &Labels, before: &Totals, after: &Totals) -> Option<RequestCounts> {
    let by_success = |totals: &Totals, success| -> u64 {
        totals.ends().filter(|(end, _)| end.is_success() == success).map(|(_, count)| count).sum()
    };
    let success = by_success(after, true) - by_success(before, true);
    let failure = by_success(after, false) - by_success(before, false);
    let latency = latency_since(&before.latency, &after.latency);
    let (namespace, name) = labels.backend.clone().unwrap_or_default();
    let has_peer = labels.destination.is_some();
    (success + failure > 0 || !latency.is_empty()).then(|| RequestCounts {
        direction: direction(labels.direction).into(),
        authority: labels.authority.clone(),
        peer: peer(labels.destination.as_deref()),
        tls: Some(tls(&labels.tls)),
        success,
        failure,
        latency,
        peer_pod: peer_pod(labels.destination.as_deref()),
        service: if has_peer { name.clone() } else { String::new() },
        service_namespace: namespace,
        backend: if has_peer { String::new() } else { name },
        meant: labels.meant.as_deref().map(meant),
    })
}

fn meant(meant: &Meant) -> telemetry::Meant {
    let Meant { namespace, name, port, route } = meant.clone();
    telemetry::Meant { namespace, name, port: port.into(), route }
}

fn path_counts(pattern: &Pattern, before: &PathTotals, after: &PathTotals) -> Option<PathCounts> {
    let nothing = EndTotals::default();
    let ends = after.iter().filter_map(|(key, after)| {
        // What was forgotten and is known again counts from zero.
        let before = before.get(key).filter(|before| before.count <= after.count).unwrap_or(&nothing);
        let (end, success) = end_of(*key);
        let end = end.map(|end| match end {
            End::Http(status) => end_counts::End::HttpStatus(status.into()),
            End::Grpc(status) => end_counts::End::GrpcStatus(status),
            End::Reset => end_counts::End::Reset(true),
        });
        let latency = latency_since(&before.latency, &after.latency);
        let count = after.count.saturating_sub(before.count);
        (count > 0).then_some(EndCounts { end, success, count, latency })
    });
    let (method, path) = (pattern.method.clone(), pattern.path.clone());
    let counts = PathCounts { method, path, mutual: pattern.mutual, ends: ends.collect() };
    (!counts.ends.is_empty()).then_some(counts)
}

fn latency_since(before: &HistogramTotals, after: &HistogramTotals) -> Vec<LatencyBucket> {
    after.since(before).buckets.into_iter().map(|(index, count)| LatencyBucket { index, count }).collect()
}

fn tcp_counts(
    labels: &ConnectionLabels,
    before: &ConnectionTotals,
    after: &ConnectionTotals,
    even_if_idle: bool,
) -> Option<TcpCounts> {
    let counts = TcpCounts {
        direction: direction(labels.direction).into(),
        peer: peer(labels.destination.as_deref()),
        tls: Some(tls(&labels.tls)),
        opened: after.opened - before.opened,
        closed: after.closed - before.closed,
        read_bytes: after.read_bytes - before.read_bytes,
        write_bytes: after.write_bytes - before.write_bytes,
        peer_pod: peer_pod(labels.destination.as_deref()),
        open: after.opened.saturating_sub(after.closed),
    };
    let is_news = counts.opened + counts.closed + counts.read_bytes + counts.write_bytes > 0;
    (is_news || even_if_idle && counts.open > 0).then_some(counts)
}

fn direction(direction: Direction) -> common::Direction {
    match direction {
        Direction::Inbound => common::Direction::Inbound,
        Direction::Outbound => common::Direction::Outbound,
    }
}

/// The workload that a request went to, or the pod where it has none.
fn peer(peer: Option<&Peer>) -> Option<ResourceRef> {
    let peer = peer?;
    let (kind, name) = peer.workload.clone().unwrap_or_else(|| ("pod".to_owned(), peer.pod.clone()));
    Some(ResourceRef { kind, namespace: peer.namespace.clone(), name })
}

fn peer_pod(peer: Option<&Peer>) -> String {
    peer.map(|peer| peer.pod.clone()).unwrap_or_default()
}

/// How a connection is secured, as the wire says it.
pub fn tls(tls: &Tls) -> common::Tls {
    let state = match tls {
        Tls::Mutual(_) => tls::State::Mutual,
        Tls::NoIdentity => tls::State::NoIdentity,
        Tls::Loopback => tls::State::Loopback,
        Tls::Passthrough(_) => tls::State::Passthrough,
    };
    let peer_id = if let Tls::Mutual(peer) = tls { peer.to_string() } else { String::new() };
    common::Tls { state: state.into(), peer_id }
}

#[cfg(test)]
mod tests {
    use conduit_api::latency;

    use super::*;
    use crate::telemetry::ThreadTelemetry;

    #[test]
    fn a_report_that_was_not_taken_is_sent_again_as_it_was() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        let counters = thread.requests(&crate::telemetry::tests::labels("web"));
        let now = Instant::now();
        let mut reports = Reports::new(now, 7);
        let nothing = reports.next(now, || Sums::of(&telemetry)).unwrap();
        assert_eq!((nothing.sequence, nothing.requests.len(), nothing.tcp.len()), (1, 0, 0), "it is there");
        reports.taken(9);
        assert_eq!(reports.next(now, || Sums::of(&telemetry)), None);
        counters.end(End::Http(200));
        let first = reports.next(now + INTERVAL, || Sums::of(&telemetry)).unwrap();
        assert_eq!((first.sequence, first.interval_ms, first.requests[0].success), (2, 2_000, 1));
        counters.end(End::Http(200));
        counters.end(End::Http(200));
        // There was nobody to send it to.
        let late = ReportRequest { since_previous_ms: Some(4_000), ..first.clone() };
        assert_eq!(reports.next(now + 2 * INTERVAL, || Sums::of(&telemetry)), Some(late.clone()));
        reports.sent();
        let again = ReportRequest { is_repeated: true, ..late };
        assert_eq!(
            (first.is_repeated, reports.next(now + 2 * INTERVAL, || Sums::of(&telemetry))),
            (false, Some(again))
        );
        reports.taken(9);
        let second = reports.next(now + 3 * INTERVAL, || Sums::of(&telemetry)).unwrap();
        assert_eq!((second.sequence, second.interval_ms, second.requests[0].success), (3, 4_000, 2));
        assert!(!second.is_repeated);
        reports.taken(9);
        assert_eq!(reports.next(now + 4 * INTERVAL, || Sums::of(&telemetry)), None);
    }

    #[test]
    fn a_proxy_that_has_nothing_to_tell_says_since_when() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        let now = Instant::now();
        let mut reports = Reports::new(now, 7);
        let mut told = |second| {
            let report = reports.next(now + Duration::from_secs(second), || Sums::of(&telemetry))?;
            reports.taken(9);
            Some((report.sequence, report.requests.len(), report.since_previous_ms.unwrap() / 1000))
        };
        assert_eq!(told(0), Some((1, 0, 0)));
        assert_eq!(told(2), None);
        thread.requests(&crate::telemetry::tests::labels("web")).end(End::Http(200));
        assert_eq!(told(4), Some((2, 1, 4)));
        assert_eq!(told(8), None);
        assert_eq!(told(10), Some((3, 0, 6)));
    }

    #[test]
    fn what_is_too_much_for_one_report_is_told_in_several() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        let name = |number: usize| format!("{number}-{}", "x".repeat(240));
        for number in 0..900 {
            let counters = thread.requests(&crate::telemetry::tests::labels(&name(number)));
            counters.end(End::Http(200));
            (0..latency::BUCKETS).for_each(|at| counters.latency(Duration::from_micros(latency::lower_bound(at))));
            thread.paths.row(true, "GET", &format!("/path-{}", number % 100)).end(End::Http(200), None);
        }
        let now = Instant::now();
        let mut reports = Reports::new(now, 7);
        let (mut sequence, mut requests, mut paths) = (0, 0, 0);
        while let Some(report) = reports.next(now, || Sums::of(&telemetry)) {
            assert!(report.encoded_len() < REPORT_BYTES_MAX + 1_000, "{}", report.encoded_len());
            sequence += 1;
            assert_eq!((report.sequence, report.previous_memory), (sequence, if sequence > 1 { 9 } else { 0 }));
            requests += report.requests.iter().map(|row| row.success).sum::<u64>();
            paths += report.paths.iter().flat_map(|row| &row.ends).map(|end| end.count).sum::<u64>();
            reports.taken(9);
        }
        assert!(sequence > 1 && !reports.is_behind());
        assert_eq!((requests, paths), (900, 900));
    }

    #[test]
    fn a_controller_that_has_not_taken_the_last_report_is_told_what_is_open() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        opened(&thread, None);
        let now = Instant::now();
        let mut reports = Reports::new(now, 7);
        for (memory, after, told) in [(9, 0, true), (9, 2, false), (5, 10, true), (5, 11, true), (5, 12, false)] {
            let report = reports.next(now + after * Duration::from_secs(1), || Sums::of(&telemetry));
            assert_eq!(report.is_some(), told, "{memory} {after}");
            if report.is_some() {
                reports.taken(memory);
            }
        }
    }

    #[test]
    fn only_what_is_new_is_told() {
        let telemetry = Telemetry::default();
        let labels = crate::telemetry::tests::labels("web");
        let thread = telemetry.thread();
        let counters = thread.requests(&labels);
        counters.end(End::Http(200));
        counters.latency(Duration::from_millis(1));
        let first = Sums::of(&telemetry);
        assert_eq!(first.since(&first, true), (vec![], vec![]));
        counters.end(End::Grpc(2));
        counters.latency(Duration::from_millis(1));
        let (requests, tcp) = Sums::of(&telemetry).since(&first, false);
        assert!(tcp.is_empty());
        assert_eq!((requests.len(), requests[0].success, requests[0].failure), (1, 0, 1));
        assert_eq!(requests[0].latency.iter().map(|bucket| bucket.count).collect::<Vec<_>>(), [1]);
    }

    fn peer_of(service: Option<&str>) -> Peer {
        Peer {
            namespace: "ns".into(),
            pod: "db-0".into(),
            workload: Some(("statefulset".into(), "db".into())),
            service: service.map(ToOwned::to_owned),
        }
    }

    /// An older controller looks there for the namespace.
    #[test]
    fn what_nobody_got_is_of_no_service_that_a_peer_would_say_the_namespace_of() {
        let backend = Some(("ns".to_owned(), "db".to_owned()));
        let nobody = Labels { direction: Direction::Outbound, backend, ..crate::telemetry::tests::labels("db") };
        let somebody = Labels { destination: Some(Arc::new(peer_of(Some("db")))), ..nobody.clone() };
        for (labels, service, backend) in [(nobody, "", "db"), (somebody, "db", "")] {
            let telemetry = Telemetry::default();
            telemetry.thread().requests(&labels).fail(503);
            let counts = Sums::of(&telemetry).since(&Sums::default(), false).0.remove(0);
            let told = (counts.service.as_str(), counts.backend.as_str(), counts.service_namespace.as_str());
            assert_eq!((told, counts.peer.is_some()), ((service, backend, "ns"), backend.is_empty()));
        }
    }

    fn opened(thread: &ThreadTelemetry, service: Option<&str>) {
        let peer = peer_of(service);
        let labels = ConnectionLabels {
            direction: Direction::Outbound,
            side: Side::Destination,
            tls: Tls::Passthrough(service.map(Into::into)),
            destination: Some(Arc::new(peer)),
        };
        thread.connections(&labels).open_for_test();
    }

    #[test]
    fn open_connections_are_told_by_who_is_there_and_again_while_nothing_happens() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        let now = Instant::now();
        let mut reports = Reports::new(now, 7);
        for service in [None, Some("db"), Some("db-headless")] {
            opened(&thread, service);
        }
        let open = |report: Option<ReportRequest>| {
            report.map(|report| report.tcp.iter().map(|tcp| (tcp.peer_pod.clone(), tcp.open)).collect::<Vec<_>>())
        };
        let three = Some(vec![("db-0".to_owned(), 3)]);
        assert_eq!(open(reports.next(now, || Sums::of(&telemetry))), three);
        reports.taken(9);
        assert_eq!(open(reports.next(now + INTERVAL, || Sums::of(&telemetry))), None);
        assert_eq!(open(reports.next(now + REFRESH, || Sums::of(&telemetry))), three);
    }

    #[test]
    fn what_the_application_was_asked_for_is_told_by_how_it_ended() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        let ask = |path: &str, end| {
            thread.paths.row(true, "GET", path).end(end, Some(Duration::from_millis(1)));
            thread.requests(&crate::telemetry::tests::labels("web")).end(end);
        };
        let now = Instant::now();
        let mut reports = Reports::new(now, 7);
        let mut told = || {
            let report = reports.next(now, || Sums::of(&telemetry)).unwrap();
            reports.taken(9);
            let ends = |counts: &PathCounts| {
                counts.ends.iter().map(|end| (end.end.unwrap(), end.success, end.count, end.latency.len())).collect()
            };
            report.paths.iter().map(|counts| (counts.path.clone(), ends(counts))).collect::<Vec<(_, Vec<_>)>>()
        };
        for (path, end) in [("/a/1", End::Http(200)), ("/a/2", End::Http(503)), ("/b", End::Grpc(5))] {
            ask(path, end);
        }
        let (ok, unavailable) = (end_counts::End::HttpStatus(200), end_counts::End::HttpStatus(503));
        let first = vec![(ok, true, 1, 1), (unavailable, false, 1, 1)];
        let second = vec![(end_counts::End::GrpcStatus(5), true, 1, 1)];
        assert_eq!(told(), [("/a/*".to_owned(), first), ("/b".to_owned(), second)]);
        ask("/a/3", End::Http(200));
        assert_eq!(told(), [("/a/*".to_owned(), vec![(ok, true, 1, 1)])]);
    }
}

//! Requests, summed up. Pure.

use std::collections::{HashMap, VecDeque};

use conduit_api::{
    grpc,
    proto::{
        common::{Direction, ResourceRef, tls},
        public::ResourceSelection,
        tap::{
            TapEvent,
            tap_event::{Kind, Peer, ResponseEnd, response_end},
        },
    },
};

use crate::{
    stat::figures::exact_latency,
    table::{Align, Table},
    tap::{RequestId, short_resource, socket_address},
};

/// Rows at a time: more than anybody reads. The one that was not seen for the longest makes room.
const ROWS_MAX: usize = 1_000;
/// Requests whose end is waited for. Ends are lost when a tap is too slow, and some requests last for days.
const OPEN_MAX: usize = 10_000;

/// Characters of a path or a method: they are the clients', and a request may be as long as its head.
const NAME_MAX: usize = 200;
/// HTTP/2's code for a request that was not looked at, and was sent elsewhere: RFC 9113 section 7.
const REFUSED_STREAM: u32 = 7;

/// What there is to show.
pub(super) struct Sums {
    target: ResourceSelection,
    hides_sources: bool,
    rows: HashMap<Key, Row>,
    open: HashMap<RequestId, Open>,
    /// In the order in which they began, those that have ended included.
    began: VecDeque<(RequestId, u64)>,
    /// Requests that began, of any row: the clock of this machine.
    requests: u64,
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) method: String,
    pub(super) path: String,
}

/// What has become of its requests: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) count: u64,
    pub(super) successes: u64,
    pub(super) best_us: u64,
    pub(super) worst_us: u64,
    pub(super) last_us: u64,
    seen: u64,
}

struct Open {
    key: Key,
    began: u64,
    status: Option<u32>,
}

impl Sums {
    pub(super) fn new(target: ResourceSelection, hides_sources: bool) -> Self {
        let (rows, open, began) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { target, hides_sources, rows, open, began, requests: 0 }
    }

    /// What it is all about, e.g. `deployment/web`.
    pub(super) fn target(&self) -> String {
        match self.target.name.as_str() {
            "" => self.target.kind.clone(),
            name => format!("{}/{name}", self.target.kind),
        }
    }

    pub(super) fn hides_sources(&self) -> bool {
        self.hides_sources
    }

    pub(super) fn observe(&mut self, event: &TapEvent) {
        if self.is_seen_twice(event) {
            return;
        }
        let id = RequestId::of(event);
        match &event.kind {
            Some(Kind::RequestInit(request)) => {
                let source = if self.hides_sources { String::new() } else { name(event.source.as_ref()) };
                let path = cut(request.path.split('?').next().unwrap_or_default());
                let (destination, method) = (name(event.destination.as_ref()), cut(&request.method));
                self.begin(id, Key { source, destination, method, path });
            }
            Some(Kind::ResponseInit(response)) => {
                if let Some(open) = self.open.get_mut(&id) {
                    open.status = Some(response.http_status);
                }
            }
            Some(Kind::ResponseEnd(end)) => {
                if let Some(open) = self.open.remove(&id) {
                    self.end(open, end);
                }
            }
            Some(Kind::Message(_) | Kind::Schema(_) | Kind::PayloadsDisabled(_)) | None => {}
        }
    }

    /// A request within what is tapped passes two proxies that are. The one that answers is believed.
    fn is_seen_twice(&self, event: &TapEvent) -> bool {
        let has_a_proxy = event.tls.as_ref().is_some_and(|tls| tls.state() == tls::State::Mutual);
        event.direction() == Direction::Outbound
            && has_a_proxy
            && event.destination.as_ref().is_some_and(|destination| is_within(destination, &self.target))
    }

    fn begin(&mut self, id: RequestId, key: Key) {
        self.requests += 1;
        if self.began.len() >= OPEN_MAX
            && let Some((oldest, began)) = self.began.pop_front()
            && self.open.get(&oldest).is_some_and(|open| open.began == began)
        {
            self.open.remove(&oldest);
        }
        self.began.push_back((id, self.requests));
        self.open.insert(id, Open { key, began: self.requests, status: None });
    }

    fn end(&mut self, open: Open, end: &ResponseEnd) {
        let is_success = match (end.end, open.status) {
            (Some(response_end::End::GrpcStatus(code)), _) => !grpc::is_failure(code),
            // The same request goes on, as another one.
            (Some(response_end::End::ResetError(REFUSED_STREAM)), _) => return,
            (Some(response_end::End::ResetError(_)), _) => false,
            (None, Some(status)) => status < 500,
            // How it went was lost on the way.
            (None, None) => return,
        };
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&open.key) {
            let oldest = self.rows.iter().min_by_key(|(_, row)| row.seen).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.rows.remove(&oldest));
        }
        let took = end.since_request_init_us;
        let new = Row { count: 0, successes: 0, best_us: took, worst_us: took, last_us: took, seen: 0 };
        let row = self.rows.entry(open.key).or_insert(new);
        row.count += 1;
        row.successes += u64::from(is_success);
        (row.best_us, row.worst_us) = (row.best_us.min(took), row.worst_us.max(took));
        (row.last_us, row.seen) = (took, self.requests);
    }

    /// The most frequent first.
    pub(super) fn rows(&self) -> Vec<(&Key, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|(a, left), (b, right)| right.count.cmp(&left.count).then_with(|| a.cmp(b)));
        rows
    }
}

impl Row {
    /// In the order of the columns.
    pub(super) fn figures(&self) -> [String; 5] {
        let success = self.successes as f64 * 100.0 / self.count as f64;
        let [best, worst, last] = [self.best_us, self.worst_us, self.last_us].map(exact_latency);
        [self.count.to_string(), best, worst, last, format!("{success:.2}%")]
    }
}

/// For a pipe or a file.
pub(super) fn table(sums: &Sums) -> Table {
    let names = ["SOURCE", "DESTINATION", "METHOD", "PATH"].map(|name| (name, Align::Left));
    let figures = ["COUNT", "BEST", "WORST", "LAST", "SUCCESS"].map(|name| (name, Align::Right));
    let hidden = usize::from(sums.hides_sources);
    let mut table = Table::new(&[&names[hidden..], &figures].concat());
    for (key, row) in sums.rows() {
        let names = [&key.source, &key.destination, &key.method, &key.path].map(Clone::clone);
        table.row(names.into_iter().skip(hidden).chain(row.figures()));
    }
    table
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(NAME_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The workload, or the pod, or the address.
fn name(peer: Option<&Peer>) -> String {
    let Some(peer) = peer else { return "???".to_owned() };
    match peer.workload.as_ref().or(peer.pod.as_ref()) {
        Some(resource) => short_resource(resource),
        None => socket_address(peer.address.as_ref()).map_or_else(|| "???".to_owned(), |at| at.ip().to_string()),
    }
}

fn is_within(peer: &Peer, target: &ResourceSelection) -> bool {
    let is = |resource: &ResourceRef| {
        resource.kind == target.kind
            && (target.namespace.is_empty() || resource.namespace == target.namespace)
            && (target.name.is_empty() || resource.name == target.name)
    };
    let namespace = peer.pod.as_ref().or(peer.workload.as_ref()).map(|resource| resource.namespace.as_str());
    match target.kind.as_str() {
        "namespace" => namespace.is_some_and(|namespace| target.name.is_empty() || namespace == target.name),
        "pod" => peer.pod.as_ref().is_some_and(is),
        _ => peer.workload.as_ref().is_some_and(is),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use conduit_api::proto::{
        common::Tls,
        tap::tap_event::{Id, RequestInit, ResponseInit},
    };
    use expect_test::expect;

    use super::*;

    fn selection(kind: &str, namespace: &str, name: &str) -> ResourceSelection {
        ResourceSelection { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    fn peer(name: &str, host: u8) -> Peer {
        let resource =
            |kind: &str, name: String| ResourceRef { kind: kind.into(), namespace: "emojivoto".into(), name };
        let address: std::net::SocketAddr = ([10, 244, 1, host], 8080).into();
        Peer {
            address: Some(address.into()),
            pod: Some(resource("pod", format!("{name}-0"))),
            workload: Some(resource("deployment", name.to_owned())),
        }
    }

    /// The three events of a request from web to voting, as one of the two proxies sees it.
    fn exchange(stream: u64, direction: Direction, path: &str, took: u64, end: response_end::End) -> [TapEvent; 3] {
        let init = RequestInit { method: "POST".into(), path: path.into(), ..RequestInit::default() };
        let end = ResponseEnd { since_request_init_us: took, end: Some(end), ..ResponseEnd::default() };
        let kinds = [
            Kind::RequestInit(init),
            Kind::ResponseInit(ResponseInit {
                http_status: 200,
                since_request_init_us: took,
                ..ResponseInit::default()
            }),
            Kind::ResponseEnd(end),
        ];
        kinds.map(|kind| TapEvent {
            id: Some(Id { base: 1, stream }),
            direction: direction.into(),
            source: Some(peer("web", 1)),
            destination: Some(peer("voting", 2)),
            tls: Some(Tls { state: tls::State::Mutual.into(), ..Tls::default() }),
            kind: Some(kind),
            dropped: 0,
        })
    }

    fn observe(sums: &mut Sums, events: impl IntoIterator<Item = TapEvent>) {
        events.into_iter().for_each(|event| sums.observe(&event));
    }

    pub(in crate::top) fn some(hides_sources: bool) -> Sums {
        let mut sums = Sums::new(selection("deployment", "emojivoto", "web"), hides_sources);
        for (stream, took, code) in [(1, 478, 0), (2, 12_000, 0), (3, 900, 2), (4, 1_500, 5)] {
            let end = response_end::End::GrpcStatus(code);
            observe(&mut sums, exchange(stream, Direction::Outbound, "/VoteDoughnut?x=1", took, end));
        }
        observe(
            &mut sums,
            exchange(5, Direction::Outbound, "/Leader\x1b[2Jboard", 3, response_end::End::ResetError(8)),
        );
        sums
    }

    #[test]
    fn requests_are_summed_up() {
        expect![[r#"
            SOURCE       DESTINATION     METHOD   PATH                    COUNT    BEST    WORST    LAST   SUCCESS
            deploy/web   deploy/voting   POST     /VoteDoughnut               4   478µs   12.0ms   1.5ms    75.00%
            deploy/web   deploy/voting   POST     /Leader\u{1b}[2Jboard       1     3µs      3µs     3µs     0.00%
        "#]]
        .assert_eq(&table(&some(false)).to_string());
        expect![[r#"
            DESTINATION     METHOD   PATH                    COUNT    BEST    WORST    LAST   SUCCESS
            deploy/voting   POST     /VoteDoughnut               4   478µs   12.0ms   1.5ms    75.00%
            deploy/voting   POST     /Leader\u{1b}[2Jboard       1     3µs      3µs     3µs     0.00%
        "#]]
        .assert_eq(&table(&some(true)).to_string());
    }

    #[test]
    fn a_request_that_passes_two_tapped_proxies_counts_once() {
        let ok = || response_end::End::GrpcStatus(0);
        let both = |target: ResourceSelection| {
            let mut sums = Sums::new(target, false);
            observe(&mut sums, exchange(1, Direction::Outbound, "/", 2, ok()));
            observe(&mut sums, exchange(1, Direction::Inbound, "/", 1, ok()));
            sums.rows().iter().map(|(_, row)| (row.count, row.last_us)).collect::<Vec<_>>()
        };
        for target in [
            selection("namespace", "", "emojivoto"),
            selection("namespace", "", ""),
            selection("deployment", "emojivoto", ""),
            selection("pod", "emojivoto", "voting-0"),
        ] {
            assert_eq!(both(target.clone()), [(1, 1)], "{target:?}");
        }

        // Another one's proxy is not tapped, and one without a proxy has nothing to say.
        let mut sums = Sums::new(selection("deployment", "emojivoto", "web"), false);
        observe(&mut sums, exchange(1, Direction::Outbound, "/", 2, ok()));
        let mut unmeshed = exchange(2, Direction::Outbound, "/", 2, ok());
        for event in &mut unmeshed {
            event.tls = None;
            event.destination = Some(peer("web", 9));
        }
        observe(&mut sums, unmeshed);
        assert_eq!(sums.rows().iter().map(|(_, row)| row.count).sum::<u64>(), 2);
    }

    #[test]
    fn what_is_lost_on_the_way_is_not_counted() {
        let mut sums = Sums::new(selection("deployment", "emojivoto", "web"), false);
        let [begin, response, end] = exchange(1, Direction::Outbound, "/", 2, response_end::End::GrpcStatus(0));
        observe(&mut sums, [response, end.clone()]);
        assert!(sums.rows().is_empty());
        let mut silent = end;
        silent.kind = Some(Kind::ResponseEnd(ResponseEnd::default()));
        observe(&mut sums, [begin, silent]);
        assert!(sums.rows().is_empty() && sums.open.is_empty());
    }

    #[test]
    fn a_request_that_was_sent_elsewhere_is_the_same_request() {
        let mut sums = Sums::new(selection("deployment", "emojivoto", "web"), false);
        let elsewhere = response_end::End::ResetError(REFUSED_STREAM);
        observe(&mut sums, exchange(1, Direction::Outbound, "/", 2, elsewhere));
        observe(&mut sums, exchange(2, Direction::Outbound, "/", 2, response_end::End::GrpcStatus(0)));
        assert_eq!(sums.rows().iter().map(|(_, row)| (row.count, row.successes)).collect::<Vec<_>>(), [(1, 1)]);
    }

    #[test]
    fn nothing_grows_for_ever() {
        assert_eq!((cut(&"ü".repeat(60_000)).chars().count(), cut("/a").as_str()), (NAME_MAX + 1, "/a"));
        let mut sums = Sums::new(selection("deployment", "emojivoto", "web"), false);
        for stream in 0..OPEN_MAX as u64 + 500 {
            let [begin, ..] = exchange(stream, Direction::Outbound, "/", 2, response_end::End::GrpcStatus(0));
            sums.observe(&begin);
        }
        assert_eq!((sums.open.len(), sums.began.len()), (OPEN_MAX, OPEN_MAX));
        for stream in 0..ROWS_MAX as u64 + 500 {
            let path = format!("/{stream}");
            observe(&mut sums, exchange(stream, Direction::Outbound, &path, 2, response_end::End::GrpcStatus(0)));
        }
        assert_eq!((sums.rows.len(), sums.began.len()), (ROWS_MAX, OPEN_MAX));
        assert!(sums.rows.keys().any(|key| key.path == "/1499") && !sums.rows.keys().any(|key| key.path == "/0"));
    }
}

use conduit_api::{
    latency,
    proto::{
        common::{ResourceRef, Tls, tls},
        public::stat_request::{self, By},
        telemetry::{self as wire, EndCounts, LatencyBucket, PathCounts, end_counts::End},
    },
};
use expect_test::{Expect, expect};
use tokio::time::Instant;

use conduit_api::{
    proto::{
        common::Direction,
        public::{EdgesRequest, ResourceSelection, StatRequest},
        telemetry::{RequestCounts, TcpCounts},
    },
    window::{SLOT, resolution},
};

use super::{
    counts::{Counts, Traffic},
    edges::Ends,
    names::{NAME_LEN_MAX, NAMES_MAX, OTHER},
    questions::Of,
    series::Steps,
    *,
};

const MEMORY: u64 = 7;

/// All that is found, also what others may have the rest of.
fn stat(telemetry: &Telemetry, now: Now, window: u64, request: &StatRequest) -> BTreeMap<Row, Traffic> {
    let mut found: BTreeMap<Row, Traffic> = BTreeMap::new();
    for ((row, _), traffic) in telemetry.counted(now).stat(Duration::from_secs(window), request).found {
        found.entry(row).or_default().merge(&traffic);
    }
    found
}

/// So much after `start`, at which a slot begins.
fn at(start: Instant, seconds: u64) -> Now {
    Now { monotonic: start + Duration::from_secs(seconds), unix_ms: 1_000_000_000 + seconds * 1000 }
}

fn now() -> Now {
    at(Instant::now(), 0)
}

fn counts(direction: Direction, peer: Option<&str>, success: u64, failure: u64, latency_us: u64) -> RequestCounts {
    let reference = |name: &str| ResourceRef { kind: "deployment".into(), namespace: "ns".into(), name: name.into() };
    RequestCounts {
        direction: direction.into(),
        authority: "svc.ns:80".into(),
        peer: peer.map(reference),
        tls: Some(Tls { state: tls::State::Mutual.into(), peer_id: String::new() }),
        success,
        failure,
        latency: vec![LatencyBucket { index: latency::bucket(latency_us) as u32, count: success + failure }],
        ..RequestCounts::default()
    }
}

fn report(sequence: u64, requests: Vec<RequestCounts>) -> ReportRequest {
    ReportRequest { incarnation: 1, sequence, requests, ..ReportRequest::default() }
}

fn add(telemetry: &mut Telemetry, now: Now, pod: &str, sequence: u64, requests: Vec<RequestCounts>) {
    telemetry.report(now, reporter(pod), report(sequence, requests));
}

fn reporter(pod: &str) -> Reporter {
    let deployment = pod.rsplit_once('-').unwrap().0;
    let workload = Some(WorkloadRef { kind: "deployment".into(), name: deployment.into() });
    Reporter {
        pod: PodName::new("ns", pod).unwrap(),
        is_known: true,
        workload,
        identity: format!("spiffe://mesh/ns/ns/sa/{deployment}"),
    }
}

fn selection(kind: &str, name: &str) -> ResourceSelection {
    ResourceSelection {
        kind: kind.into(),
        namespace: if kind == "namespace" { "" } else { "ns" }.into(),
        name: name.into(),
    }
}

fn query(telemetry: &Telemetry, now: Now, kind: &str, other: Option<stat_request::Other>) -> Vec<(String, u64, u64)> {
    let request = StatRequest { selector: Some(selection(kind, "")), window_ms: 60_000, other, by: Vec::new() };
    let rows = stat(telemetry, now, 60, &request);
    rows.into_iter().map(|((_, name, _), traffic)| (name, traffic.requests.success, traffic.requests.failure)).collect()
}

#[test]
fn adds_up_what_was_received_by_workload_pod_and_namespace() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    add(&mut telemetry, now, "web-0", 1, vec![counts(Direction::Inbound, None, 8, 2, 1_000)]);
    add(&mut telemetry, now, "web-1", 1, vec![counts(Direction::Inbound, None, 1, 0, 1_000)]);
    add(&mut telemetry, now, "bot-0", 1, vec![counts(Direction::Outbound, Some("web"), 9, 2, 1_500)]);
    assert_eq!(query(&telemetry, now, "deployment", None), [("web".into(), 9, 2)]);
    assert_eq!(query(&telemetry, now, "pod", None), [("web-0".into(), 8, 2), ("web-1".into(), 1, 0)]);
    assert_eq!(query(&telemetry, now, "namespace", None), [("ns".into(), 9, 2)]);
    assert_eq!(query(&telemetry, now, "authority", None), [("svc.ns:80".into(), 9, 2)]);
}

#[test]
fn from_and_to_are_what_the_sender_saw() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    add(&mut telemetry, now, "bot-0", 1, vec![counts(Direction::Outbound, Some("web"), 9, 2, 1_500)]);
    add(&mut telemetry, now, "bot-0", 2, vec![counts(Direction::Outbound, Some("other"), 5, 0, 1_500)]);
    let to = |name: &str| Some(stat_request::Other::To(selection("deployment", name)));
    let from = |name: &str| Some(stat_request::Other::From(selection("deployment", name)));
    assert_eq!(query(&telemetry, now, "deployment", to("web")), [("bot".into(), 9, 2)]);
    assert_eq!(query(&telemetry, now, "deployment", to("nobody")), []);
    assert_eq!(query(&telemetry, now, "deployment", from("bot")), [("other".into(), 5, 0), ("web".into(), 9, 2)]);
    assert_eq!(query(&telemetry, now, "deployment", from("web")), []);
}

/// Requests are counted by workloads, and between pods by links: either end may be a pod.
#[test]
fn pods_are_ends_as_well() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let to = |pod: &str, success, failure| RequestCounts {
        peer_pod: pod.into(),
        ..counts(Direction::Outbound, Some("web"), success, failure, 1_500)
    };
    add(&mut telemetry, now, "bot-0", 1, vec![to("web-0", 9, 2), to("web-1", 1, 0)]);
    let to = |kind: &str, name: &str| Some(stat_request::Other::To(selection(kind, name)));
    let from = |kind: &str, name: &str| Some(stat_request::Other::From(selection(kind, name)));
    let both = [("web-0".to_owned(), 9, 2), ("web-1".to_owned(), 1, 0)];
    assert_eq!(query(&telemetry, now, "pod", from("pod", "bot-0")), both);
    assert_eq!(query(&telemetry, now, "pod", from("deployment", "bot")), both);
    assert_eq!(query(&telemetry, now, "pod", to("pod", "web-0")), [("bot-0".into(), 9, 2)]);
    assert_eq!(query(&telemetry, now, "deployment", to("pod", "web-1")), [("bot".into(), 1, 0)]);
    assert_eq!(query(&telemetry, now, "pod", to("deployment", "web")), [("bot-0".into(), 10, 2)]);
    assert_eq!(query(&telemetry, now, "pod", to("pod", "web-2")), []);
}

#[test]
fn what_is_asked_for_by_its_authority_has_who_asked() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let to = |authority: &str, success| RequestCounts {
        authority: authority.into(),
        ..counts(Direction::Outbound, None, success, 1, 1_500)
    };
    add(&mut telemetry, now, "bot-0", 1, vec![to("a.example", 9), to("b.example", 3)]);
    add(&mut telemetry, now, "web-0", 1, vec![to("a.example", 5)]);
    let to = |name: &str| Some(stat_request::Other::To(selection("authority", name)));
    let from = |name: &str| Some(stat_request::Other::From(selection("deployment", name)));
    assert_eq!(
        query(&telemetry, now, "authority", from("bot")),
        [("a.example".into(), 9, 1), ("b.example".into(), 3, 1)]
    );
    assert_eq!(query(&telemetry, now, "deployment", to("a.example")), [("bot".into(), 9, 1), ("web".into(), 5, 1)]);
    assert_eq!(query(&telemetry, now, "pod", to("b.example")), [("bot-0".into(), 3, 1)]);
}

#[test]
fn a_service_gets_what_clients_ask_it_for() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let to = |service: &str, peer: &str, success| RequestCounts {
        service: service.into(),
        ..counts(Direction::Outbound, Some(peer), success, 1, 1_500)
    };
    add(
        &mut telemetry,
        now,
        "bot-0",
        1,
        vec![to("web-svc", "web", 3), to("web-svc", "web-canary", 2), to("", "web", 9)],
    );
    add(&mut telemetry, now, "web-0", 1, vec![to("db", "db", 4), counts(Direction::Inbound, None, 9, 0, 1_000)]);
    assert_eq!(query(&telemetry, now, "service", None), [("db".into(), 4, 1), ("web-svc".into(), 5, 2)]);
    let from = |kind, name: &str| Some(stat_request::Other::From(selection(kind, name)));
    let to = |kind, name: &str| Some(stat_request::Other::To(selection(kind, name)));
    assert_eq!(query(&telemetry, now, "service", from("deployment", "bot")), [("web-svc".into(), 5, 2)]);
    assert_eq!(query(&telemetry, now, "deployment", to("service", "db")), [("web".into(), 4, 1)]);
    assert_eq!(query(&telemetry, now, "pod", to("service", "")), [("bot-0".into(), 5, 2), ("web-0".into(), 4, 1)]);
    assert_eq!(query(&telemetry, now, "service", to("deployment", "web")), []);
    // A service sends nothing.
    assert_eq!(query(&telemetry, now, "deployment", from("service", "web-svc")), []);
}

/// As a proxy tells requests that `service` was asked for, which `route` accepted and which were to go to `backend`; nobody got those without a peer.
fn routed(service: &str, route: &str, backend: &str, peer: Option<&str>, success: u64, failure: u64) -> RequestCounts {
    let meant = wire::Meant { namespace: "ns".into(), name: service.into(), port: 80, route: route.into() };
    RequestCounts {
        service: if peer.is_some() { backend.into() } else { String::new() },
        backend: if peer.is_some() { String::new() } else { backend.into() },
        service_namespace: "ns".into(),
        meant: Some(meant),
        ..counts(Direction::Outbound, peer, success, failure, 1_500)
    }
}

fn by_route(telemetry: &Telemetry, now: Now, kind: &str, other: Option<stat_request::Other>) -> Vec<String> {
    let by = vec![By::Service.into(), By::Route.into()];
    let request = StatRequest { selector: Some(selection(kind, "")), window_ms: 60_000, other, by };
    let row = |((_, name, by), traffic): (Row, Traffic)| {
        format!("{name} {} {}/{}", by.join(" "), traffic.requests.success, traffic.requests.failure)
    };
    stat(telemetry, now, 60, &request).into_iter().map(row).collect()
}

#[test]
fn requests_that_nobody_got_are_of_the_service_that_they_were_for() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let rows = vec![
        routed("web", "canary", "next", Some("next"), 7, 1),
        routed("web", "canary", "next", None, 0, 3),
        routed("web", "", "web", Some("web"), 5, 0),
        routed("web", "off", "web", None, 0, 2),
        // Of an older proxy.
        RequestCounts { service: "db".into(), ..counts(Direction::Outbound, Some("db"), 4, 0, 1_500) },
    ];
    add(&mut telemetry, now, "bot-0", 1, rows);
    let services = [("db".into(), 4, 0), ("next".into(), 7, 4), ("web".into(), 5, 2)];
    assert_eq!(query(&telemetry, now, "service", None), services);
    let all = ["ns/web:80  5/0", "ns/web:80 canary 7/4", "ns/web:80 off 0/2"];
    let of = |name: &str, more: &[&str]| more.iter().map(|row| format!("{name} {row}")).collect::<Vec<_>>();
    assert_eq!(by_route(&telemetry, now, "service", None), [of("db", &["ns/db  4/0"]), of("web", &all)].concat());
    let got = ["db ns/db  4/0", "next ns/web:80 canary 7/1", "web ns/web:80  5/0"];
    assert_eq!(by_route(&telemetry, now, "deployment", None), got);
    let to = Some(stat_request::Other::To(selection("service", "web")));
    assert_eq!(by_route(&telemetry, now, "pod", to), of("bot-0", &all));
    let from = Some(stat_request::Other::From(selection("deployment", "bot")));
    assert_eq!(by_route(&telemetry, now, "deployment", from), got);
}

#[test]
fn what_is_past_a_budget_is_of_some_service_all_the_same() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let mut of_proxy = routed(OTHER, OTHER, OTHER, None, 0, 9);
    of_proxy.service_namespace.clear();
    of_proxy.meant = Some(wire::Meant { name: OTHER.into(), route: OTHER.into(), ..wire::Meant::default() });
    add(&mut telemetry, now, "bot-0", 1, vec![of_proxy]);
    let many = (0..NAMES_MAX + 5).map(|at| routed("web", &format!("r-{at}"), "web", None, 0, 1)).collect();
    add(&mut telemetry, now, "web-0", 1, many);
    let services = query(&telemetry, now, "service", None);
    let [(other, 0, past), (web, 0, known)] = &services[..] else { panic!("{services:?}") };
    assert_eq!((other.as_str(), web.as_str(), past + known), (OTHER, "web", 9 + NAMES_MAX as u64 + 5));
    assert!(*past >= 9 + 5, "{past}");
    assert_eq!(by_route(&telemetry, now, "service", None)[0], format!("{OTHER} ns/{OTHER} {OTHER} 0/{past}"));
}

#[test]
fn a_report_counts_once() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let requests = vec![counts(Direction::Inbound, None, 1, 0, 1_000)];
    add(&mut telemetry, now, "web-0", 1, requests.clone());
    add(&mut telemetry, now, "web-0", 1, requests.clone());
    add(&mut telemetry, now, "web-0", 2, requests);
    assert_eq!(query(&telemetry, now, "deployment", None), [("web".into(), 2, 0)]);
}

#[test]
fn no_count_is_too_large() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    for sequence in 1..3 {
        add(&mut telemetry, now, "web-0", sequence, vec![counts(Direction::Inbound, None, u64::MAX, 0, 1_000)]);
    }
    assert_eq!(query(&telemetry, now, "pod", None), [("web-0".into(), u64::MAX, 0)]);
}

#[test]
fn reports_that_are_sent_again_are_one() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    for sequence in [1, 1, 2, 1] {
        add(&mut telemetry, now, "web-0", sequence, vec![counts(Direction::Inbound, None, 1, 0, 1_000)]);
    }
    assert_eq!((telemetry.reports(), query(&telemetry, now, "pod", None)), (2, vec![("web-0".into(), 2, 0)]));
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    add(&mut telemetry, at(start, 0), "web-0", 1, vec![counts(Direction::Inbound, None, 1, 0, 1_000)]);
    add(&mut telemetry, at(start, 70), "web-0", 2, vec![counts(Direction::Inbound, None, 2, 0, 1_000)]);
    assert_eq!(query(&telemetry, at(start, 70), "deployment", None), [("web".into(), 2, 0)]);
}

#[test]
fn covers_whole_slots_but_not_the_time_before_the_start() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    let covered = |telemetry: &Telemetry, seconds| {
        let request = StatRequest { selector: Some(selection("deployment", "")), ..StatRequest::default() };
        let found = stat(telemetry, at(start, seconds), 60, &request);
        found.values().map(|traffic| traffic.requests_over.ms()).collect::<Vec<_>>()
    };
    for (sequence, seconds) in (1..).zip(0..123) {
        let requests = vec![counts(Direction::Inbound, None, 1, 0, 1_000)];
        add(&mut telemetry, at(start, seconds), "web-0", sequence, requests);
        if seconds == 7 || seconds == 60 {
            assert_eq!(covered(&telemetry, seconds), [seconds as u32 * 1000]);
        }
    }
    // The slots that began at 65, 70, ... count; the one at 60 began before the window.
    assert_eq!(covered(&telemetry, 123), [58_000]);
    assert_eq!(query(&telemetry, at(start, 123), "deployment", None), [("web".into(), 58, 0)]);
}

fn attack(from: usize, count: usize) -> Vec<RequestCounts> {
    let row = |i| RequestCounts { authority: format!("attack-{i}"), ..counts(Direction::Inbound, None, 1, 0, 1_000) };
    (from..from + count).map(row).collect()
}

#[test]
fn names_made_up_cost_their_maker_alone_and_sums_stay_true() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    add(&mut telemetry, at(start, 0), "good-0", 1, vec![counts(Direction::Inbound, None, 3, 0, 1_000)]);
    for round in 0..5 {
        let made_up = attack(round * NAMES_MAX, NAMES_MAX);
        add(&mut telemetry, at(start, 1 + round as u64 * 5), "evil-0", 1 + round as u64, made_up);
        add(&mut telemetry, at(start, 2 + round as u64 * 5), "good-0", 2 + round as u64, attack(0, 2));
    }
    let names = telemetry.histories.values().map(|history| history.names()).max().unwrap();
    assert!(names <= NAMES_MAX + 6, "{names}");
    assert!(telemetry.crowded_rows() > 0);
    let seen = query(&telemetry, at(start, 25), "pod", None);
    assert_eq!(seen, [("evil-0".into(), 5 * NAMES_MAX as u64, 0), ("good-0".into(), 13, 0)]);
}

#[test]
fn authorities_past_the_bound_are_one() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let outbound = |row| RequestCounts { direction: Direction::Outbound.into(), ..row };
    add(&mut telemetry, now, "web-0", 1, attack(0, NAMES_MAX + 5).into_iter().map(outbound).collect());
    let seen = query(&telemetry, now, "authority", None);
    assert_eq!((seen.len(), seen.iter().find(|row| row.0 == OTHER)), (NAMES_MAX + 1, Some(&(OTHER.into(), 5, 0))));
    assert_eq!(telemetry.crowded_rows(), 5);
}

#[test]
fn names_are_cut() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let mut row = counts(Direction::Outbound, Some(&"n".repeat(1_000)), 1, 0, 1_000);
    (row.authority, row.peer_pod) = ("\u{fc}".repeat(1_000), "p".repeat(1_000));
    row.tls.as_mut().unwrap().peer_id = "i".repeat(1_000);
    row.peer.as_mut().unwrap().namespace = "s".repeat(1_000);
    add(&mut telemetry, now, "web-0", 1, vec![row]);
    let longest = |rows: Vec<(String, u64, u64)>| rows.into_iter().map(|row| row.0.len()).max();
    assert_eq!(longest(query(&telemetry, now, "authority", None)), Some(NAME_LEN_MAX));
    let edges = EdgesRequest { kind: "pod".into(), ..EdgesRequest::default() };
    let edges = telemetry.counted(now).edges(Duration::from_secs(60), &edges).found;
    let ((ends, _), traffic) = edges.iter().next().unwrap();
    let wire = ends.to_wire(traffic, Of::All);
    let ResourceRef { kind, namespace, name } = wire.destination.unwrap();
    let lengths = [kind.len(), namespace.len(), name.len(), wire.tls.unwrap().peer_id.len()];
    assert_eq!(lengths, ["pod".len(), NAME_LEN_MAX, NAME_LEN_MAX, NAME_LEN_MAX]);
}

#[test]
fn who_has_more_than_a_share_forgets_and_answers_say_what_is_left() {
    let start = Instant::now();
    let mut telemetry = Telemetry { bytes_max: 400_000, ..Telemetry::new(at(start, 0), MEMORY) };
    for slot in 0..40 {
        let second = slot * 5;
        add(&mut telemetry, at(start, second), "hog-0", slot + 1, attack(0, 1_000));
        add(&mut telemetry, at(start, second), "web-0", slot + 1, attack(0, 10));
    }
    assert!(telemetry.size() <= 600_000, "{}", telemetry.size());
    let covered = |pod: &str| {
        let request = StatRequest { selector: Some(selection("pod", pod)), ..StatRequest::default() };
        let found = telemetry.counted(at(start, 195)).stat(Duration::from_secs(300), &request);
        let ((_, of), traffic) = found.found.into_iter().next().unwrap();
        (of, traffic.requests_over.ms(), traffic.requests.success)
    };
    assert_eq!(covered("web-0"), (Of::All, 195_000, 400));
    let (of, covered_ms, requests) = covered("hog-0");
    assert!(matches!(of, Of::One(..)), "{of:?}");
    assert!((5_000..100_000).contains(&covered_ms), "{covered_ms}");
    // A thousand in each slot of which something is known.
    assert_eq!(requests, u64::from(covered_ms / 5_000 + 1) * 1_000);
}

/// A request a second to each of a few paths for `seconds`, reported every two.
fn steady(telemetry: &mut Telemetry, start: Instant, pod: &str, from: u64, seconds: u64) {
    for second in (from..from + seconds).step_by(2) {
        let latency = 800 + (second * 7_919) % 30_000;
        add(telemetry, at(start, second), pod, second / 2 + 1, vec![counts(Direction::Inbound, None, 2, 0, latency)]);
    }
}

#[test]
fn six_hours_are_remembered_and_percentiles_are_as_true_as_those_of_a_minute() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    let hours = 7 * 3_600;
    steady(&mut telemetry, start, "web-0", 0, hours);
    let now = at(start, hours);
    for window in [15, 60, 300, 420, 3_600, 7_200, 21_600] {
        let request = StatRequest { selector: Some(selection("deployment", "web")), ..StatRequest::default() };
        let traffic = stat(&telemetry, now, window, &request).into_values().next().unwrap();
        let covered = u64::from(traffic.requests_over.ms()) / 1000;
        let finest = resolution(Duration::from_secs(window)).as_secs();
        assert!(covered <= window && covered + finest >= window, "{window}: {covered}");
        assert!(traffic.requests.success.abs_diff(covered) <= 2 * SLOT.as_secs(), "{window}: {traffic:?}");
        let p50 = traffic.requests.latencies.quantile(0.5).unwrap() as f64;
        assert!(window < 300 || (p50 - 15_800.0).abs() / 15_800.0 < 0.07, "{window}: {p50}");
    }
    let slots: usize = telemetry.histories.values().map(|history| history.slots(now, 0).count()).sum();
    assert!((140..160).contains(&slots), "{slots}");
}

#[test]
fn whoever_is_gone_is_forgotten() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    for pod in 0..10 {
        steady(&mut telemetry, start, &format!("gone-{pod}"), 0, 600);
    }
    let before = telemetry.size();
    assert_eq!(telemetry.histories.len(), 10);
    // What others say has their slots added up ...
    steady(&mut telemetry, start, "web-0", 600, 3 * 3_600);
    let after = telemetry.size();
    assert!(after < before / 2, "{before} {after}");
    // ... and forgotten.
    steady(&mut telemetry, start, "web-0", 600 + 3 * 3_600, 5 * 3_600);
    assert_eq!(telemetry.histories.len(), 1);
    let sizes: usize = telemetry.histories.values().map(|history| history.size()).sum();
    assert_eq!(telemetry.size(), sizes);
}

#[test]
fn what_nobody_counts_under_any_more_is_no_name() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    for round in 0..100 {
        add(&mut telemetry, at(start, round * 600), "web-0", round + 1, attack(round as usize * 10, 10));
    }
    let names = telemetry.histories.values().next().unwrap().names();
    assert!((350..=400).contains(&names), "{names}");
}

fn tcp(direction: Direction, peer: Option<(&str, &str)>, state: tls::State, bytes: u64, open: u64) -> TcpCounts {
    let reference = |name: &str| ResourceRef { kind: "deployment".into(), namespace: "ns".into(), name: name.into() };
    let peer_id = match (state, peer) {
        (tls::State::Mutual, Some((name, _))) => format!("spiffe://mesh/ns/ns/sa/{name}"),
        _ => String::new(),
    };
    TcpCounts {
        direction: direction.into(),
        peer: peer.map(|(name, _)| reference(name)),
        peer_pod: peer.map(|(_, pod)| pod.to_owned()).unwrap_or_default(),
        tls: Some(Tls { state: state.into(), peer_id }),
        read_bytes: bytes,
        write_bytes: 2 * bytes,
        open,
        ..TcpCounts::default()
    }
}

fn connections(telemetry: &mut Telemetry, now: Now, pod: &str, sequence: u64, tcp: Vec<TcpCounts>) {
    let report = ReportRequest { incarnation: 1, sequence, tcp, ..ReportRequest::default() };
    telemetry.report(now, reporter(pod), report);
}

#[test]
fn open_connections_are_those_that_were_told_of_last_and_bytes_are_added_up() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    let inbound = |bytes, open| vec![tcp(Direction::Inbound, None, tls::State::Mutual, bytes, open)];
    connections(&mut telemetry, at(start, 0), "db-0", 1, inbound(100, 7));
    connections(&mut telemetry, at(start, 9), "db-0", 2, inbound(10, 3));
    connections(&mut telemetry, at(start, 9), "db-1", 1, inbound(1, 2));
    let seen = |seconds| {
        let request = StatRequest { selector: Some(selection("deployment", "")), ..StatRequest::default() };
        let found = stat(&telemetry, at(start, seconds), 60, &request);
        let traffic = found.into_values().next().unwrap();
        (traffic.open(), traffic.tcp.read_bytes, traffic.tcp.write_bytes)
    };
    assert_eq!(seen(9), (5, 111, 222));
    // Nothing was heard of them any more.
    assert_eq!(seen(40), (0, 111, 222));
}

fn assert_edges(telemetry: &Telemetry, now: Now, kind: &str, namespace: &str, expected: Expect) {
    let request = EdgesRequest { kind: kind.into(), namespace: namespace.into(), window_ms: 60_000 };
    let found = telemetry.counted(now).edges(Duration::from_secs(60), &request).found;
    // As it comes from another replica.
    let wire = found.iter().map(|((ends, of), traffic)| Ends::from_wire(ends.to_wire(traffic, *of)));
    let found = wire.map(|(ends, counts)| (ends, Traffic::from_wire(counts, None))).collect();
    let line = |edge: conduit_api::proto::public::Edge| {
        let name = |end: Option<ResourceRef>| end.map(|r| format!("{}/{}/{}", r.kind, r.namespace, r.name)).unwrap();
        let requests = edge.stats.map(|stats| stats.success_count + stats.failure_count);
        format!(
            "{} -> {} [{} {}] {:?} requests={requests:?} bytes={}/{} open={}\n",
            name(edge.source),
            name(edge.destination),
            edge.client_id,
            edge.server_id,
            if edge.secured { "secured" } else { &edge.no_tls_reason },
            edge.read_bytes,
            edge.write_bytes,
            edge.tcp_open
        )
    };
    expected.assert_eq(&edges::edges(found).into_iter().map(line).collect::<String>());
}

#[test]
fn edges_are_what_the_source_saw() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let outbound = |peer, pod, state, bytes, open| tcp(Direction::Outbound, Some((peer, pod)), state, bytes, open);
    let mut requests = counts(Direction::Outbound, Some("voting"), 3, 1, 500);
    requests.tls.as_mut().unwrap().peer_id = "spiffe://mesh/ns/ns/sa/voting".into();
    requests.peer_pod = "voting-0".into();
    let report = ReportRequest {
        incarnation: 1,
        sequence: 1,
        requests: vec![requests, counts(Direction::Inbound, None, 9, 0, 500)],
        tcp: vec![
            outbound("voting", "voting-0", tls::State::Mutual, 10, 1),
            outbound("voting", "voting-1", tls::State::Mutual, 5, 2),
            outbound("legacy", "legacy-0", tls::State::NoIdentity, 1, 0),
            outbound("web", "web-0", tls::State::Loopback, 1, 0),
            outbound("vault", "vault-0", tls::State::Passthrough, 1, 0),
            tcp(Direction::Inbound, None, tls::State::Mutual, 1, 1),
            TcpCounts { peer: None, ..outbound("?", "?", tls::State::NoIdentity, 1, 1) },
        ],
        ..ReportRequest::default()
    };
    telemetry.report(now, reporter("web-0"), report);
    let of_deployments = expect![[r#"
        deployment/ns/web -> deployment/ns/legacy [ ] "no identity provided by remote" requests=None bytes=1/2 open=0
        deployment/ns/web -> deployment/ns/vault [ ] "opaque TLS of the application" requests=None bytes=1/2 open=0
        deployment/ns/web -> deployment/ns/voting [spiffe://mesh/ns/ns/sa/web spiffe://mesh/ns/ns/sa/voting] "secured" requests=Some(4) bytes=15/30 open=3
        deployment/ns/web -> deployment/ns/web [ ] "loopback" requests=None bytes=1/2 open=0
    "#]];
    assert_edges(&telemetry, now, "deployment", "ns", of_deployments);
    assert_edges(
        &telemetry,
        now,
        "pod",
        "",
        expect![[r#"
        pod/ns/web-0 -> pod/ns/legacy-0 [ ] "no identity provided by remote" requests=None bytes=1/2 open=0
        pod/ns/web-0 -> pod/ns/vault-0 [ ] "opaque TLS of the application" requests=None bytes=1/2 open=0
        pod/ns/web-0 -> pod/ns/voting-0 [spiffe://mesh/ns/ns/sa/web spiffe://mesh/ns/ns/sa/voting] "secured" requests=Some(4) bytes=10/20 open=1
        pod/ns/web-0 -> pod/ns/voting-1 [spiffe://mesh/ns/ns/sa/web spiffe://mesh/ns/ns/sa/voting] "secured" requests=None bytes=5/10 open=2
        pod/ns/web-0 -> pod/ns/web-0 [ ] "loopback" requests=None bytes=1/2 open=0
    "#]],
    );
    assert_edges(
        &telemetry,
        now,
        "namespace",
        "",
        expect![[r#"
        namespace//ns -> namespace//ns [ ] "no identity provided by remote" requests=None bytes=1/2 open=0
        namespace//ns -> namespace//ns [ ] "loopback" requests=None bytes=1/2 open=0
        namespace//ns -> namespace//ns [ ] "opaque TLS of the application" requests=None bytes=1/2 open=0
        namespace//ns -> namespace//ns [spiffe://mesh/ns/ns/sa/web spiffe://mesh/ns/ns/sa/voting] "secured" requests=Some(4) bytes=15/30 open=3
    "#]],
    );
    assert_edges(&telemetry, now, "deployment", "elsewhere", expect![""]);
    assert_edges(&telemetry, now, "job", "", expect![""]);
}

#[test]
fn the_other_end_of_an_edge_may_be_of_another_kind() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let mut to_db = tcp(Direction::Outbound, Some(("db", "db-0")), tls::State::Mutual, 1, 1);
    to_db.peer.as_mut().unwrap().kind = "statefulset".into();
    connections(&mut telemetry, now, "web-0", 1, vec![to_db]);
    assert_edges(
        &telemetry,
        now,
        "deployment",
        "",
        expect![[r#"
        deployment/ns/web -> statefulset/ns/db [spiffe://mesh/ns/ns/sa/web spiffe://mesh/ns/ns/sa/db] "secured" requests=None bytes=1/2 open=1
    "#]],
    );
    assert_edges(
        &telemetry,
        now,
        "statefulset",
        "",
        expect![[r#"
        deployment/ns/web -> statefulset/ns/db [spiffe://mesh/ns/ns/sa/web spiffe://mesh/ns/ns/sa/db] "secured" requests=None bytes=1/2 open=1
    "#]],
    );
}

#[test]
fn points_of_replicas_that_started_at_other_times_add_up() {
    let start = Instant::now();
    let steps = Steps { first_ms: 1_000_000_000, length: Duration::from_secs(10), count: 3 };
    // The second one is 3 s younger.
    let (mut first, mut second) = (Telemetry::new(at(start, 0), MEMORY), Telemetry::new(at(start, 3), MEMORY));
    for seconds in 3..25 {
        let requests = vec![counts(Direction::Inbound, None, 1, 1, 1_000)];
        add(&mut first, at(start, seconds), "web-0", seconds, requests.clone());
        add(&mut second, at(start, seconds), "web-1", seconds, requests);
    }
    let seen = |telemetry: &Telemetry, selection: &ResourceSelection| {
        let mut points = vec![Counts::default(); 3];
        for ((step, _), traffic) in telemetry.counted(at(start, 24)).series(selection, &steps).found {
            points[step].merge(&traffic.requests);
        }
        points
    };
    let counted = |points: Vec<Counts>| points.iter().map(|point| (point.success, point.failure)).collect::<Vec<_>>();
    let deployment = selection("deployment", "web");
    assert_eq!(counted(seen(&first, &deployment)), [(7, 7), (10, 10), (5, 5)]);
    assert_eq!(counted(seen(&second, &deployment)), [(7, 7), (10, 10), (5, 5)]);
    assert_eq!(counted(seen(&first, &selection("deployment", "other"))), [(0, 0); 3]);
    let points = steps.points(seen(&first, &deployment).into_iter());
    let starts = points.iter().map(|point| (point.start_ms, point.success_count, point.tls_count));
    assert!(starts.eq([(1_000_000_000, 7, 14), (1_000_010_000, 10, 20), (1_000_020_000, 5, 10)]));
    assert!(points.iter().all(|point| (900..1_100).contains(&point.latency_p50_us)));
}

#[test]
fn rows_by_path_and_status() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let ended = |end, success, count| EndCounts {
        end: Some(end),
        success,
        count,
        latency: vec![LatencyBucket { index: latency::bucket(1_000) as u32, count }],
    };
    let path =
        |method: &str, path: &str, mutual, ends| PathCounts { method: method.into(), path: path.into(), mutual, ends };
    let paths = vec![
        path("GET", "/a", true, vec![ended(End::HttpStatus(200), true, 5), ended(End::HttpStatus(503), false, 2)]),
        path("GET", "/a", false, vec![ended(End::HttpStatus(200), true, 1)]),
        path("POST", "/s/M", true, vec![ended(End::GrpcStatus(2), false, 3), ended(End::Reset(true), false, 1)]),
    ];
    for pod in ["web-0", "web-1"] {
        let report = ReportRequest { incarnation: 1, sequence: 1, paths: paths.clone(), ..ReportRequest::default() };
        telemetry.report(now, reporter(pod), report);
    }
    let seen = |kind: &str, by: &[By]| {
        let by = by.iter().map(|by| i32::from(*by)).collect();
        let request = StatRequest { selector: Some(selection(kind, "")), by, ..StatRequest::default() };
        let found = stat(&telemetry, now, 60, &request);
        let row = |((_, name, values), traffic): (Row, Traffic)| {
            let Counts { success, failure, tls, .. } = traffic.requests;
            format!("{name} {} {success} {failure} {tls}", values.join(" "))
        };
        found.into_iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(
        seen("deployment", &[By::Path, By::Status]),
        ["web /a 200 12 0 10", "web /a 503 0 4 4", "web /s/M Unknown 0 6 6", "web /s/M reset 0 2 2"]
    );
    assert_eq!(
        seen("pod", &[By::Class, By::Method]),
        [
            "web-0 failure GET 0 2 2",
            "web-0 failure POST 0 4 4",
            "web-0 success GET 6 0 5",
            "web-1 failure GET 0 2 2",
            "web-1 failure POST 0 4 4",
            "web-1 success GET 6 0 5"
        ]
    );
}

#[test]
fn paths_are_cut_and_bounded() {
    let now = now();
    let mut telemetry = Telemetry::new(now, MEMORY);
    let ends = vec![EndCounts { end: Some(End::HttpStatus(200)), success: true, count: 1, latency: Vec::new() }];
    let path = |path: String| PathCounts { method: "GET".into(), path, mutual: true, ends: ends.clone() };
    let mut paths: Vec<_> = (0..=NAMES_MAX).map(|i| path(format!("/{i}"))).collect();
    paths[0] = path("\u{fc}".repeat(10_000));
    telemetry.report(now, reporter("web-0"), ReportRequest { paths, sequence: 1, ..ReportRequest::default() });
    assert_eq!(telemetry.crowded_rows(), 1);
    let by = vec![By::Path.into()];
    let request = StatRequest { selector: Some(selection("pod", "")), by, ..StatRequest::default() };
    let found = stat(&telemetry, now, 60, &request);
    assert_eq!(found.keys().map(|row| row.2[0].len()).max(), Some(NAME_LEN_MAX));
    assert!(found.keys().any(|row| row.2[0] == OTHER));
}

/// How much is known here, and whether that is told by itself.
fn covered(telemetry: &Telemetry, now: Now, pod: &str) -> (bool, u32) {
    let request = StatRequest { selector: Some(selection("pod", pod)), ..StatRequest::default() };
    let found = telemetry.counted(now).stat(Duration::from_secs(60), &request).found;
    let ((_, of), traffic) = found.into_iter().next().unwrap();
    (matches!(of, Of::One(..)), traffic.requests_over.ms())
}

#[test]
fn what_is_known_of_a_proxy_is_what_it_has_told_here() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    let tell = |telemetry: &mut Telemetry, second, pod, sequence| {
        let requests = vec![counts(Direction::Inbound, None, 1, 0, 1_000)];
        let report = ReportRequest { interval_ms: 2_000, ..report(sequence, requests) };
        telemetry.report(at(start, second), reporter(pod), report);
    };
    // It has begun; and it comes from another replica.
    tell(&mut telemetry, 100, "new-0", 1);
    tell(&mut telemetry, 100, "moved-0", 50);
    assert_eq!(covered(&telemetry, at(start, 110), "new-0"), (false, 60_000));
    assert_eq!(covered(&telemetry, at(start, 110), "moved-0"), (true, 12_000));
    // It was away for a while, and is back; and what is told in order is complete, however long nothing was to be told.
    tell(&mut telemetry, 105, "new-0", 2);
    tell(&mut telemetry, 140, "new-0", 9);
    tell(&mut telemetry, 140, "moved-0", 51);
    assert_eq!(covered(&telemetry, at(start, 150), "new-0"), (true, 27_000));
    assert_eq!(covered(&telemetry, at(start, 150), "moved-0"), (true, 52_000));
    // All is known here; but if it is silent for so long, it may have moved.
    assert_eq!(covered(&telemetry, at(start, 155), "moved-0"), (true, 57_000));
    tell(&mut telemetry, 170, "moved-0", 52);
    assert_eq!(covered(&telemetry, at(start, 170), "moved-0"), (false, 60_000));
    assert_eq!(covered(&telemetry, at(start, 190), "moved-0"), (true, 60_000));
}

#[test]
fn repeated_reports_are_few_and_none_is_lost() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    for sequence in 1..=40 {
        let requests = vec![counts(Direction::Inbound, None, 1, 0, 1_000)];
        let report = ReportRequest { is_repeated: true, ..report(sequence, requests) };
        telemetry.report(at(start, sequence), reporter("web-0"), report);
    }
    let request = StatRequest { selector: Some(selection("pod", "web-0")), ..StatRequest::default() };
    let found = telemetry.counted(at(start, 41)).stat(Duration::from_secs(60), &request);
    let repeated = found.found.keys().filter(|(_, of)| matches!(of, Of::Repeated(..))).count();
    assert_eq!((repeated, found.heard.proxies[0].repeated_reports.len()), (16, 16));
    assert_eq!(found.found.values().map(|traffic| traffic.requests.success).sum::<u64>(), 40);
    // What they are counted under is known when names are forgotten, and so is how large they are.
    (0..9).for_each(|round| {
        add(&mut telemetry, at(start, 50 + round * 5), "web-0", 50 + round, attack(round as usize * 999, 999))
    });
    assert_eq!(query(&telemetry, at(start, 95), "pod", None), [("web-0".into(), 40 - 34 + 9 * 999, 0)]);
    let sizes: usize = telemetry.histories.values().map(|history| history.size()).sum();
    assert_eq!(telemetry.size(), sizes);
}

#[test]
fn what_another_replica_may_have_goes_with_the_slots_of_its_time() {
    let start = Instant::now();
    let mut history = History::new(std::sync::Arc::new(reporter("web-0")), at(start, 0));
    for sequence in 1..=20 {
        let requests = vec![counts(Direction::Inbound, None, 1, 0, 1_000)];
        let report = ReportRequest { is_repeated: sequence % 5 == 0, ..report(sequence, requests) };
        history.report(at(start, sequence * 5), report);
    }
    history.shrink(history.size() * 3 / 4);
    let now = at(start, 101);
    let repeated: Vec<_> = history.repeated(now, 0).map(|((_, sequence), date, _)| (sequence, date)).collect();
    assert!(repeated.len() > 1 && repeated.len() < 4 && repeated.last().unwrap().0 == 20, "{repeated:?}");
    let oldest = history.slots(now, 0).map(|(date, _)| date).min().unwrap();
    assert!(repeated.iter().all(|(_, date)| *date >= oldest));
    // Of those that are gone nobody is told that they are here.
    assert_eq!(history.spans().to_wire(now)[0].first, 20);
    history.shrink(0);
    assert_eq!((history.repeated(now, 0).count(), history.slots(now, 0).count()), (0, 0));
}

#[test]
fn older_releases_are_told_who_has_the_rest() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    for (sequence, previous_memory) in [(50, 77), (51, MEMORY)] {
        let requests = vec![counts(Direction::Inbound, None, 1, 0, 1_000)];
        let report = ReportRequest { previous_memory, ..report(sequence, requests) };
        telemetry.report(at(start, 50 + sequence), reporter("web-0"), report);
    }
    let request = StatRequest { selector: Some(selection("pod", "")), ..StatRequest::default() };
    let told = telemetry.counted(at(start, 110)).stat(Duration::from_secs(60), &request);
    let kept_by: Vec<_> = told.found.iter().map(|((_, of), traffic)| traffic.to_wire(*of).kept_by).collect();
    assert_eq!((kept_by, told.heard.proxies[0].kept_by), (vec![77], 77));
}

#[test]
fn names_that_are_made_up_are_not_kept_without_end() {
    let start = Instant::now();
    let mut telemetry = Telemetry { bytes_max: 1 << 20, ..Telemetry::new(at(start, 0), MEMORY) };
    // Pods that nobody has heard of, ...
    for pod in 0..STRANGERS_MAX as u64 * 2 {
        let stranger = Reporter { is_known: false, ..reporter(&format!("x-{pod}")) };
        telemetry.report(at(start, 0), stranger, ReportRequest { sequence: 1, ..ReportRequest::default() });
    }
    assert_eq!(telemetry.histories.len(), STRANGERS_MAX);
    // ... do not keep those out that are there, and these may not tell whatever they like apart.
    for slot in 0..20 {
        for pod in 0..20 {
            add(
                &mut telemetry,
                at(start, slot * 5),
                &format!("hog-{pod}"),
                slot + 1,
                attack(slot as usize * 1_000, 1_000),
            );
        }
    }
    assert_eq!(telemetry.histories.len(), STRANGERS_MAX + 20);
    assert!(telemetry.size() < 5 << 20, "{}", telemetry.size());
}

#[test]
fn a_pod_whose_owner_is_heard_of_later_is_the_same_one() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    let early = Reporter { is_known: false, workload: None, ..reporter("web-0") };
    let report = |sequence| ReportRequest {
        sequence,
        incarnation: 1,
        requests: vec![counts(Direction::Inbound, None, 3, 0, 1_000)],
        ..ReportRequest::default()
    };
    telemetry.report(at(start, 0), early, report(1));
    telemetry.report(at(start, 1), reporter("web-0"), report(1));
    telemetry.report(at(start, 2), reporter("web-0"), report(2));
    let request = StatRequest { selector: Some(selection("deployment", "web")), ..StatRequest::default() };
    let traffic = stat(&telemetry, at(start, 3), 60, &request).into_values().next().unwrap();
    assert_eq!((telemetry.histories.len(), traffic.requests.success), (1, 6));
}

#[test]
fn all_gaps_count() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    let mut tell = |second, sequence, interval_ms| {
        let report = ReportRequest {
            sequence,
            incarnation: 1,
            interval_ms,
            requests: vec![counts(Direction::Inbound, None, 1, 0, 1_000)],
            ..ReportRequest::default()
        };
        telemetry.report(at(start, second), reporter("web-0"), report);
    };
    tell(0, 1, 0);
    // Elsewhere for ten seconds, here for ten, and elsewhere for another ten.
    tell(12, 7, 2_000);
    tell(22, 8, 10_000);
    tell(34, 14, 2_000);
    let history = telemetry.histories.values().next().unwrap();
    for (window, covered) in [(34, 14), (15, 5)] {
        let covered = Duration::from_secs(covered);
        assert_eq!(history.spans().covers(at(start, 34), Duration::from_secs(window)), covered);
    }
}

#[test]
fn who_has_nothing_to_tell_is_heard_all_the_same() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(at(start, 0), MEMORY);
    // It has told another replica four times, the last time a minute ago.
    let report = ReportRequest { sequence: 5, since_previous_ms: Some(60_000), ..ReportRequest::default() };
    telemetry.report(at(start, 100), reporter("web-0"), report);
    telemetry.report(at(start, 100), reporter("db-0"), ReportRequest { sequence: 1, ..ReportRequest::default() });
    let mut pods = ["web-1", "db-1", "web-2"].map(|name| departures::tests::pod(name, "1")).to_vec();
    let mut departures = Departures::new(at(start, 0).monotonic, pods.iter());
    for second in [50, 60, 70] {
        pods.remove(0);
        departures = departures.after(at(start, second).monotonic, pods.iter());
    }
    telemetry.set_departures(Arc::new(departures));
    let request = StatRequest { selector: Some(selection("pod", "web-0")), ..StatRequest::default() };
    let heard = telemetry.counted(at(start, 101)).stat(Duration::from_secs(120), &request).heard;
    let [proxy] = &heard.proxies[..] else { panic!("{heard:?}") };
    let covered = |window_ms| spans::covered_ms(proxy.spans.clone(), window_ms);
    assert_eq!((proxy.reporter, covered(61_000), covered(90_000)), (web_0(), 61_000, 61_000));

    let gone = |kind, name: &str, window| {
        let request = StatRequest { selector: Some(selection(kind, name)), ..StatRequest::default() };
        let heard = telemetry.counted(at(start, 101)).stat(Duration::from_secs(window), &request).heard;
        assert_eq!(heard.departures_known_ms, 101_000);
        heard.departures.iter().map(|gone| gone.ms_ago / 1000).collect::<Vec<_>>()
    };
    assert_eq!(gone("pod", "", 120), [31, 41, 51]);
    assert_eq!(gone("pod", "", 45), [31, 41]);
    assert_eq!(gone("pod", "db-1", 120), [41]);
    assert_eq!(gone("service", "web", 120), [31, 41, 51], "any of them may have asked for it");
}

fn web_0() -> u64 {
    questions::number_of(&PodName::new("ns", "web-0").unwrap())
}

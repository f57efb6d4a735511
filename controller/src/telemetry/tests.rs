use conduit_api::{
    latency,
    proto::{
        common::{ResourceRef, Tls},
        telemetry::LatencyBucket,
    },
};

use super::*;

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
    }
}

fn report(sequence: u64, requests: Vec<RequestCounts>) -> ReportRequest {
    ReportRequest { incarnation: 1, sequence, requests, ..ReportRequest::default() }
}

fn add(telemetry: &mut Telemetry, now: Instant, pod: &str, sequence: u64, requests: Vec<RequestCounts>) {
    let deployment = pod.rsplit_once('-').unwrap().0;
    let workload = WorkloadRef { kind: "deployment".into(), name: deployment.into() };
    telemetry.report(now, PodName::new("ns", pod).unwrap(), Some(workload), report(sequence, requests));
}

fn selection(kind: &str, name: &str) -> ResourceSelection {
    ResourceSelection {
        kind: kind.into(),
        namespace: if kind == "namespace" { "" } else { "ns" }.into(),
        name: name.into(),
    }
}

fn query(
    telemetry: &Telemetry,
    now: Instant,
    kind: &str,
    other: Option<stat_request::Other>,
) -> Vec<(String, u64, u64)> {
    let request = StatRequest { selector: Some(selection(kind, "")), window_ms: 60_000, other };
    let rows = telemetry.query(now, Duration::from_secs(60), &request);
    rows.into_iter().map(|((_, name), counts)| (name, counts.success, counts.failure)).collect()
}

#[test]
fn adds_up_what_was_received_by_workload_pod_and_namespace() {
    let now = Instant::now();
    let mut telemetry = Telemetry::new(now);
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
    let now = Instant::now();
    let mut telemetry = Telemetry::new(now);
    add(&mut telemetry, now, "bot-0", 1, vec![counts(Direction::Outbound, Some("web"), 9, 2, 1_500)]);
    add(&mut telemetry, now, "bot-0", 2, vec![counts(Direction::Outbound, Some("other"), 5, 0, 1_500)]);
    let to = |name: &str| Some(stat_request::Other::To(selection("deployment", name)));
    let from = |name: &str| Some(stat_request::Other::From(selection("deployment", name)));
    assert_eq!(query(&telemetry, now, "deployment", to("web")), [("bot".into(), 9, 2)]);
    assert_eq!(query(&telemetry, now, "deployment", to("nobody")), []);
    assert_eq!(query(&telemetry, now, "deployment", from("bot")), [("other".into(), 5, 0), ("web".into(), 9, 2)]);
    assert_eq!(query(&telemetry, now, "deployment", from("web")), []);
}

#[test]
fn a_report_counts_once() {
    let now = Instant::now();
    let mut telemetry = Telemetry::new(now);
    let requests = vec![counts(Direction::Inbound, None, 1, 0, 1_000)];
    add(&mut telemetry, now, "web-0", 1, requests.clone());
    add(&mut telemetry, now, "web-0", 1, requests.clone());
    add(&mut telemetry, now, "web-0", 2, requests);
    assert_eq!(query(&telemetry, now, "deployment", None), [("web".into(), 2, 0)]);
}

#[test]
fn no_count_is_too_large() {
    let now = Instant::now();
    let mut telemetry = Telemetry::new(now);
    for sequence in 1..3 {
        add(&mut telemetry, now, "web-0", sequence, vec![counts(Direction::Inbound, None, u64::MAX, 0, 1_000)]);
    }
    assert_eq!(query(&telemetry, now, "pod", None), [("web-0".into(), u64::MAX, 0)]);
}

#[test]
fn reports_that_are_sent_again_are_one() {
    let now = Instant::now();
    let mut telemetry = Telemetry::new(now);
    for sequence in [1, 1, 2, 1] {
        add(&mut telemetry, now, "web-0", sequence, vec![counts(Direction::Inbound, None, 1, 0, 1_000)]);
    }
    assert_eq!((telemetry.reports(), query(&telemetry, now, "pod", None)), (2, vec![("web-0".into(), 2, 0)]));
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let start = Instant::now();
    let mut telemetry = Telemetry::new(start);
    add(&mut telemetry, start, "web-0", 1, vec![counts(Direction::Inbound, None, 1, 0, 1_000)]);
    let later = start + Duration::from_secs(70);
    add(&mut telemetry, later, "web-0", 2, vec![counts(Direction::Inbound, None, 2, 0, 1_000)]);
    assert_eq!(query(&telemetry, later, "deployment", None), [("web".into(), 2, 0)]);
}

#[test]
fn covers_whole_slots_but_not_the_time_before_the_start() {
    let start = Instant::now();
    let window = Duration::from_secs(60);
    let mut telemetry = Telemetry::new(start);
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    assert_eq!(telemetry.covered(at(7), window), Duration::from_secs(7));
    assert_eq!(telemetry.covered(at(60), window), Duration::from_secs(60));
    // The slots that began at 65, 70, ... count; the one at 60 began before the window.
    assert_eq!(telemetry.covered(at(123), window), Duration::from_secs(58));
    for (sequence, seconds) in (1..).zip(0..123) {
        add(&mut telemetry, at(seconds), "web-0", sequence, vec![counts(Direction::Inbound, None, 1, 0, 1_000)]);
    }
    assert_eq!(query(&telemetry, at(123), "deployment", None), [("web".into(), 58, 0)]);
}

#[test]
fn rows_are_bounded() {
    let now = Instant::now();
    let mut telemetry = Telemetry::new(now);
    let rows = (0..=ROWS_PER_SLOT_MAX)
        .map(|i| RequestCounts { authority: format!("attack-{i}"), ..counts(Direction::Outbound, None, 1, 0, 1_000) });
    add(&mut telemetry, now, "web-0", 1, rows.collect());
    assert_eq!(telemetry.dropped_rows(), 1);
    assert_eq!(telemetry.slots.iter().map(|slot| slot.rows.len()).sum::<usize>(), ROWS_PER_SLOT_MAX);
}

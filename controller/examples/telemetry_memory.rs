//! Fills a replica's memory with six hours of what proxies count, and says how much that takes: `cargo run --release -p conduit-controller
//! --example telemetry_memory -- [PROXIES]`.
//!
//! One proxy is the pod of a deployment; of three replicas each has a third of those that there are. Each is asked for six paths by three
//! others, ten times a second, some of which fails, and asks three others itself: 18 names. Latencies are from 1 to 30 ms, most of them short.

use std::time::Duration;

use conduit_api::{
    PodName, WorkloadRef, latency,
    proto::{
        common::{Direction, ResourceRef, Tls, tls},
        public::{EdgesRequest, ResourceSelection, StatRequest, stat_request::By},
        telemetry::{EndCounts, LatencyBucket, PathCounts, ReportRequest, RequestCounts, TcpCounts, end_counts::End},
    },
};
use conduit_controller::telemetry::{BYTES_MAX, Reporter, Telemetry, slots::Now};
use tokio::time::Instant;

const HOURS: u64 = 6;
const SLOT_SECONDS: u64 = 5;
const MB: f64 = 1e6;

fn main() {
    let proxies: u64 = std::env::args().nth(1).map_or(333, |count| count.parse().expect("PROXIES is a number"));
    let (start, begin) = (Instant::now(), Instant::now());
    let at =
        |seconds: u64| Now { monotonic: start + Duration::from_secs(seconds), unix_ms: 86_400_000 + seconds * 1000 };
    let before = resident();
    let mut telemetry = Telemetry::new(at(0), 7);
    for slot in 0..HOURS * 3600 / SLOT_SECONDS {
        for proxy in 0..proxies {
            telemetry.report(at(slot * SLOT_SECONDS), reporter(proxy), report(proxy, slot));
        }
    }
    let filled = begin.elapsed();
    let (reports, counted) = (telemetry.reports(), telemetry.size() as f64 / MB);
    println!(
        "{proxies} proxies, {reports} reports in {filled:.0?}: {:.1} us each",
        filled.as_secs_f64() * 1e6 / reports as f64
    );
    println!(
        "memory: {:.1} MB resident, {counted:.1} MB counted of {:.1}",
        (resident() - before) / MB,
        BYTES_MAX as f64 / MB
    );
    ask(&telemetry, at(HOURS * 3600));
}

fn ask(telemetry: &Telemetry, now: Now) {
    let selector = |kind: &str| Some(ResourceSelection { kind: kind.to_owned(), ..ResourceSelection::default() });
    let stat = StatRequest { selector: selector("deployment"), ..StatRequest::default() };
    let by = StatRequest { by: vec![By::Path.into()], ..stat.clone() };
    let edges = EdgesRequest { kind: "deployment".to_owned(), ..EdgesRequest::default() };
    for seconds in [60, 3600, 6 * 3600] {
        let window = Duration::from_secs(seconds);
        let locked = Instant::now();
        let counted = telemetry.counted(now);
        let locked = locked.elapsed();
        let time = |what: &dyn Fn() -> usize| {
            let begin = Instant::now();
            (what(), begin.elapsed())
        };
        let (rows, stat) = time(&|| counted.stat(window, &stat).found.len());
        let (path_rows, by) = time(&|| counted.stat(window, &by).found.len());
        let (edge_rows, edges) = time(&|| counted.edges(window, &edges).found.len());
        println!(
            "{seconds} s: locked {locked:.0?}; stat {rows} in {stat:.0?}, by path {path_rows} in {by:.0?}, edges {edge_rows} in {edges:.0?}"
        );
    }
}

/// Bytes, as the kernel counts them.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() * 1024.0
}

fn reporter(proxy: u64) -> Reporter {
    let name = format!("deployment-{proxy}");
    Reporter {
        pod: PodName::new("some-namespace", &format!("{name}-5d4f8c7b9c-x2x4z")).expect("a name"),
        is_known: true,
        identity: format!("spiffe://cluster.local/ns/some-namespace/sa/{name}"),
        workload: Some(WorkloadRef { kind: "deployment".to_owned(), name }),
    }
}

/// What happened in five seconds: numbers that look like chance, and are the same every time.
fn report(proxy: u64, slot: u64) -> ReportRequest {
    let mut chance = (proxy << 32 | slot).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut latencies = |count: u64| {
        let bucket = |_| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            let far = (chance % 1000) as f64 / 1000.0;
            LatencyBucket { index: latency::bucket((1_000.0 * 30_f64.powf(far * far * far)) as u64) as u32, count: 1 }
        };
        (0..count).map(bucket).collect::<Vec<_>>()
    };
    let named = |name: u64| ResourceRef {
        kind: "deployment".to_owned(),
        namespace: "some-namespace".to_owned(),
        name: format!("deployment-{name}"),
    };
    let mutual = |name: u64| Tls {
        state: tls::State::Mutual.into(),
        peer_id: format!("spiffe://cluster.local/ns/some-namespace/sa/deployment-{name}"),
    };
    let mut requests = vec![RequestCounts {
        direction: Direction::Inbound.into(),
        authority: format!("deployment-{proxy}.some-namespace:8080"),
        tls: Some(mutual(proxy + 1)),
        success: 49,
        failure: u64::from(slot.is_multiple_of(2)),
        latency: latencies(50),
        ..RequestCounts::default()
    }];
    let mut tcp = Vec::new();
    for other in 1..=3 {
        tcp.push(TcpCounts {
            direction: Direction::Inbound.into(),
            tls: Some(mutual(proxy + 1000 - other)),
            read_bytes: 17_000,
            write_bytes: 170_000,
            open: 2,
            ..TcpCounts::default()
        });
        let peer_pod = format!("deployment-{}-5d4f8c7b9c-x2x4z", proxy + other);
        let (direction, peer, tls) = (Direction::Outbound.into(), named(proxy + other), mutual(proxy + other));
        requests.push(RequestCounts {
            direction,
            authority: format!("deployment-{}.some-namespace:8080", proxy + other),
            peer: Some(peer.clone()),
            peer_pod: peer_pod.clone(),
            tls: Some(tls.clone()),
            success: 17,
            latency: latencies(17),
            service: peer.name.clone(),
            ..RequestCounts::default()
        });
        let (peer, tls, read_bytes, write_bytes, open) = (Some(peer), Some(tls), 20_000, 2_000, 1);
        tcp.push(TcpCounts { direction, peer, tls, peer_pod, read_bytes, write_bytes, open, ..TcpCounts::default() });
    }
    let path = |number: u64| {
        let end =
            |status, success, count, latency| EndCounts { end: Some(End::HttpStatus(status)), success, count, latency };
        let mut ends = vec![end(200, true, 8, latencies(8))];
        if number < 2 {
            ends.push(end(503, false, 1, latencies(1)));
        }
        PathCounts { method: "GET".to_owned(), path: format!("/api/v1/things-{number}/*"), mutual: true, ends }
    };
    let paths = (0..6).map(path).collect();
    ReportRequest {
        incarnation: 1,
        sequence: slot + 1,
        interval_ms: 5_000,
        requests,
        tcp,
        paths,
        ..ReportRequest::default()
    }
}

//! What proxies say that they counted: it is added up, and asked for.

#![no_main]

use std::{collections::BTreeMap, time::Duration};

use conduit_api::{
    PodName, WorkloadRef,
    proto::{
        public::{
            EdgesRequest, ResourceSelection, StatRequest,
            stat_request::{By, Other},
        },
        telemetry::ReportRequest,
    },
};
use conduit_controller::telemetry::{
    Reporter, Telemetry,
    counts::Traffic,
    edges::{Ends, edges as told},
    series::Steps,
    slots::Now,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tokio::time::Instant;

fuzz_target!(|bytes: &[u8]| {
    let Ok(report) = ReportRequest::decode(bytes) else { return };
    let now = Now { monotonic: Instant::now(), unix_ms: 1_000_000_000 };
    let mut telemetry = Telemetry::new(now, 7);
    for pod in ["web-0", "web-1"] {
        let workload = Some(WorkloadRef { kind: "deployment".to_owned(), name: "web".to_owned() });
        let pod = PodName::new("ns", pod).expect("a name");
        let reporter = Reporter { pod, is_known: true, workload, identity: "spiffe://mesh/ns/ns/sa/web".to_owned() };
        telemetry.report(now, reporter, report.clone());
    }
    for kind in ["pod", "deployment", "namespace", "authority", "service"] {
        let all = ResourceSelection { kind: kind.to_owned(), ..ResourceSelection::default() };
        for other in [None, Some(Other::To(all.clone())), Some(Other::From(all.clone()))] {
            let request = StatRequest { selector: Some(all.clone()), other, ..StatRequest::default() };
            for traffic in telemetry.counted(now).stat(Duration::from_secs(60), &request).found.values() {
                let quantiles = [0.5, 0.95, 0.99].map(|quantile| traffic.requests.latencies.quantile(quantile));
                assert!(quantiles.is_sorted(), "{quantiles:?}");
            }
        }
        for by in [vec![By::Path, By::Method, By::Status, By::Class], vec![By::Service, By::Route]] {
            let by = by.into_iter().map(i32::from).collect();
            let request = StatRequest { selector: Some(all.clone()), by, ..StatRequest::default() };
            for (row, _) in telemetry.counted(now).stat(Duration::from_secs(60), &request).found.into_keys() {
                // A service has a namespace, a name and a port.
                assert!(row.2.iter().all(|value| value.len() <= 2 * 256 + 7), "{row:?}");
            }
        }
        let steps = Steps { first_ms: 999_990_000, length: Duration::from_secs(10), count: 2 };
        assert!(telemetry.counted(now).series(&all, &steps).found.keys().all(|(step, _)| *step < 2));
        let request = EdgesRequest { kind: kind.to_owned(), ..EdgesRequest::default() };
        let edges = telemetry.counted(now).edges(Duration::from_secs(60), &request).found;
        let mut merged = BTreeMap::new();
        for ((ends, of), traffic) in &edges {
            let (read, counts) = Ends::from_wire(ends.to_wire(traffic, *of));
            assert_eq!(&read, ends);
            let read = Traffic::from_wire(counts, None);
            assert_eq!((&read.requests, read.open()), (&traffic.requests, traffic.open()));
            merged.insert(ends.clone(), read);
        }
        // One who repeats a report is told in two parts, and two of a workload in one each.
        let ends = merged.len();
        assert_eq!(told(merged).len(), ends);
    }
});

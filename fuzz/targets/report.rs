//! What proxies say that they counted: it is added up, and asked for.

#![no_main]

use std::time::Duration;

use conduit_api::{
    PodName, WorkloadRef,
    proto::{
        public::{ResourceSelection, StatRequest, stat_request::Other},
        telemetry::ReportRequest,
    },
};
use conduit_controller::telemetry::Telemetry;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tokio::time::Instant;

fuzz_target!(|bytes: &[u8]| {
    let Ok(report) = ReportRequest::decode(bytes) else { return };
    let now = Instant::now();
    let mut telemetry = Telemetry::new(now);
    for pod in ["web-0", "web-1"] {
        let workload = WorkloadRef { kind: "deployment".to_owned(), name: "web".to_owned() };
        telemetry.report(now, PodName::new("ns", pod).expect("a name"), Some(workload), report.clone());
    }
    for kind in ["pod", "deployment", "namespace", "authority"] {
        let all = ResourceSelection { kind: kind.to_owned(), ..ResourceSelection::default() };
        for other in [None, Some(Other::To(all.clone())), Some(Other::From(all.clone()))] {
            let request = StatRequest { selector: Some(all.clone()), other, ..StatRequest::default() };
            for counts in telemetry.query(now, Duration::from_secs(60), &request).values() {
                let quantiles = [0.5, 0.95, 0.99].map(|quantile| counts.latencies.quantile(quantile));
                assert!(quantiles.is_sorted(), "{quantiles:?}");
            }
        }
    }
});

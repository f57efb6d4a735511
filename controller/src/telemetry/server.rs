//! Takes proxies' reports.

use std::sync::Arc;

use conduit_api::{
    PodName,
    proto::telemetry::{ReportRequest, ReportResponse, telemetry_server},
};
use conduit_consensus::MeshState;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status};

use super::{Reporter, Telemetry, slots::Now};
use crate::{clock::Clock, propose::unix_ms, serve::peer_of};

/// The counts, between reports coming in and queries. Held for microseconds, never across an await.
pub type SharedTelemetry = Arc<Mutex<Telemetry>>;

/// The service.
pub struct TelemetryServer {
    /// Where reports go.
    pub telemetry: SharedTelemetry,
    /// Says which workload owns the reporting pod.
    pub state: watch::Receiver<Arc<MeshState>>,
    /// Says where slots begin.
    pub clock: Clock,
}

/// What time it is for counts.
pub fn now(clock: &Clock) -> Now {
    Now { monotonic: Instant::now(), unix_ms: unix_ms(clock.now()) }
}

#[tonic::async_trait]
impl telemetry_server::Telemetry for TelemetryServer {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let peer = peer_of(&request)?;
        let report = request.into_inner();
        if report.namespace != peer.id().namespace() {
            let message = format!("{} may not report for namespace `{}`", peer.id(), report.namespace);
            return Err(Status::permission_denied(message));
        }
        let pod = PodName::new(&report.namespace, &report.pod).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let state = self.state.borrow().clone();
        let known = state.pods().get(&pod);
        let (is_known, workload) = (known.is_some(), known.and_then(|pod| pod.value.workload.clone()));
        let reporter = Reporter { pod, is_known, workload, identity: peer.id().to_string() };
        let mut telemetry = self.telemetry.lock();
        telemetry.report(now(&self.clock), reporter, report);
        Ok(Response::new(ReportResponse { memory: telemetry.memory() }))
    }
}

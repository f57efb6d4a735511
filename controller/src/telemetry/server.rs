//! Takes proxies' reports.

use std::{sync::Arc, time::Duration};

use conduit_api::{
    PodName,
    proto::telemetry::{ReportRequest, ReportResponse, telemetry_server},
};
use conduit_consensus::{Cluster, MeshState};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tonic::{Request, Response, Status};

use super::{Reporter, Telemetry, departures::Departures, slots::Now};
use crate::{clock::Clock, propose::unix_ms, serve::peer_of};

/// The counts, between reports coming in and queries. Held for microseconds, never across an await.
pub type SharedTelemetry = Arc<Mutex<Telemetry>>;

/// Between two looks at who is gone: each goes through all pods.
const DEPARTURES_CHECK: Duration = Duration::from_secs(1);

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

/// Keeps in mind which pods and which replicas have gone, for as long as this replica runs.
pub async fn keep_departures(telemetry: SharedTelemetry, cluster: Cluster, clock: Clock) {
    let (mut state, mut status) = (cluster.state(), cluster.status());
    // Until then, pods that went long ago may be on their way out of the state.
    if status.wait_for(|status| status.leader.is_some()).await.is_err() {
        return;
    }
    sleep(DEPARTURES_CHECK).await;
    let mut members = status.borrow_and_update().members.clone();
    let mut known: Option<(Arc<MeshState>, Arc<Departures>)> = None;
    loop {
        let (now, now_there) = (now(&clock), state.borrow_and_update().clone());
        let pods = || now_there.pods().values();
        let departures = match &known {
            Some((before, departures)) if Arc::ptr_eq(before, &now_there) => departures.clone(),
            Some((_, departures)) => Arc::new(departures.after(now.monotonic, pods())),
            None => Arc::new(Departures::new(now.monotonic, pods())),
        };
        let members_before = std::mem::replace(&mut members, status.borrow_and_update().members.clone());
        let is_removed = members_before.keys().any(|member| !members.contains_key(member));
        {
            let mut telemetry = telemetry.lock();
            telemetry.set_departures(departures.clone());
            if is_removed {
                telemetry.removed(now);
            }
        }
        known = Some((now_there, departures));
        sleep(DEPARTURES_CHECK).await;
        let changed = tokio::select! {
            changed = state.changed() => changed,
            changed = status.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
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

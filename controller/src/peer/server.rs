//! This replica's own part of the answers.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_api::{
    exposition::Format,
    proto::{
        peer::{
            CollectEdgesRequest, CollectEdgesResponse, CollectSeriesRequest, CollectSeriesResponse, CollectStatRequest,
            CollectStatResponse, ConnectedProxy, Counts, EdgeCounts, Heard, MetricsRequest, MetricsResponse,
            PeerRecoverRequest, PeerTapRequest, StatusRequest, StatusResponse, peer_server,
        },
        public::RecoverResponse,
        tap::TapEvent,
    },
};
use conduit_ca::KeyId;
use conduit_consensus::Cluster;
use futures::Stream;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::{
    admin::metrics,
    alerts::{metrics::AlertMetrics, silence::Silence},
    api::recover::recover_here,
    authority::actor::SharedIssuer,
    clock::Clock,
    discovery::registry::{Connected, Registry},
    identity::{metrics::IdentityMetrics, tokens::SharedJwtIssuer},
    platform::{failing::Failing, metrics::PlatformMetrics},
    propose::unix_ms,
    seed::SharedSeed,
    serve::Refusals,
    tap::server::TapServer,
    telemetry::{
        self, Row,
        bounds::{ANSWER, Busy as _, bounded},
        counts::Traffic,
        paths,
        questions::{Counted, Of, Told},
        series::{self, Steps},
        server::SharedTelemetry,
    },
};

/// What this replica knows by itself. Cloned handles share it.
#[derive(Clone)]
pub struct Own {
    /// The replicated state, and Raft.
    pub cluster: Cluster,
    /// The proxies connected to it.
    pub registry: Registry,
    /// What they counted.
    pub telemetry: SharedTelemetry,
    /// Their taps.
    pub taps: TapServer,
    /// What it signs with, once it can.
    pub issuer: SharedIssuer,
    /// What it signs tokens with, once everybody knows that key.
    pub jwt_issuer: SharedJwtIssuer,
    /// What it was given to start with, and is given while it runs.
    pub seed: SharedSeed,
    /// What time it is here.
    pub clock: Clock,
    /// Whom it has refused.
    pub refusals: Refusals,
    /// What it has signed.
    pub identity_metrics: IdentityMetrics,
    /// What it has heard of the platform, and written of it.
    pub platform_metrics: PlatformMetrics,
    /// Pods that fail, as it has heard as a leader.
    pub failing: Failing,
    /// What it has found of promises, as a leader.
    pub alerts: AlertMetrics,
    /// Which replicas do not answer it, and since when.
    pub silence: Silence,
    /// When its process was, within what it takes to open its log.
    pub started: SystemTime,
}

impl Own {
    /// How this replica is.
    pub fn status(&self, request: StatusRequest) -> StatusResponse {
        let status = self.cluster.status().borrow().clone();
        let connected = if request.with_proxies { self.registry.connected() } else { BTreeMap::new() };
        let proxies = connected.into_iter().map(|(pod, Connected { revision, certified })| ConnectedProxy {
            namespace: pod.namespace().to_owned(),
            pod: pod.name().to_owned(),
            acked_revision: revision.as_u64(),
            not_after_ms: certified.as_ref().map_or(0, |certified| certified.not_after_ms),
            root: certified.map(|certified| certified.root.as_bytes().to_vec()).unwrap_or_default(),
        });
        let failing = if request.with_proxies { self.failing.get() } else { Arc::default() };
        let (issuer, seed) = (self.issuer.load_full(), self.seed.borrow().clone());
        let issuer_id = issuer.as_ref().and_then(|issuer| KeyId::of(issuer.certificate()));
        let issuing_root = issuer.as_ref().map(|issuer| issuer.root().as_bytes().to_vec());
        StatusResponse {
            node_id: self.cluster.id().as_u64(),
            role: status.role.to_string(),
            term: status.term,
            applied_index: status.applied_index,
            applied_revision: self.cluster.state().borrow().revision_at(status.applied_index).as_u64(),
            last_log_index: status.last_log_index,
            last_log_term: self.cluster.last_log().0,
            pid: std::process::id(),
            time_ms: unix_ms(self.clock.now()),
            proxies: proxies.collect(),
            issuing_root: issuing_root.unwrap_or_default(),
            issuer: issuer_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            issuer_not_after_ms: issuer.map_or(0, |issuer| unix_ms(issuer.not_after())),
            seed: seed.id(),
            other_seed: seed.other().map(|(_, id)| id).unwrap_or_default(),
            failing: failing.pods.clone(),
            more_failing: failing.is_more,
        }
    }

    /// What the proxies connected to it counted.
    pub async fn collect(&self, request: CollectStatRequest) -> CollectStatResponse {
        let Some(stat) = request.stat else { return CollectStatResponse::default() };
        let answer = move |counted: Counted| {
            let by: Vec<_> = stat.by().collect();
            let Told { found, heard } = counted.stat(Duration::from_millis(stat.window_ms.into()), &stat);
            let counts = |(((namespace, name, values), of), traffic): ((Row, Of), Traffic)| {
                let group = paths::group(&by, values);
                Counts { namespace, name, group, ..traffic.to_wire(of) }
            };
            let (counts, heard) = fitting(found.into_iter().map(counts).collect(), heard, Counts::traffic);
            CollectStatResponse { counts, heard: Some(heard) }
        };
        self.counted(answer).await
    }

    /// What they counted step by step.
    pub async fn collect_series(&self, request: CollectSeriesRequest) -> CollectSeriesResponse {
        let CollectSeriesRequest { selector: Some(selector), first_ms, step_ms, steps, by_number } = request else {
            return CollectSeriesResponse::default();
        };
        let steps = Steps { first_ms, length: Duration::from_millis(step_ms.into()), count: steps };
        let answer = move |counted: Counted| {
            let Told { found, heard } = counted.series(&selector, &steps);
            let steps = if by_number { series::numbered(found) } else { series::in_order(&found, &steps) };
            let (steps, heard) = fitting(steps, heard, Counts::traffic);
            CollectSeriesResponse { steps, heard: Some(heard) }
        };
        self.counted(answer).await
    }

    /// With whom the proxies connected to it spoke.
    pub async fn collect_edges(&self, request: CollectEdgesRequest) -> CollectEdgesResponse {
        let Some(edges) = request.edges else { return CollectEdgesResponse::default() };
        let answer = move |counted: Counted| {
            let Told { found, heard } = counted.edges(Duration::from_millis(edges.window_ms.into()), &edges);
            let edges = found.iter().map(|((ends, of), traffic)| ends.to_wire(traffic, *of)).collect();
            let (edges, heard) = fitting(edges, heard, EdgeCounts::traffic);
            CollectEdgesResponse { edges, heard: Some(heard) }
        };
        self.counted(answer).await
    }

    /// What comes of what is counted now, away from the threads that others wait for: of many proxies and six hours it takes a second.
    async fn counted<T: Default + Send + 'static>(&self, answer: impl FnOnce(Counted) -> T + Send + 'static) -> T {
        let now = telemetry::server::now(&self.clock);
        let counted = self.telemetry.lock().counted(now);
        match tokio::task::spawn_blocking(move || answer(counted)).await {
            Ok(answer) => answer,
            // A process that ends has nothing to tell.
            Err(error) if error.is_cancelled() => T::default(),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// As many of `rows` as fit into an answer, and what is said with them: whether that is all.
fn fitting<T: Message>(rows: Vec<T>, heard: Heard, traffic: impl Fn(&T) -> (u64, u64)) -> (Vec<T>, Heard) {
    let (rows, is_too_much) = bounded(rows, ANSWER, traffic);
    (rows, Heard { truncated: is_too_much || heard.truncated, ..heard })
}

#[tonic::async_trait]
impl peer_server::Peer for Own {
    type TapStream = Pin<Box<dyn Stream<Item = Result<TapEvent, Status>> + Send>>;

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(Own::status(self, request.into_inner())))
    }

    async fn collect_stat(
        &self,
        request: Request<CollectStatRequest>,
    ) -> Result<Response<CollectStatResponse>, Status> {
        Ok(Response::new(self.collect(request.into_inner()).await))
    }

    async fn collect_edges(
        &self,
        request: Request<CollectEdgesRequest>,
    ) -> Result<Response<CollectEdgesResponse>, Status> {
        Ok(Response::new(Own::collect_edges(self, request.into_inner()).await))
    }

    async fn collect_series(
        &self,
        request: Request<CollectSeriesRequest>,
    ) -> Result<Response<CollectSeriesResponse>, Status> {
        Ok(Response::new(Own::collect_series(self, request.into_inner()).await))
    }

    async fn metrics(&self, _: Request<MetricsRequest>) -> Result<Response<MetricsResponse>, Status> {
        let text = metrics::scrape(self, Format::Text).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(MetricsResponse { text }))
    }

    async fn recover(&self, request: Request<PeerRecoverRequest>) -> Result<Response<RecoverResponse>, Status> {
        let PeerRecoverRequest { confirmed, proposer } = request.into_inner();
        recover_here(self, &proposer, confirmed).await.map(Response::new)
    }

    async fn tap(&self, request: Request<PeerTapRequest>) -> Result<Response<Self::TapStream>, Status> {
        let PeerTapRequest { tap, payloads } = request.into_inner();
        let tap = tap.ok_or_else(|| Status::invalid_argument("tap without a request"))?;
        Ok(Response::new(Box::pin(self.taps.watch(tap, payloads)?)))
    }
}

//! The public API: what people and their tools ask, answered by any replica for all of them.

pub mod aggregated;
pub mod ca;
pub mod check;
pub mod edges;
pub mod endpoints;
pub mod explain;
pub mod federation;
pub mod identity;
pub mod members;
pub mod merged;
pub mod metrics;
pub mod objectives;
pub mod proxy_admin;
pub mod recover;
pub mod routes;
pub mod series;
pub mod snapshot;
pub mod stat;
pub mod tap;

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use conduit_api::{
    VERSION,
    proto::{
        public::{
            ApplyRequest, ApplyResponse, CaDenyRequest, CaDenyResponse, CaExportRequest, CaExportResponse,
            CaFederateRequest, CaRotateRequest, CaRotateResponse, CaStatusRequest, CaStatusResponse,
            ControllerMetricsRequest, EdgesRequest, EdgesResponse, EndpointsRequest, EndpointsResponse, ExplainRequest,
            ExplainResponse, HistoryRequest, HistoryResponse, IdentityRequest, IdentityResponse, ListAlertsRequest,
            ListAlertsResponse, ListObjectivesRequest, ListObjectivesResponse, MemberMetrics, MemberRequest,
            MemberResponse, MetricsPiece, Pod, PodsRequest, PodsResponse, ProxyMetricsRequest, RaftStatusRequest,
            RaftStatusResponse, RecoverRequest, RecoverResponse, RemoveObjectiveRequest, RestoreSnapshotResponse,
            RollbackRequest, RollbackResponse, RoutesRequest, RoutesResponse, SaveSnapshotRequest, SelfCheckRequest,
            SelfCheckResponse, SeriesRequest, SeriesResponse, SetObjectiveRequest, SetObjectiveResponse, SnapshotChunk,
            StatRequest, StatResponse, TapRequest, VersionRequest, VersionResponse, WaitRequest, WaitResponse,
            api_server,
        },
        tap::TapEvent,
    },
};
use futures::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use self::check::Lifetimes;
use crate::{alerts::Windows, authority::roots::Roots, peer::server::Own, propose::unix_ms};

/// The service.
pub struct ApiServer {
    /// What this replica knows, and whom it can ask.
    pub own: Own,
    /// What opens and makes roots.
    pub roots: Arc<Roots>,
    /// What certificates are meant to last.
    pub lifetimes: Lifetimes,
    /// People tell them the platform, and not this API.
    pub platform_keeps_routes: bool,
    /// Over how long promises are judged.
    pub alert_windows: Windows,
}

#[tonic::async_trait]
impl api_server::Api for ApiServer {
    type TapStream = Pin<Box<dyn Stream<Item = Result<TapEvent, Status>> + Send>>;
    type TapPayloadStream = Self::TapStream;
    type ProxyMetricsStream = Pin<Box<dyn Stream<Item = Result<MetricsPiece, Status>> + Send>>;
    type ControllerMetricsStream = Pin<Box<dyn Stream<Item = Result<MemberMetrics, Status>> + Send>>;
    type SaveSnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotChunk, Status>> + Send>>;

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse { version: VERSION.to_owned() }))
    }

    async fn self_check(&self, request: Request<SelfCheckRequest>) -> Result<Response<SelfCheckResponse>, Status> {
        let (members, ca) = tokio::join!(members::status(&self.own), ca::status(&self.own, &self.roots));
        let (expiry_days, now) = (request.into_inner().expiry_days, unix_ms(self.own.clock.now()));
        let issuing = self.own.issuer.load().is_some();
        let mut results = check::raft(&members);
        results.extend(check::identity(ca.ok().as_ref(), issuing, self.lifetimes, expiry_days, now));
        Ok(Response::new(SelfCheckResponse { results }))
    }

    async fn raft_status(&self, _: Request<RaftStatusRequest>) -> Result<Response<RaftStatusResponse>, Status> {
        Ok(Response::new(members::status(&self.own).await))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        Ok(Response::new(members::wait(&self.own, request.into_inner()).await))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        Ok(Response::new(members::history(&self.own, request.into_inner().limit)))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        routes::may_change(self.platform_keeps_routes)?;
        let who = routes::who(&request);
        routes::apply(&self.own, &who, request.into_inner()).await.map(Response::new)
    }

    async fn routes(&self, request: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        routes::routes(&self.own, request.into_inner()).await.map(Response::new)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<RollbackResponse>, Status> {
        routes::may_change(self.platform_keeps_routes)?;
        let who = routes::who(&request);
        routes::rollback(&self.own, &who, request.into_inner()).await.map(Response::new)
    }

    async fn save_snapshot(
        &self,
        _: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        Ok(Response::new(Box::pin(snapshot::save(&self.own)?)))
    }

    async fn restore_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        snapshot::restore(&self.own, &self.roots, request.into_inner()).await.map(Response::new)
    }

    async fn remove_member(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        members::remove(&self.own, &request.into_inner().member).await?;
        Ok(Response::new(MemberResponse {}))
    }

    async fn recover(&self, request: Request<RecoverRequest>) -> Result<Response<RecoverResponse>, Status> {
        let who = routes::who(&request);
        recover::recover(&self.own, &who, request.into_inner().confirmed).await.map(Response::new)
    }

    async fn transfer_leader(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        members::transfer(&self.own, &request.into_inner().member).await?;
        Ok(Response::new(MemberResponse {}))
    }

    async fn ca_status(&self, _: Request<CaStatusRequest>) -> Result<Response<CaStatusResponse>, Status> {
        ca::status(&self.own, &self.roots).await.map(Response::new)
    }

    async fn ca_rotate(&self, request: Request<CaRotateRequest>) -> Result<Response<CaRotateResponse>, Status> {
        let who = routes::who(&request);
        ca::rotate(&self.own, &self.roots, &who, request.into_inner()).await.map(Response::new)
    }

    async fn ca_deny(&self, request: Request<CaDenyRequest>) -> Result<Response<CaDenyResponse>, Status> {
        let who = routes::who(&request);
        ca::deny(&self.own, &self.roots, &who, request.into_inner()).await.map(Response::new)
    }

    async fn ca_federate(&self, request: Request<CaFederateRequest>) -> Result<Response<CaDenyResponse>, Status> {
        let who = routes::who(&request);
        federation::federate(&self.own, &self.roots, &who, request.into_inner()).await.map(Response::new)
    }

    async fn ca_export(&self, _: Request<CaExportRequest>) -> Result<Response<CaExportResponse>, Status> {
        federation::export(&self.own).map(Response::new)
    }

    async fn ca_revoke(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        let who = routes::who(&request);
        ca::revoke(&self.own, &who, &request.into_inner().member).await?;
        Ok(Response::new(MemberResponse {}))
    }

    async fn identity(&self, request: Request<IdentityRequest>) -> Result<Response<IdentityResponse>, Status> {
        aggregated::admit(&request)?;
        identity::identity(&self.own, request.into_inner()).await.map(Response::new)
    }

    async fn proxy_metrics(
        &self,
        request: Request<ProxyMetricsRequest>,
    ) -> Result<Response<Self::ProxyMetricsStream>, Status> {
        aggregated::admit(&request)?;
        Ok(Response::new(Box::pin(metrics::of_proxy(&self.own, request.into_inner()).await?)))
    }

    async fn controller_metrics(
        &self,
        _: Request<ControllerMetricsRequest>,
    ) -> Result<Response<Self::ControllerMetricsStream>, Status> {
        let members = metrics::of_controllers(&self.own).await;
        Ok(Response::new(Box::pin(stream::iter(members.into_iter().map(Ok)))))
    }

    async fn endpoints(&self, request: Request<EndpointsRequest>) -> Result<Response<EndpointsResponse>, Status> {
        aggregated::admit(&request)?;
        let state = self.own.cluster.state().borrow().clone();
        endpoints::endpoints(&state, &request.into_inner()).map(Response::new)
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        explain::explain(&self.own, &self.roots.trust_domain, request.into_inner()).await.map(Response::new)
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        aggregated::admit(&request)?;
        stat::stat(&self.own, request.into_inner()).await.map(Response::new)
    }

    async fn edges(&self, request: Request<EdgesRequest>) -> Result<Response<EdgesResponse>, Status> {
        aggregated::admit(&request)?;
        edges::edges(&self.own, request.into_inner()).await.map(Response::new)
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<Response<SeriesResponse>, Status> {
        aggregated::admit(&request)?;
        series::series(&self.own, request.into_inner()).await.map(Response::new)
    }

    async fn set_objective(
        &self,
        request: Request<SetObjectiveRequest>,
    ) -> Result<Response<SetObjectiveResponse>, Status> {
        let who = routes::who(&request);
        objectives::set(&self.own, &who, request.into_inner()).await.map(Response::new)
    }

    async fn remove_objective(
        &self,
        request: Request<RemoveObjectiveRequest>,
    ) -> Result<Response<SetObjectiveResponse>, Status> {
        let who = routes::who(&request);
        objectives::remove(&self.own, &who, request.into_inner()).await.map(Response::new)
    }

    async fn list_objectives(
        &self,
        request: Request<ListObjectivesRequest>,
    ) -> Result<Response<ListObjectivesResponse>, Status> {
        aggregated::admit(&request)?;
        let namespace = request.into_inner().namespace;
        Ok(Response::new(objectives::objectives(&self.own, self.alert_windows, &namespace).await))
    }

    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        aggregated::admit(&request)?;
        Ok(Response::new(objectives::alerts(&self.own, self.alert_windows, request.into_inner()).await))
    }

    async fn pods(&self, request: Request<PodsRequest>) -> Result<Response<PodsResponse>, Status> {
        aggregated::admit(&request)?;
        let PodsRequest { namespace, skip_connected } = request.into_inner();
        let answers = match skip_connected {
            true => BTreeMap::new(),
            false => members::ask_all(&self.own, true).await,
        };
        let connected = members::connected(&answers);
        let (mut failing, more_failing) = members::failing(&answers);
        failing.retain(|pod| namespace.is_empty() || pod.namespace == namespace);
        let state = self.own.cluster.state().borrow().clone();
        let selected = state.pods().values().map(|pod| &pod.value);
        let selected = selected.filter(|pod| namespace.is_empty() || pod.name.namespace() == namespace);
        let pods = selected.map(|pod| Pod {
            namespace: pod.name.namespace().to_owned(),
            name: pod.name.name().to_owned(),
            ip: pod.ip.to_string(),
            workload: pod.workload.as_ref().map(|workload| workload.to_wire(pod.name.namespace())),
            ready: pod.ready,
            meshed: pod.meshed,
            connected: connected.contains_key(&pod.name),
            acked_revision: connected.get(&pod.name).map_or(0, |has| has.revision.as_u64()),
        });
        let (pods, revision) = (pods.collect(), state.revision().as_u64());
        Ok(Response::new(PodsResponse { pods, revision, failing, more_failing }))
    }

    async fn tap(&self, request: Request<TapRequest>) -> Result<Response<Self::TapStream>, Status> {
        aggregated::admit(&request)?;
        Ok(Response::new(tap::tap(&self.own, request.into_inner(), None).await?))
    }

    async fn tap_payload(&self, request: Request<TapRequest>) -> Result<Response<Self::TapPayloadStream>, Status> {
        aggregated::admit(&request)?;
        let who = routes::who(&request);
        Ok(Response::new(tap::tap(&self.own, request.into_inner(), Some(&who)).await?))
    }
}

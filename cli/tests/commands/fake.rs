//! A control plane that answers what it was told to.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
};

use conduit_api::proto::{
    common::ResourceRef,
    public::{
        ApplyRequest, ApplyResponse, CaDenyRequest, CaDenyResponse, CaExportRequest, CaExportResponse,
        CaFederateRequest, CaRotateRequest, CaRotateResponse, CaStatusRequest, CaStatusResponse, Change,
        ControllerMetricsRequest, EdgesRequest, EdgesResponse, EndpointsRequest, EndpointsResponse, ExplainRequest,
        ExplainResponse, HistoryRequest, HistoryResponse, IdentityRequest, IdentityResponse, ListAlertsRequest,
        ListAlertsResponse, ListObjectivesRequest, ListObjectivesResponse, MemberMetrics, MemberRequest,
        MemberResponse, MetricsPiece, Objective, Pod, PodsRequest, PodsResponse, ProxyMetricsRequest,
        RaftStatusRequest, RaftStatusResponse, RecoverRequest, RecoverResponse, RemoveObjectiveRequest,
        ResourceSelection, RestoreSnapshotResponse, RollbackRequest, RollbackResponse, RoutesRequest, RoutesResponse,
        SaveSnapshotRequest, SelfCheckRequest, SelfCheckResponse, SeriesRequest, SeriesResponse, SetObjectiveRequest,
        SetObjectiveResponse, SnapshotChunk, StatRequest, StatResponse, TapRequest, VersionRequest, VersionResponse,
        WaitRequest, WaitResponse,
        api_server::{Api, ApiServer},
        apply_response::Outcome,
        endpoints_response::Endpoint,
        explain_response,
    },
    route::HttpRoute,
    tap::TapEvent,
};
use futures::{Stream, StreamExt as _};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Events, or the end of a tap.
pub type TapSender = mpsc::Sender<Result<TapEvent, Status>>;
pub type TapReceiver = mpsc::Receiver<Result<TapEvent, Status>>;

#[derive(Clone, Default)]
pub struct Answers {
    pub version: String,
    pub checks: SelfCheckResponse,
    pub raft: RaftStatusResponse,
    pub ca: CaStatusResponse,
    pub stat: StatResponse,
    /// What an older control plane does not count.
    pub refused_kinds: Vec<&'static str>,
    /// As a release before it leaves out of a question what it does not know.
    pub knows_no_routes: bool,
    pub edges: EdgesResponse,
    pub pods: Vec<Pod>,
    pub history: Vec<Change>,
    pub objectives: Vec<Objective>,
    pub alerts: ListAlertsResponse,
    /// Those that were applied.
    pub routes: Arc<Mutex<BTreeMap<String, HttpRoute>>>,
    /// One for each tap that is started; when there is none left, nothing is found.
    pub taps: Arc<Mutex<Vec<TapReceiver>>>,
}

impl Answers {
    /// The next tap that is started gets what is sent here.
    pub fn tap(&self) -> TapSender {
        let (sender, receiver) = mpsc::channel(16);
        self.taps.lock().unwrap().push(receiver);
        sender
    }
}

/// A replica on a unix socket, until it is dropped.
pub struct Replica {
    directory: TempDir,
    server: JoinHandle<()>,
}

impl Replica {
    pub fn start(answers: Answers) -> Self {
        let directory = TempDir::with_prefix("conduit-cli-").unwrap();
        let listener = UnixListener::bind(socket(directory.path())).unwrap();
        let serve = Server::builder().add_service(ApiServer::new(answers));
        let server = tokio::spawn(async move {
            serve.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        Self { directory, server }
    }

    /// As `--api-addr` takes it.
    pub fn address(&self) -> String {
        format!("unix:{}", socket(self.directory.path()).display())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("api.sock")
}

impl Answers {
    fn member(&self, name: &str) -> Result<Response<MemberResponse>, Status> {
        if self.raft.members.iter().any(|member| member.name == name) {
            return Ok(Response::new(MemberResponse {}));
        }
        Err(Status::not_found(format!("`{name}` is no replica of this control plane")))
    }
}

#[tonic::async_trait]
impl Api for Answers {
    type TapPayloadStream = Self::TapStream;
    type TapStream = Pin<Box<dyn Stream<Item = Result<TapEvent, Status>> + Send>>;
    type ProxyMetricsStream = Pin<Box<dyn Stream<Item = Result<MetricsPiece, Status>> + Send>>;
    type ControllerMetricsStream = Pin<Box<dyn Stream<Item = Result<MemberMetrics, Status>> + Send>>;
    type SaveSnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotChunk, Status>> + Send>>;

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse { version: self.version.clone() }))
    }

    async fn self_check(&self, _: Request<SelfCheckRequest>) -> Result<Response<SelfCheckResponse>, Status> {
        Ok(Response::new(self.checks.clone()))
    }

    async fn raft_status(&self, _: Request<RaftStatusRequest>) -> Result<Response<RaftStatusResponse>, Status> {
        Ok(Response::new(self.raft.clone()))
    }

    async fn ca_status(&self, _: Request<CaStatusRequest>) -> Result<Response<CaStatusResponse>, Status> {
        Ok(Response::new(self.ca.clone()))
    }

    async fn ca_rotate(&self, request: Request<CaRotateRequest>) -> Result<Response<CaRotateResponse>, Status> {
        match request.into_inner().own {
            Some(_) => Err(Status::invalid_argument("the issuer's certificate has expired on Monday")),
            None => Ok(Response::new(CaRotateResponse { root: "ab".repeat(20) })),
        }
    }

    async fn ca_deny(&self, request: Request<CaDenyRequest>) -> Result<Response<CaDenyResponse>, Status> {
        let CaDenyRequest { spiffe_id, .. } = request.into_inner();
        Ok(Response::new(CaDenyResponse { revision: 7, changed: spiffe_id.ends_with("web") }))
    }

    async fn ca_federate(&self, request: Request<CaFederateRequest>) -> Result<Response<CaDenyResponse>, Status> {
        Ok(Response::new(CaDenyResponse { revision: 7, changed: request.into_inner().bundle.is_some() }))
    }

    async fn ca_export(&self, _: Request<CaExportRequest>) -> Result<Response<CaExportResponse>, Status> {
        Ok(Response::new(CaExportResponse { bundle: "{}".to_owned() }))
    }

    async fn ca_revoke(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        self.member(&request.into_inner().member)
    }

    async fn identity(&self, _: Request<IdentityRequest>) -> Result<Response<IdentityResponse>, Status> {
        Err(Status::not_found("there is no such pod"))
    }

    async fn proxy_metrics(
        &self,
        request: Request<ProxyMetricsRequest>,
    ) -> Result<Response<Self::ProxyMetricsStream>, Status> {
        let ProxyMetricsRequest { pod, .. } = request.into_inner();
        let piece = |text: String| Ok(MetricsPiece { text });
        let first = piece("# TYPE request_total counter\n".to_owned());
        let second = match pod.as_str() {
            "web-1" => Err(Status::unavailable("the proxy beside emojivoto/web-1 does not answer")),
            pod => piece(format!("request_total{{direction=\"inbound\",pod=\"{pod}\"}} 1\n")),
        };
        Ok(Response::new(futures::stream::iter([first, second]).boxed()))
    }

    async fn controller_metrics(
        &self,
        _: Request<ControllerMetricsRequest>,
    ) -> Result<Response<Self::ControllerMetricsStream>, Status> {
        let member = |name: &str, text: &str| Ok(MemberMetrics { name: name.to_owned(), text: text.to_owned() });
        let members = [member("controller-0", "conduit_controller_raft_term 3\n"), member("controller-1", "")];
        Ok(Response::new(futures::stream::iter(members).boxed()))
    }

    async fn endpoints(&self, request: Request<EndpointsRequest>) -> Result<Response<EndpointsResponse>, Status> {
        let EndpointsRequest { namespace, service, port } = request.into_inner();
        if service == "none" {
            return Ok(Response::new(EndpointsResponse { revision: 7, ..EndpointsResponse::default() }));
        }
        let endpoint = Endpoint {
            service_port: port.max(80),
            ip: "10.0.0.1".to_owned(),
            port: 8080,
            namespace,
            pod: format!("{service}-0"),
            ..Endpoint::default()
        };
        Ok(Response::new(EndpointsResponse { endpoints: vec![endpoint], revision: 7 }))
    }

    async fn save_snapshot(
        &self,
        _: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let chunk = |data: &[u8]| Ok(SnapshotChunk { data: data.to_vec() });
        Ok(Response::new(futures::stream::iter([chunk(b"CON"), chunk(b"DUIT")]).boxed()))
    }

    async fn restore_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        let chunks: Vec<_> = request.into_inner().collect().await;
        let bytes: usize = chunks.into_iter().map(|chunk| chunk.map(|chunk| chunk.data.len())).sum::<Result<_, _>>()?;
        if bytes != 7 {
            return Err(Status::invalid_argument("this snapshot is damaged"));
        }
        Ok(Response::new(RestoreSnapshotResponse { revision: 9, saved_revision: 7, services: 2, pods: 3 }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let WaitRequest { revision, acknowledged } = request.into_inner();
        let done = revision <= 7;
        let behind = u32::from(!done);
        let name = if acknowledged { "emojivoto/web-0" } else { "controller-0" };
        let examples = if done { Vec::new() } else { vec![name.to_owned()] };
        Ok(Response::new(WaitResponse { revision, done, total: 2, behind, examples }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let ApplyRequest { routes, removals } = request.into_inner();
        let mut known = self.routes.lock().unwrap();
        let mut outcomes = Vec::new();
        for route in routes {
            let before = known.insert(route.name.clone(), route.clone());
            outcomes.push(match before {
                None => Outcome::Created,
                Some(before) if before == route => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
            });
        }
        for name in removals.into_iter().map(|route| route.name) {
            outcomes.push(if known.remove(&name).is_some() { Outcome::Deleted } else { Outcome::NotFound });
        }
        Ok(Response::new(ApplyResponse { revision: 7, outcomes: outcomes.into_iter().map(i32::from).collect() }))
    }

    async fn routes(&self, request: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        let revision = request.into_inner().revision;
        let routes = if revision == 1 { Vec::new() } else { self.routes.lock().unwrap().values().cloned().collect() };
        Ok(Response::new(RoutesResponse { revision: if revision == 0 { 7 } else { revision }, routes }))
    }

    async fn recover(&self, _: Request<RecoverRequest>) -> Result<Response<RecoverResponse>, Status> {
        Err(Status::failed_precondition("2 of 3 voting replicas answer: that is a majority, which goes on by itself"))
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<RollbackResponse>, Status> {
        match request.into_inner().revision {
            1 => Ok(Response::new(RollbackResponse { revision: 7, changed: true })),
            _ => Err(Status::not_found("what was configured at revision 2 is not remembered any more")),
        }
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let limit = request.into_inner().limit as usize;
        Ok(Response::new(HistoryResponse { changes: self.history.iter().take(limit).cloned().collect() }))
    }

    async fn remove_member(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        self.member(&request.into_inner().member)
    }

    async fn transfer_leader(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        self.member(&request.into_inner().member)
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let StatRequest { selector, by, .. } = request.into_inner();
        let selector = selector.unwrap_or_default();
        if self.refused_kinds.contains(&selector.kind.as_str()) || selector.kind == "namespace" {
            return Err(Status::invalid_argument(format!("there are no stats by `{}`", selector.kind)));
        }
        let mut stat = self.stat.clone();
        stat.by = if self.knows_no_routes { Vec::new() } else { by };
        let ResourceSelection { kind, namespace, name } = selector;
        stat.rows.retain(|row| {
            let resource = row.resource.clone().unwrap_or_default();
            resource.kind == kind && resource.namespace == namespace && (name.is_empty() || resource.name == name)
        });
        Ok(Response::new(stat))
    }

    async fn edges(&self, request: Request<EdgesRequest>) -> Result<Response<EdgesResponse>, Status> {
        let EdgesRequest { kind, namespace, .. } = request.into_inner();
        let is_of =
            |end: &Option<ResourceRef>| end.as_ref().is_some_and(|end| end.kind == kind && end.namespace == namespace);
        let mut edges = self.edges.clone();
        edges.edges.retain(|edge| namespace.is_empty() || is_of(&edge.source) || is_of(&edge.destination));
        Ok(Response::new(edges))
    }

    async fn set_objective(
        &self,
        request: Request<SetObjectiveRequest>,
    ) -> Result<Response<SetObjectiveResponse>, Status> {
        let resource = request.into_inner().resource;
        let changed = !self.objectives.iter().any(|known| known.resource == resource);
        Ok(Response::new(SetObjectiveResponse { changed }))
    }

    async fn remove_objective(
        &self,
        request: Request<RemoveObjectiveRequest>,
    ) -> Result<Response<SetObjectiveResponse>, Status> {
        let resource = request.into_inner().resource;
        match self.objectives.iter().any(|known| known.resource == resource) {
            true => Ok(Response::new(SetObjectiveResponse { changed: true })),
            false => Err(Status::not_found("nothing is promised of it")),
        }
    }

    async fn list_objectives(
        &self,
        request: Request<ListObjectivesRequest>,
    ) -> Result<Response<ListObjectivesResponse>, Status> {
        let namespace = request.into_inner().namespace;
        let is_in = |of: &&Objective| {
            namespace.is_empty() || of.resource.as_ref().is_some_and(|resource| resource.namespace == namespace)
        };
        let objectives = self.objectives.iter().filter(is_in).cloned().collect();
        Ok(Response::new(ListObjectivesResponse { objectives, replicas_answered: 2, replicas_total: 3 }))
    }

    async fn list_alerts(&self, _: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        Ok(Response::new(self.alerts.clone()))
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<Response<SeriesResponse>, Status> {
        Err(Status::unimplemented("no command asks for it"))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let ExplainRequest { from, path, .. } = request.into_inner();
        let from = from.unwrap_or_default();
        let step = |about: &str, decision: &str, reason: String| explain_response::Step {
            about: about.to_owned(),
            decision: decision.to_owned(),
            reason,
        };
        Ok(Response::new(ExplainResponse {
            revision: 42,
            from: format!("{}/{}-0", from.namespace, from.name),
            address: "10.96.0.1:80".to_owned(),
            authority: "cart.shop:80".to_owned(),
            steps: vec![
                step("destination", "service/shop/cart:80", "10.96.0.1 is its address".to_owned()),
                step("route", "404, conduit-proxy-error: no-route", format!("none accepts GET {path}")),
            ],
            proxies: 2,
            behind: 1,
            examples: vec!["shop/web-1".to_owned()],
        }))
    }

    async fn pods(&self, request: Request<PodsRequest>) -> Result<Response<PodsResponse>, Status> {
        let namespace = request.into_inner().namespace;
        let selected = self.pods.iter().filter(|pod| namespace.is_empty() || pod.namespace == namespace);
        Ok(Response::new(PodsResponse { pods: selected.cloned().collect(), ..PodsResponse::default() }))
    }

    async fn tap(&self, request: Request<TapRequest>) -> Result<Response<Self::TapStream>, Status> {
        let mut taps = self.taps.lock().unwrap();
        if taps.is_empty() {
            let target = request.into_inner().target.unwrap_or_default();
            return Err(Status::not_found(format!("no pods found for {}/{}", target.kind, target.name)));
        }
        Ok(Response::new(ReceiverStream::new(taps.remove(0)).boxed()))
    }

    async fn tap_payload(&self, request: Request<TapRequest>) -> Result<Response<Self::TapStream>, Status> {
        Api::tap(self, request).await
    }
}

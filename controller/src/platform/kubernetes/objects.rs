//! From Kubernetes' objects to what the control plane is to know. Pure.
//!
//! Of each object only what matters is kept, as soon as it has come: ten thousand pods are some megabytes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use conduit_api::{
    Endpoint, HttpRoute, Pod, PodName, PodPorts, PortRange, Service, ServiceName, ServicePort, SpiffeId, TrustDomain,
    WorkloadRef,
    mesh::{Balancing, Inventory},
    objective::Declared,
    proto::public::{FailingContainer, FailingPod},
};
use conduit_inject::{
    containers::PROXY,
    injection::CONTROL_PLANE_NAMESPACE,
    settings::annotations::{OPAQUE_PORTS, SKIP_INBOUND_PORTS, SKIP_OUTBOUND_PORTS},
};
use k8s_openapi::{
    api::core::v1::{Namespace, Node},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    ResourceExt as _,
    core::{DynamicObject, PartialObjectMeta},
    runtime::watcher::Event,
};
use tracing::warn;

use super::{
    super::{
        failing::{FAILING_MAX, Failures},
        told::{Changed, Told},
    },
    excerpts::{self, EndpointSlice},
    failures,
    known::{Known, News, Perhaps},
    objectives::{self, ObjectiveFacts},
    optional::Optional,
    routes::{self, RouteFacts},
    stale::Stale,
    status::Statement,
};

/// Of services: how requests are shared out.
const LOAD_BALANCER: &str = "config.conduit.io/load-balancer";
/// Of nodes.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Of slices: whose endpoints they have.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Of pods that a deployment has made: what their ReplicaSet's name ends with.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Minutes by which a Job of a CronJob may run late, and its pods be made again.
const CRON_JOB_LATE_MAX: i64 = 7 * 24 * 60;

/// What has happened to an object, by its kind.
pub enum Observed {
    /// Only what is said of its pods' ports.
    Namespace(Event<PartialObjectMeta<Namespace>>),
    /// Only its zone.
    Node(Event<PartialObjectMeta<Node>>),
    /// A name and its ports.
    Service(Event<excerpts::Service>),
    /// Where a service's requests may go.
    EndpointSlice(Event<EndpointSlice>),
    /// An instance.
    Pod(Event<excerpts::Pod>),
    /// Which requests go where.
    Route(Event<DynamicObject>),
    /// What is promised.
    Objective(Event<DynamicObject>),
    /// The cluster does not know this kind, and has said so in all that it says of itself.
    Missing(Optional),
    /// Nobody could say anything of the objects of this kind.
    Untold(Optional),
}

/// What is known of the cluster.
pub struct Objects {
    /// Annotations that are defaults for what is in the namespace.
    namespaces: Known<String, BTreeMap<String, String>>,
    zones: Known<String, Option<String>>,
    services: Known<ServiceName, ServiceFacts>,
    slices: Known<(ServiceName, String), SliceFacts>,
    /// Whose each of them is, by its own namespace and name.
    services_of_slices: HashMap<(String, String), ServiceName>,
    pods: Known<PodName, PodFacts>,
    routes: Perhaps<routes::Key, RouteFacts>,
    objectives: Perhaps<objectives::Key, ObjectiveFacts>,
    /// What follows from them, which is the same however pods come and go; nothing since they have changed.
    promised: Option<(Vec<Declared>, Vec<Statement>)>,
    /// What is to be told anew; nothing while nothing was told, so that all of it is.
    stale: Option<Stale>,
    /// The control plane's own namespace, which proxies of it are labelled with.
    namespace: String,
    trust_domain: TrustDomain,
}

/// What people have configured, of each kind if it is known which objects there are.
struct Configured {
    routes: Option<Vec<HttpRoute>>,
    objectives: Option<Vec<Declared>>,
}

#[derive(PartialEq)]
struct ServiceFacts {
    cluster_ips: BTreeSet<IpAddr>,
    /// The first of its families: what it has of the other one are the same instances once more.
    is_ipv6: bool,
    /// By number: their names.
    ports: BTreeMap<u16, String>,
    opaque: Option<Vec<PortRange>>,
    balancing: Balancing,
    tells_unready: bool,
}

#[derive(PartialEq)]
struct SliceFacts {
    is_ipv6: bool,
    /// By name: where the instances listen.
    ports: BTreeMap<String, u16>,
    endpoints: Vec<EndpointFacts>,
}

#[derive(PartialEq)]
struct EndpointFacts {
    ip: IpAddr,
    pod: Option<PodName>,
    zone: Option<String>,
    ready: bool,
}

#[derive(PartialEq)]
struct PodFacts {
    ip: Option<IpAddr>,
    workload: Option<WorkloadRef>,
    service_account: String,
    uid: Option<String>,
    node: Option<String>,
    /// As its own annotations say; what they do not, its namespace's do.
    opaque: Option<Vec<PortRange>>,
    skip_inbound: Option<Vec<PortRange>>,
    skip_outbound: Option<Vec<PortRange>>,
    meshed: bool,
    ready: bool,
    /// It was told to go, or has come to its end.
    is_going: bool,
    /// Nothing of it but its proxy runs, or will.
    application_ended: bool,
    /// Why it does not run as it should; mostly nothing.
    failing: Box<[FailingContainer]>,
}

impl Objects {
    /// Nothing yet, of the mesh whose control plane is in `namespace`.
    pub fn new(namespace: &str, trust_domain: &TrustDomain) -> Self {
        Self {
            namespaces: Known::new(),
            zones: Known::new(),
            services: Known::new(),
            slices: Known::new(),
            services_of_slices: HashMap::new(),
            pods: Known::new(),
            routes: Perhaps::new(),
            objectives: Perhaps::new(),
            promised: None,
            stale: None,
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.clone(),
        }
    }

    /// Takes over what has happened; whether anything is otherwise now.
    pub fn observe(&mut self, observed: Observed) -> bool {
        match observed {
            Observed::Namespace(event) => {
                let news = self.namespaces.observe(event, namespace);
                self.note(news, |stale, name, _, _| stale.namespace(name))
            }
            Observed::Node(event) => {
                let news = self.zones.observe(event, node);
                self.note(news, |stale, name, _, _| stale.node(name))
            }
            Observed::Service(event) => {
                let news = self.services.observe(event, service);
                self.note(news, |stale, name, _, _| stale.service(name))
            }
            Observed::EndpointSlice(event) => self.observe_slice(event),
            Observed::Pod(event) => {
                let namespace = &self.namespace;
                let news = self.pods.observe(event, |object| pod(object, namespace));
                self.note(news, |stale, name, before, objects| {
                    let now = objects.pods.objects.get(&name);
                    let addresses = [before.as_ref(), now].into_iter().flatten().filter_map(|facts| facts.ip);
                    stale.pod(name, addresses.collect::<Vec<_>>());
                })
            }
            Observed::Route(event) => self.routes.observe(event, routes::read),
            Observed::Objective(event) => {
                let is_new = self.objectives.observe(event, objectives::read);
                self.promised = self.promised.take().filter(|_| !is_new);
                is_new
            }
            Observed::Missing(Optional::HttpRoute) => self.routes.missing(),
            Observed::Missing(Optional::Objective) => {
                self.promised = None;
                self.objectives.missing()
            }
            Observed::Untold(kind) => {
                match kind {
                    Optional::HttpRoute => self.routes.untold(),
                    Optional::Objective => self.objectives.untold(),
                }
                false
            }
        }
    }

    /// Has it told anew what follows from `news`; whether there are any.
    fn note<K, V>(&mut self, news: News<K, V>, mut note: impl FnMut(&mut Stale, K, Option<V>, &Self)) -> bool {
        if let Some(mut stale) = self.stale.take() {
            for (name, before) in news.objects {
                note(&mut stale, name, before, self);
            }
            self.stale = Some(stale);
        }
        news.is_any
    }

    fn observe_slice(&mut self, event: Event<EndpointSlice>) -> bool {
        let elsewhere = match &event {
            Event::Apply(object) => self.forget_elsewhere(object, service_of(object)),
            Event::Delete(object) => self.forget_elsewhere(object, None),
            Event::Init | Event::InitApply(_) | Event::InitDone => News::none(),
        };
        let is_list = matches!(event, Event::InitDone);
        let news = self.slices.observe(event, slice);
        if is_list {
            let places = self.slices.objects.keys();
            self.services_of_slices = places
                .map(|(service, name)| ((service.namespace().to_owned(), name.clone()), service.clone()))
                .collect();
        }
        let [was_elsewhere, is_new] =
            [elsewhere, news].map(|news| self.note(news, |stale, (service, _), _, _| stale.service(service)));
        is_new || was_elsewhere
    }

    /// A slice is its service's by a label, and people may change it: what it was before, it is no more.
    fn forget_elsewhere(
        &mut self,
        object: &EndpointSlice,
        now: Option<ServiceName>,
    ) -> News<(ServiceName, String), SliceFacts> {
        let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
            return News::none();
        };
        let place = (namespace.clone(), name.clone());
        let before = match &now {
            Some(service) => self.services_of_slices.insert(place, service.clone()),
            None => self.services_of_slices.remove(&place),
        };
        let elsewhere = before.filter(|before| now.as_ref() != Some(before));
        elsewhere.map_or_else(News::none, |service| self.slices.remove((service, name.clone())))
    }

    /// Whether all that runs was listed, so that what is missing is not there. Nobody has to wait for routes: nothing is told of them until they
    /// are listed.
    pub fn is_complete(&self) -> bool {
        self.namespaces.is_listed
            && self.zones.is_listed
            && self.services.is_listed
            && self.slices.is_listed
            && self.pods.is_listed
    }

    /// What the control plane is to be told, and what is to be said in the status of what people have configured: all of it at first, and later what
    /// has changed since.
    pub fn tell(&mut self) -> (Told, Vec<Statement>) {
        if self.promised.is_none() {
            self.promised = Some(self.promised());
        }
        let (configured, statements) = self.configured();
        let told = match self.stale.replace(Stale::default()) {
            Some(stale) => Told::Changed(self.changed(&stale, configured)),
            None => Told::All(self.all(configured)),
        };
        (told, statements)
    }

    /// The pods that fail.
    pub fn failures(&self) -> Failures {
        let failing = || self.pods.objects.iter().filter(|(_, facts)| !facts.failing.is_empty());
        let pods = failing().take(FAILING_MAX).map(|(name, facts)| FailingPod {
            namespace: name.namespace().to_owned(),
            name: name.name().to_owned(),
            workload: facts.workload.as_ref().map(|workload| workload.to_wire(name.namespace())),
            containers: facts.failing.to_vec(),
        });
        Failures { pods: pods.collect(), is_more: failing().nth(FAILING_MAX).is_some() }
    }

    fn all(&self, Configured { routes, objectives }: Configured) -> Inventory {
        let services = self.services.objects.iter().map(|(name, facts)| self.service(name, facts));
        let taken = self.taken(|_| true);
        let pods = self.pods.objects.iter().filter_map(|(name, facts)| self.pod(name, facts, &taken));
        Inventory { services: services.collect(), pods: pods.collect(), routes, objectives }
    }

    fn changed(&self, stale: &Stale, Configured { routes, objectives }: Configured) -> Changed {
        let known = self.pods.objects.iter().map(|(name, facts)| (name, facts.ip, facts.node.as_deref()));
        let pods = stale.pods(known);
        let endpoints = self.slices.objects.iter().flat_map(|((service, _), slice)| {
            slice.endpoints.iter().filter_map(move |endpoint| Some((service, endpoint.pod.as_ref()?)))
        });
        let services = stale.services(&pods, self.services.objects.keys(), endpoints);
        let facts = |name: &PodName| self.pods.objects.get(name);
        let of_stale: BTreeSet<_> = pods.iter().filter_map(|name| facts(name)?.ip).collect();
        let taken = self.taken(|ip| of_stale.contains(ip));
        let service = |name: ServiceName| {
            let service = self.services.objects.get(&name).map(|facts| self.service(&name, facts));
            (name, service)
        };
        let pod = |name: PodName| {
            let pod = facts(&name).and_then(|facts| self.pod(&name, facts, &taken));
            (name, pod)
        };
        Changed {
            services: services.into_iter().map(service).collect(),
            pods: pods.into_iter().map(pod).collect(),
            routes,
            objectives,
        }
    }

    /// What is to be in force, and what is to be said in the status of each of it.
    fn configured(&self) -> (Configured, Vec<Statement>) {
        let ports = |name: &ServiceName| self.services.objects.get(name).map(|facts| &facts.ports);
        let decisions = self.routes.objects().iter().map(|(key, facts)| facts.decide(key, ports));
        let (routes, of_routes): (Vec<_>, Vec<_>) = decisions.unzip();
        let (objectives, of_objectives) = self.promised();
        // Not while an API server says of other kinds that there are none, which cannot be.
        let is_sure = |is_listed| is_listed && !self.is_doubtful();
        let configured = Configured {
            routes: is_sure(self.routes.is_listed()).then(|| routes.into_iter().flatten().collect()),
            objectives: is_sure(self.objectives.is_listed()).then_some(objectives),
        };
        (configured, of_routes.into_iter().flatten().chain(of_objectives).collect())
    }

    fn promised(&self) -> (Vec<Declared>, Vec<Statement>) {
        self.promised.clone().unwrap_or_else(|| objectives::decide(self.objectives.objects()))
    }

    fn is_doubtful(&self) -> bool {
        self.namespaces.has_none
            || self.zones.has_none
            || self.services.has_none
            || self.slices.has_none
            || self.pods.has_none
    }

    /// The addresses, of those that `counts`, that pods have which stay.
    fn taken(&self, counts: impl Fn(&IpAddr) -> bool) -> BTreeSet<IpAddr> {
        let living = self.pods.objects.values().filter(|facts| !facts.is_going).filter_map(|facts| facts.ip);
        living.filter(counts).collect()
    }

    /// One pod to an address, and those of a node's are not theirs.
    fn pod(&self, name: &PodName, facts: &PodFacts, taken: &BTreeSet<IpAddr>) -> Option<Pod> {
        let ip = facts.ip?;
        // Whose node does not answer any more may be going for long, and its address be another's.
        if facts.is_going && taken.contains(&ip) {
            return None;
        }
        Some(Pod {
            name: name.clone(),
            ip,
            workload: facts.workload.clone(),
            service_account: facts.service_account.clone(),
            uid: facts.uid.clone(),
            ports: self.ports_of(name, facts),
            zone: self.zone_of(facts),
            meshed: facts.meshed,
            ready: facts.ready && !facts.is_going,
            application_ended: facts.application_ended && facts.meshed,
        })
    }

    fn ports_of(&self, name: &PodName, facts: &PodFacts) -> PodPorts {
        let or_namespace = |own: &Option<Vec<PortRange>>, key| {
            own.clone().unwrap_or_else(|| self.namespace_ports(name.namespace(), key))
        };
        // What is redirected was settled when the pod was made, and is written on it.
        let (skip_inbound, skip_outbound) = (&facts.skip_inbound, &facts.skip_outbound);
        PodPorts {
            opaque: or_namespace(&facts.opaque, OPAQUE_PORTS),
            skip_inbound: skip_inbound.clone().unwrap_or_default(),
            skip_outbound: skip_outbound.clone().unwrap_or_default(),
        }
    }

    fn namespace_ports(&self, namespace: &str, key: &str) -> Vec<PortRange> {
        let annotations = self.namespaces.objects.get(namespace);
        annotations.and_then(|annotations| ports(annotations, key, namespace)).unwrap_or_default()
    }

    fn zone_of(&self, facts: &PodFacts) -> Option<String> {
        self.zones.objects.get(facts.node.as_ref()?)?.clone()
    }

    fn service(&self, name: &ServiceName, facts: &ServiceFacts) -> Service {
        let opaque = facts.opaque.clone().unwrap_or_else(|| self.namespace_ports(name.namespace(), OPAQUE_PORTS));
        let mut service = Service {
            name: name.clone(),
            cluster_ips: facts.cluster_ips.clone(),
            ports: BTreeMap::new(),
            balancing: facts.balancing,
        };
        for (number, port) in &facts.ports {
            let opaque = PortRange::any_contains(&opaque, *number);
            service.ports.insert(*number, ServicePort { name: port.clone(), opaque, ..ServicePort::default() });
        }
        let slices = self.slices.objects.range((name.clone(), String::new())..);
        for (_, slice) in
            slices.take_while(|((of, _), _)| of == name).filter(|(_, slice)| slice.is_ipv6 == facts.is_ipv6)
        {
            for port in service.ports.values_mut() {
                let Some(target) = slice.ports.get(&port.name) else { continue };
                for endpoint in &slice.endpoints {
                    self.add(port, facts, endpoint, *target);
                }
            }
        }
        service
    }

    fn add(&self, port: &mut ServicePort, service: &ServiceFacts, endpoint: &EndpointFacts, target: u16) {
        let address = SocketAddr::new(endpoint.ip, target);
        let pod = endpoint.pod.as_ref().and_then(|name| Some((name, self.pods.objects.get(name)?)));
        let ports = pod.map(|(name, facts)| self.ports_of(name, facts)).unwrap_or_default();
        port.opaque |= PortRange::any_contains(&ports.opaque, target);
        // What pods say themselves comes before slices have followed. One that is not known is gone, or not told of yet: nobody could say whether
        // there is a proxy to meet.
        let is_going = match pod {
            Some((_, facts)) => facts.is_going || !facts.ready && !service.tells_unready,
            None => endpoint.pod.is_some(),
        };
        if !endpoint.ready || is_going {
            port.not_ready.insert(address);
            return;
        }
        let identity = pod.and_then(|(name, facts)| {
            // What is not redirected meets no proxy that could prove anything.
            let is_meshed = facts.meshed && !PortRange::any_contains(&ports.skip_inbound, target);
            let identity = || SpiffeId::new(&self.trust_domain, name.namespace(), &facts.service_account).ok();
            is_meshed.then(identity).flatten()
        });
        let zone = endpoint.zone.clone().or_else(|| self.zone_of(pod?.1));
        let workload = pod.and_then(|(_, facts)| facts.workload.clone());
        let pod = pod.map(|(name, _)| name.clone());
        port.endpoints.insert(address, Endpoint { address, pod, workload, identity, zone });
    }
}

/// What `key` says of ports. One that says nonsense says nothing, as if it were not there.
fn ports(annotations: &BTreeMap<String, String>, key: &str, of: &str) -> Option<Vec<PortRange>> {
    let text = annotations.get(key)?;
    PortRange::list(text).map_err(|error| warn!(of, annotation = key, %error, "an annotation is ignored")).ok()
}

/// What is said there of its pods' ports.
fn namespace(object: PartialObjectMeta<Namespace>) -> Option<(String, Option<BTreeMap<String, String>>)> {
    let mut annotations = object.metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| key == OPAQUE_PORTS);
    Some((object.metadata.name?, Some(annotations)))
}

fn node(object: PartialObjectMeta<Node>) -> Option<(String, Option<Option<String>>)> {
    let zone = object.metadata.labels.and_then(|mut labels| labels.remove(ZONE));
    Some((object.metadata.name?, Some(zone)))
}

fn service(object: excerpts::Service) -> Option<(ServiceName, Option<ServiceFacts>)> {
    let name = ServiceName::new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?).ok()?;
    let annotations = object.annotations();
    let mut facts = ServiceFacts {
        cluster_ips: BTreeSet::new(),
        is_ipv6: false,
        ports: BTreeMap::new(),
        opaque: ports(annotations, OPAQUE_PORTS, &name.to_string()),
        balancing: Balancing::default(),
        tells_unready: false,
    };
    if let Some(strategy) = annotations.get(LOAD_BALANCER) {
        match strategy.parse() {
            Ok(strategy) => facts.balancing.strategy = strategy,
            Err(error) => warn!(service = %name, %error, "an annotation is ignored"),
        }
    }
    let spec = object.spec.unwrap_or_default();
    // Another name for something elsewhere; who resolves it meets that.
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some((name, None));
    }
    let addresses = spec.cluster_ips.or_else(|| spec.cluster_ip.map(|ip| vec![ip])).unwrap_or_default();
    // `None` of a headless one is no address.
    facts.cluster_ips = addresses.iter().filter_map(|ip| ip.parse().ok()).collect();
    facts.is_ipv6 = spec.ip_families.is_some_and(|families| families.first().is_some_and(|first| first == "IPv6"));
    facts.tells_unready = spec.publish_not_ready_addresses.unwrap_or_default();
    facts.balancing.prefer_own_zone = spec.traffic_distribution.is_some();
    let tcp = spec.ports.unwrap_or_default().into_iter().filter(|port| is_tcp(port.protocol.as_deref()));
    facts.ports = tcp.filter_map(|port| Some((port_number(port.port)?, port.name.unwrap_or_default()))).collect();
    Some((name, Some(facts)))
}

/// Whose endpoints it has.
fn service_of(object: &EndpointSlice) -> Option<ServiceName> {
    ServiceName::new(object.metadata.namespace.as_deref()?, object.labels().get(SERVICE_NAME)?).ok()
}

fn slice(object: EndpointSlice) -> Option<((ServiceName, String), Option<SliceFacts>)> {
    let namespace = object.metadata.namespace.as_deref()?;
    let key = (service_of(&object)?, object.metadata.name.clone()?);
    let tcp = object.ports.unwrap_or_default().into_iter().filter(|port| is_tcp(port.protocol.as_deref()));
    let ports = tcp.filter_map(|port| Some((port.name.unwrap_or_default(), port_number(port.port?)?)));
    let endpoints = object.endpoints.into_iter().filter_map(|endpoint| {
        let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
        Some(EndpointFacts {
            // One that has more has them for nobody: all are the same instance's.
            ip: endpoint.addresses.first()?.parse().ok()?,
            pod: pod.and_then(|pod| PodName::new(pod.namespace.as_deref().unwrap_or(namespace), &pod.name?).ok()),
            zone: endpoint.zone,
            // What is not said is to be taken for ready (discovery.k8s.io/v1).
            ready: endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        })
    });
    let is_ipv6 = object.address_type == "IPv6";
    Some((key, Some(SliceFacts { is_ipv6, ports: ports.collect(), endpoints: endpoints.collect() })))
}

fn pod(object: excerpts::Pod, control_plane: &str) -> Option<(PodName, Option<PodFacts>)> {
    let metadata = object.metadata;
    let name = PodName::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?).ok()?;
    let (spec, status) = (object.spec.unwrap_or_default(), object.status.unwrap_or_default());
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let is_ready = |condition: &excerpts::PodCondition| condition.type_ == "Ready" && condition.status == "True";
    let is_proxy = |container: &excerpts::Container| container.name == PROXY;
    let no_annotations = BTreeMap::new();
    let annotations = metadata.annotations.as_ref().unwrap_or(&no_annotations);
    let said_of = |key| ports(annotations, key, &name.to_string());
    let is_ours =
        |labels: &BTreeMap<String, String>| labels.get(CONTROL_PLANE_NAMESPACE).is_some_and(|ns| ns == control_plane);
    let has_proxy = spec.containers.iter().any(is_proxy)
        || spec.init_containers.as_deref().unwrap_or_default().iter().any(is_proxy);
    let application_ended = application_ended(&spec, &status);
    let is_going = is_over || metadata.deletion_timestamp.is_some();
    // What goes may end as it likes.
    let failing = if is_going { Box::default() } else { failures::of(&status) };
    let facts = PodFacts {
        // Of a pod that is over, another one may have its address by now; one in the node's network has none of its own.
        ip: status.pod_ip.filter(|_| !is_over && !spec.host_network.unwrap_or_default()).and_then(|ip| ip.parse().ok()),
        workload: workload(&metadata),
        service_account: spec.service_account_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into()),
        uid: metadata.uid.clone(),
        node: spec.node_name,
        opaque: said_of(OPAQUE_PORTS),
        skip_inbound: said_of(SKIP_INBOUND_PORTS),
        skip_outbound: said_of(SKIP_OUTBOUND_PORTS),
        meshed: has_proxy && metadata.labels.as_ref().is_some_and(is_ours),
        failing,
        ready: status.conditions.unwrap_or_default().iter().any(is_ready),
        is_going,
        application_ended,
    };
    Some((name, Some(facts)))
}

/// Whether all containers beside the proxy's have come to their end and are not started again, so that only the proxy keeps the pod from being over.
/// A native sidecar does not: the kubelet ends it.
fn application_ended(spec: &excerpts::PodSpec, status: &excerpts::PodStatus) -> bool {
    let (proxies, application): (Vec<_>, Vec<_>) =
        spec.containers.iter().partition(|container| container.name == PROXY);
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    let has_ended = |container: &&excerpts::Container| {
        let status = statuses.iter().find(|status| status.name == container.name);
        let terminated = status.and_then(|status| status.state.as_ref()?.terminated.as_ref());
        let policy = container.restart_policy.as_ref().or(spec.restart_policy.as_ref());
        // What such rules say is the kubelet's to know, which may start it again whatever it ended with.
        let has_rules = container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty());
        !has_rules
            && terminated.is_some_and(|terminated| match policy.map(String::as_str) {
                Some("Never") => true,
                Some("OnFailure") => terminated.exit_code == 0,
                _ => false,
            })
    };
    !proxies.is_empty() && !application.is_empty() && application.iter().all(has_ended)
}

/// What has made a pod, as people know it: of a ReplicaSet the deployment that has made that, and of a Job the CronJob.
fn workload(metadata: &ObjectMeta) -> Option<WorkloadRef> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller.unwrap_or_default())?;
    let (kind, name) = match owner.kind.as_str() {
        "ReplicaSet" => ("deployment", deployment(metadata, &owner.name)),
        "Job" => ("cronjob", cron_job(metadata, &owner.name)),
        _ => ("", None),
    };
    Some(match name {
        Some(name) => WorkloadRef { kind: kind.to_owned(), name: name.to_owned() },
        None => WorkloadRef { kind: owner.kind.to_lowercase(), name: owner.name.clone() },
    })
}

fn deployment<'a>(pod: &ObjectMeta, replica_set: &'a str) -> Option<&'a str> {
    let hash = pod.labels.as_ref()?.get(POD_TEMPLATE_HASH)?;
    replica_set.strip_suffix(hash)?.strip_suffix('-')
}

/// A CronJob calls its Jobs after itself and the minute, since the Unix epoch, at which they were to run. Others may have numbers in their names as
/// well, but not that of a minute shortly before their pods were made. The owner of a Job could be asked for; a right to read Jobs for it is more than it is worth.
fn cron_job<'a>(pod: &ObjectMeta, job: &'a str) -> Option<&'a str> {
    let (name, minute) = job.rsplit_once('-')?;
    let made = pod.creation_timestamp.as_ref()?.0.as_second() / 60;
    let late = made.checked_sub(minute.parse().ok()?)?;
    (0..=CRON_JOB_LATE_MAX).contains(&late).then_some(name)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests;

//! What a proxy does with a connection or a request, decision by decision, and why: from the same state, by the same look-ups, that
//! proxies are told of. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use conduit_api::{
    Balancing, Endpoint, Pod, PodName, PortRange, ProtocolHint, Service, ServiceName, SpiffeId, Target, TrustDomain,
    filters::Timeouts,
    mesh::Strategy,
    proto::public::{ResourceSelection, explain_response::Step},
    route::RouteBackend,
};
use conduit_consensus::{Belief, MeshState};

use crate::{
    discovery::{Found, endpoint_of_pod, find, hint_of_pod},
    tap::concerns,
};

/// With which DNS ends the names of services.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Endpoints that are named; the others are counted.
const NAMED_MAX: usize = 3;

/// A request that is to be explained.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Where it comes from.
    pub from: &'a Pod,
    /// Where it goes to.
    pub to: SocketAddr,
    /// As `Host` or `:authority` says it.
    pub authority: &'a str,
    /// e.g. `GET`
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// By lower-case name.
    pub headers: &'a BTreeMap<String, String>,
}

/// Why there is nothing to explain.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unexplained {
    /// Nothing of the mesh has that name.
    #[error("there is no {0}")]
    NotFound(String),
    /// It has a name, and no address.
    #[error("{0} has no address: none of its pods is there")]
    NoAddress(String),
    /// A host that only DNS knows.
    #[error("`{0}` is not a name of this mesh; say its IP address, to which it resolves")]
    NotOfTheMesh(String),
}

/// The pods that `selection` names.
pub fn pods<'a>(state: &'a MeshState, selection: &ResourceSelection) -> Vec<&'a Pod> {
    let pods = state.pods().values().map(|pod| &pod.value);
    pods.filter(|pod| concerns(selection, &pod.name, state)).collect()
}

/// Where a client connects to that means port `port` of `selection`, and what it calls that.
///
/// # Errors
/// When there is no such resource, or no address of it.
pub fn address_of_resource(
    state: &MeshState,
    selection: &ResourceSelection,
    port: u16,
) -> Result<(SocketAddr, String), Unexplained> {
    let ResourceSelection { kind, namespace, name } = selection;
    if kind == "service" {
        let service = ServiceName::new(namespace, name).ok().and_then(|name| state.services().get(&name));
        let service = service.ok_or_else(|| Unexplained::NotFound(format!("service/{name} in {namespace}")))?;
        return address_of_service(&service.value, port);
    }
    let pods = pods(state, selection);
    // One that is ready, if there is one.
    let pod = pods.iter().find(|pod| pod.ready).or(pods.first());
    let pod = pod.ok_or_else(|| Unexplained::NotFound(format!("{kind}/{name} in {namespace}")))?;
    let address = SocketAddr::new(pod.ip, port);
    Ok((address, address.to_string()))
}

/// The same for a host: an IP address, or one of the names that DNS has for a service, as clients in `namespace` say it.
///
/// # Errors
/// When it is none of the mesh's.
pub fn address_of_host(
    state: &MeshState,
    namespace: &str,
    host: &str,
    port: u16,
) -> Result<(SocketAddr, String), Unexplained> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, port);
        return Ok((address, address.to_string()));
    }
    let mut labels = host.trim_end_matches('.').splitn(4, '.');
    let (name, namespace) = (labels.next().unwrap_or_default(), labels.next().unwrap_or(namespace));
    let is_service =
        labels.next().is_none_or(|label| label == "svc") && labels.next().is_none_or(|rest| rest == CLUSTER_DOMAIN);
    let service = ServiceName::new(namespace, name).ok().filter(|_| is_service);
    let service = service.and_then(|name| state.services().get(&name));
    let service = service.ok_or_else(|| Unexplained::NotOfTheMesh(host.to_owned()))?;
    address_of_service(&service.value, port)
}

/// The cluster's address; of a headless service that of one of its instances, as DNS gives it.
fn address_of_service(service: &Service, port: u16) -> Result<(SocketAddr, String), Unexplained> {
    let authority = authority_of(&service.name, port);
    let instance = |endpoint: &SocketAddr| SocketAddr::new(endpoint.ip(), port);
    let known = service.ports.get(&port).or_else(|| service.ports.values().next());
    let instances =
        known.into_iter().flat_map(|port| port.endpoints.keys().chain(&port.not_ready)).map(instance).next();
    let address = service.cluster_ips.first().map(|ip| SocketAddr::new(*ip, port)).or(instances);
    let address = address.ok_or_else(|| Unexplained::NoAddress(format!("service/{}", service.name)))?;
    Ok((address, authority))
}

/// What clients call it.
fn authority_of(service: &ServiceName, port: u16) -> String {
    format!("{}.{}:{port}", service.name(), service.namespace())
}

/// The decisions, in their order; the last one ends it.
pub fn explain(state: &MeshState, trust_domain: &TrustDomain, question: &Question<'_>) -> Vec<Step> {
    let mut explained = Explained { state, trust_domain, question, steps: Vec::new() };
    explained.client();
    explained.steps
}

struct Explained<'a> {
    state: &'a MeshState,
    trust_domain: &'a TrustDomain,
    question: &'a Question<'a>,
    steps: Vec<Step>,
}

impl<'a> Explained<'a> {
    fn say(&mut self, about: &str, decision: impl Into<String>, reason: impl Into<String>) {
        self.steps.push(Step { about: about.to_owned(), decision: decision.into(), reason: reason.into() });
    }

    fn identity(&self, pod: &Pod) -> Option<SpiffeId> {
        SpiffeId::new(self.trust_domain, pod.name.namespace(), &pod.service_account).ok()
    }

    fn is_denied(&self, id: &SpiffeId) -> bool {
        self.state.ca().is_some_and(|ca| ca.denied.contains_key(id))
    }

    fn client(&mut self) {
        let from = self.question.from;
        if !from.meshed {
            return self.say("client", "no proxy", format!("pod/{} is not meshed: nobody touches it", from.name));
        }
        match self.identity(from) {
            Some(id) if self.is_denied(&id) => {
                self.say("client", "gets no certificate", format!("`conduit ca deny` refuses {id}"));
            }
            Some(id) => self.say("client", id.to_string(), format!("the service account of pod/{}", from.name)),
            None => {}
        }
        if PortRange::any_contains(&from.ports.skip_outbound, self.question.to.port()) {
            let reason = "a skip-outbound-ports annotation says so: its proxy does not see it";
            return self.say("destination", format!("{}, by the kernel", self.question.to), reason);
        }
        self.destination();
    }

    fn destination(&mut self) {
        let to = self.question.to;
        match find(&Target::Address(to), self.state) {
            Found::Service(service, port) => {
                let reason = format!("{} is its address", to.ip());
                self.say("destination", format!("service/{}:{port}", service.value.name), reason);
                self.service(&service.value, port);
            }
            Found::Pod(pod) => self.pod(&pod.value),
            Found::Nothing => {
                let service = self.state.service_by_cluster_ip(to.ip());
                let reason = match service {
                    Some(service) => format!("service/{} has no port {}", service.value.name, to.port()),
                    None => "no service and no pod of the mesh has this address".to_owned(),
                };
                self.say("destination", to.to_string(), reason);
                self.detected(ProtocolHint::None, None);
                self.say("tls", "plaintext, or the client's own", "nobody of the mesh is there");
            }
        }
    }

    /// The client has chosen it, perhaps by a headless service's name.
    fn pod(&mut self, pod: &'a Pod) {
        let (to, authority, state) = (self.question.to, self.question.authority, self.state);
        let headless = state.headless_services_of(to);
        let hint = hint_of_pod(pod, to.port(), &headless, state);
        let named = headless.iter().find(|(name, port)| authority == authority_of(name, *port));
        // Only requests have a name that could be looked at.
        let service = named.filter(|_| hint != ProtocolHint::Opaque);
        if let Some((service, port)) = service.and_then(|(name, port)| Some((state.services().get(name)?, *port))) {
            let reason = format!("requests name it, and {to} is one of its pods");
            self.say("destination", format!("service/{}:{port}", service.value.name), reason);
            return self.service(&service.value, port);
        }
        let reason = match headless.first().filter(|_| hint != ProtocolHint::Opaque) {
            Some((name, port)) => format!(
                "the client has connected to it; requests that name service/{name}:{port} would go to any of its pods"
            ),
            None => "the client has connected to it".to_owned(),
        };
        self.say("destination", format!("pod/{}", pod.name), reason);
        self.detected(hint, headless.first().map(|(name, port)| (name, *port)));
        self.secured(&[&endpoint_of_pod(pod, to, self.trust_domain)]);
    }

    fn service(&mut self, service: &'a Service, port: u16) {
        let hint = self.state.hint_of(service, port);
        self.detected(hint, Some((&service.name, port)));
        let own = RouteBackend { service: service.name.clone(), port, weight: 1 };
        let backends = match hint {
            ProtocolHint::Opaque => vec![own],
            ProtocolHint::None | ProtocolHint::ServerFirst => match self.route(service, port, own) {
                Some(backends) => backends,
                None => return,
            },
        };
        let several = backends.len() > 1;
        for backend in backends {
            self.backend(&backend, several);
        }
    }

    fn detected(&mut self, hint: ProtocolHint, port: Option<(&ServiceName, u16)>) {
        let lesson = port.and_then(|(service, port)| self.state.lesson_of(service, port));
        let (decision, reason) = match (hint, lesson.map(|lesson| lesson.belief)) {
            (ProtocolHint::Opaque, _) => ("bytes, whatever they look like", "an opaque-ports annotation says so"),
            (ProtocolHint::ServerFirst, _) => {
                ("connect at once, and see who speaks first", "its servers were seen to speak first")
            }
            (ProtocolHint::None, Some(Belief::Mixed)) => {
                ("by the first bytes of either side", "its servers were seen to speak first, and then its clients")
            }
            (ProtocolHint::None, _) => ("by the first bytes of either side", "nothing is known of the port"),
        };
        self.say("protocol", decision, reason);
    }

    /// Where requests go; `None` when they are answered by the proxy.
    fn route(&mut self, service: &Service, port: u16, own: RouteBackend) -> Option<Vec<RouteBackend>> {
        let routes = self.state.routes_of(&service.name);
        let choices: Vec<_> = routes.into_iter().flat_map(|routes| routes.of_port(port)).collect();
        if choices.is_empty() {
            self.say("route", "to the service itself", "no HTTPRoute is about it");
            return Some(vec![own]);
        }
        let Question { method, path, headers, .. } = *self.question;
        let header = |name: &str| headers.get(name).map(String::as_bytes);
        let (bare, query) = path.split_once('?').unwrap_or((path, ""));
        let Some(choice) = choices.iter().find(|choice| choice.accepted.accepts(method, bare, query, header)) else {
            let reason = format!("{} matches were tried, and none accepts {method} {path}", choices.len());
            self.say("route", "404, conduit-proxy-error: no-route", reason);
            return None;
        };
        let reason = format!("httproute/{} accepts {method} {path}", choice.route);
        let rule = &choice.rule;
        let backends: Vec<_> = rule.backends.iter().filter(|backend| backend.weight > 0).cloned().collect();
        if let Some(redirect) = &rule.filters.redirect {
            self.say("route", format!("{}, a redirect", redirect.status), reason);
            return None;
        }
        if backends.is_empty() {
            self.say("route", "500, conduit-proxy-error: no-backend", reason);
            return None;
        }
        let share =
            |weight: u32, to: String| format!("{:.1}% to {to}", f64::from(weight) * 100.0 / rule.weight() as f64);
        let shares = backends.iter().map(|b| share(b.weight, format!("service/{}:{}", b.service, b.port)));
        let nowhere = || share(rule.unresolved, "500, conduit-proxy-error: no-backend".to_owned());
        let shares: Vec<_> = shares.chain((rule.unresolved > 0).then(nowhere)).collect();
        let Timeouts { request_ms, backend_request_ms } = rule.timeouts;
        let least = [request_ms, backend_request_ms].into_iter().filter(|ms| *ms > 0).min();
        let late = least.map(|ms| format!(", 504 after {ms} ms")).unwrap_or_default();
        self.say("route", shares.join(", ") + &late, reason);
        Some(backends)
    }

    fn backend(&mut self, backend: &RouteBackend, is_one_of_several: bool) {
        let (state, name) = (self.state, format!("service/{}:{}", backend.service, backend.port));
        let service = state.services().get(&backend.service);
        let port = service.and_then(|service| Some((service, service.value.ports.get(&backend.port)?)));
        let Some((service, port)) = port else {
            return self.say("endpoint", "500, conduit-proxy-error: no-backend", format!("there is no {name}"));
        };
        let of = if is_one_of_several { format!(" of {name}") } else { String::new() };
        let not_ready = match port.not_ready.len() {
            0 => String::new(),
            count => format!(", {count} not ready"),
        };
        if port.endpoints.is_empty() {
            let decision = "503, conduit-proxy-error: no-endpoints; connections are reset";
            return self.say("endpoint", decision, format!("{name} has no ready endpoint{not_ready}"));
        }
        let endpoints: Vec<_> = port.endpoints.values().collect();
        let (decision, reason) = match endpoints.as_slice() {
            [only] => (shown(only), format!("the only ready endpoint{of}{not_ready}")),
            _ => {
                let reason = format!("{} ready endpoints{of}{not_ready}: {}", endpoints.len(), named(&endpoints));
                (self.balanced(service.value.balancing, &endpoints), reason)
            }
        };
        self.say("endpoint", decision, reason);
        self.secured(&endpoints);
    }

    /// How one of several is chosen.
    fn balanced(&self, balancing: Balancing, endpoints: &[&Endpoint]) -> String {
        let own = self.question.from.zone.as_ref().filter(|_| balancing.prefer_own_zone);
        let near = own.map_or(0, |own| endpoints.iter().filter(|endpoint| endpoint.zone.as_ref() == Some(own)).count());
        let by = match balancing.strategy {
            Strategy::PeakEwma => "by latency and requests under way",
            Strategy::LeastRequest => "by requests under way",
        };
        let among = match own {
            Some(own) if near > 0 && near < endpoints.len() => {
                format!(", of zone {own} ({near}) unless those are overloaded")
            }
            _ => String::new(),
        };
        format!("the less loaded of two at random, {by}{among}")
    }

    fn secured(&mut self, endpoints: &[&Endpoint]) {
        let own = |endpoint: &&&Endpoint| endpoint.address.ip() == self.question.from.ip;
        if endpoints.iter().any(|endpoint| own(&endpoint)) {
            self.say("tls", "plaintext", "within the pod, where no other proxy is");
        }
        let others: Vec<_> = endpoints.iter().copied().filter(|endpoint| !own(&endpoint)).collect();
        let identities: BTreeSet<_> = others.iter().filter_map(|endpoint| endpoint.identity.as_ref()).collect();
        for identity in identities {
            if self.is_denied(identity) {
                self.say("tls", "connections are refused", format!("`conduit ca deny` refuses {identity}"));
            } else {
                self.say("tls", format!("mutual, {identity}"), "what its proxy must prove by its certificate");
            }
        }
        let bare: Vec<_> = others.into_iter().filter(|endpoint| endpoint.identity.is_none()).collect();
        if !bare.is_empty() {
            self.say("tls", "plaintext", format!("no proxy is beside {}", named(&bare)));
        }
    }
}

fn shown(endpoint: &Endpoint) -> String {
    let pod = |pod: &PodName| format!("pod/{pod} at {}", endpoint.address);
    endpoint.pod.as_ref().map_or_else(|| endpoint.address.to_string(), pod)
}

fn named(endpoints: &[&Endpoint]) -> String {
    let name = |endpoint: &&Endpoint| {
        endpoint.pod.as_ref().map_or_else(|| endpoint.address.to_string(), |pod| pod.name().to_owned())
    };
    let names: Vec<_> = endpoints.iter().take(NAMED_MAX).map(name).collect();
    match endpoints.len().saturating_sub(NAMED_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests;

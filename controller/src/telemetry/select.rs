//! Which of the rows a question is about. Pure.

use conduit_api::{
    PodName, WorkloadRef,
    proto::{
        common::ResourceRef,
        public::{
            ResourceSelection, StatRequest,
            stat_request::{By, Other},
        },
    },
};

use super::{
    Reporter,
    names::{Link, OTHER, Requests, cut},
    questions::by_route,
};

/// Kinds of what owns pods, as the wire calls them.
pub const WORKLOAD_KINDS: [&str; 7] =
    ["deployment", "statefulset", "daemonset", "replicaset", "replicationcontroller", "job", "cronjob"];

/// What is at the other end, as far as the proxy knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Kind of the workload, or `pod` where that has no owner; all is empty where nothing is known.
    pub kind: String,
    /// Of pod and workload.
    pub namespace: String,
    /// Of the workload.
    pub name: String,
    /// Of the pod.
    pub pod: String,
}

impl Peer {
    /// What a proxy says.
    pub fn of(workload: Option<&ResourceRef>, pod: &str) -> Self {
        let text = |text: &str| cut(text).to_owned();
        let workload = workload.map(|of| (text(&of.kind), text(&of.namespace), text(&of.name)));
        let (kind, namespace, name) = workload.unwrap_or_default();
        Self { kind, namespace, name, pod: text(pod) }
    }

    /// Its namespace and name as one of `kind`, if it is that.
    pub fn resource(&self, kind: &str) -> Option<(String, String)> {
        if self.kind.is_empty() {
            return None;
        }
        match kind {
            "namespace" => Some((String::new(), self.namespace.clone())),
            "pod" if !self.pod.is_empty() => Some((self.namespace.clone(), self.pod.clone())),
            kind if kind == self.kind => Some((self.namespace.clone(), self.name.clone())),
            _ => None,
        }
    }
}

impl Reporter {
    /// Its namespace and name as one of `kind`, if it is that.
    pub fn resource(&self, kind: &str) -> Option<(String, String)> {
        resource(&self.pod, self.workload.as_ref(), kind).map(owned)
    }
}

/// Namespace and name of a pod, or of what it is part of, as one of `kind`, if it is that.
fn resource<'a>(pod: &'a PodName, workload: Option<&'a WorkloadRef>, kind: &str) -> Option<(&'a str, &'a str)> {
    match (kind, workload) {
        ("pod", _) => Some((pod.namespace(), pod.name())),
        ("namespace", _) => Some(("", pod.namespace())),
        (kind, Some(workload)) if workload.kind == kind => Some((pod.namespace(), &workload.name)),
        _ => None,
    }
}

fn owned((namespace, name): (&str, &str)) -> (String, String) {
    (namespace.to_owned(), name.to_owned())
}

/// The same, if `selection` takes it in.
pub fn selected(
    pod: &PodName,
    workload: Option<&WorkloadRef>,
    selection: &ResourceSelection,
) -> Option<(String, String)> {
    is_selected(pod, workload, selection).map(owned)
}

fn is_selected<'a>(
    pod: &'a PodName,
    workload: Option<&'a WorkloadRef>,
    selection: &ResourceSelection,
) -> Option<(&'a str, &'a str)> {
    let resource = resource(pod, workload, &selection.kind)?;
    matches(selection, &selection.kind, resource.0, resource.1).then_some(resource)
}

/// Whose proxies count what is asked for: those of the pods that a selection takes in; all, without one.
#[derive(Clone, Copy, Debug)]
pub struct Tellers<'a>(Option<&'a ResourceSelection>);

impl<'a> Tellers<'a> {
    /// Of who speaks with whom.
    pub const ALL: Tellers<'static> = Tellers(None);

    /// Of what `request` asks for.
    pub fn of(request: &'a StatRequest) -> Self {
        let by: Vec<_> = request.by().collect();
        match (&request.other, &request.selector) {
            (Some(Other::From(from)), _) => Self(Some(from)),
            (Some(Other::To(_)), Some(selector)) => Self(Some(selector)),
            (None, Some(selector)) if !by_route(&by) => Self::of_received(selector),
            _ => Self::ALL,
        }
    }

    /// Of what `selector` has received, which is known to those who sent it if it is no pods.
    pub fn of_received(selector: &'a ResourceSelection) -> Self {
        let is_told_by_clients = matches!(selector.kind.as_str(), "authority" | "service");
        if is_told_by_clients { Self::ALL } else { Self(Some(selector)) }
    }

    /// Whether the proxy of `pod`, which is part of `workload`, is one of them.
    pub fn has(self, pod: &PodName, workload: Option<&WorkloadRef>) -> bool {
        self.0.is_none_or(|selection| is_selected(pod, workload, selection).is_some())
    }
}

/// The resource, of the kind selected, that requests count for.
///
/// Without `other` these are requests that the selected resources received, as their own proxies saw them. With it they are
/// what the sender's proxy saw, since only that knows both ends.
pub fn requests(
    reporter: &Reporter,
    key: &Requests,
    selector: &ResourceSelection,
    other: Option<&Other>,
) -> Option<(String, String)> {
    let Some(other) = other else {
        let resource = match selector.kind.as_str() {
            // Known to who asks, who may be anywhere.
            "service" => service(reporter, key)?,
            "authority" => asked_by_name(reporter, key)?,
            _ => return ends(reporter, key.inbound, &key.peer, selector, None),
        };
        return taken_in(selector, Some(resource));
    };
    let to = |kind: &str| match kind {
        "service" => service(reporter, key),
        "authority" => asked_by_name(reporter, key),
        kind => key.peer.resource(kind),
    };
    if key.inbound { None } else { between(reporter, to, selector, other) }
}

/// Whether a question is about pods that requests went to: [`Requests`] are not told apart by these, and [`Link`] is.
pub fn is_about_receiving_pods(selector: &ResourceSelection, other: Option<&Other>) -> bool {
    match other {
        None => false,
        Some(Other::To(other)) => other.kind == "pod",
        Some(Other::From(_)) => selector.kind == "pod",
    }
}

/// The authority of what its application has asked for. It is in the namespace of who asks, who may be anywhere.
fn asked_by_name(reporter: &Reporter, key: &Requests) -> Option<(String, String)> {
    let is_one = !key.inbound && !key.authority.is_empty();
    is_one.then(|| (reporter.pod.namespace().to_owned(), key.authority.clone()))
}

/// The service that a request went to, or was to go to.
fn service(reporter: &Reporter, key: &Requests) -> Option<(String, String)> {
    key.service.as_ref().map(|service| known(reporter, &service.backend))
}

/// The service that a request was for, before its routes.
fn meant(reporter: &Reporter, key: &Requests) -> Option<(String, String)> {
    key.service.as_ref().map(|service| known(reporter, &service.meant))
}

/// What is past a budget is in the namespace of who asks.
fn known(reporter: &Reporter, (namespace, name): &(String, String)) -> (String, String) {
    let namespace = if name == OTHER { reporter.pod.namespace() } else { namespace };
    (namespace.to_owned(), name.clone())
}

/// What tells requests apart by the routes that have accepted them, in the order of `by`.
pub fn route_values(reporter: &Reporter, key: &Requests, by: &[By]) -> Vec<String> {
    let value = |by: &By| match (by, &key.service) {
        (By::Route, Some(service)) => service.route.clone(),
        (By::Service, Some(service)) => {
            let (namespace, name) = known(reporter, &service.meant);
            service_value(&namespace, &name, service.port)
        }
        _ => String::new(),
    };
    by.iter().map(value).collect()
}

/// A service as `Group` says it; the port of 0 is not known.
pub fn service_value(namespace: &str, name: &str, port: u16) -> String {
    if port == 0 { format!("{namespace}/{name}") } else { format!("{namespace}/{name}:{port}") }
}

/// The resource, of the kind selected, that requests to services count for, as their clients' proxies saw them: what they were for, or where they
/// went; with [`Other::To`], who sent them.
pub fn routed(
    reporter: &Reporter,
    key: &Requests,
    selector: &ResourceSelection,
    other: Option<&Other>,
) -> Option<(String, String)> {
    let asked = meant(reporter, key)?;
    let at = |kind: &str| if kind == "service" { Some(asked.clone()) } else { key.peer.resource(kind) };
    match other {
        None => taken_in(selector, at(&selector.kind)),
        Some(other) => between(reporter, at, selector, other),
    }
}

/// The same of requests by path.
pub fn paths(reporter: &Reporter, selector: &ResourceSelection) -> Option<(String, String)> {
    ends(reporter, true, &Peer::default(), selector, None)
}

/// The same of connections.
pub fn connections(
    reporter: &Reporter,
    key: &Link,
    selector: &ResourceSelection,
    other: Option<&Other>,
) -> Option<(String, String)> {
    ends(reporter, key.inbound, &key.peer, selector, other)
}

fn ends(
    reporter: &Reporter,
    inbound: bool,
    peer: &Peer,
    selector: &ResourceSelection,
    other: Option<&Other>,
) -> Option<(String, String)> {
    match other {
        None if inbound => taken_in(selector, reporter.resource(&selector.kind)),
        Some(other) if !inbound => between(reporter, |kind| peer.resource(kind), selector, other),
        None | Some(_) => None,
    }
}

/// The selected end of what `reporter` has sent to whoever is, as one of a kind, `to`, if `other` takes in the other end.
fn between(
    reporter: &Reporter,
    to: impl Fn(&str) -> Option<(String, String)>,
    selector: &ResourceSelection,
    other: &Other,
) -> Option<(String, String)> {
    let from = |kind: &str| reporter.resource(kind);
    match other {
        Other::To(other) => taken_in(other, to(&other.kind)).and_then(|_| taken_in(selector, from(&selector.kind))),
        Other::From(other) => taken_in(other, from(&other.kind)).and_then(|_| taken_in(selector, to(&selector.kind))),
    }
}

/// The resource, which is of the kind selected, if `selection` takes it in.
fn taken_in(selection: &ResourceSelection, resource: Option<(String, String)>) -> Option<(String, String)> {
    resource.filter(|(namespace, name)| matches(selection, &selection.kind, namespace, name))
}

/// Whether a selection takes in the resource of `kind`, `namespace`, `name`. Namespaces are in no namespace.
pub fn matches(selection: &ResourceSelection, kind: &str, namespace: &str, name: &str) -> bool {
    let in_namespace = kind == "namespace" || selection.namespace.is_empty() || selection.namespace == namespace;
    selection.kind == kind && in_namespace && (selection.name.is_empty() || selection.name == name)
}

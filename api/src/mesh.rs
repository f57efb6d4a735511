//! What runs in the mesh and where: the values of the replicated discovery state.
//!
//! A platform (Kubernetes, or a local mesh) describes itself in these terms; the leader proposes the
//! differences; proxies are sent what they call.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{HttpRoute, PortRange, SpiffeId, objective::Declared};

/// Not `<name>.<namespace>` or `<namespace>/<name>`.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a name: lower-case letters, digits and dashes, as in `emojivoto/web-svc` (RFC 1123)")]
pub struct ParseNameError(String);

/// Whether it is a name as Kubernetes' objects have them (RFC 1123): lower-case letters, digits and dashes, with dots between labels; 253 bytes. As there,
/// only all of it is bounded, and no label.
pub fn is_dns_name(s: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    s.len() <= 253 && s.split('.').all(label)
}

macro_rules! namespaced_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            namespace: String,
            name: String,
        }

        impl $name {
            /// A name from its parts.
            ///
            /// # Errors
            /// When a part is not a DNS name.
            pub fn new(namespace: &str, name: &str) -> Result<Self, ParseNameError> {
                if !is_dns_name(namespace) || namespace.contains('.') || !is_dns_name(name) {
                    return Err(ParseNameError(format!("{namespace}/{name}")));
                }
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }

            /// The Kubernetes namespace.
            pub fn namespace(&self) -> &str {
                &self.namespace
            }

            /// The name within its namespace.
            pub fn name(&self) -> &str {
                &self.name
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let (namespace, name) = s.split_once('/').ok_or_else(|| ParseNameError(s.to_owned()))?;
                Self::new(namespace, name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;

            fn try_from(s: String) -> Result<Self, Self::Error> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    };
}

namespaced_name! {
    /// A Service, `namespace/name`.
    ServiceName
}

namespaced_name! {
    /// A Pod, `namespace/name`. In a local mesh a pod is one instance of a deployment with its network namespace.
    PodName
}

namespaced_name! {
    /// An HTTPRoute, `namespace/name`.
    RouteName
}

namespaced_name! {
    /// An Objective, `namespace/name`.
    ObjectiveName
}

/// What owns a pod: `deployment` `web`, in the pod's namespace. Kinds are singular and lower-case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// e.g. `deployment`
    pub kind: String,
    /// e.g. `web`
    pub name: String,
}

/// A running instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `namespace/name`
    pub name: PodName,
    /// Where it can be reached; one pod to an address.
    pub ip: IpAddr,
    /// Its owner; none for a pod that was made by hand.
    #[serde(default)]
    pub workload: Option<WorkloadRef>,
    /// The service account it runs as; its identity follows from it.
    pub service_account: String,
    /// Tells it from one of the same name before or after it, where the platform does.
    #[serde(default)]
    pub uid: Option<String>,
    /// There is a proxy beside it.
    pub meshed: bool,
    /// What somebody has said of ports.
    #[serde(default)]
    pub ports: PodPorts,
    /// Where it runs (`topology.kubernetes.io/zone`); none where nobody says so.
    #[serde(default)]
    pub zone: Option<String>,
    /// It passes its readiness checks: its endpoints are sent traffic.
    pub ready: bool,
    /// Its application has come to its end, as a Job's does, and will not be started again: it is there for its proxy alone, which is to end as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub application_ended: bool,
}

/// What somebody has said of a pod's ports, and of those that it connects to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPorts {
    /// What comes to these is carried as bytes.
    #[serde(default)]
    pub opaque: Vec<PortRange>,
    /// What comes to these does not come to the proxy: nobody there has an identity.
    #[serde(default)]
    pub skip_inbound: Vec<PortRange>,
    /// What goes to these, wherever, does not go through the proxy.
    #[serde(default)]
    pub skip_outbound: Vec<PortRange>,
}

impl Pod {
    /// Whether members of feature level 4 know all of it.
    pub fn is_plain(&self) -> bool {
        self.ports == PodPorts::default() && self.zone.is_none()
    }

    /// Whether members of feature level `level` know all of it.
    pub fn is_known_at(&self, level: u32) -> bool {
        (level >= LEVEL_OF_ENDS || !self.application_ended) && (level >= LEVEL_OF_WORKLOADS || self.is_plain())
    }

    /// See [`simplify_routes`].
    pub fn simplify(&mut self, level: u32) {
        if level < LEVEL_OF_WORKLOADS {
            (self.ports, self.zone) = (PodPorts::default(), None);
        }
        if level < LEVEL_OF_ENDS {
            self.application_ended = false;
        }
    }

    /// Whether connections to `port` of it are to be carried as bytes.
    pub fn is_opaque(&self, port: u16) -> bool {
        PortRange::any_contains(&self.ports.opaque, port)
    }

    /// Whether a proxy takes connections to `port` of it.
    pub fn is_meshed_at(&self, port: u16) -> bool {
        self.meshed && !PortRange::any_contains(&self.ports.skip_inbound, port)
    }
}

/// A name that is reached at any of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`
    pub name: ServiceName,
    /// Addresses that stand for the service as a whole; empty for a headless service, whose clients choose a pod by DNS.
    #[serde(default)]
    pub cluster_ips: BTreeSet<IpAddr>,
    /// By the port that clients connect to. TCP only.
    pub ports: BTreeMap<u16, ServicePort>,
    /// How its requests are shared out.
    #[serde(default)]
    pub balancing: Balancing,
}

/// How requests are shared out among the endpoints of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancing {
    /// What makes one of two endpoints the better one.
    #[serde(default)]
    pub strategy: Strategy,
    /// Endpoints of the sender's zone come first, as long as that costs little: Kubernetes' `trafficDistribution: PreferClose`.
    #[serde(default)]
    pub prefer_own_zone: bool,
}

/// What makes one of two endpoints the better one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// The lower latency, of late and at its worst, times the requests under way.
    #[default]
    PeakEwma,
    /// Fewer requests under way.
    LeastRequest,
}

/// Neither of the two.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no way to balance; there are peak-ewma and least-request")]
pub struct ParseStrategyError(String);

impl FromStr for Strategy {
    type Err = ParseStrategyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "peak-ewma" => Ok(Self::PeakEwma),
            "least-request" => Ok(Self::LeastRequest),
            _ => Err(ParseStrategyError(text.to_owned())),
        }
    }
}

impl Service {
    /// Whether members of feature level 4 know all of it.
    pub fn is_plain(&self) -> bool {
        let is_plain =
            |port: &ServicePort| !port.opaque && port.endpoints.values().all(|endpoint| endpoint.zone.is_none());
        self.balancing == Balancing::default() && self.ports.values().all(is_plain)
    }

    /// Whether members of feature level `level` know all of it.
    pub fn is_known_at(&self, level: u32) -> bool {
        level >= LEVEL_OF_WORKLOADS || self.is_plain()
    }

    /// See [`simplify_routes`].
    pub fn simplify(&mut self, level: u32) {
        if level >= LEVEL_OF_WORKLOADS {
            return;
        }
        self.balancing = Balancing::default();
        for port in self.ports.values_mut() {
            port.opaque = false;
            port.endpoints.values_mut().for_each(|endpoint| endpoint.zone = None);
        }
    }

    /// Clients connect to pod addresses rather than to an address of the service.
    pub fn is_headless(&self) -> bool {
        self.cluster_ips.is_empty()
    }
}

/// One port of a service and where its traffic goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// As the Service names it; empty when it does not.
    #[serde(default)]
    pub name: String,
    /// The ready ones only, by address.
    pub endpoints: BTreeMap<SocketAddr, Endpoint>,
    /// Of instances that are not ready: nothing is sent there, but who connects to one of them means this service.
    #[serde(default)]
    pub not_ready: BTreeSet<SocketAddr>,
    /// What comes to it is carried as bytes, because somebody has said so.
    #[serde(default)]
    pub opaque: bool,
}

/// Where one instance of a service listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod's address and the container's port.
    pub address: SocketAddr,
    /// Whose it is; none for an address that was entered by hand.
    #[serde(default)]
    pub pod: Option<PodName>,
    /// The pod's owner.
    #[serde(default)]
    pub workload: Option<WorkloadRef>,
    /// What the proxy beside it must prove; none when there is no proxy.
    #[serde(default)]
    pub identity: Option<SpiffeId>,
    /// Where it runs (`topology.kubernetes.io/zone`); none where nobody says so.
    #[serde(default)]
    pub zone: Option<String>,
}

/// Everything that a platform knows at one moment, e.g. the content of a local mesh's state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// All services.
    pub services: Vec<Service>,
    /// All pods that are running.
    pub pods: Vec<Pod>,
    /// All routes, where it is the platform that people tell them, and it could say which there are.
    #[serde(skip)]
    pub routes: Option<Vec<HttpRoute>>,
    /// All objectives that are declared, one to a resource, as of `routes`.
    #[serde(skip)]
    pub objectives: Option<Vec<Declared>>,
}

/// Members of this feature level know all that there is of services and pods.
pub const LEVEL_OF_WORKLOADS: u32 = 5;
/// The first that is told of applications that have ended.
pub const LEVEL_OF_ENDS: u32 = 9;

/// As far as members of feature level `level` know them: what they do not, they would not keep, and so be of another opinion later.
/// Before level 6 there are only the routes that their release would have accepted, as it had it; before level 5 nothing is said of them,
/// because older ones know none.
pub fn simplify_routes(mut routes: Vec<HttpRoute>, level: u32) -> Option<Vec<HttpRoute>> {
    if level < 6 {
        routes.iter_mut().for_each(|route| route.created_ms = None);
        routes.retain(HttpRoute::is_plain);
    }
    (level >= 5).then_some(routes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{ParentRef, RouteRule};

    /// One person's route must not hold up those of all others for as long as an upgrade takes.
    #[test]
    fn members_before_are_told_of_the_routes_that_they_know() {
        let route = |name: &str, unresolved| {
            let parents = [ParentRef { service: ServiceName::new("shop", "web").unwrap(), port: None }].into();
            let rules = vec![RouteRule { unresolved, ..RouteRule::default() }];
            let route = HttpRoute::new(RouteName::new("shop", name).unwrap(), parents, rules).unwrap();
            HttpRoute { created_ms: Some(1), ..route }
        };
        for (level, told) in [(4, None), (5, Some(vec!["plain"])), (6, Some(vec!["new", "plain"]))] {
            let routes = simplify_routes(vec![route("new", 1), route("plain", 0)], level);
            let names = |routes: &Vec<HttpRoute>| routes.iter().map(|r| r.name.name().to_owned()).collect::<Vec<_>>();
            let told: Option<Vec<String>> = told.map(|names| names.into_iter().map(str::to_owned).collect());
            assert_eq!(routes.as_ref().map(names), told, "{level}");
        }
    }

    #[test]
    fn names_are_dns_names() {
        assert_eq!("emojivoto/web-svc".parse::<ServiceName>().unwrap().to_string(), "emojivoto/web-svc");
        for bad in ["", "web", "/web", "emojivoto/", "Emojivoto/web", "a/b/c", "a.b/c", "a/-b", "a/b_c"] {
            assert!(bad.parse::<PodName>().is_err(), "{bad}");
        }
    }
}

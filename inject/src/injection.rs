//! Decides what is added to a pod so that it has a proxy. Nothing of the pod is changed or taken away.

use std::fmt;

use conduit_api::VERSION;
use serde_json::{Value, json};

use crate::{
    containers,
    operation::{Additions, Operation, Path, ShapeError, path},
    settings::{
        Settings,
        annotations::{self, AnnotationError, Annotations},
        port_list,
    },
    workload::Owner,
};

/// Who added the proxy.
pub(crate) const CREATED_BY: &str = "conduit.io/created-by";
/// Which release.
pub const PROXY_VERSION: &str = "conduit.io/proxy-version";
/// Whose mesh the pod is in.
pub const CONTROL_PLANE_NAMESPACE: &str = "conduit.io/control-plane-ns";
/// Of pods of a control plane, wherever they are. No webhook is asked about them.
pub const CONTROL_PLANE_COMPONENT: &str = "conduit.io/control-plane-component";
/// Which `config.conduit.io/*` annotations were not the user's own, so that they can be taken away again.
pub(crate) const ADDED_ANNOTATIONS: &str = "conduit.io/added-annotations";
/// Containers of other meshes: two proxies that redirect the same traffic leave none of it working.
const FOREIGN: [&str; 10] = [
    "istio-proxy",
    "istio-init",
    "istio-validation",
    "linkerd-proxy",
    "linkerd-init",
    "consul-dataplane",
    "consul-connect-inject-init",
    "envoy-sidecar",
    "kuma-sidecar",
    "kuma-init",
];

/// The pods that a proxy is to be added to.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    /// What has their `metadata` and `spec`.
    pub template: &'a Value,
    /// Whose they are.
    pub owner: Option<&'a Owner>,
    /// What their namespace says.
    pub namespace: &'a Annotations,
    /// Who wants to add it.
    pub origin: Origin,
}

/// Who adds proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `conduit inject`
    Cli,
    /// The admission webhook.
    Webhook,
}

/// What comes of pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// They get a proxy.
    Inject(Injection),
    /// They do not.
    Skip(Skip),
}

/// What is added.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// To the template; each adds, and none replaces.
    pub operations: Vec<Operation>,
    /// What somebody should know.
    pub warnings: Vec<Warning>,
}

/// Why pods get no proxy, or lose none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Of another kind.
    #[error("it has no pods")]
    NotAWorkload,
    /// Not described.
    #[error("it describes no containers")]
    NoContainers,
    /// By whatever release.
    #[error("it has a proxy already; `conduit uninject` takes it away")]
    AlreadyInjected,
    /// Redirecting would take the node's traffic.
    #[error("its pods use the network of their node (hostNetwork)")]
    HostNetwork,
    /// The proxy is a program for Linux.
    #[error("its pods run on Windows")]
    Windows,
    /// By annotation.
    #[error("it is annotated {}: disabled", annotations::INJECT)]
    Disabled,
    /// Of another mesh.
    #[error("it has a sidecar of another mesh (`{0}`)")]
    ForeignSidecar(String),
    /// Nothing to take away.
    #[error("it has no proxy")]
    NotInjected,
}

/// What is not as one might think.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Only TCP is redirected.
    Udp,
    /// These ports of the node lead to the pod.
    HostPorts(Vec<u64>),
    /// An annotation that this release does not carry out.
    NotCarriedOut(String),
    /// A Job whose proxy does not end with it.
    NeverCompletes,
    /// A CNI plugin redirects what init containers do before the proxy is there.
    NoNetwork,
    /// Text with anchors, aliases or merge keys where something was to be changed.
    WrittenAnew,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp => write!(f, "uses \"protocol: UDP\", which the proxy leaves alone"),
            Self::HostPorts(ports) => {
                let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "uses \"hostPort: {ports}\": whoever connects to the node there has no identity")
            }
            Self::NotCarriedOut(name) => {
                write!(f, "is annotated {name}, which this release does not carry out")
            }
            Self::NeverCompletes => write!(
                f,
                "has pods that are to complete: with --native-sidecar (Kubernetes 1.29 and later) they do, otherwise the proxy \
                 runs until the control plane, or a POST to /shutdown on its admin port, ends it"
            ),
            Self::NoNetwork => write!(
                f,
                "has init containers, which a CNI plugin leaves without TCP connections until the proxy runs: use --native-sidecar \
                 (Kubernetes 1.29 and later), or annotate it {}",
                annotations::SKIP_OUTBOUND_PORTS
            ),
            Self::WrittenAnew => {
                write!(
                    f,
                    "was written anew, because anchors or tags are where something had to change; comments in it are lost"
                )
            }
        }
    }
}

/// Pods that make no sense.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InjectionError {
    /// See [`AnnotationError`].
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// See [`ShapeError`].
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Decides what is added to `pods`, by `settings` and the annotations of their namespace and their own.
///
/// # Errors
/// When an annotation is malformed, or something is a list that should be an object, or the like.
pub fn plan(pods: Pods<'_>, settings: &Settings) -> Result<Decision, InjectionError> {
    let template = pods.template;
    let own = annotations_of(template);
    if let Some(skip) = skip(template, &own)? {
        return Ok(Decision::Skip(skip));
    }
    let (settings, mut left_out) = settings.with(pods.namespace)?;
    let (settings, left_out_own) = settings.with(&own)?;
    left_out.extend(left_out_own);
    left_out.dedup();
    let mut warnings = warnings(template);
    warnings.extend(left_out.into_iter().map(Warning::NotCarriedOut));
    if !settings.native_sidecar && pods.owner.is_some_and(|owner| owner.kind.ends()) {
        warnings.push(Warning::NeverCompletes);
    }
    let has_init = template["spec"]["initContainers"].as_array().is_some_and(|list| !list.is_empty());
    if settings.cni && !settings.native_sidecar && has_init {
        warnings.push(Warning::NoNetwork);
    }
    Ok(Decision::Inject(Injection { operations: additions(pods, &own, &settings)?, warnings }))
}

/// What `object` is annotated with. Values that are not strings are taken as they would be written.
pub(crate) fn annotations_of(object: &Value) -> Annotations {
    let annotations = object["metadata"]["annotations"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    annotations.map(|(name, value)| (name.clone(), text(value))).collect()
}

fn skip(template: &Value, own: &Annotations) -> Result<Option<Skip>, AnnotationError> {
    let spec = &template["spec"];
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        return Ok(Some(Skip::NoContainers));
    }
    let names = || containers_of(spec).filter_map(|container| container["name"].as_str());
    let windows = spec["os"]["name"] == "windows" || spec["nodeSelector"]["kubernetes.io/os"] == "windows";
    let foreign = names().find(|name| FOREIGN.contains(name));
    let skip = if names().any(|name| [containers::PROXY, containers::INIT, containers::CHECK].contains(&name)) {
        Skip::AlreadyInjected
    } else if spec["hostNetwork"] == true {
        Skip::HostNetwork
    } else if windows {
        Skip::Windows
    } else if let Some(name) = foreign {
        Skip::ForeignSidecar(name.to_owned())
    } else if annotations::inject(own)? == Some(false) {
        Skip::Disabled
    } else {
        return Ok(None);
    };
    Ok(Some(skip))
}

fn containers_of(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten()
}

fn warnings(template: &Value) -> Vec<Warning> {
    let ports = || containers_of(&template["spec"]).filter_map(|container| container["ports"].as_array()).flatten();
    let host_ports: Vec<_> = ports().filter_map(|port| port["hostPort"].as_u64()).filter(|port| *port > 0).collect();
    let udp = ports().any(|port| port["protocol"] == "UDP").then_some(Warning::Udp);
    udp.into_iter().chain((!host_ports.is_empty()).then_some(Warning::HostPorts(host_ports))).collect()
}

fn additions(pods: Pods<'_>, own: &Annotations, settings: &Settings) -> Result<Vec<Operation>, ShapeError> {
    let mut additions = Additions::to(pods.template);
    for (label, value) in labels(pods.owner, settings) {
        additions.entry(&path("metadata.labels"), label, json!(value))?;
    }
    for (annotation, value) in annotations_to_add(pods.origin, own, settings) {
        additions.entry(&path("metadata.annotations"), annotation, json!(value))?;
    }
    let (init_containers, spec_containers) = (path("spec.initContainers"), path("spec.containers"));
    let init = if settings.cni { containers::check(settings) } else { Some(containers::init(settings)) };
    if settings.native_sidecar {
        // Before all others, which then have a network.
        for container in init.into_iter().chain([containers::proxy(settings, pods.owner)]) {
            additions.first(&init_containers, container)?;
        }
    } else {
        // After all others: while they run there is no proxy yet, and nothing is redirected to it.
        if let Some(container) = init {
            additions.last(&init_containers, container)?;
        }
        additions.last(&spec_containers, containers::proxy(settings, pods.owner))?;
    }
    for volume in containers::volumes(settings) {
        additions.last(&path("spec.volumes"), volume)?;
    }
    if settings.workload_api {
        for index in 0..pods.template["spec"]["containers"].as_array().map_or(0, Vec::len) {
            workload_api(&mut additions, pods.template, index)?;
        }
    }
    Ok(additions.finish())
}

fn labels<'a>(owner: Option<&'a Owner>, settings: &'a Settings) -> impl Iterator<Item = (&'static str, &'a str)> {
    let namespace = (CONTROL_PLANE_NAMESPACE, settings.control_plane_namespace.as_str());
    [namespace].into_iter().chain(owner.and_then(Owner::label))
}

/// The control plane reads some settings of pods; those that pods do not say themselves are said for them.
fn annotations_to_add(origin: Origin, own: &Annotations, settings: &Settings) -> Vec<(&'static str, String)> {
    let by = match origin {
        Origin::Cli => "cli",
        Origin::Webhook => "webhook",
    };
    let mut added =
        vec![(CREATED_BY, format!("conduit/{by} {VERSION}")), (PROXY_VERSION, settings.proxy_version.clone())];
    let said = [
        (annotations::SKIP_INBOUND_PORTS, &settings.skip_inbound_ports),
        (annotations::SKIP_OUTBOUND_PORTS, &settings.skip_outbound_ports),
        (annotations::OPAQUE_PORTS, &settings.opaque_ports),
    ];
    let said = said.into_iter().filter(|(name, ports)| !ports.is_empty() && !own.contains_key(*name));
    let said: Vec<_> = said.map(|(name, ports)| (name, port_list(ports))).collect();
    if !said.is_empty() {
        let names = said.iter().map(|(name, _)| name.trim_start_matches(annotations::PREFIX)).collect::<Vec<_>>();
        added.push((ADDED_ANNOTATIONS, names.join(",")));
    }
    added.extend(said);
    added
}

/// What an application's container gets, unless it looks for the Workload API elsewhere.
fn workload_api(additions: &mut Additions<'_>, template: &Value, index: usize) -> Result<(), ShapeError> {
    let env = template["spec"]["containers"][index]["env"].as_array().into_iter().flatten();
    if env.into_iter().any(|variable| variable["name"] == containers::SPIFFE_ENDPOINT_SOCKET) {
        return Ok(());
    }
    let (mount, variable) = containers::application();
    let list = |name: &str| -> Path { path(&format!("spec.containers.{index}.{name}")) };
    additions.last(&list("volumeMounts"), mount)?;
    additions.last(&list("env"), variable)
}

//! The proxy's container, the one that redirects to it, and their volumes.

use serde_json::{Map, Value, json};

use crate::{
    redirection::Redirection,
    settings::{Resources, Settings, port_list},
    workload::Owner,
};

/// The proxy.
pub const PROXY: &str = "conduit-proxy";
/// What redirects a pod's traffic to it.
pub const INIT: &str = "conduit-init";
/// What makes sure that a CNI plugin did.
pub const CHECK: &str = "conduit-check-redirect";
/// Who it is: everybody but the proxy, whose connections are not redirected, will do.
const CHECK_UID: u32 = 65_534;
/// What says who the pod is: the control plane accepts tokens of this audience alone, so that no other reader of it can use one.
const AUDIENCE: &str = "conduit.io/identity";
/// After this the kubelet has replaced it.
const TOKEN_SECONDS: u32 = 3600;
/// What the control plane keeps in every namespace.
pub const TRUST_BUNDLE: &str = "conduit-trust-bundle";
/// Where in it the certificates are, PEM.
pub const TRUST_BUNDLE_FILE: &str = "trust-bundle.pem";
/// As much as the proxy ever reads back, and its next version beside it while it is written.
const CACHE_SIZE_LIMIT: &str = "128Mi";
/// One socket.
const WORKLOAD_API_SIZE_LIMIT: &str = "1Mi";
/// How often a native sidecar is asked whether it is ready, once a second, before it is started anew. The pod's other containers
/// wait for it.
const STARTUP_TRIES: u32 = 120;

const TOKEN_VOLUME: &str = "conduit-identity-token";
const BUNDLE_VOLUME: &str = TRUST_BUNDLE;
const CACHE_VOLUME: &str = "conduit-cache";
/// Of the Workload API.
pub(crate) const WORKLOAD_API_VOLUME: &str = "conduit-workload-api";
/// All of ours, and those of Conduit 0.5.
pub(crate) const VOLUMES: [&str; 6] =
    [TOKEN_VOLUME, BUNDLE_VOLUME, CACHE_VOLUME, WORKLOAD_API_VOLUME, "conduit-trust-anchors", "conduit-secrets"];

const TOKEN_DIRECTORY: &str = "/var/run/conduit/identity";
const BUNDLE_DIRECTORY: &str = "/var/run/conduit/trust";
const CACHE_DIRECTORY: &str = "/var/run/conduit/cache";
const WORKLOAD_API_DIRECTORY: &str = "/var/run/conduit/workload";
/// Where SPIFFE's libraries look.
pub(crate) const SPIFFE_ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

/// What redirects. It needs NET_ADMIN, which applies to its pod's network alone, and root to have it.
pub(crate) fn init(settings: &Settings) -> Value {
    let mut args = vec!["init".to_owned()];
    args.extend(Redirection::wanted(settings).arguments());
    let mut container = container(INIT, settings);
    container.insert("args".to_owned(), json!(args));
    container.insert(
        "securityContext".to_owned(),
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        }),
    );
    Value::Object(container)
}

/// What ends with an error, and its pod's start with it, if nothing redirects; none, if nothing is to be redirected anyway.
pub(crate) fn check(settings: &Settings) -> Option<Value> {
    let mut args = vec!["check-redirect".to_owned()];
    args.extend(Redirection::wanted(settings).check_arguments()?);
    let mut container = container(CHECK, settings);
    container.insert("args".to_owned(), json!(args));
    let mut context = restricted(settings);
    context["runAsUser"] = json!(if settings.proxy_uid == CHECK_UID { CHECK_UID - 1 } else { CHECK_UID });
    container.insert("securityContext".to_owned(), context);
    Some(Value::Object(container))
}

/// The proxy; as a native sidecar it is an init container.
pub(crate) fn proxy(settings: &Settings, owner: Option<&Owner>) -> Value {
    let probe = |path: &str, rest: Value| {
        let mut probe = rest;
        probe["httpGet"] = json!({"path": path, "port": settings.admin_port});
        probe
    };
    let mut container = container(PROXY, settings);
    container.insert("env".to_owned(), Value::Array(env(settings, owner)));
    container.insert(
        "ports".to_owned(),
        json!([
            {"name": "conduit-proxy", "containerPort": settings.inbound_port},
            {"name": "conduit-metrics", "containerPort": settings.admin_port},
        ]),
    );
    container.insert("livenessProbe".to_owned(), probe("/live", json!({"initialDelaySeconds": 10})));
    container.insert("readinessProbe".to_owned(), probe("/ready", json!({"initialDelaySeconds": 2})));
    if settings.native_sidecar {
        let startup = probe("/ready", json!({"periodSeconds": 1, "failureThreshold": STARTUP_TRIES}));
        container.insert("startupProbe".to_owned(), startup);
        container.insert("restartPolicy".to_owned(), json!("Always"));
    }
    container.insert("securityContext".to_owned(), restricted(settings));
    container.insert("volumeMounts".to_owned(), Value::Array(mounts(settings)));
    Value::Object(container)
}

/// What both have.
fn container(name: &str, settings: &Settings) -> Map<String, Value> {
    let mut container = Map::new();
    container.insert("name".to_owned(), json!(name));
    container.insert("image".to_owned(), json!(settings.image()));
    container.insert("imagePullPolicy".to_owned(), json!(settings.image_pull_policy));
    container.insert("terminationMessagePolicy".to_owned(), json!("FallbackToLogsOnError"));
    if let Some(resources) = resources(&settings.resources) {
        container.insert("resources".to_owned(), resources);
    }
    container
}

/// As Kubernetes' restricted Pod Security Standard asks.
fn restricted(settings: &Settings) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": settings.proxy_uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if let Some(gid) = settings.proxy_gid {
        context["runAsGroup"] = json!(gid);
    }
    context
}

/// Each variable is one that `proxy/src/config.rs` reads.
fn env(settings: &Settings, owner: Option<&Owner>) -> Vec<Value> {
    let set = |name: &str, value: String| json!({"name": format!("CONDUIT_PROXY_{name}"), "value": value});
    let field = |name: &str, path: &str| json!({"name": format!("CONDUIT_PROXY_{name}"), "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        set("LOG", settings.proxy_log_level.clone()),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_NAME", "metadata.name"),
        field("POD_IP", "status.podIP"),
        set("CONTROL_URL", settings.control_url()),
        set("TRUST_DOMAIN", settings.trust_domain.to_string()),
        set("TRUST_ANCHORS_FILE", format!("{BUNDLE_DIRECTORY}/{TRUST_BUNDLE_FILE}")),
        set("IDENTITY_TOKEN_FILE", format!("{TOKEN_DIRECTORY}/token")),
        set("CACHE_FILE", format!("{CACHE_DIRECTORY}/cache")),
        set("PRIVATE_LISTENER", format!("tcp://127.0.0.1:{}", settings.outbound_port)),
        set("PUBLIC_LISTENER", format!("tcp://0.0.0.0:{}", settings.inbound_port)),
        set("METRICS_LISTENER", format!("tcp://0.0.0.0:{}", settings.admin_port)),
    ];
    if !settings.opaque_ports.is_empty() {
        env.push(set("OPAQUE_PORTS", port_list(&settings.opaque_ports)));
    }
    if let Some(cores) = settings.proxy_cores {
        env.push(set("CORES", cores.to_string()));
    }
    let workload = owner.map(|owner| owner.name.as_str()).filter(|name| !name.is_empty());
    env.extend(settings.journal(workload).into_iter().map(|(name, value)| set(name, value)));
    if settings.workload_api {
        env.push(set("WORKLOAD_API_SOCKET", workload_api_socket()));
    }
    env
}

fn mounts(settings: &Settings) -> Vec<Value> {
    let mount =
        |name: &str, path: &str, read_only: bool| json!({"name": name, "mountPath": path, "readOnly": read_only});
    let mut mounts = vec![
        mount(TOKEN_VOLUME, TOKEN_DIRECTORY, true),
        mount(BUNDLE_VOLUME, BUNDLE_DIRECTORY, true),
        mount(CACHE_VOLUME, CACHE_DIRECTORY, false),
    ];
    if settings.workload_api {
        mounts.push(mount(WORKLOAD_API_VOLUME, WORKLOAD_API_DIRECTORY, false));
    }
    mounts
}

/// What the proxy's mounts are of.
pub(crate) fn volumes(settings: &Settings) -> Vec<Value> {
    let token = json!({"path": "token", "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS});
    let mut volumes = vec![
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}),
        // Not optional: a pod that starts before the control plane has written it waits, and then trusts somebody.
        json!({"name": BUNDLE_VOLUME, "configMap": {"name": TRUST_BUNDLE}}),
        json!({"name": CACHE_VOLUME, "emptyDir": {"sizeLimit": CACHE_SIZE_LIMIT}}),
    ];
    if settings.workload_api {
        let directory = json!({"medium": "Memory", "sizeLimit": WORKLOAD_API_SIZE_LIMIT});
        volumes.push(json!({"name": WORKLOAD_API_VOLUME, "emptyDir": directory}));
    }
    volumes
}

/// What the application's own containers get of the Workload API: the mount and the variable.
pub(crate) fn application() -> (Value, Value) {
    let mount = json!({"name": WORKLOAD_API_VOLUME, "mountPath": WORKLOAD_API_DIRECTORY, "readOnly": true});
    (mount, json!({"name": SPIFFE_ENDPOINT_SOCKET, "value": spiffe_endpoint()}))
}

/// The value of [`SPIFFE_ENDPOINT_SOCKET`].
pub(crate) fn spiffe_endpoint() -> String {
    format!("unix://{}", workload_api_socket())
}

fn workload_api_socket() -> String {
    format!("{WORKLOAD_API_DIRECTORY}/workload.sock")
}

fn resources(resources: &Resources) -> Option<Value> {
    let amounts = |cpu, memory, storage| {
        let named = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)];
        let amount =
            |(name, amount): (&str, &Option<_>)| amount.as_ref().map(|amount| (name.to_owned(), json!(amount)));
        named.into_iter().filter_map(amount).collect::<Map<_, _>>()
    };
    let requests = amounts(&resources.cpu_request, &resources.memory_request, &resources.ephemeral_storage_request);
    let limits = amounts(&resources.cpu_limit, &resources.memory_limit, &resources.ephemeral_storage_limit);
    let said = [("requests", requests), ("limits", limits)].into_iter().filter(|(_, amounts)| !amounts.is_empty());
    let said: Map<_, _> = said.map(|(name, amounts)| (name.to_owned(), Value::Object(amounts))).collect();
    (!said.is_empty()).then_some(Value::Object(said))
}

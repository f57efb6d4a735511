//! What the proxy beside a pod is to be like: the install's say, then the namespace's, then the pod's.

pub mod annotations;
pub mod quantity;

use std::fmt;

use conduit_api::{
    PortRange, TrustDomain, VERSION,
    journal::{AccessLog, Collector, Sampling},
    redaction::Redacted,
};
use serde::{Deserialize, Serialize};

pub use self::quantity::Quantity;

/// Where released images are.
pub const REGISTRY: &str = "gcr.io/runconduit";
/// Where the proxies of a namespace's pods ask, in it and in the control plane's.
const PROXY_API_PORT: u16 = 8086;

/// How proxies are made. As the install writes them for the controllers: fields in camel case, each of which may be absent.
///
/// Fields that are not known are passed over, so that a controller of the release before reads what a newer install has written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Settings {
    /// Where the controllers run.
    pub control_plane_namespace: String,
    /// Of all identities.
    pub trust_domain: TrustDomain,
    /// What the names of Services end with.
    pub cluster_domain: String,
    /// The proxy's image; one that has neither tag nor digest gets `proxy_version` as its tag.
    pub proxy_image: String,
    /// Of the proxy, as `v0.1.0`.
    pub proxy_version: String,
    /// When a node asks the registry.
    pub image_pull_policy: ImagePullPolicy,
    /// Where connections to the application arrive.
    pub inbound_port: u16,
    /// Where the application's own connections arrive.
    pub outbound_port: u16,
    /// `/ready`, `/live`, `/metrics` and `/shutdown`.
    pub admin_port: u16,
    /// The proxy's user, whose connections are not redirected; no other program of the pod may have it.
    pub proxy_uid: u32,
    /// The proxy's group, where it is to have one.
    pub proxy_gid: Option<u32>,
    /// What it logs, as `warn,conduit_proxy=info`.
    pub proxy_log_level: String,
    /// What it is given, and what it may not exceed.
    pub resources: Resources,
    /// Ports of the pod that are not redirected.
    #[serde(deserialize_with = "ports")]
    pub skip_inbound_ports: Vec<PortRange>,
    /// Ports elsewhere that are not redirected.
    #[serde(deserialize_with = "ports")]
    pub skip_outbound_ports: Vec<PortRange>,
    /// Ports of the pod whose connections are carried as bytes.
    #[serde(deserialize_with = "ports")]
    pub opaque_ports: Vec<PortRange>,
    /// The proxy is an init container that goes on running (Kubernetes 1.29 and later): it is there before the application's own
    /// init containers, and ends after the last of the application's containers has, so that Jobs complete.
    pub native_sidecar: bool,
    /// A CNI plug-in redirects, so that pods need no privileged init container.
    pub cni: bool,
    /// The application gets its identity over the SPIFFE Workload API.
    pub workload_api: bool,
    /// Data threads; as many as the proxy thinks best where nothing is said.
    pub proxy_cores: Option<u16>,
    /// How requests to the application are logged.
    pub access_log: AccessLog,
    /// Where spans of requests go, if they go anywhere.
    pub trace_collector: Option<Collector>,
    /// Which share of the requests that nobody has decided about is traced; the proxy's own where nothing is said.
    pub trace_sampling: Option<Sampling>,
    /// Taps may see the application's messages.
    pub tap_payloads: bool,
    /// Whoever shows them leaves these fields out.
    pub tap_redact: Redacted,
}

impl Default for Settings {
    fn default() -> Self {
        let cluster = "cluster.local";
        Self {
            control_plane_namespace: "conduit".to_owned(),
            trust_domain: cluster.parse().expect("it has lower-case letters and a dot"),
            cluster_domain: cluster.to_owned(),
            proxy_image: format!("{REGISTRY}/proxy"),
            proxy_version: VERSION.to_owned(),
            image_pull_policy: ImagePullPolicy::IfNotPresent,
            inbound_port: 4143,
            outbound_port: 4140,
            admin_port: 4191,
            proxy_uid: 2102,
            proxy_gid: None,
            proxy_log_level: "warn,conduit_proxy=info".to_owned(),
            resources: Resources::default(),
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            opaque_ports: Vec::new(),
            native_sidecar: false,
            cni: false,
            workload_api: false,
            proxy_cores: None,
            access_log: AccessLog::None,
            trace_collector: None,
            trace_sampling: None,
            tap_payloads: false,
            tap_redact: Redacted::default(),
        }
    }
}

impl Settings {
    /// The image as a container has it.
    pub fn image(&self) -> String {
        if untagged(&self.proxy_image) == self.proxy_image {
            format!("{}:{}", self.proxy_image, self.proxy_version)
        } else {
            self.proxy_image.clone()
        }
    }

    /// Takes another release of the same image.
    pub fn set_version(&mut self, version: &str) {
        self.proxy_image = untagged(&self.proxy_image).to_owned();
        version.clone_into(&mut self.proxy_version);
    }

    /// What a proxy writes down of requests and may show of their messages, as variables that `proxy/src/config.rs` reads, without `CONDUIT_PROXY_`; `workload` is whose
    /// spans they are.
    pub fn journal(&self, workload: Option<&str>) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if self.access_log != AccessLog::None {
            variables.push(("ACCESS_LOG", self.access_log.to_string()));
        }
        if let Some(collector) = &self.trace_collector {
            variables.push(("TRACE_COLLECTOR", collector.to_string()));
            variables.extend(self.trace_sampling.map(|sampling| ("TRACE_SAMPLING", sampling.to_string())));
            variables.extend(workload.map(|name| ("WORKLOAD", name.to_owned())));
        }
        if self.tap_payloads {
            variables.push(("TAP_PAYLOADS", "enabled".to_owned()));
        }
        // Of heads as well, which are seen whether or not messages are.
        variables.extend((!self.tap_redact.names().is_empty()).then(|| ("TAP_REDACT", self.tap_redact.to_string())));
        variables
    }

    /// Where proxies find the control plane.
    pub fn control_url(&self) -> String {
        format!("https://proxy-api.{}.svc.{}:{PROXY_API_PORT}", self.control_plane_namespace, self.cluster_domain)
    }
}

/// Without tag and digest. A colon before the last slash belongs to the registry's port.
fn untagged(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    name[path..].find(':').map_or(name, |colon| &name[..path + colon])
}

/// What a container is given, and what it may not exceed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resources {
    /// Of CPU, as `100m`.
    pub cpu_request: Option<Quantity>,
    /// Of CPU.
    pub cpu_limit: Option<Quantity>,
    /// Of memory, as `20Mi`.
    pub memory_request: Option<Quantity>,
    /// Of memory.
    pub memory_limit: Option<Quantity>,
    /// Of the node's disk.
    pub ephemeral_storage_request: Option<Quantity>,
    /// Of the node's disk.
    pub ephemeral_storage_limit: Option<Quantity>,
}

/// When a node asks the registry for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// Each time that a container starts.
    Always,
    /// When it has none of that name.
    #[default]
    IfNotPresent,
    /// Not at all.
    Never,
}

/// None of the three.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("must be one of: Always, IfNotPresent, Never")]
pub struct ParseImagePullPolicyError;

impl std::str::FromStr for ImagePullPolicy {
    type Err = ParseImagePullPolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "Always" => Ok(Self::Always),
            "IfNotPresent" => Ok(Self::IfNotPresent),
            "Never" => Ok(Self::Never),
            _ => Err(ParseImagePullPolicyError),
        }
    }
}

impl fmt::Display for ImagePullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// As annotations have them: `25,7000-7100`.
pub(crate) fn port_list(ports: &[PortRange]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A list of numbers and ranges, or what annotations have: people write either into a values file.
fn ports<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<PortRange>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ports {
        Text(String),
        List(Vec<Port>),
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(u16),
        Text(String),
    }
    let text = match Ports::deserialize(deserializer)? {
        Ports::Text(text) => text,
        Ports::List(list) => {
            let port = |port| match port {
                Port::Number(number) => number.to_string(),
                Port::Text(text) => text,
            };
            list.into_iter().map(port).collect::<Vec<_>>().join(",")
        }
    };
    PortRange::list(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_its_tag_and_gets_one_where_it_has_none() {
        for (image, expected) in [
            ("gcr.io/runconduit/proxy", "gcr.io/runconduit/proxy:v9"),
            ("localhost:5000/proxy", "localhost:5000/proxy:v9"),
            ("localhost:5000/proxy:mine", "localhost:5000/proxy:mine"),
            ("proxy@sha256:00", "proxy@sha256:00"),
        ] {
            let mut settings =
                Settings { proxy_image: image.to_owned(), proxy_version: "v9".to_owned(), ..Settings::default() };
            assert_eq!(settings.image(), expected);
            settings.set_version("v10");
            assert!(settings.image().ends_with("proxy:v10"), "{}", settings.image());
        }
    }

    #[test]
    fn what_is_redacted_is_known_to_proxies_that_show_no_payloads() {
        let settings = Settings { tap_redact: "password".parse().unwrap(), ..Settings::default() };
        assert!(!settings.tap_payloads);
        assert_eq!(settings.journal(None), [("TAP_REDACT", "password".to_owned())]);
    }

    #[test]
    fn an_install_writes_what_it_wants_to_be_different() {
        let yaml = "trustDomain: example.org\nskipInboundPorts: [25, 7000-7100]\nopaquePorts: 3306\nopaquePort: 1\n";
        assert!(serde_yaml_ng::from_str::<Settings>(yaml).is_err(), "a number is no list");
        let yaml = "trustDomain: example.org\nskipInboundPorts: [25, 7000-7100]\nopaquePorts: '3306'\nresources: {cpuLimit: '1'}\nnew: 1";
        let settings: Settings = serde_yaml_ng::from_str(yaml).unwrap();
        assert_eq!(port_list(&settings.skip_inbound_ports), "25,7000-7100");
        assert_eq!(port_list(&settings.opaque_ports), "3306");
        assert_eq!(settings.control_url(), "https://proxy-api.conduit.svc.cluster.local:8086");
        let written = serde_yaml_ng::to_string(&settings).unwrap();
        assert_eq!(serde_yaml_ng::from_str::<Settings>(&written).unwrap(), settings);
        for wrong in ["resources: {cpuLimit: lots}", "skipInboundPorts: [smtp]", "imagePullPolicy: Sometimes"] {
            assert!(serde_yaml_ng::from_str::<Settings>(wrong).is_err(), "{wrong}");
        }
    }
}

//! What a proxy is told when it starts: environment variables, as a pod's manifest sets them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use conduit_api::{
    PodName, PortRange, TrustDomain,
    journal::{AccessLog, Collector, Sampling},
};

use crate::{original::OriginalDestination, tap::payload::Payloads};

/// More data threads than this help nobody beside one application instance.
const CORES_MAX: usize = 16;
/// Threads when nothing is said: the second one halves the tail (p99 through two proxies, `bench/latency.sh`) for 0.3 MB, and more
/// would crowd out the application.
const CORES_DEFAULT: usize = 2;

/// One proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pod that it is beside.
    pub pod: PodName,
    /// The pod's address; connections to it do not leave the pod.
    pub pod_ip: IpAddr,
    /// `host:port` of replicas of the control plane; any will do.
    pub controllers: Vec<String>,
    /// Of all identities in this mesh.
    pub trust_domain: TrustDomain,
    /// The roots to trust at the first start, PEM.
    pub trust_anchors: PathBuf,
    /// Proof of the workload's identity; read again whenever it is used.
    pub token: PathBuf,
    /// Where the application's outgoing connections arrive.
    pub outbound: SocketAddr,
    /// Where connections to the application arrive.
    pub inbound: SocketAddr,
    /// `/ready`, `/live` and `/metrics`.
    pub metrics: SocketAddr,
    /// Where connections that arrive were going to.
    pub original: OriginalDestination,
    /// Set on every connection that the proxy makes, where it cannot be told from the application by its user.
    pub socket_mark: Option<u32>,
    /// Where what is known is kept for a restart without a control plane.
    pub cache: Option<PathBuf>,
    /// The unix socket on which the application gets its identity.
    pub workload_api: Option<PathBuf>,
    /// Ports of the application whose connections are carried as bytes, whatever they look like.
    pub opaque_ports: Vec<PortRange>,
    /// How requests to the application are logged.
    pub access_log: AccessLog,
    /// Where to, if not to standard output.
    pub access_log_file: Option<PathBuf>,
    /// Where spans of requests go, if they go anywhere.
    pub trace_collector: Option<Collector>,
    /// Which share of the requests that nobody has decided about is traced.
    pub trace_sampling: Sampling,
    /// What taps may see of the application's messages.
    pub payloads: Payloads,
    /// The name of the workload, if the pod has one.
    pub workload: Option<String>,
    /// Data threads.
    pub cores: usize,
}

/// A variable that is missing, or not what it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Not set.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// Set to something else.
    #[error("{name}: `{value}` is not {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Config {
    /// From `variable`, which looks one up.
    ///
    /// # Errors
    /// For the first variable that is missing or wrong.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let env = Env { variable };
        let namespace: String = env.required("CONDUIT_PROXY_POD_NAMESPACE", "a namespace")?;
        let name: String = env.required("CONDUIT_PROXY_POD_NAME", "a pod's name")?;
        let pod = PodName::new(&namespace, &name).map_err(|_| ConfigError::Invalid {
            name: "CONDUIT_PROXY_POD_NAME",
            value: name,
            expected: "a pod's name",
        })?;
        let controllers: String = env.required("CONDUIT_PROXY_CONTROL_URL", "a list of addresses")?;
        Ok(Self {
            pod,
            pod_ip: env.required("CONDUIT_PROXY_POD_IP", "an IP address")?,
            controllers: controllers.split(',').map(|url| host_port(url).to_owned()).collect(),
            trust_domain: env.required("CONDUIT_PROXY_TRUST_DOMAIN", "a trust domain")?,
            trust_anchors: env.required("CONDUIT_PROXY_TRUST_ANCHORS_FILE", "a path")?,
            token: env.required("CONDUIT_PROXY_IDENTITY_TOKEN_FILE", "a path")?,
            outbound: env.address("CONDUIT_PROXY_PRIVATE_LISTENER", ([127, 0, 0, 1], 4140))?,
            inbound: env.address("CONDUIT_PROXY_PUBLIC_LISTENER", ([0, 0, 0, 0], 4143))?,
            metrics: env.address("CONDUIT_PROXY_METRICS_LISTENER", ([0, 0, 0, 0], 4191))?,
            original: env
                .optional("CONDUIT_PROXY_ORIGINALS", "a table, as in 127.0.0.1:4140=10.96.0.1:80,...")?
                .unwrap_or(OriginalDestination::Kernel),
            socket_mark: env.optional("CONDUIT_PROXY_SOCKET_MARK", "a number")?.map(|Mark(mark)| mark),
            cache: env.optional("CONDUIT_PROXY_CACHE_FILE", "a path")?,
            workload_api: env.optional("CONDUIT_PROXY_WORKLOAD_API_SOCKET", "a path")?,
            opaque_ports: env.ports("CONDUIT_PROXY_OPAQUE_PORTS")?,
            access_log: env.optional("CONDUIT_PROXY_ACCESS_LOG", "text, json or none")?.unwrap_or_default(),
            access_log_file: env.optional("CONDUIT_PROXY_ACCESS_LOG_FILE", "a path")?,
            trace_collector: env.optional("CONDUIT_PROXY_TRACE_COLLECTOR", "host:port or http://host:port")?,
            trace_sampling: env
                .optional("CONDUIT_PROXY_TRACE_SAMPLING", "a share from 0.0 to 1.0")?
                .unwrap_or_default(),
            payloads: env
                .optional::<Payloads>("CONDUIT_PROXY_TAP_PAYLOADS", "enabled or disabled")?
                .unwrap_or_default()
                .redacting(
                    env.optional("CONDUIT_PROXY_TAP_REDACT", "a list of fields, as in password,card.number")?
                        .unwrap_or_default(),
                ),
            workload: env.optional("CONDUIT_PROXY_WORKLOAD", "a name")?,
            cores: env.optional("CONDUIT_PROXY_CORES", "a number")?.unwrap_or_else(default_cores).clamp(1, CORES_MAX),
        })
    }
}

fn default_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(CORES_DEFAULT)
}

/// `tcp://` and `https://` are how these variables have been written since 2018; the scheme says nothing new.
fn host_port(url: &str) -> &str {
    url.trim().split_once("://").map_or(url.trim(), |(_, rest)| rest).trim_end_matches('/')
}

/// Decimal, or hexadecimal with `0x`.
struct Mark(u32);

impl FromStr for Mark {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.strip_prefix("0x").map_or_else(|| s.parse(), |hex| u32::from_str_radix(hex, 16)).map(Self)
    }
}

struct Env<V> {
    variable: V,
}

impl<V: Fn(&str) -> Option<String>> Env<V> {
    fn optional<T: FromStr>(&self, name: &'static str, expected: &'static str) -> Result<Option<T>, ConfigError> {
        let Some(value) = (self.variable)(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| ConfigError::Invalid { name, value, expected })
    }

    fn required<T: FromStr>(&self, name: &'static str, expected: &'static str) -> Result<T, ConfigError> {
        self.optional(name, expected)?.ok_or(ConfigError::Missing(name))
    }

    fn ports(&self, name: &'static str) -> Result<Vec<PortRange>, ConfigError> {
        let value = (self.variable)(name).unwrap_or_default();
        let expected = "a list of ports and ranges, as in 25,7000-7100";
        PortRange::list(&value).map_err(|_| ConfigError::Invalid { name, value, expected })
    }

    fn address(&self, name: &'static str, default: ([u8; 4], u16)) -> Result<SocketAddr, ConfigError> {
        let Some(value) = (self.variable)(name) else { return Ok(default.into()) };
        host_port(&value).parse().map_err(|_| ConfigError::Invalid { name, value, expected: "an address and a port" })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("CONDUIT_PROXY_POD_NAMESPACE", "emojivoto"),
            ("CONDUIT_PROXY_POD_NAME", "web-0"),
            ("CONDUIT_PROXY_POD_IP", "10.244.1.1"),
            ("CONDUIT_PROXY_CONTROL_URL", "https://10.244.0.10:8086, 10.244.0.11:8086"),
            ("CONDUIT_PROXY_TRUST_DOMAIN", "cluster.local"),
            ("CONDUIT_PROXY_TRUST_ANCHORS_FILE", "/anchors.pem"),
            ("CONDUIT_PROXY_IDENTITY_TOKEN_FILE", "/token"),
        ])
    }

    fn parse(variables: &BTreeMap<&str, &str>) -> Result<Config, ConfigError> {
        Config::from_env(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn what_is_not_said_has_its_usual_value() {
        let config = parse(&variables()).unwrap();
        assert_eq!(config.controllers, ["10.244.0.10:8086", "10.244.0.11:8086"]);
        assert_eq!(config.outbound.to_string(), "127.0.0.1:4140");
        assert_eq!(config.socket_mark, None);
        assert!(!config.payloads.is_enabled());
        assert!(config.cores >= 1);
    }

    #[test]
    fn what_is_said_is_taken() {
        let mut variables = variables();
        variables.insert("CONDUIT_PROXY_PUBLIC_LISTENER", "tcp://0.0.0.0:5143");
        variables.insert("CONDUIT_PROXY_SOCKET_MARK", "0x2102");
        variables.insert("CONDUIT_PROXY_CORES", "1");
        variables.insert("CONDUIT_PROXY_ACCESS_LOG", "apache");
        variables.insert("CONDUIT_PROXY_TRACE_COLLECTOR", "http://otel.shop");
        variables.insert("CONDUIT_PROXY_TRACE_SAMPLING", "0.5");
        variables.insert("CONDUIT_PROXY_TAP_PAYLOADS", "enabled");
        variables.insert("CONDUIT_PROXY_TAP_REDACT", "password");
        let config = parse(&variables).unwrap();
        assert!(config.payloads.is_enabled());
        assert_eq!(config.payloads.redact(), ["password"]);
        assert_eq!((config.access_log, config.trace_sampling.share()), (AccessLog::Text, 0.5));
        assert_eq!(config.trace_collector.unwrap().to_string(), "http://otel.shop:4318");
        assert_eq!((config.inbound.port(), config.socket_mark, config.cores), (5143, Some(0x2102), 1));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for name in variables().keys() {
            let mut without = variables();
            without.remove(name);
            assert_eq!(parse(&without).unwrap_err(), ConfigError::Missing(name));
        }
        for name in [
            "CONDUIT_PROXY_POD_IP",
            "CONDUIT_PROXY_SOCKET_MARK",
            "CONDUIT_PROXY_METRICS_LISTENER",
            "CONDUIT_PROXY_OPAQUE_PORTS",
            "CONDUIT_PROXY_ORIGINALS",
            "CONDUIT_PROXY_ACCESS_LOG",
            "CONDUIT_PROXY_TRACE_SAMPLING",
            "CONDUIT_PROXY_TRACE_COLLECTOR",
            "CONDUIT_PROXY_TAP_PAYLOADS",
            "CONDUIT_PROXY_TAP_REDACT",
        ] {
            let mut wrong = variables();
            wrong.insert(name, "non/sense");
            assert!(parse(&wrong).unwrap_err().to_string().contains("`non/sense`"), "{name}");
        }
    }
}

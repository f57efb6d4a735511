//! What a replica is told when it starts.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use conduit_api::TrustDomain;

use crate::{
    alerts::{
        Windows,
        sender::{Address, Webhook},
    },
    authority::roots::OwnFiles,
    platform::{
        Platform,
        failing::Failing,
        kubernetes::{Kubernetes, unmeshed::Mode},
        local::LocalFiles,
        metrics::PlatformMetrics,
    },
};

/// Raft, and what replicas ask of each other.
pub const PEER_PORT: u16 = 8300;
/// `proxy-api`: discovery, identity, telemetry and tap for proxies.
pub const PROXY_API_PORT: u16 = 8086;
/// `api`: the public API.
pub const API_PORT: u16 = 8085;
/// What the Kubernetes API server asks of pods that are about to be made.
pub const WEBHOOK_PORT: u16 = 8443;
/// `web`: the dashboard's pages, in Kubernetes.
pub const WEB_PORT: u16 = 8084;
/// `/live`, `/ready` and `/metrics`.
pub const ADMIN_PORT: u16 = 9990;

/// One replica of Conduit's control plane.
#[derive(Clone, Debug, Parser)]
#[command(name = "conduit-controller", version)]
pub struct Config {
    /// The replica's stable name, e.g. controller-0.
    #[arg(long)]
    pub name: String,

    /// Where the log and the snapshots are kept; one replica to a directory.
    #[arg(long)]
    pub data_dir: PathBuf,

    /// The 32-byte seed, in hexadecimal, that all replicas of this control plane share.
    #[arg(long, required_unless_present = "kubernetes")]
    pub seed_file: Option<PathBuf>,

    /// The trust domain of every identity this control plane issues.
    #[arg(long, default_value = "cluster.local")]
    pub trust_domain: TrustDomain,

    /// All replicas, this one included: name=host:port,...
    #[arg(long, value_delimiter = ',', required = true)]
    pub peers: Vec<PeerAddress>,

    /// The address to listen on.
    #[arg(long)]
    pub listen_ip: IpAddr,

    /// A unix socket to serve the public API on, for callers on this machine.
    #[arg(long)]
    pub api_socket: Option<PathBuf>,

    /// The mesh is the cluster of Kubernetes that this runs in, or that --kubeconfig tells of: it says what runs, keeps seed and root, and has
    /// the trust bundle in all its namespaces.
    #[arg(long)]
    pub kubernetes: bool,

    /// The namespace of this control plane, in Kubernetes.
    #[arg(long, default_value = "conduit")]
    pub namespace: String,

    /// How proxies are made that are added to pods, YAML; without it, none are.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub injection_file: Option<PathBuf>,

    /// What is done about pods that should have a proxy and have none: report, or evict, so that they are made anew.
    #[arg(long, value_name = "report|evict", default_value = "report")]
    pub repair_pods: Mode,

    /// What runs in the local mesh, as its supervisor writes it.
    #[arg(long, required_unless_present = "kubernetes")]
    pub platform_file: Option<PathBuf>,

    /// Created by the one replica that starts the control plane, so that no second one ever does.
    #[arg(long, required_unless_present = "kubernetes")]
    pub bootstrap_gate: Option<PathBuf>,

    /// Where to write the roots that proxies trust at their first start.
    #[arg(long)]
    pub trust_bundle_file: Option<PathBuf>,

    /// Where the trust root is kept, sealed, for the day on which the disks of all replicas are lost.
    #[arg(long)]
    pub root_backup_file: Option<PathBuf>,

    /// How long a trust root that this control plane makes is valid; it is followed by the next one when 80 % of that are over.
    #[arg(long, default_value = "87600h", value_parser = humantime::parse_duration)]
    pub root_lifetime: Duration,

    /// Your own issuer instead of a trust root that is made: its certificate, and those between it and a trust anchor, PEM.
    #[arg(long, requires = "identity_issuer_key_file")]
    pub identity_issuer_certificate_file: Option<PathBuf>,

    /// The key of your own issuer: ECDSA P-256, PEM.
    #[arg(long, requires = "identity_issuer_certificate_file")]
    pub identity_issuer_key_file: Option<PathBuf>,

    /// What is to be trusted, if your own issuer is not a root itself: certificates, PEM.
    #[arg(long, requires = "identity_issuer_certificate_file")]
    pub identity_trust_anchors_file: Option<PathBuf>,

    /// Instead of launch tokens: workloads prove themselves by projected ServiceAccount tokens for this audience, which the Kubernetes API
    /// server reviews.
    #[arg(long, value_name = "AUDIENCE")]
    pub service_account_audience: Option<String>,

    /// Where the Kubernetes API server is, outside of its cluster.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Certificates a second that are signed for one identity by this replica.
    #[arg(long, default_value = "500")]
    pub certify_rate_per_identity: NonZeroU32,

    /// Certificates a second that are signed for each core of this replica.
    #[arg(long, default_value = "2000")]
    pub certify_rate_per_core: NonZeroU32,

    /// To see what comes of it: this replica's clock is off by so many seconds.
    #[arg(long, default_value_t = 0, hide = true, allow_hyphen_values = true)]
    pub clock_shift_seconds: i64,

    /// How long a workload's certificate is valid.
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    pub leaf_lifetime: Duration,

    /// How long a replica's own issuing certificate is valid.
    #[arg(long, default_value = "7d", value_parser = humantime::parse_duration)]
    pub intermediate_lifetime: Duration,

    /// The shortest of the four windows over which objectives are judged; the others are 2, 6 and 12 times as long.
    #[arg(long, default_value = "5m", env = "CONDUIT_CONTROLLER_ALERT_WINDOW")]
    pub alert_window: Windows,

    /// Who is told when an objective is not kept, and when it is kept again: http://HOST/PATH, https://HOST/PATH or unix:/PATH; or file:/PATH, a file
    /// with one of these, which may be a secret.
    #[arg(
        long,
        value_name = "URL",
        requires = "alert_webhook_secret_file",
        env = "CONDUIT_CONTROLLER_ALERT_WEBHOOK",
        hide_env_values = true
    )]
    pub alert_webhook: Option<Address>,

    /// What such messages are signed with.
    #[arg(long, value_name = "FILE", env = "CONDUIT_CONTROLLER_ALERT_WEBHOOK_SECRET_FILE")]
    pub alert_webhook_secret_file: Option<PathBuf>,

    /// What the webhook's certificate is verified by, PEM, instead of what the system trusts, if there is such a file.
    #[arg(long, value_name = "FILE", env = "CONDUIT_CONTROLLER_ALERT_WEBHOOK_CA_FILE")]
    pub alert_webhook_ca_file: Option<PathBuf>,

    /// What to log: a level, or directives as `tracing` takes them.
    #[arg(long, default_value = "info,openraft=off", env = "CONDUIT_CONTROLLER_LOG")]
    pub log: String,
}

impl Config {
    /// Where this replica listens on `port`.
    pub fn listen(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.listen_ip, port)
    }

    /// What the API server knows replicas by: the Services through which it asks them.
    pub fn dns_names(&self) -> Vec<String> {
        match self.kubernetes {
            true => ["webhook", "api"].map(|service| format!("{service}.{}.svc", self.namespace)).to_vec(),
            false => Vec::new(),
        }
    }

    /// The address at which the other replicas reach this one.
    ///
    /// # Errors
    /// When `--peers` does not name this replica.
    pub fn own_address(&self) -> anyhow::Result<&str> {
        let own = self.peers.iter().find(|peer| peer.name == self.name);
        own.map(|peer| peer.address.as_str())
            .ok_or_else(|| anyhow::anyhow!("--peers does not name this replica, `{}`: add {0}=host:port", self.name))
    }

    /// The platform that this replica's mesh is on.
    ///
    /// # Errors
    /// When it is not said where that is.
    pub async fn platform(&self, metrics: &PlatformMetrics, failing: &Failing) -> anyhow::Result<Arc<dyn Platform>> {
        if self.kubernetes {
            return Ok(Arc::new(Kubernetes::new(self, metrics.clone(), failing.clone()).await?));
        }
        let required = |path: &Option<PathBuf>, flag| path.clone().with_context(|| format!("{flag} is missing"));
        Ok(Arc::new(LocalFiles {
            inventory: required(&self.platform_file, "--platform-file")?,
            seed: required(&self.seed_file, "--seed-file")?,
            gate: required(&self.bootstrap_gate, "--bootstrap-gate")?,
            root: self.root_backup_file.clone(),
            trust_bundle: self.trust_bundle_file.clone(),
        }))
    }

    /// The user's own issuer, if there is one.
    pub fn own_issuer(&self) -> Option<OwnFiles> {
        Some(OwnFiles {
            certificates: self.identity_issuer_certificate_file.clone()?,
            key: self.identity_issuer_key_file.clone()?,
            anchors: self.identity_trust_anchors_file.clone(),
        })
    }

    /// Who is told of alerts, if anybody is.
    pub fn alert_webhook(&self) -> Option<Webhook> {
        Some(Webhook {
            address: self.alert_webhook.clone()?,
            secret: self.alert_webhook_secret_file.clone()?,
            authorities: self.alert_webhook_ca_file.clone(),
        })
    }

    /// The addresses of the others.
    pub fn other_addresses(&self) -> Vec<String> {
        self.peers.iter().filter(|peer| peer.name != self.name).map(|peer| peer.address.clone()).collect()
    }
}

/// `name=host:port`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The replica's name.
    pub name: String,
    /// `host:port` of its Raft port; the host is resolved at every connection.
    pub address: String,
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("`{s}` is not name=host:port");
        let (name, address) = s.split_once('=').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        if name.is_empty() || host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), address: address.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_name_host_port() {
        let peer: PeerAddress = "controller-0=[fd00::1]:8300".parse().unwrap();
        assert_eq!((peer.name.as_str(), peer.address.as_str()), ("controller-0", "[fd00::1]:8300"));
        for bad in ["", "controller-0", "=a:1", "a=:1", "a=b", "a=b:x", "a=b:70000"] {
            assert!(bad.parse::<PeerAddress>().is_err(), "{bad}");
        }
    }
}

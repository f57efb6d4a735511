//! What `conduit install` is told, and what values that comes to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::{AssignmentError, Manifest, RenderError, Values, ValuesError, render};

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// What was typed, and what it is to the controllers: the first two are from before Conduit was written in Rust.
const LOG_LEVELS: [(&str, &str); 6] = [
    ("panic", "error"),
    ("fatal", "error"),
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
];

/// The flags. What is not given is as in the chart's values.yaml; `--values` comes before flags, and `--set` behind them.
#[derive(Args, Clone, Debug, Default)]
pub struct Install {
    /// Run so many controllers on different nodes, so that any one of them may fail [default: 3]
    #[arg(long, value_name = "3|5", num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    pub ha: Option<String>,
    /// Tag of the images
    #[arg(short = 'v', long, value_name = "TAG")]
    pub conduit_version: Option<String>,
    /// Where the images come from [default: gcr.io/runconduit]
    #[arg(long)]
    pub registry: Option<String>,
    /// When nodes ask for images that they have [default: IfNotPresent]
    #[arg(long, value_name = "Always|IfNotPresent|Never")]
    pub image_pull_policy: Option<String>,
    /// What controllers log: panic, fatal, error, warn, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub controller_log_level: Option<String>,
    /// Where controllers keep the Raft log: pvc, or emptydir for as long as the pod lives [default: pvc]
    #[arg(long, value_name = "pvc|emptydir")]
    pub raft_storage: Option<String>,
    /// Image of the proxy [default: proxy, of the registry and the version]
    #[arg(long, value_name = "IMAGE")]
    pub proxy_image: Option<String>,
    /// What proxies log: a level, or directives [default: warn,conduit_proxy=info]
    #[arg(long, value_name = "DIRECTIVES")]
    pub proxy_log_level: Option<String>,
    /// User that proxies run as [default: 2102]
    #[arg(long, value_name = "UID")]
    pub proxy_uid: Option<u32>,
    /// Processor time that a proxy is sure of
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_cpu_request: Option<String>,
    /// Processor time that a proxy gets at most
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_cpu_limit: Option<String>,
    /// Memory that a proxy is sure of
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_memory_request: Option<String>,
    /// Memory that a proxy gets at most
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_memory_limit: Option<String>,
    /// Without Prometheus, and with it Grafana: yours scrapes the mesh, or nobody does
    #[arg(long)]
    pub without_prometheus: bool,
    /// Pods' traffic is redirected by a CNI plugin, which comes with this, and not by init containers with NET_ADMIN
    #[arg(long, visible_alias = "linkerd-cni-enabled")]
    pub cni: bool,
    /// Without Grafana and its dashboards
    #[arg(long)]
    pub without_grafana: bool,
    /// Your own issuer instead of a root that is made: its certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub identity_issuer_certificate_file: Option<PathBuf>,
    /// The key of your own issuer: ECDSA P-256, PEM
    #[arg(long, value_name = "FILE")]
    pub identity_issuer_key_file: Option<PathBuf>,
    /// What is to be trusted with your own issuer: certificates, PEM
    #[arg(long, value_name = "FILE")]
    pub identity_trust_anchors_file: Option<PathBuf>,
    /// The trust domain of every identity in the mesh [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub identity_trust_domain: Option<String>,
    /// The domain that the cluster's DNS serves [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// How mutual TLS is used: always, whatever is given here
    #[arg(long, hide = true)]
    pub tls: Option<String>,
    /// Values of the chart, YAML; several are laid over each other in order
    #[arg(long, value_name = "FILE")]
    pub values: Vec<PathBuf>,
    /// Values of the chart: a.b=c,d=e
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The same, and all of them text
    #[arg(long, value_name = "KEY=VALUE")]
    pub set_string: Vec<String>,
    /// What to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Documents with comments.
    #[default]
    Yaml,
    /// One List.
    Json,
}

impl Output {
    /// The text of `manifest`.
    pub fn of(self, manifest: &Manifest) -> String {
        match self {
            Self::Yaml => manifest.yaml().to_owned(),
            Self::Json => manifest.json(),
        }
    }
}

/// Why nothing is printed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// A flag has a value of a few, and was given another.
    #[error("--{flag} must be {choices}")]
    Choice {
        /// The flag.
        flag: &'static str,
        /// What it may be.
        choices: String,
    },
    /// A part of one's own issuer is missing.
    #[error("--{0} is missing: an issuer of your own is its certificate, its key and what is to be trusted, all three")]
    Issuer(&'static str),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What a file of values says is not understood.
    #[error("{}: {source}", path.display())]
    ValuesFile {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: ValuesError,
    },
    /// `--set` is not understood.
    #[error("--set: {0}")]
    Assignment(#[from] AssignmentError),
    /// The values do not exist, or cannot be that.
    #[error(transparent)]
    Values(#[from] ValuesError),
    /// They cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl Install {
    /// What is to be printed for an installation in `namespace`. Reads the files that are named, and nothing else.
    ///
    /// # Errors
    /// Names the flag, the file or the value that cannot be.
    pub fn print(&self, namespace: &str) -> Result<String, InstallError> {
        let manifest = self.manifest(namespace)?;
        Ok(self.output.of(&manifest))
    }

    /// All objects of an installation in `namespace`.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub fn manifest(&self, namespace: &str) -> Result<Manifest, InstallError> {
        Ok(render(&self.values(Values::defaults())?, namespace)?)
    }

    /// The values that the flags come to, laid over `values`, and checked.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub fn values(&self, mut values: Values) -> Result<Values, InstallError> {
        self.check_choices()?;
        // kubectl makes no namespace by itself.
        values.put("createNamespace", true);
        if self.ha.is_some() {
            values.make_highly_available();
        }
        for path in &self.values {
            let refused = |source| InstallError::ValuesFile { path: path.clone(), source };
            values.merge(&read(path)?).map_err(refused)?;
        }
        self.put_flags(&mut values);
        self.put_issuer(&mut values)?;
        self.set.iter().try_for_each(|assignments| values.assign(assignments))?;
        self.set_string.iter().try_for_each(|assignments| values.assign_text(assignments))?;
        values.check()?;
        Ok(values)
    }

    fn check_choices(&self) -> Result<(), InstallError> {
        one_of("ha", self.ha.as_deref(), &["3", "5"])?;
        one_of("image-pull-policy", self.image_pull_policy.as_deref(), &PULL_POLICIES)?;
        one_of("controller-log-level", self.controller_log_level.as_deref(), &LOG_LEVELS.map(|(level, _)| level))?;
        one_of("raft-storage", self.raft_storage.as_deref(), &["pvc", "emptydir"])?;
        if !matches!(self.tls.as_deref(), None | Some("" | "optional")) {
            return Err(InstallError::Choice { flag: "tls", choices: "blank or set to \"optional\"".to_owned() });
        }
        Ok(())
    }

    fn put_flags(&self, values: &mut Values) {
        let level = self.controller_log_level.as_deref();
        let level = LOG_LEVELS.into_iter().find(|(typed, _)| Some(*typed) == level).map(|(_, level)| level.to_owned());
        for (path, flag) in [
            ("conduitVersion", &self.conduit_version),
            ("registry", &self.registry),
            ("imagePullPolicy", &self.image_pull_policy),
            ("clusterDomain", &self.cluster_domain),
            ("controller.logLevel", &level),
            ("controller.storage", &self.raft_storage),
            ("identity.trustDomain", &self.identity_trust_domain),
            ("proxy.image", &self.proxy_image),
            ("proxy.logLevel", &self.proxy_log_level),
            ("proxy.resources.cpuRequest", &self.proxy_cpu_request),
            ("proxy.resources.cpuLimit", &self.proxy_cpu_limit),
            ("proxy.resources.memoryRequest", &self.proxy_memory_request),
            ("proxy.resources.memoryLimit", &self.proxy_memory_limit),
        ] {
            flag.iter().for_each(|flag| values.put(path, flag.as_str()));
        }
        self.proxy_uid.iter().for_each(|uid| values.put("proxy.uid", *uid));
        match self.ha.as_deref() {
            Some("5") => values.put("controller.replicas", 5),
            Some(_) => values.put("controller.replicas", 3),
            None => {}
        }
        if self.cni {
            values.put("cni.enabled", true);
        }
        if self.without_prometheus {
            values.put("prometheus.enabled", false);
        }
        if self.without_grafana {
            values.put("grafana.enabled", false);
        }
    }

    fn put_issuer(&self, values: &mut Values) -> Result<(), InstallError> {
        let files = [
            ("identity-issuer-certificate-file", "identity.issuerCertificate", &self.identity_issuer_certificate_file),
            ("identity-issuer-key-file", "identity.issuerKey", &self.identity_issuer_key_file),
            ("identity-trust-anchors-file", "identity.trustAnchors", &self.identity_trust_anchors_file),
        ];
        if files.iter().all(|(_, _, file)| file.is_none()) {
            return Ok(());
        }
        for (flag, path, file) in files {
            values.put(path, read(file.as_ref().ok_or(InstallError::Issuer(flag))?)?);
        }
        Ok(())
    }
}

fn one_of(flag: &'static str, given: Option<&str>, choices: &[&str]) -> Result<(), InstallError> {
    if given.is_none_or(|given| choices.contains(&given)) {
        return Ok(());
    }
    Err(InstallError::Choice { flag, choices: format!("one of: {}", choices.join(", ")) })
}

fn read(path: &Path) -> Result<String, InstallError> {
    fs::read_to_string(path).map_err(|source| InstallError::File { path: path.to_owned(), source })
}

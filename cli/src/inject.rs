//! `conduit inject` and `conduit uninject`: manifests in, manifests out.

use std::{
    fs,
    io::{Read as _, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use conduit_api::{
    PortRange,
    journal::{AccessLog, Collector, Sampling},
};
use conduit_inject::{
    Manifest, Namespaces, Outcome, Output, Report, Settings, Skip, report,
    settings::{ImagePullPolicy, Quantity},
};

use crate::{fetch, global::Global};

/// What is read of one file or URL; nobody has more by purpose.
const BYTES_MAX: u64 = 256 << 20;
/// A manifest that has not come by then does not come.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// What proxies are to be like.
#[derive(Debug, clap::Args)]
pub struct InjectArgs {
    /// Files, directories, URLs; - is standard input
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// Ports of the pods that are not redirected to the proxy, and ranges of them: 80,7000-7100
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_inbound_ports: Vec<PortRange>,
    /// Ports elsewhere that are not redirected to the proxy
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<PortRange>,
    /// Ports of the pods whose connections are carried as bytes
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    opaque_ports: Vec<PortRange>,
    /// The proxy is an init container that goes on running: it is there before the pod's own ones, and Jobs end (Kubernetes 1.29
    /// and later)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    native_sidecar: bool,
    /// A CNI plug-in redirects: without an init container that does
    #[arg(long)]
    cni: bool,
    /// Image of the proxy
    #[arg(long, value_name = "IMAGE")]
    proxy_image: Option<String>,
    /// Tag of the proxy's image
    #[arg(short = 'v', long, value_name = "TAG")]
    conduit_version: Option<String>,
    /// Where the image comes from
    #[arg(long)]
    registry: Option<String>,
    /// When nodes ask for an image that they have: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<ImagePullPolicy>,
    /// What the proxy logs: a level, or directives
    #[arg(long, value_name = "DIRECTIVES")]
    proxy_log_level: Option<String>,
    /// How requests to the pods are logged: text (or apache), json or none
    #[arg(long, value_name = "FORMAT")]
    access_log: Option<AccessLog>,
    /// Where spans of requests go: host:port for OTLP over gRPC, http://host:port for OTLP over HTTP
    #[arg(long, value_name = "ADDRESS")]
    trace_collector: Option<Collector>,
    /// Which share of the requests that nobody has decided about is traced, from 0.0 to 1.0 [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    trace_sampling: Option<Sampling>,
    /// User that the proxy runs as
    #[arg(long, value_name = "UID")]
    proxy_uid: Option<u32>,
    /// Processor time that the proxy is sure of
    #[arg(long, value_name = "QUANTITY")]
    proxy_cpu_request: Option<Quantity>,
    /// Processor time that the proxy gets at most
    #[arg(long, value_name = "QUANTITY")]
    proxy_cpu_limit: Option<Quantity>,
    /// Memory that the proxy is sure of
    #[arg(long, value_name = "QUANTITY")]
    proxy_memory_request: Option<Quantity>,
    /// Memory that the proxy gets at most
    #[arg(long, value_name = "QUANTITY")]
    proxy_memory_limit: Option<Quantity>,
    /// Port of the proxy that connections to the pod are redirected to
    #[arg(long, value_name = "PORT")]
    inbound_port: Option<u16>,
    /// Port of the proxy that connections from the pod are redirected to
    #[arg(long, value_name = "PORT")]
    outbound_port: Option<u16>,
    /// The trust domain of the mesh
    #[arg(long, value_name = "DOMAIN")]
    identity_trust_domain: Option<conduit_api::TrustDomain>,
    /// The domain that the cluster's DNS serves
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// End with 2 if a workload gets no proxy, or something should be known of one
    #[arg(long)]
    fail_on_warning: bool,
}

/// What to take proxies away from.
#[derive(Debug, clap::Args)]
pub struct UninjectArgs {
    /// Files, directories, URLs; - is standard input
    #[arg(value_name = "FILE")]
    files: Vec<String>,
}

impl InjectArgs {
    fn settings(&self, global: &Global) -> Settings {
        let mut settings =
            Settings { control_plane_namespace: global.conduit_namespace().to_owned(), ..Settings::default() };
        if let Some(registry) = &self.registry {
            settings.proxy_image = format!("{}/proxy", registry.trim_end_matches('/'));
        }
        if let Some(image) = &self.proxy_image {
            settings.proxy_image.clone_from(image);
        }
        if let Some(version) = &self.conduit_version {
            settings.set_version(version);
        }
        let set = |setting: &mut String, flag: &Option<String>| {
            if let Some(value) = flag {
                setting.clone_from(value);
            }
        };
        set(&mut settings.proxy_log_level, &self.proxy_log_level);
        set(&mut settings.cluster_domain, &self.cluster_domain);
        settings.image_pull_policy = self.image_pull_policy.unwrap_or(settings.image_pull_policy);
        settings.proxy_uid = self.proxy_uid.unwrap_or(settings.proxy_uid);
        settings.inbound_port = self.inbound_port.unwrap_or(settings.inbound_port);
        settings.outbound_port = self.outbound_port.unwrap_or(settings.outbound_port);
        if let Some(trust_domain) = &self.identity_trust_domain {
            settings.trust_domain = trust_domain.clone();
        }
        settings.resources.cpu_request.clone_from(&self.proxy_cpu_request);
        settings.resources.cpu_limit.clone_from(&self.proxy_cpu_limit);
        settings.resources.memory_request.clone_from(&self.proxy_memory_request);
        settings.resources.memory_limit.clone_from(&self.proxy_memory_limit);
        settings.skip_inbound_ports.clone_from(&self.skip_inbound_ports);
        settings.skip_outbound_ports.clone_from(&self.skip_outbound_ports);
        settings.opaque_ports.clone_from(&self.opaque_ports);
        settings.access_log = self.access_log.unwrap_or_default();
        settings.trace_collector.clone_from(&self.trace_collector);
        settings.trace_sampling = self.trace_sampling;
        (settings.native_sidecar, settings.cni) = (self.native_sidecar, self.cni);
        settings
    }
}

/// Adds the proxy to all that is described in the files; whether nothing kept a workload from having one, as far as that was asked.
///
/// # Errors
/// With file, line and column. Nothing is printed then.
pub fn inject(
    args: &InjectArgs,
    global: &Global,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<bool> {
    let settings = args.settings(global);
    let texts = read(&args.files)?;
    let manifests = texts.iter().map(|text| Ok((text, text.parse()?))).collect::<anyhow::Result<Vec<_>>>()?;
    // A namespace may be described in another file than what is in it.
    let mut namespaces = Namespaces::default();
    manifests.iter().for_each(|(_, manifest)| namespaces.add(manifest));
    let outputs = manifests.iter().map(|(text, manifest)| {
        manifest.inject(&settings, &namespaces).with_context(|| format!("Error injecting conduit proxy: {}", text.name))
    });
    let reports = print(outputs.collect::<anyhow::Result<_>>()?, out)?;
    write!(notes, "{}", report::injected(&reports, global.verbose))?;
    Ok(!args.fail_on_warning || reports.iter().all(is_fine))
}

/// Takes the proxy away from all that is described in the files.
///
/// # Errors
/// With file, line and column. Nothing is printed then.
pub fn uninject(args: &UninjectArgs, out: &mut impl Write, notes: &mut impl Write) -> anyhow::Result<()> {
    let outputs = read(&args.files)?.into_iter().map(|text| {
        let output = text.parse()?.uninject();
        output.with_context(|| format!("Error uninjecting conduit proxy: {}", text.name))
    });
    let reports = print(outputs.collect::<anyhow::Result<_>>()?, out)?;
    write!(notes, "{}", report::uninjected(&reports))?;
    Ok(())
}

/// All texts, as one stream of documents.
fn print(outputs: Vec<Output>, out: &mut impl Write) -> anyhow::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for (number, Output { text, reports: more }) in outputs.into_iter().enumerate() {
        if number > 0 && !text.starts_with("---") {
            writeln!(out, "---")?;
        }
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            writeln!(out)?;
        }
        reports.extend(more);
    }
    out.flush()?;
    Ok(reports)
}

/// Whether nobody has to look after it.
fn is_fine(report: &Report) -> bool {
    let as_expected = match &report.outcome {
        Outcome::Injected | Outcome::Uninjected => true,
        Outcome::Skipped(skip) => matches!(skip, Skip::NotAWorkload | Skip::AlreadyInjected | Skip::Disabled),
    };
    as_expected && report.warnings.is_empty()
}

/// A manifest, and where it is from.
struct Text {
    name: String,
    text: String,
}

impl Text {
    fn parse(&self) -> anyhow::Result<Manifest<'_>> {
        Manifest::parse(&self.text).with_context(|| format!("cannot read {}", self.name))
    }
}

fn read(names: &[String]) -> anyhow::Result<Vec<Text>> {
    if names.is_empty() {
        bail!("please specify a kubernetes resource file");
    }
    let mut texts = Vec::new();
    for name in names {
        let path = Path::new(name);
        if name == "-" {
            texts.push(limited("standard input", std::io::stdin())?);
        } else if name.starts_with("https://") || name.starts_with("http://") {
            texts.push(download(name)?);
        } else if path.is_dir() {
            for file in manifests_in(path)? {
                texts.push(file_text(&file)?);
            }
        } else {
            texts.push(file_text(path)?);
        }
    }
    Ok(texts)
}

fn file_text(path: &Path) -> anyhow::Result<Text> {
    let name = path.display().to_string();
    let file = fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    limited(&name, file)
}

/// What kubectl takes of a directory, in the order of the names.
fn manifests_in(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|file| {
        let extension = file.extension().and_then(|extension| extension.to_str());
        file.is_file() && matches!(extension, Some("yaml" | "yml" | "json"))
    });
    files.sort();
    if files.is_empty() {
        bail!("there is no .yaml, .yml or .json in {}", directory.display());
    }
    Ok(files)
}

fn download(url: &str) -> anyhow::Result<Text> {
    let agent = fetch::agent(FETCH_TIMEOUT).build().new_agent();
    let response = agent.get(url).call().with_context(|| format!("cannot fetch {url}"))?;
    limited(url, response.into_body().into_reader())
}

fn limited(name: &str, source: impl std::io::Read) -> anyhow::Result<Text> {
    let mut text = String::new();
    source.take(BYTES_MAX + 1).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
    if text.len() as u64 > BYTES_MAX {
        bail!("{name} has more than {BYTES_MAX} bytes");
    }
    Ok(Text { name: name.to_owned(), text })
}

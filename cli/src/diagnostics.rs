//! `conduit diagnostics`: what controllers and proxies know and count, as they say it themselves.

mod obfuscated;

use std::{io::Write, time::Duration};

use anyhow::{Context as _, bail};
use conduit_api::{
    access::about,
    proto::public::{
        ControllerMetricsRequest, EndpointsRequest, Pod, PodsRequest, ProxyMetricsRequest, endpoints_response::Endpoint,
    },
};
use serde_json::{Value, json};
use tokio::time::timeout;

use self::obfuscated::Obfuscation;
use crate::{
    authority::Authority,
    control_plane::ControlPlane,
    global::Global,
    output::{TableOrJson, write_json},
    printable::printable,
    resource::{Kind, Selection},
    table::{Align, Table},
};

/// What to ask.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show where the requests for services go: conduit diagnostics endpoints web-svc.emojivoto:80
    Endpoints(EndpointsArgs),
    /// Show what the proxies of a resource tell Prometheus: conduit diagnostics proxy-metrics deploy/web
    ProxyMetrics(ProxyMetricsArgs),
    /// Show what each controller tells Prometheus
    ControllerMetrics(ControllerMetricsArgs),
}

/// Of which services, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct EndpointsArgs {
    /// NAME.NAMESPACE[.svc.DOMAIN][:PORT] of a service, as clients say it; of all of its ports without one
    #[arg(value_name = "AUTHORITY", required = true)]
    authorities: Vec<Authority>,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// Of which proxies.
#[derive(Debug, clap::Args)]
pub struct ProxyMetricsArgs {
    /// TYPE/NAME or TYPE NAME, of a pod, a namespace, or anything that makes pods
    #[arg(value_name = "RESOURCE", required = true, num_args = 1..=2)]
    resource: Vec<String>,
    /// Write something else instead of names, the same for the same, to give it to somebody else
    #[arg(long)]
    obfuscate: bool,
    #[command(flatten)]
    patience: Patience,
}

/// Whether to wait.
#[derive(Debug, clap::Args)]
pub struct ControllerMetricsArgs {
    #[command(flatten)]
    patience: Patience,
}

#[derive(Debug, clap::Args)]
struct Patience {
    /// Give up after so long
    #[arg(short, long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// Does it.
///
/// # Errors
/// When no control plane answers, or a service, a pod or a proxy does not, or `out` cannot be written.
pub async fn run(
    command: &Command,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        Command::Endpoints(args) => endpoints(args, global, control_plane, out, notes).await,
        Command::ProxyMetrics(args) => args.patience.with(proxy_metrics(args, global, control_plane, out, notes)).await,
        Command::ControllerMetrics(args) => args.patience.with(controller_metrics(control_plane, out)).await,
    }
}

impl Patience {
    async fn with(&self, answer: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        let waited = timeout(self.wait, answer).await;
        waited.with_context(|| format!("not all was said within {:?}; wait longer by --wait", self.wait))?
    }
}

async fn endpoints(
    args: &EndpointsArgs,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for authority in &args.authorities {
        let namespace = match &authority.namespace {
            Some(namespace) => namespace.clone(),
            None => global.one_namespace()?,
        };
        let (service, port) = (authority.service.clone(), authority.port.unwrap_or_default().into());
        let request = EndpointsRequest { namespace: namespace.clone(), service: service.clone(), port };
        let answer = control_plane.ask(async |client| client.endpoints(about(request.clone())).await).await?;
        let service = format!("{service}.{namespace}");
        found.extend(answer.endpoints.into_iter().map(|endpoint| (service.clone(), endpoint)));
    }
    if args.output == TableOrJson::Json {
        return Ok(write_json(out, &found.iter().map(endpoint_json).collect::<Vec<_>>())?);
    }
    if found.is_empty() {
        return Ok(writeln!(notes, "No endpoints found.")?);
    }
    let columns = [("NAMESPACE", Align::Left), ("IP", Align::Left), ("PORT", Align::Left), ("POD", Align::Left)];
    let mut table = Table::new(&[columns.as_slice(), &[("SERVICE", Align::Left)]].concat());
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for (service, endpoint) in &found {
        let (namespace, pod) = (or_dash(&endpoint.namespace), or_dash(&endpoint.pod));
        table.row([namespace, endpoint.ip.clone(), endpoint.port.to_string(), pod, service.clone()]);
    }
    Ok(out.write_all(table.to_string().as_bytes())?)
}

fn endpoint_json((service, endpoint): &(String, Endpoint)) -> Value {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "namespace": some(&endpoint.namespace),
        "ip": endpoint.ip,
        "port": endpoint.port,
        "pod": some(&endpoint.pod),
        "service": service,
        "service_port": endpoint.service_port,
        "identity": some(&endpoint.identity),
        "zone": some(&endpoint.zone),
    })
}

async fn proxy_metrics(
    args: &ProxyMetricsArgs,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let selection = Selection::parse(&args.resource, &global.scope(false)?)?;
    let wanted = selection.to_wire();
    if matches!(selection.kind, Kind::Service | Kind::Authority) || wanted.name.is_empty() {
        bail!("name a pod, a namespace, or what makes pods, as in deploy/web");
    }
    let namespace = if selection.kind == Kind::Namespace { wanted.name.clone() } else { wanted.namespace.clone() };
    let request = PodsRequest { namespace, skip_connected: true };
    let pods = control_plane.ask(async |client| client.pods(about(request.clone())).await).await?.pods;
    let is_its = |pod: &Pod| match selection.kind {
        Kind::Namespace => true,
        Kind::Pod => pod.name == wanted.name,
        _ => pod.workload.as_ref().is_some_and(|owner| owner.kind == wanted.kind && owner.name == wanted.name),
    };
    let pods: Vec<_> = pods.into_iter().filter(|pod| pod.meshed && is_its(pod)).collect();
    if pods.is_empty() {
        bail!(
            "no pod of {} has a proxy; `conduit get pods -A -o wide` shows which have",
            printable(&args.resource.join("/"))
        );
    }
    let obfuscation = args.obfuscate.then(Obfuscation::default);
    let mut failed = 0;
    for (number, pod) in pods.iter().enumerate() {
        let title = obfuscation.as_ref().map_or_else(|| pod.name.clone(), |some| some.of(&pod.name));
        writeln!(out, "#\n# POD {} ({} of {})\n#", printable(&title), number + 1, pods.len())?;
        if let Err(error) = of_proxy(pod, obfuscation.as_ref(), control_plane, out).await {
            failed += 1;
            let why = format!("{error:#}");
            let why = printable(&why);
            // It names the pod and its address.
            if obfuscation.is_some() {
                writeln!(out, "# ERROR it could not be asked")?;
                writeln!(notes, "{}: {why}", printable(&pod.name))?;
            } else {
                writeln!(out, "# ERROR {why}")?;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} proxies could not be asked", pods.len());
    }
    Ok(())
}

async fn of_proxy(
    pod: &Pod,
    obfuscation: Option<&Obfuscation>,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let request = ProxyMetricsRequest { namespace: pod.namespace.clone(), pod: pod.name.clone() };
    let mut pieces = control_plane.ask(async |client| client.proxy_metrics(about(request.clone())).await).await?;
    while let Some(piece) = pieces.message().await.map_err(|status| anyhow::anyhow!("{}", status.message()))? {
        for line in piece.text.lines() {
            let line = obfuscation.map_or_else(|| line.to_owned(), |some| some.line(line));
            writeln!(out, "{}", printable(&line))?;
        }
    }
    Ok(())
}

async fn controller_metrics(control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let mut members =
        control_plane.ask(async |client| client.controller_metrics(ControllerMetricsRequest {}).await).await?;
    let mut silent = Vec::new();
    while let Some(member) = members.message().await.map_err(|status| anyhow::anyhow!("{}", status.message()))? {
        writeln!(out, "#\n# CONTROLLER {}\n#", printable(&member.name))?;
        if member.text.is_empty() {
            writeln!(out, "# ERROR it does not answer, or is of a release that cannot")?;
            silent.push(member.name);
            continue;
        }
        for line in member.text.lines() {
            writeln!(out, "{}", printable(line))?;
        }
    }
    if !silent.is_empty() {
        bail!(
            "{} did not answer: `conduit raft status` shows who does, and `conduit version` whose release is too old to",
            silent.join(", ")
        );
    }
    Ok(())
}

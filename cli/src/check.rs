//! `conduit check`: whether the control plane works, as it says itself, as its cluster sees it, and as it looks from here.

mod cluster;
mod pods;
mod release;
mod report;

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;
use conduit_api::{
    VERSION,
    access::about,
    proto::public::{CheckResult, PodsRequest, SelfCheckRequest, check_result::Status},
};
use kube::Client;
use tokio::time::{Instant, sleep};

use self::{
    release::newest,
    report::{Check, Outcome, Report},
};
use crate::{control_plane::ControlPlane, global::Global, output::write_json, version::server_version};

/// Between two tries of `--wait`.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What to look at, what to compare with, and how the results are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Before an installation: whether the cluster will take it
    #[arg(long, conflicts_with = "proxy")]
    pre: bool,
    /// The proxies as well: those of --namespace, or all
    #[arg(long)]
    proxy: bool,
    /// Try again for so long until all is well [default: 5m, if no time is given]
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "5m",
          value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Exit with 2 on warnings as well
    #[arg(long)]
    fail_on_warning: bool,
    /// The version that everything should have [default: the newer of this command's and the control plane's]
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<String>,
    /// Fail when a trust root expires within so many days [default: 60 for an imported one]
    #[arg(long, value_name = "DAYS")]
    expiry_days: Option<u32>,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `-o` of this command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line for each check
    #[default]
    Table,
    /// By subsystem, with what to do below each check that failed
    Grouped,
    /// Only what is not well
    Short,
    /// For programs
    Json,
}

/// Checks, writes the results, and says whether all is well.
///
/// # Errors
/// When `out` cannot be written, or it is asked for what a mesh without Kubernetes has not.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let scope = global.scope(global.namespace.is_none())?;
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let is_well = |report: &Report| match args.fail_on_warning {
        true => report.outcome() == &Outcome::Ok,
        false => report.is_well(),
    };
    let mut report = gather(args, scope.namespace(), control_plane).await?;
    while !is_well(&report) && deadline.is_some_and(|deadline| Instant::now() < deadline) {
        sleep(TRY_AGAIN).await;
        report = gather(args, scope.namespace(), control_plane).await?;
    }
    match args.output {
        Output::Table => out.write_all(report.text().as_bytes())?,
        Output::Grouped => out.write_all(report.grouped().as_bytes())?,
        Output::Short => out.write_all(report.short().as_bytes())?,
        Output::Json => write_json(out, &report.json())?,
    }
    Ok(is_well(&report))
}

/// What depends on something that failed is left out: its failure would say nothing more.
async fn gather(args: &Args, namespace: Option<&str>, control_plane: &ControlPlane) -> anyhow::Result<Report> {
    let mut checks = Vec::new();
    let cluster = match control_plane {
        ControlPlane::Cluster { options, namespace } => {
            let Some(cluster) = cluster::find(options, namespace, &mut checks).await else {
                return Ok(Report::new(checks));
            };
            Some(cluster)
        }
        ControlPlane::Replicas(_) => None,
    };
    if args.pre {
        let cluster =
            cluster.context("--pre is about a cluster of Kubernetes: say which with --kubeconfig or --context")?;
        checks.extend(cluster.before().await);
        return Ok(Report::new(checks));
    }
    if let Some(cluster) = &cluster {
        checks.extend(cluster.existence().await);
    }
    let server = server_version(control_plane).await;
    let can_query = server.as_ref().map_or_else(|error| Outcome::Fail(format!("{error:#}")), |_| Outcome::Ok);
    checks.push(Check::new("conduit-api", "can query the Conduit API", can_query));
    if server.is_ok() {
        checks.extend(self_checks(args.expiry_days.unwrap_or_default(), control_plane).await);
    }
    let server = server.ok();
    let latest = args.expected_version.as_deref().unwrap_or_else(|| newest(VERSION, server.as_deref()));
    let up_to_date = |version: &str| match version == latest {
        true => Outcome::Ok,
        false => Outcome::Fail(format!("is running version {version} but the latest version is {latest}")),
    };
    checks.push(Check::new("conduit-version", "cli is up-to-date", up_to_date(VERSION)));
    if let Some(server) = &server {
        checks.push(Check::new("conduit-version", "control plane is up-to-date", up_to_date(server)));
    }
    if args.proxy {
        if let Some(cluster) = &cluster {
            checks.extend(cluster.proxies(namespace, latest).await);
        }
        if server.is_some() {
            checks.push(connected(namespace, control_plane).await);
        }
    }
    Ok(Report::new(checks))
}

/// Pods with a proxy of the control plane in `control_plane`, without its own: `namespace/name`.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn meshed_pods(client: &Client, control_plane: &str) -> kube::Result<Vec<String>> {
    let found = cluster::meshed(client, control_plane, None).await?;
    Ok(found.iter().map(pods::name).collect())
}

/// The releases of their proxies, and how many have each; in the namespace, or in all.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn proxy_versions(
    client: &Client,
    control_plane: &str,
    namespace: Option<&str>,
) -> kube::Result<BTreeMap<String, usize>> {
    let mut versions = BTreeMap::new();
    for pod in cluster::meshed(client, control_plane, namespace).await? {
        *versions.entry(pods::proxy_version(&pod)).or_default() += 1;
    }
    Ok(versions)
}

/// Whether the control plane hears of every proxy that should run.
async fn connected(namespace: Option<&str>, control_plane: &ControlPlane) -> Check {
    let request = PodsRequest { namespace: namespace.unwrap_or_default().to_owned(), skip_connected: false };
    let outcome = match control_plane.ask(async |client| client.pods(about(request.clone())).await).await {
        Ok(answer) => {
            let expected: Vec<_> = answer.pods.iter().filter(|pod| pod.meshed && pod.ready).collect();
            let lost: Vec<_> = expected.iter().filter(|pod| !pod.connected).collect();
            let lost: Vec<_> = lost.into_iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
            match lost.is_empty() {
                true => Outcome::Ok,
                false => Outcome::Fail(format!(
                    "{} of {} are not: {}; look at the log of their conduit-proxy",
                    lost.len(),
                    expected.len(),
                    pods::examples(&lost)
                )),
            }
        }
        Err(error) => Outcome::Error(format!("{error:#}")),
    };
    Check::new("conduit-data-plane", "data plane proxies are connected to the control plane", outcome)
}

async fn self_checks(expiry_days: u32, control_plane: &ControlPlane) -> Vec<Check> {
    match control_plane.ask(async |client| client.self_check(SelfCheckRequest { expiry_days }).await).await {
        Ok(answer) => answer.results.iter().map(Check::from).collect(),
        Err(error) => {
            vec![Check::new("conduit-api", "control plane can check itself", Outcome::Error(format!("{error:#}")))]
        }
    }
}

impl From<&CheckResult> for Check {
    fn from(result: &CheckResult) -> Self {
        let outcome = match result.status() {
            Status::Ok => Outcome::Ok,
            Status::Fail => Outcome::Fail(result.message.clone()),
            // What a newer control plane may say is not a success that we know of.
            Status::Error | Status::Unspecified => Outcome::Error(result.message.clone()),
        };
        Self::new(&result.subsystem, &result.description, outcome)
    }
}

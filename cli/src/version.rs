//! `conduit version`: of this command and of the control plane.

use std::io::Write;

use anyhow::{Context as _, bail};
use conduit_api::{VERSION, proto::public::VersionRequest};

use crate::{check::proxy_versions, control_plane::ControlPlane, global::Global, printable::printable};

/// Printed where no control plane answers, which is no error: this is the first command that people try.
const UNAVAILABLE: &str = "unavailable";

/// What to leave out.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the version numbers only
    #[arg(long)]
    short: bool,
    /// Print the version of this command only
    #[arg(long)]
    client: bool,
    /// Print the versions of the proxies in the cluster as well: of those in --namespace, or of all
    #[arg(long, conflicts_with = "client")]
    proxy: bool,
}

/// Asks the control plane, unless only the client's version is wanted.
///
/// # Errors
/// When `out` cannot be written, or proxies are asked for and their cluster does not answer.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let label = |name: &str| if args.short { String::new() } else { format!("{name} version: ") };
    writeln!(out, "{}{VERSION}", label("Client"))?;
    if !args.client {
        let server = server_version(control_plane).await.unwrap_or_else(|_| UNAVAILABLE.to_owned());
        writeln!(out, "{}{}", label("Server"), printable(&server))?;
    }
    if args.proxy {
        let ControlPlane::Cluster { options, namespace } = control_plane else {
            bail!("--proxy is about a cluster of Kubernetes: say which with --kubeconfig or --context");
        };
        let client = options.client().await?;
        let versions = proxy_versions(&client, namespace, global.namespace.as_deref()).await;
        for (version, pods) in versions.context("cannot list the pods of the cluster")? {
            writeln!(out, "{}{} ({pods} pods)", label("Proxy"), printable(&version))?;
        }
    }
    Ok(())
}

/// The version of the replica that answers.
///
/// # Errors
/// When none does.
pub async fn server_version(control_plane: &ControlPlane) -> anyhow::Result<String> {
    let answer = control_plane.ask(async |client| client.version(VersionRequest {}).await).await?;
    Ok(answer.version)
}

//! `conduit upgrade`: what an installed control plane is to become, to be given to `kubectl apply -f -`. It begins with the values that the
//! installation keeps.

mod changes;
mod obstacles;
mod plan;

use std::io::Write;

use anyhow::{Context as _, bail};
use conduit_api::proto::public::RaftStatusRequest;
use conduit_deploy::{Install, Kept, Values, render};
use kube::Client;

use self::obstacles::{Installed, obstacles};
use crate::{control_plane::ControlPlane, global::Global, installation};

/// What is to be otherwise, and how sure whoever says so is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tell what would change, object by object, and print no manifests
    #[arg(long)]
    plan: bool,
    /// Also what would break something, as an upgrade without this says
    #[arg(short, long)]
    force: bool,
    /// Begin with the chart's own values, and not with those of the installation
    #[arg(long)]
    reset_values: bool,
    #[command(flatten)]
    install: Install,
}

/// Prints it; nothing is changed.
///
/// # Errors
/// When the cluster cannot be asked, there is no installation, or something would break.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (client, namespace) = (global.kubernetes.client().await?, global.conduit_namespace());
    let kept = installation::kept(&client, namespace).await?;
    let values = args.install.values(begin_with(&kept, args.reset_values)?)?;
    let installed = installed(&client, namespace, control_plane).await?;
    let found = obstacles(&kept, installed.as_ref(), &values);
    if !found.is_empty() && !args.force {
        bail!("{}; or say --force", found.join("; "));
    }
    let manifest = render(&values, namespace)?;
    if args.plan {
        let plan = plan::make(&client, namespace, &kept, &manifest).await?;
        out.write_all(plan.text().as_bytes())?;
    } else {
        out.write_all(args.install.output.of(&manifest).as_bytes())?;
    }
    Ok(())
}

fn begin_with(kept: &Kept, reset: bool) -> anyhow::Result<Values> {
    if reset {
        return Ok(Values::defaults());
    }
    kept.values().context(
        "the release that is installed did not keep its values: give the flags that it was installed with, and --reset-values",
    )
}

/// The control plane as it runs; nothing, if it does not.
async fn installed(
    client: &Client,
    namespace: &str,
    control_plane: &ControlPlane,
) -> anyhow::Result<Option<Installed>> {
    let Some(set) = installation::controllers(client, namespace).await? else { return Ok(None) };
    let mut installed = Installed::of(&set);
    // Who is a member and has no pod any more counts as well, and who was removed does not. While nobody answers, pods are what is known.
    if let Ok(status) = control_plane.ask(async |client| client.raft_status(RaftStatusRequest {}).await).await {
        installed.voters =
            status.members.iter().filter(|member| member.voter).map(|member| member.name.clone()).collect();
    }
    Ok(Some(installed))
}

//! `conduit version`: of this command and of the control plane.

use std::io::Write;

use conduit_api::{VERSION, proto::public::VersionRequest};

use crate::{control_plane::ControlPlane, printable::printable};

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
}

/// Asks the control plane, unless only the client's version is wanted.
///
/// # Errors
/// When `out` cannot be written.
pub async fn run(args: &Args, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let label = |name: &str| if args.short { String::new() } else { format!("{name} version: ") };
    writeln!(out, "{}{VERSION}", label("Client"))?;
    if !args.client {
        let server = server_version(control_plane).await.unwrap_or_else(|_| UNAVAILABLE.to_owned());
        writeln!(out, "{}{}", label("Server"), printable(&server))?;
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

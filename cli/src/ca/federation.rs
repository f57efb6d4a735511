//! `conduit ca federate|defederate`: whose identities are believed besides the mesh's own.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::bail;
use conduit_api::proto::public::{CaExportRequest, CaFederateRequest};

use super::read;
use crate::{
    control_plane::ControlPlane,
    printable::printable,
    wait::{self, By},
};

/// How the mesh's own are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Certificates, one after the other
    #[default]
    Pem,
    /// What another trust domain needs: the SPIFFE bundle format, a JSON Web Key Set
    Spiffe,
}

/// Which.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// How to write it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Whom, and by what.
#[derive(Debug, clap::Args)]
pub struct FederateArgs {
    #[command(flatten)]
    domain: Domain,
    /// What it is believed by: its bundle in the SPIFFE format, or its roots in PEM
    #[arg(long, value_name = "FILE")]
    bundle_file: PathBuf,
}

/// Whom.
#[derive(Debug, clap::Args)]
pub struct DefederateArgs {
    #[command(flatten)]
    domain: Domain,
}

#[derive(Debug, clap::Args)]
struct Domain {
    /// The trust domain, e.g. cluster-2.example.org
    #[arg(value_name = "TRUST-DOMAIN")]
    trust_domain: String,
    /// Return when it is in force in every proxy
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl ExportArgs {
    pub(super) fn format(&self) -> Format {
        self.format
    }
}

pub(super) async fn export(control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let bundle = control_plane.ask(async |client| client.ca_export(CaExportRequest {}).await).await?.bundle;
    Ok(writeln!(out, "{bundle}")?)
}

pub(super) async fn federate(
    FederateArgs { domain, bundle_file }: &FederateArgs,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let bundle = read(bundle_file)?;
    if bundle.trim().is_empty() {
        bail!(
            "{} is empty; `conduit ca defederate` is how a trust domain is believed no longer",
            bundle_file.display()
        );
    }
    change(domain, Some(bundle), ["is believed", "is believed (unchanged)"], control_plane, out).await
}

pub(super) async fn defederate(
    DefederateArgs { domain }: &DefederateArgs,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    change(domain, None, ["is not believed any more", "was not believed"], control_plane, out).await
}

/// Says the first of `outcomes` when something has changed, otherwise the second.
async fn change(
    Domain { trust_domain, wait, timeout }: &Domain,
    bundle: Option<String>,
    [changed, unchanged]: [&str; 2],
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let request = CaFederateRequest { trust_domain: trust_domain.clone(), bundle };
    let answer = control_plane.ask(async |client| client.ca_federate(request.clone()).await).await?;
    let outcome = if answer.changed { changed } else { unchanged };
    writeln!(out, "trust domain {} {outcome} at revision {}", printable(trust_domain), answer.revision)?;
    if *wait { wait::until(answer.revision, By::Ack, *timeout, control_plane, out).await } else { Ok(()) }
}

//! `conduit check`: whether the control plane works, as it says itself and as it looks from here.

mod release;
mod report;

use std::io::Write;

use conduit_api::{
    VERSION,
    proto::public::{CheckResult, SelfCheckRequest, check_result::Status},
};

use self::{
    release::newest,
    report::{Check, Outcome, Report},
};
use crate::{
    control_plane::ControlPlane,
    output::{TableOrJson, write_json},
    version::server_version,
};

/// What to compare with, and how the results are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version that everything should have [default: the newer of this command's and the control plane's]
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<String>,
    /// Fail when a trust root expires within so many days [default: 60 for an imported one]
    #[arg(long, value_name = "DAYS")]
    expiry_days: Option<u32>,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// Checks, writes the results, and says whether all is well.
///
/// # Errors
/// When `out` cannot be written.
pub async fn run(args: &Args, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<bool> {
    let report = gather(args, control_plane).await;
    match args.output {
        TableOrJson::Table => out.write_all(report.text().as_bytes())?,
        TableOrJson::Json => write_json(out, &report.json())?,
    }
    Ok(report.outcome() == &Outcome::Ok)
}

/// What depends on something that failed is left out: its failure would say nothing more.
async fn gather(args: &Args, control_plane: &ControlPlane) -> Report {
    let server = server_version(control_plane).await;
    let can_query = server.as_ref().map_or_else(|error| Outcome::Fail(format!("{error:#}")), |_| Outcome::Ok);
    let mut checks = vec![Check::new("conduit-api", "can query the Conduit API", can_query)];
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
    Report::new(checks)
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

//! `conduit tap`: requests as they pass.

mod filter;
mod json;
mod line;
#[cfg(test)]
mod samples;

use std::io::Write;

use anyhow::anyhow;
use clap::ValueEnum;
use conduit_api::{
    access::about,
    failover::is_of_replica,
    proto::{public::TapRequest, tap::TapEvent},
};
use tonic::Streaming;
use tracing::debug;

use self::line::Detail;
pub(crate) use self::{
    filter::Filter,
    line::{short_resource, socket_address},
};
use crate::{
    control_plane::{ControlPlane, refused},
    global::Global,
};

/// Which requests, and how they are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    filter: Filter,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `-o` of this command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line for each event
    #[default]
    Line,
    /// With the proxy, TLS, and who is at both ends
    Wide,
    /// One JSON object on a line for each event
    Json,
}

/// Writes events until nobody reads them any more.
///
/// # Errors
/// As [`follow`], or when `out` cannot be written.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let request = args.filter.request(global)?;
    let write = |event: &TapEvent| {
        let line = match args.output {
            Output::Line => line::line(event, Detail::Short),
            Output::Wide => line::line(event, Detail::Wide),
            Output::Json => Some(serde_json::to_string(&json::event(event))?),
        };
        match line {
            Some(line) => Ok(out.write_all(format!("{line}\n").as_bytes())?),
            None => Ok(()),
        }
    };
    follow(&request, control_plane, notes, write).await
}

/// Gives events to `each` until that fails. When the replica that collects them dies, another one is asked, as long as some
/// event came in between.
///
/// # Errors
/// When the target names nothing, no control plane answers, or `each` fails.
pub(crate) async fn follow(
    request: &TapRequest,
    control_plane: &ControlPlane,
    notes: &mut impl Write,
    mut each: impl FnMut(&TapEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let mut events = control_plane.ask(async |client| client.tap(about(request.clone())).await).await?;
        let broken = read_events(&mut events, &mut each).await?;
        if broken.seen == 0 {
            return Err(broken.error.context("the control plane broke the tap off"));
        }
        debug!(error = format!("{:#}", broken.error), "the stream of events broke");
        writeln!(notes, "note: the controller went away; going on with another")?;
    }
}

/// A stream of events ended, which has no end of its own.
struct Broken {
    /// Events that came before.
    seen: u64,
    error: anyhow::Error,
}

async fn read_events(
    events: &mut Streaming<TapEvent>,
    each: &mut impl FnMut(&TapEvent) -> anyhow::Result<()>,
) -> anyhow::Result<Broken> {
    let mut seen = 0;
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Broken { seen, error: anyhow!("it ended") }),
            Err(status) if is_of_replica(&status) => return Ok(Broken { seen, error: refused(&status) }),
            Err(status) => return Err(refused(&status)),
        };
        seen += 1;
        each(&event)?;
    }
}

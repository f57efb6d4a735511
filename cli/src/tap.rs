//! `conduit tap`: requests as they pass.

mod filter;
mod json;
mod line;
#[cfg(test)]
mod samples;

use std::{io::Write, time::Duration};

use anyhow::anyhow;
use clap::ValueEnum;
use conduit_api::{
    access::{ASK_AGAIN, about},
    failover::is_of_replica,
    proto::{public::TapRequest, tap::TapEvent},
};
use tokio::time::timeout;
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

/// A control plane that has said once that it has nothing to say, says so every ten seconds; after so long without it nobody is there.
const SILENCE_MAX: Duration = Duration::from_secs(40);

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
        if broken.is_to_be_asked_again {
            continue;
        }
        if broken.seen == 0 {
            return Err(broken.error.context("the control plane broke the tap off"));
        }
        debug!(error = format!("{:#}", broken.error), "the stream of events broke");
        writeln!(notes, "note: the controller went away; going on with another")?;
    }
}

/// A stream of events ended, which has no end of its own.
struct Broken {
    /// Events that came before, those among them that say nothing.
    seen: u64,
    /// Nothing is wrong: the control plane only wants to be asked again.
    is_to_be_asked_again: bool,
    error: anyhow::Error,
}

impl Broken {
    fn new(seen: u64, error: anyhow::Error) -> Self {
        Self { seen, is_to_be_asked_again: false, error }
    }
}

async fn read_events(
    events: &mut Streaming<TapEvent>,
    each: &mut impl FnMut(&TapEvent) -> anyhow::Result<()>,
) -> anyhow::Result<Broken> {
    let (mut seen, mut has_heartbeat) = (0, false);
    loop {
        let silence = if has_heartbeat { SILENCE_MAX } else { Duration::MAX };
        let event = match timeout(silence, events.message()).await {
            Err(_) => return Ok(Broken::new(seen, anyhow!("nothing was heard of it for {SILENCE_MAX:?}"))),
            Ok(Ok(Some(event))) => event,
            Ok(Ok(None)) => return Ok(Broken::new(seen, anyhow!("it ended"))),
            Ok(Err(status)) if is_of_replica(&status) => {
                let is_to_be_asked_again = status.message() == ASK_AGAIN;
                return Ok(Broken { is_to_be_asked_again, ..Broken::new(seen, refused(&status)) });
            }
            Ok(Err(status)) => return Err(refused(&status)),
        };
        seen += 1;
        match event == TapEvent::default() {
            true => has_heartbeat = true,
            false => each(&event)?,
        }
    }
}

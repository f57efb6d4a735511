//! `conduit tap`: requests as they pass.

mod filter;
mod headers;
mod json;
mod json_path;
mod line;
mod message;
mod output;
mod payload;
mod request_id;
#[cfg(test)]
mod samples;
mod short;

use std::{
    collections::BTreeSet,
    io::Write,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{anyhow, ensure};
use conduit_api::{
    access::{ASK_AGAIN, about},
    failover::is_of_replica,
    proto::{
        public::TapRequest,
        tap::{TapEvent, tap_event::Kind},
    },
    tap::Ends,
};
use tokio::time::{Instant, timeout};
use tonic::Streaming;
use tracing::debug;

pub(crate) use self::{
    filter::Filter,
    line::{short_resource, socket_address},
    request_id::RequestId,
};
use self::{
    line::Detail,
    output::{Output, OutputParser},
    payload::{Held, Services, server},
    short::Requests,
};
use crate::{
    control_plane::{Client, ControlPlane, refused},
    global::Global,
    printable::printable,
};

/// A control plane that has said once that it has nothing to say, says so every ten seconds; after so long without it nobody is there.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// So often notes and messages that wait are looked at, whether or not something comes.
const TICK: Duration = Duration::from_secs(1);
/// Between two notes of what was lost.
const LOST_NOTE_INTERVAL: Duration = Duration::from_secs(10);
/// Pods of which it is said that they show nothing.
const CLOSED_NOTED_MAX: usize = 16;

/// Which requests, and how they are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    filter: Filter,
    /// The messages of gRPC as well, of requests to workloads with the annotation config.conduit.io/tap-payloads: enabled. Who asks is in `conduit history`
    #[arg(long)]
    payload: bool,
    /// What describes messages of services without server reflection, as protoc --include_imports --descriptor_set_out writes it
    #[arg(long, value_name = "FILE", requires = "payload")]
    descriptor_set: Vec<PathBuf>,
    /// Show messages that nothing describes by the numbers of their fields, also those that a schema would mark debug_redact
    #[arg(long, requires = "payload")]
    raw: bool,
    /// What heads say as well: without the values of fields that prove who somebody is, and of those in the annotation config.conduit.io/tap-redact
    #[arg(long, requires = "payload")]
    headers: bool,
    /// How to write it
    #[arg(short, long, value_name = "OUTPUT", value_parser = OutputParser, default_value = "line")]
    output: Output,
}

/// Writes events until nobody reads them any more.
///
/// # Errors
/// As [`follow`], or when `out` cannot be written.
pub async fn run<N: Write>(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut N,
) -> anyhow::Result<()> {
    let mut request = args.filter.request(global)?;
    request.headers = args.headers;
    if args.payload {
        ensure!(
            request.r#match.as_ref().is_none_or(|matches| matches.to.is_none()),
            "--payload shows the messages that a workload is sent: tap the one in --to, without --to"
        );
        ensure!(
            !matches!(args.output, Output::Short),
            "--payload shows messages after the beginning of their request, and -o short has a line at its end: leave one of both out"
        );
        return show_payloads(args, &request, control_plane, out, notes).await;
    }
    let (mut requests, mut lost) = (Requests::default(), Lost::default());
    let write = |event: &TapEvent, notes: &mut N| {
        lost.note(event.dropped, Instant::now(), notes)?;
        let text = match args.output {
            Output::Short => requests.line(event, SystemTime::now()).map(|line| line + "\n"),
            _ => text(event, &args.output)?,
        };
        text.map_or(Ok(()), |text| Ok(out.write_all(text.as_bytes())?))
    };
    follow(&request, Sees::Requests, control_plane, notes, write).await
}

/// What is written of an event that is no message, by itself, with the end of its line.
fn text(event: &TapEvent, output: &Output) -> anyhow::Result<Option<String>> {
    let line = match output {
        Output::Line | Output::Short => headers::with(line::line(event, Detail::Short), event),
        Output::Wide => headers::with(line::line(event, Detail::Wide), event),
        Output::Json | Output::JsonPath(_) if event.kind.is_none() => None,
        Output::Json => return Ok(Some(json::line(&json::event(event))?)),
        Output::JsonPath(template) => template.line(&serde_json::to_value(json::event(event))?),
    };
    Ok(line.map(|line| line + "\n"))
}

async fn show_payloads<N: Write>(
    args: &Args,
    request: &TapRequest,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut N,
) -> anyhow::Result<()> {
    let (mut services, mut held) = (Services::given(&args.descriptor_set)?.or_raw(args.raw), Held::default());
    let mut lost = Lost::default();
    let mut closed = BTreeSet::new();
    let each = |event: &TapEvent, notes: &mut N| {
        lost.note(event.dropped, Instant::now(), notes)?;
        match &event.kind {
            Some(Kind::Schema(schema)) => services.learn(&server(event), schema),
            Some(Kind::PayloadsDisabled(disabled)) => note_closed(event, disabled.is_old, &mut closed, notes)?,
            Some(_) => held.push(event.clone(), Instant::now()),
            None => {}
        }
        while let Some(event) = held.next(&mut services, Instant::now()) {
            let text = match &event.kind {
                Some(Kind::Message(message)) => {
                    if let Some(note) = services.note(&server(&event), message) {
                        writeln!(notes, "{}", printable(&note))?;
                    }
                    message::text(&event, message, &services.show(&server(&event), message), &args.output)?
                }
                _ => text(&event, &args.output)?.unwrap_or_default(),
            };
            out.write_all(text.as_bytes())?;
        }
        Ok(())
    };
    follow(request, Sees::Payloads, control_plane, notes, each).await
}

/// A pod does not let its messages be seen; said once of it, and of so many.
fn note_closed(
    event: &TapEvent,
    is_old: bool,
    closed: &mut BTreeSet<String>,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let pod = event.destination.as_ref().and_then(|peer| peer.pod.as_ref());
    let pod = pod.map_or_else(|| "a pod".to_owned(), |pod| format!("pod/{} in {}", pod.name, pod.namespace));
    if closed.len() < CLOSED_NOTED_MAX && closed.insert(pod.clone()) {
        let pod = printable(&pod).into_owned();
        let why = match is_old {
            true => "has a proxy of a release that shows no messages; restart it to give it another",
            false => {
                "does not let its messages be seen; to allow it, annotate its pods with config.conduit.io/tap-payloads: enabled"
            }
        };
        writeln!(notes, "note: {pod} {why}")?;
    }
    Ok(())
}

/// Events that did not come, told now and then.
#[derive(Default)]
struct Lost {
    count: u64,
    told: Option<Instant>,
}

impl Lost {
    fn note(&mut self, dropped: u64, now: Instant, notes: &mut impl Write) -> std::io::Result<()> {
        self.count = self.count.saturating_add(dropped);
        let is_due = self.told.is_none_or(|told| now.duration_since(told) >= LOST_NOTE_INTERVAL);
        if self.count == 0 || !is_due {
            return Ok(());
        }
        self.told = Some(now);
        let count = std::mem::take(&mut self.count);
        writeln!(
            notes,
            "note: {count} more requests or messages passed unseen: --max-rps, or there were too many to copy"
        )
    }
}

/// What a tap sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Requests.
    Requests,
    /// Their messages as well.
    Payloads,
}

/// Gives events to `each`, empty ones as well (each second at least), and somewhere to write notes, until that fails. When the replica that
/// collects them dies, another one is asked, as long as some event came in between.
///
/// # Errors
/// When the target names nothing, no control plane answers, or `each` fails.
pub(crate) async fn follow<W: Write>(
    request: &TapRequest,
    sees: Sees,
    control_plane: &ControlPlane,
    notes: &mut W,
    mut each: impl FnMut(&TapEvent, &mut W) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let ends = Ends::try_from(&request.r#match.clone().unwrap_or_default())?;
    loop {
        let ask = async |client: &mut Client| match sees {
            Sees::Requests => client.tap(about(request.clone())).await,
            Sees::Payloads => client.tap_payload(about(request.clone())).await,
        };
        let mut events = control_plane.ask(ask).await?;
        let broken = read_events(&mut events, |event| {
            // A control plane of a release before knows nothing of addresses.
            each(&ends.keep(event).unwrap_or_default(), notes)
        })
        .await?;
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
    mut each: impl FnMut(TapEvent) -> anyhow::Result<()>,
) -> anyhow::Result<Broken> {
    let (mut seen, mut has_heartbeat, mut heard) = (0, false, Instant::now());
    loop {
        let event = match timeout(TICK, events.message()).await {
            Err(_) if !has_heartbeat || heard.elapsed() < SILENCE_MAX => {
                each(TapEvent::default())?;
                continue;
            }
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
        heard = Instant::now();
        has_heartbeat |= event == TapEvent::default();
        each(event)?;
    }
}

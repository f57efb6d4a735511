//! `conduit stat`: what traffic the workloads of the mesh get.

mod coverage;
pub(crate) mod figures;
mod labelled;
mod prometheus;
mod request;
pub mod routes;
mod view;

use std::{
    collections::HashSet,
    io::{IsTerminal as _, Write},
    time::Duration,
};

use anyhow::Context as _;
use conduit_api::{
    access::about,
    proto::public::{StatRequest, StatResponse},
    refusals::NO_STATS_BY,
};
use tokio::time::sleep;

pub(crate) use self::coverage::{Coverage, JsonCoverage, note_partial};
pub use self::request::Args;
pub(crate) use self::request::window_ms;
use self::{labelled::Labelled, prometheus::Prometheus, request::Block};
use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{OutputOrCsv as Output, write_json},
    resource::Kind,
};

/// As often as proxies report.
const WATCH: Duration = Duration::from_secs(2);
/// To the upper left, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Asks, and writes one row for each resource; notes go to `notes`, so that they are in no pipe. With `--watch`, until it is ended.
///
/// # Errors
/// When the arguments are wrong, no control plane answers, or `out` cannot be written.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let blocks = args.blocks(global)?;
    let sources = Sources {
        control_plane,
        labelled: Labelled::new(args.selector.as_deref(), control_plane).await?,
        prometheus: args.prometheus()?,
    };
    let between = if std::io::stdout().is_terminal() { CLEAR } else { "\n" };
    let (mut is_first, mut left_out) = (true, HashSet::new());
    loop {
        let mut answers = Vec::new();
        for block in &blocks {
            match sources.ask(block, args.unmeshed).await {
                Ok(answer) => answers.push((block.kind, answer)),
                Err(error) if args.is_all() && is_not_counted(&error) => {
                    let kind = block.kind.as_str();
                    // Not with every turn of --watch.
                    if left_out.insert(kind) {
                        writeln!(notes, "note: without {kind}, which the control plane does not count: it is older")?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if !std::mem::replace(&mut is_first, false) {
            out.write_all(between.as_bytes())?;
        }
        write(args, &answers, out, notes)?;
        if !args.watch {
            return Ok(());
        }
        sleep(WATCH).await;
    }
}

/// Whether the control plane knows no such kind: `all` is what this release counts.
fn is_not_counted(error: &anyhow::Error) -> bool {
    error.to_string().starts_with(NO_STATS_BY)
}

/// Who knows what is asked for.
struct Sources<'a> {
    control_plane: &'a ControlPlane,
    /// Which resources are meant.
    labelled: Option<Labelled>,
    /// What became of their traffic, instead of the control plane.
    prometheus: Option<Prometheus>,
}

impl Sources<'_> {
    /// All answers to one block's requests together.
    async fn ask(&self, block: &Block, unmeshed: bool) -> anyhow::Result<StatResponse> {
        let mut all: Option<StatResponse> = None;
        for request in &block.requests {
            let answer = self.answer(block.kind, request).await?;
            match &mut all {
                Some(all) => {
                    let is_all = |of: &StatResponse| of.since_start || of.covered_ms >= of.window_ms;
                    all.since_start = is_all(all) && is_all(&answer);
                    all.rows.extend(answer.rows);
                    all.replicas_answered = all.replicas_answered.min(answer.replicas_answered);
                    all.replicas_outdated = all.replicas_outdated.max(answer.replicas_outdated);
                    all.covered_ms = all.covered_ms.min(answer.covered_ms);
                    all.window_ms = all.window_ms.max(answer.window_ms);
                    all.truncated |= answer.truncated;
                    all.latency_window_ms = all.latency_window_ms.max(answer.latency_window_ms);
                }
                None => all = Some(answer),
            }
        }
        let mut all = all.context("a block has a request")?;
        all.rows.retain(|row| !unmeshed || row.running_pods > 0 && row.meshed_pods == 0);
        Ok(all)
    }

    async fn answer(&self, kind: Kind, request: &StatRequest) -> anyhow::Result<StatResponse> {
        let mut answer = self.control_plane.ask(async |client| client.stat(about(request.clone())).await).await?;
        if let Some(prometheus) = &self.prometheus {
            prometheus.replace(request, &mut answer).await?;
        }
        if let Some(labelled) = &self.labelled {
            labelled.retain(kind, request.selector.as_ref(), &mut answer.rows).await?;
        }
        Ok(answer)
    }
}

fn write(
    args: &Args,
    answers: &[(Kind, StatResponse)],
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    match args.output {
        Output::Json => write_json(out, &view::json(answers))?,
        Output::Csv => out.write_all(view::csv(answers, &args.by()).as_bytes())?,
        Output::Table | Output::Wide => {
            let several = args.is_all() || answers.len() > 1;
            let shown = answers.iter().filter(|(_, answer)| !answer.rows.is_empty());
            let tables: Vec<_> =
                shown.map(|(kind, answer)| view::table(answer, &args.columns(*kind, several)).to_string()).collect();
            if tables.is_empty() {
                writeln!(notes, "No traffic found.")?;
            }
            out.write_all(tables.join("\n").as_bytes())?;
        }
    }
    let coverage = Coverage::of_stats(answers);
    note_partial(&if args.prometheus_url.is_some() { coverage.of_prometheus() } else { coverage }, notes)
}

//! `conduit top`: requests as they pass, summed up by who asks whom for what.

mod screen;
mod sums;

use std::{
    cell::RefCell,
    io::{IsTerminal as _, Write, sink},
    time::Duration,
};

use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use self::{
    screen::Screen,
    sums::{Sums, table},
};
use crate::{
    control_plane::ControlPlane,
    global::Global,
    tap::{Filter, Sees, follow},
};

/// Between two looks of a person at a screen; a key is answered as fast.
const REDRAW: Duration = Duration::from_millis(200);
/// Between two tables in a file.
const REWRITE: Duration = Duration::from_secs(2);

/// Which requests, and how they are summed up.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Sum up over all who ask
    #[arg(long)]
    hide_sources: bool,
}

/// Shows a table that follows the requests, until `q` is pressed; into a pipe or a file, a table every other second.
///
/// # Errors
/// As [`follow`], or when nothing can be shown.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let request = args.filter.request(global)?;
    let target = request.target.clone().unwrap_or_default();
    let sums = RefCell::new(Sums::new(target, args.hide_sources));
    let count = |event: &_| {
        sums.borrow_mut().observe(event);
        Ok(())
    };
    if !std::io::stdout().is_terminal() {
        return select! {
            ended = follow(&request, Sees::Requests, control_plane, notes, |event, _| count(event)) => ended,
            ended = rewrite(&sums, out) => ended,
        };
    }
    // A note would be written across the table.
    let mut silence = sink();
    select! {
        ended = follow(&request, Sees::Requests, control_plane, &mut silence, |event, _| count(event)) => ended,
        ended = redraw(&sums) => ended,
    }
}

async fn rewrite(sums: &RefCell<Sums>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut ticks = interval(REWRITE);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let table = table(&sums.borrow());
        writeln!(out, "{table}")?;
    }
}

async fn redraw(sums: &RefCell<Sums>) -> anyhow::Result<()> {
    let mut ended = signal(SignalKind::terminate())?;
    let mut screen = Screen::open()?;
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        select! {
            _ = ticks.tick() => {}
            _ = ended.recv() => return Ok(()),
        }
        if screen.is_to_close()? {
            return Ok(());
        }
        screen.draw(&sums.borrow())?;
    }
}

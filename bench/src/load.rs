//! Requests at a constant rate, whatever becomes of them.
//!
//! ```text
//! pacer (a thread) ──the moment at which a request is due──► queue ──► whichever connection is free ──► server
//! ```
//!
//! Each request is timed from the moment at which it was *due*, not from that at which a connection was free for it: a
//! server that stalls for a second is then seen by the thousand requests of that second, and not by one.

mod client;
mod pacer;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep},
};

use self::client::{Client, Target};
use crate::report::Report;

/// More than one thread can send, and less than a slip of the keyboard asks for.
const RATE_MAX: f64 = 50_000.0;
/// Each is a task and a socket.
const CONNECTIONS_MAX: usize = 1024;
/// What servers commonly allow.
const STREAMS_MAX: usize = 100;
/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// From the last connection made to the first request due.
const LEAD: Duration = Duration::from_millis(100);
/// Requests that wait for a connection. When it is full the pacer is late, which changes no request's due moment.
const QUEUE: usize = 4096;
/// Latencies above count as this long.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Where the requests go: http://host:port/path
    #[arg(long)]
    pub url: String,
    /// What the report calls it
    #[arg(long, default_value = "load")]
    pub name: String,
    /// Requests per second
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// How long requests are timed
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long requests are sent before they are timed
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Connections that are kept
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// HTTP/2 with prior knowledge
    #[arg(long)]
    pub http2: bool,
    /// Requests that one connection of HTTP/2 carries at a time
    #[arg(long, default_value_t = 1, requires = "http2")]
    pub streams: usize,
}

/// What one connection saw.
struct Seen {
    latencies: Histogram<u64>,
    errors: u64,
}

/// Carries the plan out.
///
/// # Errors
/// When the plan makes no sense, or the server does not accept connections within a minute.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    ensure!(plan.rate > 0.0 && plan.rate <= RATE_MAX, "a rate is above 0 and at most {RATE_MAX}, not {}", plan.rate);
    let connections = plan.connections;
    ensure!((1..=CONNECTIONS_MAX).contains(&connections), "from 1 to {CONNECTIONS_MAX} connections, not {connections}");
    ensure!((1..=STREAMS_MAX).contains(&plan.streams), "from 1 to {STREAMS_MAX} streams, not {}", plan.streams);
    let target = plan.url.parse::<Target>()?.with_http2(plan.http2);
    let mut clients = Vec::with_capacity(connections * plan.streams);
    for _ in 0..connections {
        let client = connect(&target).await?;
        clients.extend((1..plan.streams).map_while(|_| client.sharing()));
        clients.push(client);
    }

    let (queue, due) = mpsc::channel(QUEUE);
    let due = Arc::new(Mutex::new(due));
    let start = Instant::now() + LEAD;
    let timed_from = start + plan.warmup;
    let mut workers = JoinSet::new();
    for client in clients {
        workers.spawn(work(client, due.clone(), timed_from));
    }
    let pacer = pacer::start(start, plan.rate, plan.warmup + plan.duration, queue)?;
    let mut all = Seen { latencies: histogram(), errors: 0 };
    while let Some(seen) = workers.join_next().await {
        let seen = seen.context("a connection's task ended early")?;
        all.latencies.add(seen.latencies).context("all histograms have the same bounds")?;
        all.errors += seen.errors;
    }
    let lateness = pacer.join().map_err(|_| anyhow::anyhow!("the pacer ended early"))?;
    Ok(Report::new(plan, timed_from.elapsed(), &all.latencies, all.errors, &lateness))
}

/// Returns when there is such a file. However long that takes: whoever writes it may take its time.
pub async fn wait_for(file: &Path) {
    while !file.exists() {
        sleep(LOOK_AGAIN).await;
    }
}

/// Nanoseconds, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    let highest = u64::try_from(LATENCY_MAX.as_nanos()).expect("a minute in nanoseconds fits");
    Histogram::new_with_bounds(1, highest, 3).expect("the bounds are in order")
}

pub(crate) fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

async fn connect(target: &Target) -> anyhow::Result<Client> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match Client::connect(target).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(error.context(format!("no connection to {target} within {PATIENCE:?}")));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Takes due requests until there are no more. The lock is handed on in turn, so that all connections are used.
async fn work(mut client: Client, due: Arc<Mutex<mpsc::Receiver<Instant>>>, timed_from: Instant) -> Seen {
    let mut seen = Seen { latencies: histogram(), errors: 0 };
    loop {
        let next = due.lock().await.recv().await;
        let Some(due) = next else { return seen };
        let answered = client.get().await;
        if due < timed_from {
            continue;
        }
        match answered {
            Ok(()) => record(&mut seen.latencies, due.elapsed()),
            Err(_) => seen.errors += 1,
        }
    }
}

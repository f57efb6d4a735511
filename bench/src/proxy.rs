//! What a request costs a proxy: ours and the peers, on the same work, in turn.
//!
//! The load and the server have one core, the proxy, or both of a pair, another. Everything that is measured under load is started once
//! and then measured in turn, round by round, so that whatever else the machine does falls on all alike. What is measured of one
//! process alone (memory, start, instructions) is measured on a process of its own each time.

pub mod beside;
pub mod bytes;
pub mod connection;
pub mod flood;
pub mod instructions;
pub mod mesh;
pub mod paced;
pub mod process;
pub mod resident;
pub mod results;
pub mod running;
pub mod saturation;
pub mod subject;
pub mod tap;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::json;
use tokio::time::Instant;

use self::{
    mesh::Mesh,
    process::Process,
    results::Results,
    running::{ORDINARY, Place, Running},
    saturation::Work,
    subject::{OURS, Protocol, Proxy, Shape},
};
use crate::report::Percentiles;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Which proxies, besides none
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Proxy::Conduit, Proxy::Envoy, Proxy::Haproxy, Proxy::Nginx])]
    proxies: Vec<Proxy>,
    /// What of them
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Measure::Saturated, Measure::Paced, Measure::Bytes, Measure::Memory, Measure::Start])]
    measure: Vec<Measure>,
    /// One, or two with mutual TLS between them
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Shape::Hop, Shape::Pair])]
    shapes: Vec<Shape>,
    /// Times that all of it is measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each measurement under load takes
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Bytes of answers
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 65536])]
    bodies: Vec<usize>,
    /// Requests a second when they come at a constant rate
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Connections that memory is measured with
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1_000, 10_000])]
    connections: Vec<usize>,
    /// Endpoints that memory is measured with
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    endpoints: Vec<u16>,
    /// Where the configurations of the peers are
    #[arg(long, default_value = "bench/proxy")]
    configurations: PathBuf,
    /// Where the certificates for the peers and `envoy` are
    #[arg(long)]
    work: PathBuf,
    /// The `conduit-proxy` to measure; the one beside this program if it is not said
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// Another build of it, measured beside it as the proxy `other`
    #[arg(long, value_name = "PROGRAM")]
    other: Option<PathBuf>,
    /// Where the figures are written to, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is measured of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// As many requests as go through
    Saturated,
    /// Requests at a constant rate
    Paced,
    /// Opaque TCP
    Bytes,
    /// Resident memory
    Memory,
    /// Requests at a constant rate through ours, alone and while somebody watches all of them
    Tapped,
    /// Requests at a constant rate through a pair of ours, alone and while somebody opens TLS connections as fast as it can
    Flooded,
    /// From the start to the first answer
    Start,
    /// Instructions, by callgrind; takes long
    Instructions,
}

/// Requests that nobody looks at: connections are there then, and the rate is known.
const WARMUP_REQUESTS: u64 = 6_400;
/// Requests are sent in multiples of the connections, or streams, that carry them.
const IN_FLIGHT: u64 = 64;
/// Of the measurements at a constant rate.
const PACED_BODY_BYTES: usize = 1024;
const MIB: f64 = 1024.0 * 1024.0;

/// Measures, and says what it measured.
///
/// # Errors
/// When a proxy cannot be started at all, or the control plane.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    process::stay_on_load_core()?;
    let work = fs::canonicalize(&plan.work).with_context(|| format!("there is no {}", plan.work.display()))?;
    let place = Place {
        work,
        program: program(plan.program.as_deref().unwrap_or(&programs.join("conduit-proxy")))?,
        other: plan.other.as_deref().map(program).transpose()?,
        configurations: plan.configurations.clone(),
        mesh: Mesh::start(programs).await?,
    };
    let server = place.start_server()?;
    let mut bench = Bench { plan, place, server, results: Results::default(), versions: versions(plan) };
    bench.under_load().await?;
    for round in 0..plan.rounds {
        bench.alone(round).await?;
        bench.write()?;
    }
    let versions: Vec<_> = bench.versions.values().cloned().collect();
    Ok(format!(
        "{}\n{} rounds: median (least-most), ×: of Conduit's in the same round\n{}",
        versions.join("; "),
        plan.rounds,
        bench.results.text()
    ))
}

/// Wherever it is started from.
pub(crate) fn program(path: &Path) -> anyhow::Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("there is no {}", path.display()))
}

struct Bench<'a> {
    plan: &'a Plan,
    place: Place,
    /// Ends with this.
    #[expect(dead_code, reason = "it is held")]
    server: Process,
    results: Results,
    versions: BTreeMap<String, String>,
}

/// What runs, by what it is.
type All = BTreeMap<(Shape, Proxy), Running>;

impl Bench<'_> {
    fn wants(&self, measure: Measure) -> bool {
        self.plan.measure.contains(&measure)
    }

    fn proxies(&self) -> Vec<Proxy> {
        [Proxy::Direct].into_iter().chain(self.plan.proxies.iter().copied()).collect()
    }

    fn write(&self) -> anyhow::Result<()> {
        let Some(file) = &self.plan.json else { return Ok(()) };
        let mut all = self.results.json();
        all["versions"] = json!(self.versions);
        fs::write(file, serde_json::to_string_pretty(&all)?).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What could not be measured is said; the rest goes on.
    fn note<T>(&mut self, what: &str, proxy: Proxy, measured: anyhow::Result<T>) -> Option<T> {
        measured.inspect_err(|error| self.results.problem(format!("{proxy}, {what}: {error:#}"))).ok()
    }

    async fn under_load(&mut self) -> anyhow::Result<()> {
        if ![Measure::Saturated, Measure::Paced, Measure::Tapped, Measure::Flooded, Measure::Bytes]
            .iter()
            .any(|measure| self.wants(*measure))
        {
            return Ok(());
        }
        let mut all = All::new();
        for shape in self.plan.shapes.clone() {
            for proxy in self.proxies() {
                let mut running = self.place.start(proxy, shape, ORDINARY)?;
                running.ready(proxy, shape).await.with_context(|| format!("{proxy}, {shape}"))?;
                all.insert((shape, proxy), running);
            }
        }
        for round in 0..self.plan.rounds {
            for shape in self.plan.shapes.clone() {
                eprintln!("round {}: {shape}", round + 1);
                self.requests(&all, shape, round).await;
                if self.wants(Measure::Bytes) {
                    self.bytes(&all, shape, round).await;
                }
                self.write()?;
            }
        }
        Ok(())
    }

    async fn requests(&mut self, all: &All, shape: Shape, round: u32) {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for body_bytes in self.plan.bodies.clone() {
                let work = Work { shape, protocol, body_bytes };
                if self.wants(Measure::Saturated) {
                    self.saturated(all, &work, round).await;
                }
                if self.wants(Measure::Paced) && body_bytes == PACED_BODY_BYTES {
                    self.paced(all, &work, round).await;
                }
                if body_bytes == PACED_BODY_BYTES {
                    self.beside_others(all, &work, round).await;
                }
            }
        }
    }

    async fn saturated(&mut self, all: &All, work: &Work, round: u32) {
        let group = format!("{}, {}, {}", work.shape, work.protocol, bytes_text(work.body_bytes));
        for proxy in self.proxies() {
            let measured = saturated(work, proxy, &all[&(work.shape, proxy)], self.plan.duration).await;
            let Some((rate, cpu_us)) = self.note(&group, proxy, measured) else { continue };
            if proxy != Proxy::Direct {
                self.results.add(&group, "CPU µs/request, saturated", proxy, round, cpu_us);
                self.results.add(&group, "its core was busy, %", proxy, round, cpu_us * rate / 1e4);
            }
            self.results.add(&group, "requests/s", proxy, round, rate);
        }
    }

    async fn paced(&mut self, all: &All, work: &Work, round: u32) {
        let (rate, duration) = (self.plan.rate, self.plan.duration);
        let group = format!("{}, {}, {}, at {rate}/s", work.shape, work.protocol, bytes_text(work.body_bytes));
        let mut direct = None;
        for proxy in self.proxies() {
            let measured = paced::measure(work, proxy, &all[&(work.shape, proxy)], rate, duration).await;
            let Some(measured) = self.note(&group, proxy, measured) else { continue };
            if let Some(cpu_us) = measured.cpu_us {
                self.results.add(&group, "CPU µs/request", proxy, round, cpu_us);
            }
            let base = *direct.get_or_insert(measured.latency_us);
            for (name, value, base) in tails(&measured.latency_us, &base) {
                let (name, value) = match proxy {
                    Proxy::Direct => (format!("{name} µs"), value),
                    _ => (format!("added {name} µs"), value - base),
                };
                self.results.add(&group, &name, proxy, round, value);
            }
        }
    }

    async fn bytes(&mut self, all: &All, shape: Shape, round: u32) {
        let group = format!("{shape}, {}", Protocol::Tcp);
        for proxy in self.proxies() {
            let measured = bytes(shape, proxy, &all[&(shape, proxy)], self.plan.duration).await;
            let Some((rate, cpu_ms)) = self.note(&group, proxy, measured) else { continue };
            if proxy != Proxy::Direct {
                self.results.add(&group, "CPU ms/GB", proxy, round, cpu_ms);
            }
            self.results.add(&group, "MB/s", proxy, round, rate);
        }
    }

    async fn alone(&mut self, round: u32) -> anyhow::Result<()> {
        for shape in self.plan.shapes.clone() {
            eprintln!("round {}: {shape}, one at a time", round + 1);
            for proxy in self.plan.proxies.clone() {
                if self.wants(Measure::Start) {
                    self.start(proxy, shape, round).await;
                }
            }
            if self.wants(Measure::Memory) {
                self.memory(shape, round).await?;
            }
            if self.wants(Measure::Instructions) && round == 0 {
                self.instructions(shape).await;
                self.write()?;
            }
        }
        if self.wants(Measure::Memory) {
            self.endpoints(round).await;
        }
        Ok(())
    }

    async fn start(&mut self, proxy: Proxy, shape: Shape, round: u32) {
        let group = format!("{shape}, started");
        let began = Instant::now();
        let started = async {
            let mut running = self.place.start(proxy, shape, ORDINARY)?;
            running.ready(proxy, shape).await
        };
        let started = started.await;
        if self.note(&group, proxy, started).is_some() {
            let took = began.elapsed().as_secs_f64() * 1e3;
            self.results.add(&group, "first answer after, ms", proxy, round, took);
        }
    }

    async fn memory(&mut self, shape: Shape, round: u32) -> anyhow::Result<()> {
        let group = format!("{shape}, resident MiB");
        for proxy in self.plan.proxies.clone() {
            let idle = resident::idle(&self.place, proxy, shape).await;
            self.resident(&group, "idle", proxy, round, idle);
        }
        for connections in self.plan.connections.clone() {
            let measure = format!("{connections} connections, idle");
            for proxy in self.plan.proxies.clone() {
                let waiting = resident::waiting(&self.place, proxy, shape, connections).await;
                self.resident(&group, &measure, proxy, round, waiting);
            }
        }
        for connections in self.plan.connections.clone() {
            let connections = resident::busy_at_most(connections)?;
            let measure = format!("{connections} connections, busy");
            for proxy in self.plan.proxies.clone() {
                let busy = resident::busy(&self.place, proxy, shape, connections).await;
                self.resident(&group, &measure, proxy, round, busy);
            }
        }
        Ok(())
    }

    async fn endpoints(&mut self, round: u32) {
        let ours: Vec<_> = OURS.into_iter().filter(|proxy| self.plan.proxies.contains(proxy)).collect();
        for endpoints in self.plan.endpoints.clone() {
            let measure = format!("{endpoints} endpoints");
            for proxy in ours.clone() {
                let known = resident::endpoints(&self.place, proxy, endpoints).await;
                self.resident("one hop, resident MiB, knowing", &measure, proxy, round, known);
            }
        }
    }

    fn resident(&mut self, group: &str, measure: &str, proxy: Proxy, round: u32, measured: anyhow::Result<u64>) {
        if let Some(bytes) = self.note(&format!("{group}, {measure}"), proxy, measured) {
            self.results.add(group, measure, proxy, round, bytes as f64 / MIB);
        }
    }

    async fn instructions(&mut self, shape: Shape) {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let work = Work { shape, protocol, body_bytes: PACED_BODY_BYTES };
            let group = format!("{shape}, {protocol}, {}, callgrind", bytes_text(work.body_bytes));
            for proxy in self.plan.proxies.clone() {
                eprintln!("instructions: {group}, {proxy}");
                let measured = instructions::per_request(&self.place, proxy, &work).await;
                if let Some(instructions) = self.note(&group, proxy, measured) {
                    self.results.add(&group, "instructions/request", proxy, 0, instructions);
                }
            }
        }
    }
}

/// Requests a second, and what each costs in µs of processor time.
async fn saturated(work: &Work, proxy: Proxy, running: &Running, duration: Duration) -> anyhow::Result<(f64, f64)> {
    let warm = work.send(proxy, WARMUP_REQUESTS).await?;
    let requests = ((warm.rate * duration.as_secs_f64()) as u64).next_multiple_of(IN_FLIGHT);
    let before = running.cpu()?;
    let answered = work.send(proxy, requests).await?;
    let used = running.cpu()? - before;
    Ok((answered.rate, used.as_secs_f64() * 1e6 / requests as f64))
}

/// Megabytes a second, and what a gigabyte costs in ms of processor time.
async fn bytes(shape: Shape, proxy: Proxy, running: &Running, duration: Duration) -> anyhow::Result<(f64, f64)> {
    let before = running.cpu()?;
    let sent = bytes::send(proxy.entrance(shape, Protocol::Tcp), duration).await?;
    let used = running.cpu()? - before;
    Ok((sent.bytes as f64 / 1e6 / sent.took.as_secs_f64(), used.as_secs_f64() * 1e3 / (sent.bytes as f64 / 1e9)))
}

fn tails(latency: &Percentiles, base: &Percentiles) -> [(&'static str, f64, f64); 3] {
    [("p50", latency.p50, base.p50), ("p99", latency.p99, base.p99), ("p99.9", latency.p999, base.p999)]
}

fn bytes_text(bytes: usize) -> String {
    if bytes.is_multiple_of(1024) { format!("{} KiB", bytes / 1024) } else { format!("{bytes} B") }
}

/// What programs say that they are, by the name of the proxy.
fn versions(plan: &Plan) -> BTreeMap<String, String> {
    plan.proxies.iter().filter_map(|proxy| Some((proxy.to_string(), version(plan, *proxy)?))).collect()
}

fn version(plan: &Plan, proxy: Proxy) -> Option<String> {
    let (program, flag) = match proxy {
        Proxy::Direct => return None,
        Proxy::Conduit | Proxy::Other => return Some(concat!("Conduit ", env!("CARGO_PKG_VERSION")).to_owned()),
        Proxy::Envoy => (plan.work.join("envoy"), "--version"),
        Proxy::Haproxy => ("haproxy".into(), "-v"),
        Proxy::Nginx => ("nginx".into(), "-v"),
    };
    let output = Command::new(program).arg(flag).output().ok()?;
    let (said, complained) = (String::from_utf8(output.stdout).ok()?, String::from_utf8(output.stderr).ok()?);
    let line = said.lines().chain(complained.lines()).find(|line| !line.trim().is_empty())?;
    // Envoy says where it is.
    Some(line.trim().trim_start_matches(&*plan.work.join("").to_string_lossy()).to_owned())
}

//! What counting and telling cost: a proxy, and the controllers of many; and how soon a person has an answer.
//!
//! The proxies are the proxy's own counters and reporters, each with its own connection over mutual TLS; they share one certificate, and what they
//! count was never sent. Questions are `conduit`'s, a process each.

mod traffic;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use conduit_api::{
    SpiffeId,
    mesh::{Inventory, WorkloadRef},
};
use conduit_ca::WorkloadTls;
use conduit_chaos::cluster::Cluster;
use conduit_proxy::telemetry::{Telemetry, report::Reporter};
use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::{
    task::{JoinHandle, LocalSet, spawn_blocking, spawn_local},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use self::traffic::{Traffic, services};
use super::{NAMESPACE, SERVICE_ACCOUNT, addresses, certified, line, megabytes, memory, pod};
use crate::{
    identity,
    load::{histogram, record},
    memory::processor_time,
};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Proxies
    #[arg(long, default_value_t = 1_000)]
    proxies: u32,
    /// Deployments that they are of
    #[arg(long, default_value_t = 100)]
    deployments: u32,
    /// Controllers
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Requests a second of the one proxy whose own cost is measured
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// How long each cost is measured for
    #[arg(long, default_value = "20s")]
    duration: humantime::Duration,
    /// How often each question is asked
    #[arg(long, default_value_t = 30)]
    questions: u32,
}

/// Requests of each proxy of many between two reports.
const REQUESTS: u64 = 20;
/// Between two looks at what is to be counted.
const TICK: Duration = Duration::from_millis(100);
const REPORTED: Duration = Duration::from_secs(2);
/// Until all have told of all that they tell of.
const WARM: Duration = Duration::from_secs(20);

const QUESTIONS: [&str; 6] = [
    "stat deploy",
    "stat po",
    "stat svc -t 5m",
    "stat deploy --by path,status",
    "stat deploy/app-1 --to svc",
    "edges deploy",
];

/// Measures, and says what it measured.
///
/// # Errors
/// When the control plane cannot be started, or a question is not answered.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    LocalSet::new().run_until(measure(programs, plan)).await
}

async fn measure(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    let cluster = Cluster::start(programs, plan.replicas).await?;
    cluster.describe(&pods(plan))?;
    let tls = certified(&cluster, "app-0-0").await?;
    let alone = of_one(&cluster, &tls, plan).await?;

    let before = memory(&cluster);
    let idle = processor_time_of_controllers(&cluster, plan).await?;
    let proxies =
        (0..plan.proxies).map(|number| proxy(&cluster, &tls, plan, number)).collect::<anyhow::Result<Vec<_>>>()?;
    sleep(WARM).await;
    let busy = processor_time_of_controllers(&cluster, plan).await?;
    let after = memory(&cluster);
    let mut lines = String::new();
    for question in QUESTIONS {
        lines += &line(&format!("conduit {question}"), &asked(programs, &cluster, question, plan.questions).await?);
    }
    for proxy in &proxies {
        proxy.abort();
    }
    let each = |total: f64| total / f64::from(plan.proxies);
    Ok(format!(
        "a proxy that counts {} requests/s and tells of them: {:.2} % of a core\n\
         {} proxies of {} deployments, {} replicas: {:.1} % of a core for all controllers, {:.1} % before: {:.4} % per proxy\n\
         controllers hold {} MB, {} MB before: {:.1} kB per proxy in all\n{lines}",
        plan.rate,
        alone * 100.0,
        plan.proxies,
        plan.deployments,
        plan.replicas,
        busy * 100.0,
        idle * 100.0,
        each(busy - idle) * 100.0,
        megabytes(&after),
        megabytes(&before),
        each(after.iter().sum::<f64>() - before.iter().sum::<f64>()) * 1000.0,
    ))
}

/// All that report, and whom they ask.
fn pods(plan: &Plan) -> Inventory {
    let pod = |number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        let name = format!("app-{}", number % plan.deployments);
        let workload = WorkloadRef { kind: "deployment".into(), name };
        pod(&pod_name(plan, number), [12, high, middle, low], Some(workload))
    };
    Inventory { pods: (0..plan.proxies).map(pod).collect(), ..services(plan.deployments) }
}

fn pod_name(plan: &Plan, number: u32) -> String {
    format!("app-{}-{}", number % plan.deployments, number / plan.deployments)
}

/// What is counted and told by one proxy; and who does the telling.
fn reporter(cluster: &Cluster, tls: &WorkloadTls, plan: &Plan, number: u32) -> anyhow::Result<(Traffic, Reporter)> {
    let telemetry = Telemetry::default();
    let identity = SpiffeId::new(&Cluster::trust_domain(), NAMESPACE, SERVICE_ACCOUNT)?;
    let traffic = Traffic::of(&telemetry, &identity, number, plan.deployments);
    let reporter = Reporter {
        controllers: identity::controllers(addresses(cluster), &Cluster::trust_domain(), tls)?,
        telemetry,
        namespace: NAMESPACE.to_owned(),
        pod: pod_name(plan, number),
    };
    Ok((traffic, reporter))
}

/// One of many, until it is aborted.
fn proxy(cluster: &Cluster, tls: &WorkloadTls, plan: &Plan, number: u32) -> anyhow::Result<JoinHandle<()>> {
    let (mut traffic, reporter) = reporter(cluster, tls, plan, number)?;
    // They have not all been started at the same moment.
    let begin = REPORTED * number / plan.proxies.max(1);
    Ok(spawn_local(async move {
        sleep(begin).await;
        let counting = async {
            let mut ticks = interval(REPORTED);
            loop {
                ticks.tick().await;
                traffic.requests(REQUESTS);
            }
        };
        tokio::join!(counting, reporter.run());
    }))
}

/// The share of a core that one proxy spends on counting requests and on telling of them: all that this thread does meanwhile.
async fn of_one(cluster: &Cluster, tls: &WorkloadTls, plan: &Plan) -> anyhow::Result<f64> {
    let (mut traffic, reporter) = reporter(cluster, tls, plan, 0)?;
    let telling = spawn_local(reporter.run());
    let (began, used) = (Instant::now(), of_this_thread());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while began.elapsed() < *plan.duration {
        ticks.tick().await;
        traffic.requests(plan.rate * TICK.as_millis() as u64 / 1000);
    }
    let share = (of_this_thread() - used).as_secs_f64() / began.elapsed().as_secs_f64();
    telling.abort();
    Ok(share)
}

/// What this thread has used of a processor, as the kernel says it (Documentation/scheduler/sched-stats.rst).
fn of_this_thread() -> Duration {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(statistics.split(' ').next().and_then(|on| on.parse().ok()).unwrap_or_default())
}

/// The share of a core that all controllers together use.
async fn processor_time_of_controllers(cluster: &Cluster, plan: &Plan) -> anyhow::Result<f64> {
    let used = || -> anyhow::Result<Duration> {
        (0..cluster.len()).filter_map(|replica| cluster.pid(replica)).map(processor_time).sum()
    };
    let (began, before) = (Instant::now(), used()?);
    sleep(plan.duration.into()).await;
    Ok(used()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64())
}

/// How long a person waits, from the first to the last of it.
async fn asked(programs: &Path, cluster: &Cluster, question: &str, times: u32) -> anyhow::Result<Histogram<u64>> {
    let sockets: Vec<_> =
        (0..cluster.len()).map(|replica| format!("unix:{}", cluster.socket(replica).display())).collect();
    let program: PathBuf = programs.join("conduit");
    let words: Arc<[String]> = question.split(' ').map(ToOwned::to_owned).collect();
    // This thread has a thousand proxies to look after.
    spawn_blocking(move || {
        let mut took = histogram();
        for number in 0..times {
            let mut command = Command::new(&program);
            // Each replica in its turn.
            let mut sockets = sockets.clone();
            let count = sockets.len();
            sockets.rotate_left(number as usize % count);
            command.args(["--api-addr", &sockets.join(","), "-n", NAMESPACE]).args(&*words).args(["-o", "json"]);
            let began = Instant::now();
            let output = command.output()?;
            record(&mut took, began.elapsed());
            let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            // Of traffic, and of all replicas.
            let is_whole = said["partial"] == false && said["replicas_answered"] == count;
            let rows = said.get("rows").or(said.get("edges")).and_then(Value::as_array);
            if !is_whole || !rows.is_some_and(|rows| rows.iter().any(|row| row["rps"].is_number())) {
                bail!("{command:?}: {said} {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(took)
    })
    .await?
}

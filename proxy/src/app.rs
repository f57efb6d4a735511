//! A proxy's parts, in the order in which they start.
//!
//! ```text
//!   control thread:  certifier ─► discovery, tap, reporter ─► admin
//!   data threads:    a listener each way, connections, pools, counters
//! ```

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::AtomicU32},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use conduit_api::wire;
use conduit_ca::{TrustBundle, WorkloadTls};
use futures::future::try_join_all;
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::{Notify, oneshot, watch},
    task::{JoinHandle, spawn_local},
    time::{sleep, timeout},
};
use tracing::info;

use crate::{
    admin::Admin,
    cache::Cache,
    config::Config,
    connect::Connector,
    control::Controllers,
    discovery::{Directory, client::DiscoveryTask},
    identity::Certifier,
    journal::{Counts, Journal, exporter::Exporter, otlp, writer},
    listeners::Bound,
    tap::{Taps, client::TapTask},
    telemetry::{Telemetry, report::Reporter},
    worker::{Setup, Worker},
    workload_api::{WorkloadApi, tokens::TokenTask},
};

/// Nothing here recurses deeply, and every thread's stack counts.
const THREAD_STACK_BYTES: usize = 512 * 1024;
/// What is still to be written down when a proxy ends is written within this, or lost.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks for the trust anchors, which the control plane writes when it has a root.
const ANCHORS_POLL: Duration = Duration::from_millis(50);

/// So long what an application has sent before it ended may take, and as long again what is to be written down of it: its pod, which is a Job's, is over
/// when its proxy is.
const AFTER_APPLICATION: Duration = Duration::from_millis(900);

/// Runs a proxy until `stop` resolves and its connections have ended. To be called on a [`runtime`].
///
/// # Errors
/// When it cannot listen, or is told what makes no sense.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let started = SystemTime::now();
    conduit_ca::warm()?;
    let listeners = (0..config.cores)
        .map(|_| Ok((listen(config.outbound)?, listen(config.inbound)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let tls = WorkloadTls::new(config.trust_domain.clone(), trust_anchors(&config).await?);
    let connector = Connector::new(config.socket_mark, tls.clone());
    let controllers = Controllers::new(config.controllers.clone(), &config.trust_domain, connector.clone())?;
    let (namespace, pod) = (config.pod.namespace().to_owned(), config.pod.name().to_owned());
    let directory = Directory::new(&namespace, &pod);
    let cache = Cache::new(config.cache.clone(), config.token.clone());
    let (discovery_task, discovery, discovery_status) =
        DiscoveryTask::new(directory, controllers.clone(), tls.clone(), cache.clone());
    let (taps, events) = Taps::new(config.payloads.clone());
    let telemetry = Telemetry::default();
    let journal = Writing::start(&config, &connector, &tls)?;
    let (draining, drain) = watch::channel(false);

    let certifier = Certifier {
        controllers: controllers.clone(),
        token: config.token.clone(),
        anchors: config.trust_anchors.clone(),
        tls: tls.clone(),
        cache,
    };
    let tap_task = TapTask {
        taps: taps.clone(),
        events,
        controllers: controllers.clone(),
        connector: connector.clone(),
        namespace: namespace.clone(),
        pod: pod.clone(),
    };
    let (token_task, tokens) = TokenTask::new(controllers.clone(), tls.clone());
    let workload_api = WorkloadApi { tls: tls.clone(), changes: controllers.changes(), tokens };
    let reporter = Reporter { controllers, telemetry: telemetry.clone(), namespace, pod };
    let (denied, zone) = (discovery_task.denied(), discovery_task.zone());
    let mut ended_at = discovery_task.application_ended();
    spawn_local(certifier.run());
    spawn_local(discovery_task.run());
    spawn_local(tap_task.run());
    spawn_local(reporter.run());
    spawn_local(token_task.run());
    if let Some(socket) = &config.workload_api {
        let served = workload_api.serve(socket);
        served.with_context(|| format!("cannot serve the SPIFFE Workload API on {}", socket.display()))?;
    }

    let setup = Setup {
        pod_ip: config.pod_ip,
        own_ports: [config.outbound.port(), config.inbound.port()],
        opaque_ports: config.opaque_ports.clone().into(),
        tls: tls.clone(),
        connector,
        original: config.original,
        discovery,
        taps,
        telemetry: telemetry.clone(),
        journal: journal.journal.clone(),
        denied,
        zone,
        connections: Arc::new(AtomicU32::new(0)),
        drain: drain.clone(),
    };
    let threads = listeners.into_iter().map(|listeners| data_thread(setup.clone(), listeners));
    let threads = try_join_all(threads).await.context("cannot start a data thread")?;
    drop(setup);
    let ended = Rc::new(Notify::new());
    let counts = journal.counts.clone();
    let admin =
        Admin { tls, discovery: discovery_status, telemetry, journal: counts, drain, stop: ended.clone(), started };
    admin.serve(config.metrics).await.with_context(|| format!("cannot listen on {} for metrics", config.metrics))?;
    info!(pod = %config.pod, "carrying traffic");
    let limit = tokio::select! {
        () = stop => None,
        () = ended.notified() => None,
        // Of a pod of the same name before this one that is no news of this one.
        Ok(_) = ended_at.wait_for(|octets| is_at(octets, config.pod_ip)) => Some(AFTER_APPLICATION),
    };
    info!(?limit, "draining");
    draining.send_replace(true);
    let drained = async {
        while threads.iter().any(|thread| !thread.is_finished()) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    match limit {
        None => drained.await,
        // What is left then is open at the other end alone, and goes with this process.
        Some(limit) => drop(timeout(limit, drained).await),
    }
    journal.end(limit.unwrap_or(LAST_WORDS)).await;
    Ok(())
}

/// Whether `octets` are those of `ip`.
fn is_at(octets: &[u8], ip: IpAddr) -> bool {
    wire::ip(octets).is_ok_and(|at| at == ip.to_canonical())
}

/// What writes requests down, as far as anything is to be written down.
struct Writing {
    journal: Option<Arc<Journal>>,
    counts: Option<Arc<Counts>>,
    writer: Option<thread::JoinHandle<()>>,
    exporter: Option<JoinHandle<()>>,
}

impl Writing {
    fn start(config: &Config, connector: &Connector, tls: &WorkloadTls) -> anyhow::Result<Self> {
        let counts = Arc::<Counts>::default();
        let sampling = config.trace_collector.as_ref().map(|_| config.trace_sampling);
        let (journal, readers) = Journal::new(config.access_log, sampling, &counts);
        let mut writing =
            Self { counts: journal.is_some().then(|| counts.clone()), journal, writer: None, exporter: None };
        if let Some(lines) = readers.lines {
            let out: Box<dyn io::Write + Send> = match &config.access_log_file {
                None => Box::new(io::stdout()),
                Some(path) => {
                    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                    Box::new(file.with_context(|| format!("cannot write the access log to {}", path.display()))?)
                }
            };
            writing.writer = Some(writer::start(config.access_log, lines, counts.clone(), out)?);
        }
        if let Some((collector, spans)) = config.trace_collector.clone().zip(readers.spans) {
            let (namespace, pod) = (config.pod.namespace().to_owned(), config.pod.name().to_owned());
            let service = config.workload.clone().unwrap_or_else(|| pod.clone());
            let source = otlp::Source { service, namespace, pod };
            let (connector, tls) = (connector.clone(), tls.clone());
            let exporter = Exporter { collector, connector, source, tls, counts };
            writing.exporter = Some(spawn_local(exporter.run(spans)));
        }
        Ok(writing)
    }

    /// The data threads have ended: what they have left is written, if that does not take long.
    async fn end(self, limit: Duration) {
        drop(self.journal);
        let written = async {
            while self.writer.as_ref().is_some_and(|writer| !writer.is_finished()) {
                sleep(Duration::from_millis(10)).await;
            }
            if let Some(exporter) = self.exporter {
                // It does not fail.
                let _ = exporter.await;
            }
        };
        let _ = timeout(limit, written).await;
    }
}

/// What each thread of a proxy runs on: tasks stay where they were made, and the scheduler of many threads is not even linked.
///
/// # Errors
/// When the system gives no more descriptors.
pub fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

fn listen(address: SocketAddr) -> anyhow::Result<Bound> {
    Bound::new(address).with_context(|| format!("cannot listen on {address}"))
}

/// Waits for the control plane's first root.
async fn trust_anchors(config: &Config) -> anyhow::Result<TrustBundle> {
    let mut told = false;
    loop {
        match tokio::fs::read_to_string(&config.trust_anchors).await {
            Ok(pem) => {
                let bundle = TrustBundle::from_pem(&pem);
                return bundle.with_context(|| format!("no trust anchors in {}", config.trust_anchors.display()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !std::mem::replace(&mut told, true) {
                    info!(path = %config.trust_anchors.display(), "waiting for the trust anchors");
                }
                sleep(ANCHORS_POLL).await;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", config.trust_anchors.display()));
            }
        }
    }
}

/// Starts a thread that carries traffic; it ends when the proxy has drained.
async fn data_thread(setup: Setup, listeners: (Bound, Bound)) -> io::Result<thread::JoinHandle<()>> {
    let (started, has_started) = oneshot::channel::<io::Result<()>>();
    let thread = thread::Builder::new().name("data".to_owned()).stack_size(THREAD_STACK_BYTES).spawn(move || {
        let prepare = || {
            let runtime = runtime()?;
            let (outbound, inbound) = listeners;
            let (outbound, inbound) =
                runtime.block_on(async { io::Result::Ok((outbound.start()?, inbound.start()?)) })?;
            io::Result::Ok((runtime, outbound, inbound))
        };
        match prepare() {
            Ok((runtime, outbound, inbound)) => {
                let _ = started.send(Ok(()));
                runtime.block_on(Worker::new(setup).run(outbound, inbound));
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    has_started.await.map_err(io::Error::other)??;
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_before_this_one_had_another_address() {
        let ip = "10.244.1.9".parse().unwrap();
        assert!(is_at(&[10, 244, 1, 9], ip) && !is_at(&[10, 244, 1, 8], ip) && !is_at(&[], ip));
        assert!(is_at(&[10, 244, 1, 9], "::ffff:10.244.1.9".parse().unwrap()));
    }
}

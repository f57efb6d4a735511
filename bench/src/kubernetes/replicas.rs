//! The replicas of a control plane, as it is installed.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use crate::{memory::of_process, serve::ask};

/// Where they are installed.
pub const NAMESPACE: &str = "conduit";
const ADMIN_PORT: u16 = 9990;
/// Whatever is waited for is there by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is timed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// One look.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Dropping them ends them.
pub struct Replicas {
    programs: PathBuf,
    directory: PathBuf,
    kubeconfig: PathBuf,
    processes: Vec<Option<Child>>,
}

/// What one of them tells of itself.
pub struct Told(String);

impl Replicas {
    /// Installs them, and starts them; returns before they have done anything.
    ///
    /// # Errors
    /// When they cannot be installed, or started.
    pub async fn start(cluster: &Cluster, programs: &Path, replicas: usize) -> anyhow::Result<Self> {
        let mut install = Command::new(programs.join("conduit"));
        install.args([
            "install",
            "--raft-storage=emptydir",
            "--without-prometheus",
            "--set",
            &format!("controller.replicas={replicas}"),
        ]);
        let mut install = install.stdout(Stdio::piped()).spawn()?;
        let manifest = install.stdout.take().context("it is piped")?;
        cluster.kubectl("apply -f -", manifest.into())?;
        ensure!(install.wait()?.success(), "conduit install failed");
        let directory = cluster.directory.path().to_owned();
        let config = Api::<ConfigMap>::namespaced(cluster.client.clone(), NAMESPACE).get("conduit-config").await?;
        let injection = config.data.unwrap_or_default().remove("injection.yaml").context("there are no settings")?;
        fs::write(directory.join("injection.yaml"), injection)?;
        let kubeconfig = cluster.kubeconfig();
        let processes = (0..replicas).map(|_| None).collect();
        let mut started = Self { programs: programs.to_owned(), directory, kubeconfig, processes };
        for replica in 0..replicas {
            started.spawn(replica)?;
        }
        Ok(started)
    }

    /// Starts `replica`, which is not running.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, replica: usize) -> anyhow::Result<()> {
        let peers: Vec<_> =
            (0..self.processes.len()).map(|number| format!("controller-{number}={}:8300", ip(number))).collect();
        let mut command = Command::new(self.programs.join("conduit-controller"));
        command.args(["--kubernetes", "--namespace", NAMESPACE, "--service-account-audience=conduit.io/identity"]);
        command.arg(format!("--name=controller-{replica}")).arg(format!("--listen-ip={}", ip(replica)));
        command.arg(format!("--peers={}", peers.join(",")));
        command.arg("--data-dir").arg(self.directory.join(format!("controller-{replica}.data")));
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.arg("--injection-file").arg(self.directory.join("injection.yaml"));
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join(format!("controller-{replica}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes[replica] = Some(command.spawn()?);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Ends `replica` as a node that fails would.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn kill(&mut self, replica: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.processes[replica].take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// What `replica` tells, if it runs.
    pub async fn told(&self, replica: usize) -> Option<Told> {
        self.processes[replica].as_ref()?;
        timeout(ANSWER_TIMEOUT, ask((ip(replica), ADMIN_PORT).into(), "/metrics")).await.ok()?.ok().map(Told)
    }

    /// The first of them of which `is_so`, as soon as there is one.
    ///
    /// # Errors
    /// When that is not in time.
    pub async fn first(&self, what: &str, is_so: impl Fn(&Told) -> bool) -> anyhow::Result<usize> {
        let began = Instant::now();
        loop {
            for replica in 0..self.len() {
                if self.told(replica).await.is_some_and(|told| is_so(&told)) {
                    return Ok(replica);
                }
            }
            ensure!(began.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}; logs: {}", self.directory.display());
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Returns when `is_so` of all of them that run.
    ///
    /// # Errors
    /// When that is not in time.
    pub async fn all(&self, what: &str, is_so: impl Fn(&Told) -> bool) -> anyhow::Result<()> {
        for replica in (0..self.len()).filter(|replica| self.processes[*replica].is_some()) {
            let began = Instant::now();
            while !self.told(replica).await.is_some_and(|told| is_so(&told)) {
                ensure!(began.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what} (controller-{replica})");
                sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Resident memory of `replica` in megabytes: now, and at most since it was started.
    pub fn memory(&self, replica: usize) -> (f64, f64) {
        let pid = self.processes[replica].as_ref().map_or(0, Child::id);
        let field = |name| of_process(pid, name).unwrap_or_default() as f64 / 1e6;
        (field("VmRSS"), field("VmHWM"))
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for replica in 0..self.len() {
            let _ = self.kill(replica);
        }
    }
}

impl Told {
    /// The value of that series of `conduit_controller_`.
    pub fn value(&self, series: &str) -> Option<f64> {
        let series = format!("conduit_controller_{series} ");
        self.0.lines().find_map(|line| line.strip_prefix(&series))?.trim().parse().ok()
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.value("raft_role{role=\"leader\"}") == Some(1.0)
    }

    /// Whether it has led, and the platform has told it all.
    pub fn is_described(&self) -> bool {
        self.value("platform_described_timestamp_seconds").is_some_and(|at| at > 0.0)
    }

    /// Whether it knows all of these.
    pub fn knows(&self, pods: usize, services: usize) -> bool {
        let at_least = |series, count: usize| self.value(series).is_some_and(|value| value >= count as f64);
        at_least("discovery_pods", pods) && at_least("discovery_services", services)
    }
}

/// Nobody else's: pods get theirs from the beginning of this network.
pub fn ip(replica: usize) -> IpAddr {
    Ipv4Addr::new(10, 244, 255, 1 + replica as u8).into()
}

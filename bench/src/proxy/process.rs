//! Processes that are measured: what they run on, what they have used, and that they end.

use std::{
    fs,
    io::{self, Read as _, Seek as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::memory::of_process;

/// Where the load and the server run, and this program.
pub const LOAD_CORE: usize = 0;
/// Where proxies run; both of a pair.
pub const PROXY_CORE: usize = 1;
/// A process that was told to end has ended by then, or is killed.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// This process and its children from now on run on the core of the load.
///
/// # Errors
/// When there is no such core for us.
pub fn stay_on_load_core() -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(LOAD_CORE)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("cannot stay on one core")
}

/// A command whose process runs on one core.
pub fn on_core(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]).arg(program);
    command
}

/// A child. Dropping it kills it.
pub struct Process {
    child: Child,
    log: fs::File,
}

impl Process {
    /// What it says can be asked for.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, directory: &Path) -> anyhow::Result<Self> {
        let log = tempfile::tempfile_in(directory)?;
        command.current_dir(directory).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, log })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of all its threads that have not ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // On the processor, waiting for it, and how often: Documentation/scheduler/sched-stats.rst.
            let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += statistics.split(' ').next().and_then(|on| on.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident(&self) -> anyhow::Result<u64> {
        of_process(self.pid(), "VmRSS").context("it has ended")
    }

    /// What it has said so far.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn said(&mut self) -> io::Result<String> {
        let mut said = String::new();
        self.log.rewind()?;
        self.log.read_to_string(&mut said)?;
        Ok(said)
    }

    /// Tells it to end, and waits for that; what it said.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn end(mut self) -> anyhow::Result<String> {
        // It is a child that was not waited for: its number is still its own.
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(began.elapsed() < PATIENCE, "it did not end within {PATIENCE:?}: {}", self.said()?);
            sleep(LOOK_AGAIN).await;
        }
        Ok(self.said()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! One supervised process: what it is, and when it is started again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::IpAddr,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use conduit_api::PodName;
use tokio::process::{Child, Command};

/// The first pause before a restart, doubled at each further one ...
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A process that lived for so long is taken to have been well.
const WELL: Duration = Duration::from_secs(10);
/// A log that grows past this becomes the old one, of which there is one.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Spec {
    /// e.g. `voting-0/proxy`
    pub name: String,
    /// `controller`, `proxy` or `app`
    pub role: &'static str,
    /// Whose it is.
    pub pod: Option<PodName>,
    /// Its network's.
    pub ip: IpAddr,
    /// Arguments of `conduit local enter`, the program included.
    pub enter: Vec<String>,
    /// All that it has in its environment beside PATH and HOME.
    pub env: Vec<(String, String)>,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Spec {
    /// Starts it.
    ///
    /// # Errors
    /// When its log cannot be written, or there are too many processes.
    pub fn spawn(&self) -> anyhow::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["local", "enter"]).args(&self.enter).env_clear().envs(self.env.iter().cloned());
        for inherited in ["PATH", "HOME", "CONDUIT_LOCAL_DIR"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {}", self.name))
    }

    /// Why it ended, if it has said so (our own programs do, in a line that begins with `error:`); or its last line.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let reason = log.lines().rev().find_map(|line| line.strip_prefix("error: "));
        reason.or_else(|| log.lines().next_back()).unwrap_or("nothing").to_owned()
    }

    /// Keeps the log within its bound. The process goes on writing at its end, wherever that is.
    pub fn rotate_log(&self) -> io::Result<()> {
        if fs::metadata(&self.log)?.len() > LOG_BYTES_MAX {
            fs::copy(&self.log, self.log.with_extension("log.old"))?;
            File::options().write(true).open(&self.log)?.set_len(0)?;
        }
        Ok(())
    }
}

/// How often it ended, and what follows from that. Pure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// Since the mesh was started.
    pub count: u32,
    in_a_row: u32,
}

impl Restarts {
    /// It ended after it had lived for `lived`: the pause before it is started again.
    pub fn ended(&mut self, lived: Duration) -> Duration {
        if lived >= WELL {
            self.in_a_row = 0;
        }
        let pause = (PAUSE_MIN * 2_u32.saturating_pow(self.in_a_row)).min(PAUSE_MAX);
        self.count += 1;
        self.in_a_row = (self.in_a_row + 1).min(16);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_it_lived_well() {
        let mut restarts = Restarts::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..8).map(|_| restarts.ended(short).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(restarts.ended(WELL), PAUSE_MIN);
        assert_eq!(restarts.count, 9);
    }

    #[test]
    fn logs_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("web-0.app.log");
        let ip = [10, 0, 0, 1].into();
        let (enter, env) = (Vec::new(), Vec::new());
        let spec = Spec { name: "web-0/app".into(), role: "app", pod: None, ip, enter, env, log: log.clone() };
        fs::write(&log, vec![b'x'; LOG_BYTES_MAX as usize + 1]).unwrap();
        spec.rotate_log().unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        assert_eq!(fs::metadata(directory.path().join("web-0.app.log.old")).unwrap().len(), LOG_BYTES_MAX + 1);
        assert_eq!(spec.last_words(), "nothing");
        fs::write(&log, "few\nwords").unwrap();
        spec.rotate_log().unwrap();
        assert_eq!(spec.last_words(), "words");
        fs::write(&log, "started\nerror: no space\nended\n").unwrap();
        assert_eq!(spec.last_words(), "no space");
    }
}

//! A mesh in a directory of its own, driven through the `conduit` command.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::programs;

/// The programs that make up a mesh.
const PROGRAMS: [&str; 4] = ["conduit", "conduit-controller", "conduit-proxy", "conduit-demo"];
/// The user and group that have no rights anywhere.
const NOBODY: u32 = 65_534;
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One mesh at a time: they are heavy.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A place for a mesh, which may or may not run in it. Dropping it ends what runs and removes it.
pub struct Mesh {
    directory: TempDir,
    programs: PathBuf,
    user: Option<u32>,
    web_port: u16,
    environment: Vec<(String, String)>,
    _turn: Option<MutexGuard<'static, ()>>,
}

pub struct Raft {
    pub leader_id: String,
    pub term: u64,
    pub revision: u64,
    pub members: Vec<Member>,
}

#[derive(Clone)]
pub struct Member {
    pub id: String,
    pub role: String,
    pub pid: u32,
}

pub struct Process {
    pub pid: u32,
    pub state: String,
    pub restarts: u64,
}

impl Raft {
    pub fn leader(&self) -> &Member {
        self.members.iter().find(|member| member.id == self.leader_id).expect("a leader")
    }
}

/// A place without a mesh.
pub fn without_mesh() -> Mesh {
    Mesh::place(programs::built(), None, None)
}

/// Runs `test` on a mesh that an ordinary user started, with copies of the programs which that user can reach.
pub fn run_as_nobody(test: impl FnOnce(Mesh)) {
    let programs = TempDir::with_prefix("conduit-bin-").unwrap();
    open_to_all(programs.path());
    for program in PROGRAMS {
        fs::copy(programs::built().join(program), programs.path().join(program)).unwrap();
    }
    let user = nix::unistd::geteuid().is_root().then_some(NOBODY);
    let mesh = Mesh::place(programs.path().to_owned(), user, Some(turn()));
    mesh.start("");
    test(mesh);
}

impl Mesh {
    /// A running mesh with the demo in it.
    pub fn up() -> Self {
        Self::up_with("")
    }

    /// The same, with more flags.
    pub fn up_with(flags: &str) -> Self {
        let mesh = Self::place(programs::built(), None, Some(turn()));
        mesh.start(flags);
        mesh
    }

    /// No mesh yet, and no other one meanwhile.
    pub fn waiting() -> Self {
        Self::place(programs::built(), None, Some(turn()))
    }

    /// A variable of all commands, and so of the mesh that is started.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Where the mesh keeps what it keeps.
    pub fn path(&self) -> PathBuf {
        self.mesh_directory()
    }

    /// The directories of what belongs to one pod alone.
    pub fn pod_files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.mesh_directory().join("tokens")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Every file of the mesh, and those that were made for it.
    pub fn all_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.directory.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => directories.push(entry.path()),
                    kind if kind.is_file() => files.push(entry.path()),
                    _ => {}
                }
            }
        }
        files
    }

    /// A process of this mesh does nothing any more ...
    pub fn stop(&self, pid: u32) {
        assert_ne!(pid, 0, "a process to stop");
        kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).unwrap();
    }

    /// ... until it goes on.
    pub fn go_on(&self, pid: u32) {
        kill(Pid::from_raw(pid as i32), Signal::SIGCONT).unwrap();
    }

    /// What a process has written so far.
    pub fn log(&self, process: &str) -> String {
        fs::read_to_string(self.mesh_directory().join("logs").join(format!("{process}.log"))).unwrap_or_default()
    }

    fn place(programs: PathBuf, user: Option<u32>, turn: Option<MutexGuard<'static, ()>>) -> Self {
        let directory = TempDir::with_prefix("conduit-").unwrap();
        if let Some(user) = user {
            nix::unistd::chown(directory.path(), Some(user.into()), Some(user.into())).unwrap();
        }
        // Free a moment ago; another test's mesh waits for its turn.
        let web_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { directory, programs, user, web_port, environment: Vec::new(), _turn: turn }
    }

    pub fn start(&self, flags: &str) {
        self.ok(format!("local up --demo --detach --web-port {} {flags}", self.web_port).trim_end());
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(self.programs.join("conduit"));
        command.args(args.split(' ')).env("CONDUIT_LOCAL_DIR", self.mesh_directory()).stdin(Stdio::null());
        command.envs(self.environment.iter().cloned());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    fn mesh_directory(&self) -> PathBuf {
        self.directory.path().join("mesh")
    }

    fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// The standard output of a command that must succeed.
    pub fn ok(&self, args: &str) -> String {
        let output = self.run(args);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "`conduit {args}` failed: {stderr}\n{stdout}\n{}", self.logs());
        stdout
    }

    /// The one line with which a command fails.
    pub fn fails(&self, args: &str) -> String {
        let stderr = self.gives_up(args);
        assert_eq!(stderr.trim_end().lines().count(), 1, "`conduit {args}`: {stderr}");
        stderr
    }

    /// What a command says before it fails, and why it does.
    pub fn gives_up(&self, args: &str) -> String {
        let output = self.run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "`conduit {args}`: {stderr}{}", text(&output.stdout));
        stderr
    }

    /// The first `count` lines of a command that does not end by itself; it is then ended.
    pub fn first_lines(&self, args: &str, count: usize) -> Vec<String> {
        self.until_lines(args, count, false).1
    }

    /// What `command` makes of what the command prints, until it has seen enough.
    pub fn piped(&self, args: &str, command: &mut Command) -> String {
        let mut child = self.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let mut filter = command.stdin(child.stdout.take().unwrap()).stdout(Stdio::piped()).spawn().unwrap();
        for _ in 0..600 {
            if filter.try_wait().unwrap().is_some() {
                break;
            }
            sleep(LOOK_AGAIN);
        }
        // Either may have ended, and nobody has taken note of the first.
        let _ = kill(pid, Signal::SIGTERM);
        child.wait().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut filter.stdout.take().unwrap(), &mut text).unwrap();
        filter.wait().unwrap();
        text
    }

    /// The same, with the first line that it says besides.
    pub fn note_and_lines(&self, args: &str, count: usize) -> (String, Vec<String>) {
        self.until_lines(args, count, true)
    }

    fn until_lines(&self, args: &str, count: usize, notes: bool) -> (String, Vec<String>) {
        let mut command = self.command(args);
        if notes {
            command.stderr(Stdio::piped());
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        // Ends the command if it stays silent, so that the reading below is bounded.
        let silence = std::thread::spawn(move || {
            for _ in 0..600 {
                sleep(LOOK_AGAIN);
                if kill(pid, None).is_err() {
                    return;
                }
            }
            let _ = kill(pid, Signal::SIGKILL);
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(count).map(Result::unwrap).collect();
        let note = child.stderr.take().and_then(|stderr| BufReader::new(stderr).lines().next());
        child.kill().unwrap();
        child.wait().unwrap();
        silence.join().unwrap();
        (note.map_or_else(String::new, Result::unwrap), lines)
    }

    pub fn try_raft(&self) -> Option<Raft> {
        let output = self.run("raft status -o json");
        let json: Value = output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())?;
        let member = |m: &Value| Member {
            id: m["id"].as_str().unwrap().to_owned(),
            role: m["role"].as_str().unwrap().to_owned(),
            pid: m["pid"].as_u64().unwrap_or_default() as u32,
        };
        Some(Raft {
            leader_id: json["leader_id"].as_str().unwrap_or_default().to_owned(),
            term: json["term"].as_u64().unwrap(),
            revision: json["revision"].as_u64().unwrap(),
            members: json["members"].as_array().unwrap().iter().map(member).collect(),
        })
    }

    pub fn raft(&self) -> Raft {
        eventually(Duration::from_secs(10), "`conduit raft status` answers", || self.try_raft())
    }

    /// One of the processes of `conduit local status`.
    pub fn process(&self, name: &str) -> Process {
        let json: Value = serde_json::from_str(&self.ok("local status -o json")).unwrap();
        let processes = json["processes"].as_array().unwrap();
        let process = processes.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name} in {json}"));
        Process {
            pid: process["pid"].as_u64().unwrap_or_default() as u32,
            state: process["state"].as_str().unwrap().to_owned(),
            restarts: process["restarts"].as_u64().unwrap(),
        }
    }

    /// Where the demo's page is.
    pub fn web_address(&self) -> String {
        format!("127.0.0.1:{}", self.web_port)
    }

    pub fn trust_bundle(&self) -> String {
        fs::read_to_string(self.mesh_directory().join("trust-bundle.pem")).unwrap()
    }

    /// Everything is gone but the seed, which the platform keeps.
    pub fn lose_disks(&self) {
        fs::remove_dir_all(self.mesh_directory().join("controllers")).unwrap();
        for file in ["bootstrap-gate", "trust-bundle.pem", "trust-root.json"] {
            fs::remove_file(self.mesh_directory().join(file)).unwrap();
        }
    }

    /// What a controller has on its disk is gone.
    pub fn lose_disk(&self, controller: &str) {
        fs::remove_dir_all(self.mesh_directory().join("controllers").join(controller)).unwrap();
    }

    /// A file for a command to read.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// No supervisor was left behind by the commands that failed.
    pub fn is_empty(&self) {
        let marker = self.mesh_directory().display().to_string();
        let left = fs::read_dir("/proc").unwrap().filter_map(|process| {
            let command = fs::read(process.ok()?.path().join("environ")).ok()?;
            text(&command).contains(&marker).then_some(())
        });
        assert_eq!(left.count(), 0, "processes were left behind");
    }

    /// Kills a process of this mesh as the kernel's out-of-memory killer does.
    pub fn kill9(&self, pid: u32) {
        assert_ne!(pid, 0, "a process to kill");
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }

    /// Ends it as a person does, and looks whether everything is gone.
    pub fn down(&self) {
        self.ok("local down");
        self.is_empty();
    }

    /// The end of every log, for the one who has to find out why a test failed.
    fn logs(&self) -> String {
        let Ok(logs) = fs::read_dir(self.mesh_directory().join("logs")) else { return String::new() };
        let tail = |path: &Path| {
            let log = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            format!("--- {}\n{}\n", path.display(), lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        logs.filter_map(Result::ok).map(|log| tail(&log.path())).collect()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // Mostly down already; if the test failed, or the command does, the supervisor takes everything with it.
        let _ = self.run("local down --purge");
        let marker = self.mesh_directory().display().to_string();
        for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let pid = process.file_name().to_string_lossy().parse::<i32>();
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            if let (Ok(pid), true) = (pid, text(&environment).contains(&marker)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// What `look` finds, as soon as it finds something.
pub fn eventually<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    #[allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        sleep(LOOK_AGAIN);
    }
}

/// Waits for the other tests of heavy things.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

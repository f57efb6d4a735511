//! Where a local mesh keeps its state, and how its parts find each other.

use std::{
    env, fs, io,
    io::Write as _,
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// The longest path of a unix socket, without its terminating zero (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The state directory of one mesh.
#[derive(Clone, Debug)]
pub struct MeshDirectory {
    path: PathBuf,
}

impl MeshDirectory {
    /// `given`, or else the user's default.
    ///
    /// # Errors
    /// When there is no home to have a default in.
    pub fn resolve(given: Option<&Path>) -> anyhow::Result<Self> {
        let base = || {
            let state = env::var_os("XDG_STATE_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
            state.or_else(|| env::home_dir().map(|home| home.join(".local/state")))
        };
        match given {
            Some(path) => Ok(Self { path: std::path::absolute(path)? }),
            None => {
                let base = base().context("HOME is not set: say with --dir where the mesh is to keep its state")?;
                Ok(Self { path: base.join("conduit/local") })
            }
        }
    }

    /// Makes it, with what is in it readable by its owner only. Others may pass through: a proxy that is not run as root
    /// reads its own files.
    ///
    /// # Errors
    /// When it cannot be made, or its path is too long for sockets.
    pub fn create(&self) -> anyhow::Result<()> {
        let longest = self.api_socket("controller-0");
        if longest.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            bail!("{} is too long a path for sockets; give a shorter one with --dir", self.path.display());
        }
        for directory in [self.path.clone(), self.logs(), self.tokens(), self.controllers(), self.sockets()] {
            fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        set(&self.path, 0o711)?;
        set(&self.tokens(), 0o711)?;
        set(&self.sockets(), 0o700)?;
        set(&self.controllers(), 0o700)?;
        Ok(())
    }

    /// The whole of it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What proves membership of the control plane.
    pub fn seed(&self) -> PathBuf {
        self.path.join("seed")
    }

    /// What runs, for the leading controller.
    pub fn platform_file(&self) -> PathBuf {
        self.path.join("platform.json")
    }

    /// The roots that proxies trust at their start.
    pub fn trust_bundle(&self) -> PathBuf {
        self.path.join("trust-bundle.pem")
    }

    /// The trust root, sealed: with the seed, it brings back what all controllers have lost.
    pub fn root_backup(&self) -> PathBuf {
        self.path.join("trust-root.json")
    }

    /// Some controller has data here.
    pub fn has_control_plane(&self) -> bool {
        let controllers = fs::read_dir(self.controllers()).into_iter().flatten().filter_map(Result::ok);
        controllers.flat_map(|controller| fs::read_dir(controller.path())).flatten().flatten().next().is_some()
    }

    /// Exists once a control plane was started here.
    pub fn bootstrap_gate(&self) -> PathBuf {
        self.path.join("bootstrap-gate")
    }

    /// Held by the supervisor while it runs.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Cluster IPs, which services keep.
    pub fn cluster_ips(&self) -> PathBuf {
        self.path.join("cluster-ips.json")
    }

    /// One file per process.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The output of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{}.log", process.replace('/', ".")))
    }

    /// One launch token per pod.
    pub fn tokens(&self) -> PathBuf {
        self.path.join("tokens")
    }

    /// One data directory per controller.
    pub fn controllers(&self) -> PathBuf {
        self.path.join("controllers")
    }

    fn sockets(&self) -> PathBuf {
        self.path.join("run")
    }

    /// The public API of one controller.
    pub fn api_socket(&self, controller: &str) -> PathBuf {
        self.sockets().join(format!("{controller}.sock"))
    }

    /// The public API of all controllers that have one at the moment.
    pub fn api_sockets(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(self.sockets()).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
        let is_api =
            |path: &PathBuf| path.extension().is_some_and(|e| e == "sock") && *path != self.supervisor_socket();
        let mut sockets: Vec<_> = found.filter(is_api).collect();
        sockets.sort();
        sockets
    }

    /// What `conduit local` asks.
    pub fn supervisor_socket(&self) -> PathBuf {
        self.sockets().join("supervisor.sock")
    }

    /// A supervisor answers.
    pub fn is_running(&self) -> bool {
        UnixStream::connect(self.supervisor_socket()).is_ok()
    }

    /// Takes away what a control plane has left behind that never was ready: as far as that can be done.
    pub fn forget_state(&self) {
        for directory in [self.controllers(), self.tokens()] {
            let _ = fs::remove_dir_all(directory);
        }
        let files = [self.seed(), self.platform_file(), self.trust_bundle(), self.root_backup(), self.bootstrap_gate()];
        for file in files.into_iter().chain([self.cluster_ips()]) {
            let _ = fs::remove_file(file);
        }
    }

    /// Takes away everything, the trust root included.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn purge(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Readers see the old content or the new one.
///
/// # Errors
/// When it cannot be written; the old content stays.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || {
        let temporary = path.with_extension("tmp");
        // Whatever was left there, with other rights, by one that was interrupted.
        let _ = fs::remove_file(&temporary);
        let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        // The umask has no say.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

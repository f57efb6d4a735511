//! A mesh on one machine: files, which its supervisor and its replicas replace whenever something changes.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use conduit_api::{Revision, mesh::Inventory};
use conduit_ca::Seed;
use futures::{StreamExt as _, stream, stream::BoxStream};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;
use tracing::warn;

use super::{Platform, told::Told};

/// A seed's file is a hundred bytes.
const SEED_POLL: Duration = Duration::from_secs(1);

/// Where everything is.
#[derive(Clone, Debug)]
pub struct LocalFiles {
    /// What runs, as the supervisor writes it.
    pub inventory: PathBuf,
    /// What all replicas share.
    pub seed: PathBuf,
    /// Made by the replica that starts the control plane.
    pub gate: PathBuf,
    /// Where the sealed root is kept.
    pub root: Option<PathBuf>,
    /// Where proxies find what to trust.
    pub trust_bundle: Option<PathBuf>,
}

#[tonic::async_trait]
impl Platform for LocalFiles {
    fn told(&self, _: watch::Receiver<u32>) -> BoxStream<'static, Told> {
        let path = self.inventory.clone();
        let watch = match FileWatch::new(&path) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "what runs in the mesh is not followed");
                return stream::empty().boxed();
            }
        };
        let read = stream::unfold((watch, path), |(mut watch, path)| async {
            watch.changed.changed().await.ok()?;
            let read = read(&path);
            if let Err(error) = &read {
                let error = error as &dyn std::error::Error;
                warn!(error, "the platform cannot be read; its last state stays in force");
            }
            Some((read.ok().map(Told::All), (watch, path)))
        });
        read.filter_map(std::future::ready).boxed()
    }

    fn keeps_routes(&self) -> bool {
        false
    }

    async fn seed(&self) -> anyhow::Result<Seed> {
        Ok(Seed::load(&self.seed)?)
    }

    fn seed_poll(&self) -> Duration {
        SEED_POLL
    }

    async fn pass_gate(&self, node: &str, _: bool) -> anyhow::Result<bool> {
        pass_gate(&self.gate, node).with_context(|| format!("cannot use the bootstrap gate {}", self.gate.display()))
    }

    async fn kept_root(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(path) = &self.root else { return Ok(None) };
        match fs::read(path) {
            Ok(sealed) => Ok(Some(sealed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    async fn keep_root(&self, sealed: &[u8], _: Revision) -> anyhow::Result<()> {
        self.root.as_ref().map_or(Ok(()), |path| replace_file(path, sealed))
    }

    async fn publish_trust_bundle(&self, pem: &str, _: Revision) -> anyhow::Result<()> {
        self.trust_bundle.as_ref().map_or(Ok(()), |path| replace_file(path, pem.as_bytes()))
    }
}

/// Why the file was not taken; what was read before stays in force.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// It is not there, or may not be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// It is not what the supervisor writes.
    #[error("{} is not a description of a mesh", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    /// The directory cannot be watched.
    #[error("cannot watch {}", path.display())]
    Watch { path: PathBuf, source: notify::Error },
}

/// Reads the file as it is now. It is replaced by renaming, so a partial one is never seen.
fn read(path: &Path) -> Result<Inventory, FileError> {
    let bytes = fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let read: Result<Inventory, _> = serde_json::from_slice(&bytes);
    let read = read.map_err(|source| FileError::Parse { path: path.to_owned(), source })?;
    // There are no objects here to declare any: what the backup of a cluster has brought would be nobody's to change.
    Ok(Inventory { objectives: Some(Vec::new()), ..read })
}

/// Tells that the file may have changed, and at once. Dropping it ends the watch.
struct FileWatch {
    changed: watch::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Watches the directory of `path`, because the file itself is replaced.
    fn new(path: &Path) -> Result<Self, FileError> {
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        let failed = |source| FileError::Watch { path: directory.clone(), source };
        let (sender, mut changed) = watch::channel(());
        changed.mark_changed();
        let name = path.file_name().map(ToOwned::to_owned);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error means that events may have been lost: look.
            if event.map_or(true, |event| concerns(&event, name.as_deref())) {
                sender.send_replace(());
            }
        })
        .map_err(failed)?;
        watcher.watch(&directory, RecursiveMode::NonRecursive).map_err(failed)?;
        Ok(Self { changed, _watcher: watcher })
    }
}

/// Whether `event` may mean that the file called `name` is another one now. To read it is an event as well, and must not be
/// a reason to read it.
fn concerns(event: &notify::Event, name: Option<&OsStr>) -> bool {
    !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(|path| path.file_name() == name))
}

/// Exactly one id ever passes.
fn pass_gate(gate: &Path, node: &str) -> io::Result<bool> {
    // The file appears with its content or not at all: an empty one would let nobody pass, ever.
    let own = gate.with_extension(node);
    let write = || {
        let mut file = fs::File::create(&own)?;
        file.write_all(node.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&own, gate)
    };
    let linked = write();
    let _ = fs::remove_file(&own);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(fs::read_to_string(gate)? == node),
        Err(error) => Err(error),
    }
}

/// Readers see the old content or the new one. Each replica writes through a name of its own.
fn replace_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(content)?;
        // Half a root would be in the way of every start.
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    let written = write();
    if written.is_err() {
        // On a full disk every byte counts.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use notify::{
        Event, EventKind,
        event::{AccessKind, AccessMode, ModifyKind, RenameMode},
    };

    use super::*;

    #[test]
    fn one_id_passes_the_gate_and_passes_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        assert!(pass_gate(&gate, "00000000000000aa").unwrap());
        assert!(!pass_gate(&gate, "00000000000000bb").unwrap());
        assert!(pass_gate(&gate, "00000000000000aa").unwrap());
        assert!(pass_gate(&directory.path().join("no/such/directory"), "x").is_err());
    }

    #[test]
    fn only_a_change_of_the_file_is_a_reason_to_read_it() {
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        for (kind, paths, concerned) in [
            (moved, &["/mesh/platform.json"][..], true),
            (moved, &["/mesh/platform.json.new", "/mesh/platform.json"], true),
            (moved, &["/mesh/trust-bundle.pem"], false),
            (EventKind::Other, &[], true),
            (read, &["/mesh/platform.json"], false),
            (read, &[], false),
        ] {
            let event = paths.iter().fold(Event::new(kind), |event, path| event.add_path(path.into()));
            assert_eq!(concerns(&event, Some(OsStr::new("platform.json"))), concerned, "{event:?}");
        }
    }
}

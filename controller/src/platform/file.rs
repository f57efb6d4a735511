//! The local mesh's description of itself, a file that its supervisor replaces whenever something changes.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use conduit_api::mesh::Inventory;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

/// Why the file was not taken; what was read before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or may not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The platform file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what the supervisor writes.
    #[error("{} is not a description of a mesh", path.display())]
    Parse {
        /// The platform file.
        path: PathBuf,
        /// Where, and why.
        #[source]
        source: serde_json::Error,
    },
    /// The directory cannot be watched.
    #[error("cannot watch {}", path.display())]
    Watch {
        /// The directory of the platform file.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
}

/// Reads the file as it is now.
///
/// # Errors
/// When it cannot be read, or is not complete: it is replaced by renaming, so a partial one is never seen.
pub fn read(path: &Path) -> Result<Inventory, FileError> {
    let bytes = std::fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| FileError::Parse { path: path.to_owned(), source })
}

/// Tells that the file may have changed. Dropping it ends the watch.
pub struct FileWatch {
    /// Changes when the file may have.
    pub changed: watch::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Watches the directory of `path`, because the file itself is replaced.
    ///
    /// # Errors
    /// When the directory cannot be watched.
    pub fn new(path: &Path) -> Result<Self, FileError> {
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        let failed = |source| FileError::Watch { path: directory.clone(), source };
        let (sender, changed) = watch::channel(());
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

#[cfg(test)]
mod tests {
    use notify::{
        Event, EventKind,
        event::{AccessKind, AccessMode, ModifyKind, RenameMode},
    };

    use super::*;

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

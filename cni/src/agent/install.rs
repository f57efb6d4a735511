//! The plugin on a node: the program, and its entry in the configuration. Files are replaced as a whole, and only where something is to
//! be otherwise.

use std::{
    cell::Cell,
    env, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::unless_missing;
use crate::{
    PLUGIN, VERSIONS,
    conf::{self, Change},
};

/// A file's name while it is written. Runtimes read no such files.
const TEMPORARY: &str = ".conduit-cni.tmp";
/// Larger files are no configuration.
const CONF_BYTES_MAX: u64 = 1 << 20;
/// More files are of something else.
const FILES_MAX: usize = 1024;

pub(super) struct Installed {
    bin: PathBuf,
    conf: PathBuf,
    entry: Value,
    /// The program as it was last written: its inode, length and time.
    written: Cell<Option<(u64, u64, i64)>>,
}

impl Installed {
    pub(super) fn new(bin: &Path, conf: &Path, entry: Value) -> Self {
        Self { bin: bin.to_owned(), conf: conf.to_owned(), entry, written: Cell::new(None) }
    }

    /// Has the node as it should be; what somebody should know of that.
    pub(super) fn keep(&self) -> anyhow::Result<Option<String>> {
        // First of all: a configuration may not name what is not there.
        let copied = self.program().with_context(|| format!("cannot write the plugin into {}", self.bin.display()))?;
        let directory = || format!("cannot change the CNI configuration in {}", self.conf.display());
        let changed = match conf::added(&self.files().with_context(directory)?, &self.entry) {
            Change::Nothing => None,
            Change::NoNetwork => bail!("there is no CNI configuration in {} yet", self.conf.display()),
            Change::NotSpoken { name, version } => bail!(
                "{} is of CNI version `{version}`, and not of one of {}: the plugin is not added",
                self.conf.join(name).display(),
                VERSIONS.join(", ")
            ),
            Change::Write { name, text, removed } => {
                self.write(&name, &text).with_context(directory)?;
                if let Some(removed) = removed {
                    fs::remove_file(self.conf.join(removed)).with_context(directory)?;
                }
                Some(format!("the plugin was added to {}", self.conf.join(name).display()))
            }
        };
        Ok(changed.or_else(|| copied.then(|| format!("the plugin was written into {}", self.bin.display()))))
    }

    /// As if it had never been here, but for lists of one that were no lists.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        for (name, text) in conf::removed(&self.files()?) {
            self.write(&name, &text)?;
        }
        fs::remove_file(self.bin.join(PLUGIN)).or_else(unless_missing)?;
        Ok(())
    }

    /// Whether it was written: this program, unless it is there.
    fn program(&self) -> io::Result<bool> {
        let (ours, there) = (env::current_exe()?, self.bin.join(PLUGIN));
        let written = fs::metadata(&there).ok().map(|there| (there.ino(), there.len(), there.mtime()));
        // What this agent has written, and nobody has touched since.
        if written.is_some() && self.written.get() == written {
            return Ok(false);
        }
        let temporary = self.bin.join(TEMPORARY);
        fs::copy(&ours, &temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &there)?;
        let there = fs::metadata(&there)?;
        self.written.set(Some((there.ino(), there.len(), there.mtime())));
        Ok(true)
    }

    fn files(&self) -> io::Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.conf)?.take(FILES_MAX) {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Another program may have taken it away, and not all files are text.
            let mut text = String::new();
            let read =
                fs::File::open(entry.path()).and_then(|file| file.take(CONF_BYTES_MAX).read_to_string(&mut text));
            if name != TEMPORARY && read.is_ok() {
                files.push((name, text));
            }
        }
        Ok(files)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        // What a link leads to is changed, and not that there is one.
        let path = fs::canonicalize(self.conf.join(name)).unwrap_or_else(|_| self.conf.join(name));
        let temporary = path.with_file_name(TEMPORARY);
        fs::remove_file(&temporary).or_else(unless_missing)?;
        // There may be another's credentials in it.
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        if let Ok(there) = fs::metadata(&path) {
            file.set_permissions(there.permissions())?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(path.parent().unwrap_or(&self.conf))?.sync_all()
    }
}

//! `conduit local enter`: puts itself where a program is to run, and becomes that program.

use std::{
    ffi::CString,
    fs::{self, File},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{prctl, signal::Signal},
    unistd::{Gid, Uid, execvp, getppid, setgid, setgroups, setuid},
};

/// Where a proxy finds its pod's files, whatever the way to the state directory.
pub const POD_FILES: &str = "/mnt";

/// Where, as whom, and what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network namespace
    #[arg(long)]
    netns: PathBuf,
    /// Files to put in place of the host's, as HOST=FILE
    #[arg(long, value_parser = parse_replaced)]
    replace: Vec<(PathBuf, PathBuf)>,
    /// A directory to be seen as /mnt
    #[arg(long)]
    files: Option<PathBuf>,
    /// The user to become
    #[arg(long)]
    uid: Option<u32>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

fn parse_replaced(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (host, file) = text.split_once('=').ok_or("HOST=FILE is expected")?;
    Ok((host.into(), file.into()))
}

/// Does not return, unless something is in the way.
///
/// # Errors
/// What is in the way.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let supervisor = getppid();
    // First of all: whatever happens to the supervisor, nothing is left behind.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let netns = File::open(&args.netns).context("cannot open the pod's network namespace")?;
    setns(&netns, CloneFlags::CLONE_NEWNET).context("cannot enter the pod's network namespace")?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot have mounts of its own")?;
    for (host, file) in &args.replace {
        // It may be a link, and it may not be there: then the host has no such setting to replace.
        if let Ok(host) = fs::canonicalize(host) {
            bind(file, &host)?;
        }
    }
    if let Some(files) = &args.files {
        bind(files, Path::new(POD_FILES))?;
    }
    if let Some(uid) = args.uid {
        setgroups(&[])?;
        setgid(Gid::from_raw(uid))?;
        setuid(Uid::from_raw(uid))?;
        // Changing the user clears it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    if getppid() != supervisor {
        // It ended before we asked to be told.
        std::process::exit(1);
    }
    let words = args.command.iter().map(|word| CString::new(word.as_bytes()));
    let words = words.collect::<Result<Vec<_>, _>>().context("an argument contains a zero byte")?;
    execvp(&words[0], &words).with_context(|| format!("cannot run `{}`", args.command[0]))?;
    Ok(())
}

fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    mount(Some(source.as_os_str().as_bytes()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot put {} in place of {}", source.display(), target.display()))
}

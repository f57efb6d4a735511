//! `conduit raft snapshot`: the replicated state in a file, for the day when every disk is gone.

use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use conduit_api::proto::public::{RaftStatusRequest, SaveSnapshotRequest, SnapshotChunk};
use tokio_stream::iter;

use crate::control_plane::ControlPlane;

/// As large as the control plane takes them.
const CHUNK_BYTES: usize = 256 * 1024;

/// Which way.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write the state of the control plane to a file, keys sealed in it
    Save {
        /// Where to; what is there is replaced when the new one is complete
        file: PathBuf,
    },
    /// Replace the state of the control plane, its trust root included, by that of a file
    Restore {
        /// Where from
        file: PathBuf,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// Does it.
///
/// # Errors
/// When no control plane answers, it refuses, or the file cannot be written or read.
pub async fn run(command: &Command, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Command::Save { file } => save(file, control_plane, out).await,
        Command::Restore { file, yes } => restore(file, *yes, control_plane, out).await,
    }
}

async fn save(file: &Path, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let mut chunks = control_plane.ask(async |client| client.save_snapshot(SaveSnapshotRequest {}).await).await?;
    let mut content = Vec::new();
    while let Some(chunk) =
        chunks.message().await.context("the replica that was sending the snapshot is gone; try again")?
    {
        content.extend(chunk.data);
    }
    write(file, &content).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(writeln!(out, "{} bytes saved to {}; the seed is not in it, and needed with it", content.len(), file.display())?)
}

/// The old file, or the whole new one; readable for its owner only, as the disk that it came from.
fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let written = (|| {
        let mut part = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        part.write_all(content)?;
        part.sync_all()
    })();
    let renamed = written.and_then(|()| fs::rename(&part, file));
    if renamed.is_err() {
        let _ = fs::remove_file(&part);
    }
    renamed
}

async fn restore(file: &Path, yes: bool, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if !yes {
        let status = control_plane.ask(async |client| client.raft_status(RaftStatusRequest {}).await).await?;
        confirm(&format!(
            "This replaces the state of a control plane of {} replicas at revision {}, its trust root included, by that of {}.",
            status.members.len(),
            status.revision,
            file.display()
        ))?;
    }
    let chunks = || content.chunks(CHUNK_BYTES).map(|chunk| SnapshotChunk { data: chunk.to_vec() }).collect::<Vec<_>>();
    let restored = control_plane.ask(async |client| client.restore_snapshot(iter(chunks())).await).await?;
    let (services, pods, saved) = (restored.services, restored.pods, restored.saved_revision);
    Ok(writeln!(
        out,
        "restored {services} services and {pods} pods of revision {saved}; they are revision {} from now on",
        restored.revision
    )?)
}

/// Asks the person at the terminal.
///
/// # Errors
/// When the answer is not yes, or there is nobody to ask.
pub fn confirm(what: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        bail!("{what} Say --yes if that is what you want");
    }
    eprint!("{what}\nType yes to go on: ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() != "yes" {
        bail!("nothing was changed");
    }
    Ok(())
}

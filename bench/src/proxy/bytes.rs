//! Bytes that mean nothing to a proxy, as many as go through.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

/// At the same time.
const CONNECTIONS: usize = 4;
/// Written at once.
const BLOCK_BYTES: usize = 64 * 1024;
/// From the last byte to the answer that says how many have come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What went through.
pub struct Sent {
    /// All bytes, as the server has counted them.
    pub bytes: u64,
    /// Until the last of them had come.
    pub took: Duration,
}

/// Sends for so long.
///
/// # Errors
/// When bytes are lost.
pub async fn send(address: SocketAddr, duration: Duration) -> anyhow::Result<Sent> {
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(connection(address, began + duration));
    }
    let mut bytes = 0;
    while let Some(sent) = connections.join_next().await {
        bytes += sent??;
    }
    Ok(Sent { bytes, took: began.elapsed() })
}

async fn connection(address: SocketAddr, until: Instant) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    // No protocol begins with it.
    let block = vec![0xff; BLOCK_BYTES];
    let mut sent = 0;
    while Instant::now() < until {
        stream.write_all(&block).await?;
        sent += BLOCK_BYTES as u64;
    }
    stream.shutdown().await?;
    let counted = timeout(PATIENCE, stream.read_u64()).await.context("the server did not see the end")??;
    ensure!(counted == sent, "{counted} of {sent} bytes came");
    Ok(counted)
}

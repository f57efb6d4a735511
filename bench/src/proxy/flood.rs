//! Somebody who opens TLS connections as fast as the proxy takes them, at next to no cost of their own: what is sent is always the same,
//! and when the proxy has answered it, which takes a key exchange and a signature, the connection is reset.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// Connections that are there at the same time.
const CONNECTIONS: usize = 256;
/// As proxies speak: what is for the application is not answered by the proxy.
const ALPN: &[u8] = b"conduit/h1";
/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Goes on until it is dropped.
pub struct Flood {
    answered: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// On a thread of its own, so that the load is not held up by more than the core that they share.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let hello: Arc<[u8]> = hello(address)?.into();
        let (answered, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("flood".into()).spawn({
            let (answered, ended) = (answered.clone(), ended.clone());
            move || {
                runtime.block_on(async {
                    let mut connections = JoinSet::new();
                    for _ in 0..CONNECTIONS {
                        connections.spawn(again_and_again(address, hello.clone(), answered.clone(), ended.clone()));
                    }
                    connections.join_all().await;
                });
            }
        })?;
        Ok(Self { answered, ended, thread: Some(thread) })
    }

    /// How many handshakes the proxy has answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a client that has no certificate says first.
fn hello(address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), ServerName::from(address.ip()))?;
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).context("a vector takes everything")?;
    }
    Ok(hello)
}

async fn again_and_again(address: SocketAddr, hello: Arc<[u8]>, answered: Arc<AtomicU64>, ended: Arc<AtomicBool>) {
    while !ended.load(Ordering::Relaxed) {
        // One that is refused is what a proxy may do about it.
        if let Ok(Ok(())) = timeout(PATIENCE, once(address, &hello)).await {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn once(address: SocketAddr, hello: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    // Reset when it is closed: no port waits for the other side.
    stream.set_zero_linger()?;
    stream.write_all(hello).await?;
    match stream.read(&mut [0; 64]).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

//! Workloads that speak with each other all the time: every exchange is a connection and a handshake of its own, so that nothing is
//! hidden by what was agreed on before.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use conduit_api::{Pod, PodName, SpiffeId, mesh::Inventory};
use conduit_ca::{AuthenticatedPeer, ClientAuth, KeyId, LaunchToken, TrustBundle, WorkloadTls};
use conduit_proxy::{
    cache::Cache,
    connect::Connector,
    control::Controllers,
    discovery::{Directory, client::DiscoveryTask},
    identity::Certifier,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cluster::Cluster;

/// Between two exchanges of a pair: the machine has other things to do as well.
const PAUSE: Duration = Duration::from_millis(5);
/// An exchange that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of all of them.
const NAMESPACE: &str = "chaos";
/// As proxies speak.
const ALPN: &[&[u8]] = &[b"conduit/h1"];

fn name(number: u32) -> String {
    format!("workload-{number}")
}

/// One that has a certificate, and answers.
pub struct Workload {
    id: SpiffeId,
    tls: WorkloadTls,
    address: SocketAddr,
}

/// What pairs of them have seen.
#[derive(Default)]
pub struct Seen {
    exchanges: Cell<u64>,
    failures: RefCell<BTreeMap<String, u64>>,
}

impl Seen {
    /// Exchanges that succeeded.
    pub fn exchanges(&self) -> u64 {
        self.exchanges.get()
    }

    /// Why others did not, and how often.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.borrow().clone()
    }
}

/// Starts so many workloads, and `pairs` of them that speak with each other until the [`LocalSet`](tokio::task::LocalSet) ends that
/// this is called in. Returns when all have a certificate.
///
/// # Errors
/// When one gets none.
pub async fn start(cluster: &Cluster, workloads: u32, pairs: usize) -> anyhow::Result<Rc<Seen>> {
    cluster.wait("there are trust anchors", async || cluster.trust_anchors().exists()).await?;
    let pod = |number| Pod {
        name: PodName::new(NAMESPACE, &name(number)).expect("a name"),
        // Nobody connects to it: workloads know each other.
        ip: [11, 0, (number >> 8) as u8, number as u8].into(),
        workload: None,
        service_account: name(number),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready: true,
        application_ended: false,
    };
    // The control plane is to know whom it waits for, also when they are connected to nobody.
    cluster.describe(&Inventory { pods: (0..workloads.max(2)).map(pod).collect(), ..Inventory::default() })?;
    let mut started = Vec::new();
    for number in 0..workloads.max(2) {
        started.push(workload(cluster, number).await?);
    }
    let (started, seen) = (Rc::new(started), Rc::new(Seen::default()));
    for pair in 0..pairs {
        spawn_local(speak(started.clone(), pair, seen.clone()));
    }
    Ok(seen)
}

/// The identity client and the discovery client of a proxy, and a server in the place of its data threads.
async fn workload(cluster: &Cluster, number: u32) -> anyhow::Result<Workload> {
    let (service_account, pod) = (name(number), name(number));
    let id = SpiffeId::new(&Cluster::trust_domain(), NAMESPACE, &service_account)?;
    let anchors = TrustBundle::from_pem(&fs::read_to_string(cluster.trust_anchors())?)?;
    let tls = WorkloadTls::new(Cluster::trust_domain(), anchors);
    let token = LaunchToken { namespace: NAMESPACE.into(), service_account, pod: pod.clone() };
    let file = cluster.trust_anchors().with_extension(format!("token-{number}"));
    fs::write(&file, token.mint(cluster.seed(), SystemTime::now() + Duration::from_secs(24 * 3_600)))?;
    let addresses = (0..cluster.len()).map(|replica| format!("{}:8086", cluster.ip(replica))).collect();
    let controllers = Controllers::new(addresses, &Cluster::trust_domain(), Connector::new(None, tls.clone()))?;
    let cache = Cache::new(None, PathBuf::new());
    let certifier = Certifier {
        controllers: controllers.clone(),
        token: file,
        anchors: cluster.trust_anchors(),
        tls: tls.clone(),
        cache: cache.clone(),
    };
    spawn_local(certifier.run());
    let (task, discovery, _) = DiscoveryTask::new(Directory::new(NAMESPACE, &pod), controllers, tls.clone(), cache);
    spawn_local(async move {
        // It ends with its handle.
        let _handle = discovery;
        task.run().await;
    });
    let certified = tls.clone();
    cluster.wait("a workload has a certificate", async || certified.identity().is_some()).await?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let serving = tls.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let config = serving.server_config(ALPN, ClientAuth::Required);
            // What goes wrong here, the other side sees.
            spawn_local(async move { answer(TlsAcceptor::from(config), stream).await.ok() });
        }
    });
    Ok(Workload { id, tls, address })
}

impl Workload {
    /// For whoever has to find out why it was refused: whom it trusts, since when, and what it presents.
    fn trust(&self) -> String {
        let (bundle, identity) = (self.tls.bundle(), self.tls.identity());
        let short =
            |id: Option<KeyId>| id.map(|id| id.to_string().chars().take(6).collect::<String>()).unwrap_or_default();
        let roots: Vec<_> = bundle.roots().iter().map(|root| short(KeyId::of(root))).collect();
        let presents = short(identity.and_then(|identity| identity.root.clone()));
        format!(
            "{} (trusts {} at {}, presents {presents})",
            self.id.service_account(),
            roots.join("+"),
            bundle.policy.revision
        )
    }
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    AuthenticatedPeer::from_connection(stream.get_ref().1).ok_or(io::ErrorKind::PermissionDenied)?;
    let byte = stream.read_u8().await?;
    stream.write_u8(byte).await?;
    stream.shutdown().await
}

/// Each with each other, over and over.
async fn speak(workloads: Rc<Vec<Workload>>, pair: usize, seen: Rc<Seen>) {
    for round in pair.. {
        let (from, to) = (round % workloads.len(), (round / workloads.len() + round + 1) % workloads.len());
        if from != to {
            let exchanged = timeout(PATIENCE, exchange(&workloads[from], &workloads[to])).await;
            match exchanged.map_err(anyhow::Error::from).flatten() {
                Ok(()) => seen.exchanges.set(seen.exchanges.get() + 1),
                Err(error) => {
                    let (from, to) = (workloads[from].trust(), workloads[to].trust());
                    let why = format!("{error:#}: from {from} to {to}");
                    *seen.failures.borrow_mut().entry(why).or_default() += 1;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn exchange(from: &Workload, to: &Workload) -> anyhow::Result<()> {
    let stream = TcpStream::connect(to.address).await?;
    let config = from.tls.client_config(ALPN, &to.id);
    let mut stream = TlsConnector::from(config).connect(ServerName::from(to.address.ip()), stream).await?;
    AuthenticatedPeer::from_connection(stream.get_ref().1).context("the peer's certificate has expired")?;
    stream.write_u8(7).await?;
    anyhow::ensure!(stream.read_u8().await? == 7, "another byte than was sent");
    Ok(())
}

//! A control plane for the proxies of ours that are measured: a real controller, three pods to a build, and the services between them.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use conduit_api::{
    Endpoint, Pod, PodName, Service, ServiceName, ServicePort, SpiffeId, mesh::Inventory,
    proto::public::api_client::ApiClient,
};
use conduit_ca::LaunchToken;
use conduit_chaos::cluster::Cluster;
use tonic::transport::Channel;

use super::subject::{OURS, OWN_PORT, Part, Proxy, SERVER};

/// Of everything here.
pub const NAMESPACE: &str = "bench";
/// Longer than any measurement.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Where proxies tell of themselves.
pub(crate) const METRICS_PORT: u16 = 4191;
/// The listener that a measurement does not use.
const OTHER_PORT: u16 = 4140;

/// The control plane.
pub struct Mesh {
    cluster: Cluster,
}

/// What clients of a proxy mean.
#[derive(Clone, Copy)]
enum Meant {
    /// The service whose only endpoint is the server, which is not in the mesh.
    Plain,
    /// The service with many endpoints.
    Many,
    /// The service whose only endpoint is the pod with the second proxy of this build.
    Meshed(Proxy),
}

impl Meant {
    fn number(self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Many => 2,
            Self::Meshed(proxy) => 3 + proxy as u8,
        }
    }

    fn address(self) -> SocketAddr {
        ([10, 96, 79, self.number()], 80).into()
    }
}

impl Mesh {
    /// Returns when proxies can be started.
    ///
    /// # Errors
    /// When the controller does not start.
    pub async fn start(programs: &Path) -> anyhow::Result<Self> {
        let cluster = Cluster::start(programs, 1).await?;
        cluster.wait("there are trust anchors", async || cluster.trust_anchors().exists()).await?;
        let mesh = Self { cluster };
        for (proxy, part) in pods() {
            let name = name(proxy, part);
            let token = LaunchToken { namespace: NAMESPACE.into(), service_account: name.clone(), pod: name.clone() };
            fs::write(mesh.token(&name), token.mint(mesh.cluster.seed(), SystemTime::now() + TOKEN_LIFE))?;
        }
        mesh.describe(0)?;
        Ok(mesh)
    }

    fn token(&self, name: &str) -> PathBuf {
        self.cluster.trust_anchors().with_file_name(format!("{name}.token"))
    }

    /// The public API of the controller.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn api(&self) -> anyhow::Result<ApiClient<Channel>> {
        Cluster::api(self.cluster.socket(0)).await
    }

    /// The service with many endpoints has so many from now on.
    ///
    /// # Errors
    /// When the platform's file cannot be written.
    pub fn describe(&self, many: u16) -> anyhow::Result<()> {
        let foreign = |address| Endpoint { address, pod: None, workload: None, identity: None, zone: None };
        let meshed = |proxy| {
            let name = name(proxy, Part::In);
            let (pod, identity) = (PodName::new(NAMESPACE, &name)?, identity(proxy, Part::In)?);
            let address = SocketAddr::new(proxy.ip(Part::In), OWN_PORT);
            let endpoint = Endpoint { pod: Some(pod), identity: Some(identity), ..foreign(address) };
            service(Meant::Meshed(proxy), [endpoint])
        };
        let many = (0..many).map(|number| {
            let [high, low] = number.to_be_bytes();
            foreign(SocketAddr::from(([127, 80, high, low], 8080)))
        });
        let mut services = vec![service(Meant::Plain, [foreign(SERVER.into())])?, service(Meant::Many, many)?];
        for proxy in OURS {
            services.push(meshed(proxy)?);
        }
        let pods = pods().map(|(proxy, part)| pod(proxy, part)).collect::<anyhow::Result<_>>()?;
        Ok(self.cluster.describe(&Inventory { services, pods, ..Inventory::default() })?)
    }

    /// Tells `command`, which is to run `conduit-proxy` on the proxies' core, to be this part of `proxy`.
    pub fn configure(&self, command: &mut Command, proxy: Proxy, part: Part) {
        let meant = match part {
            Part::Hop | Part::In => Meant::Plain,
            Part::Out => Meant::Meshed(proxy),
        };
        self.configure_for(command, proxy, part, meant);
    }

    /// The same, for a client of the service with many endpoints.
    pub fn configure_with_many(&self, command: &mut Command, proxy: Proxy) {
        self.configure_for(command, proxy, Part::Hop, Meant::Many);
    }

    fn configure_for(&self, command: &mut Command, proxy: Proxy, part: Part, meant: Meant) {
        let (ip, name) = (proxy.ip(part), name(proxy, part));
        let (used, other) = (SocketAddr::new(ip, OWN_PORT), SocketAddr::new(ip, OTHER_PORT));
        let (outbound, inbound, original) = match part {
            Part::Hop | Part::Out => (used, other, meant.address()),
            Part::In => (other, used, proxy.server_in_pod()),
        };
        command.envs([
            ("CONDUIT_PROXY_POD_NAMESPACE", NAMESPACE.to_owned()),
            ("CONDUIT_PROXY_POD_NAME", name.clone()),
            ("CONDUIT_PROXY_POD_IP", ip.to_string()),
            ("CONDUIT_PROXY_CONTROL_URL", format!("{}:8086", self.cluster.ip(0))),
            ("CONDUIT_PROXY_TRUST_DOMAIN", Cluster::trust_domain().to_string()),
            ("CONDUIT_PROXY_PRIVATE_LISTENER", outbound.to_string()),
            ("CONDUIT_PROXY_PUBLIC_LISTENER", inbound.to_string()),
            ("CONDUIT_PROXY_METRICS_LISTENER", SocketAddr::new(ip, METRICS_PORT).to_string()),
            ("CONDUIT_PROXY_CORES", "1".to_owned()),
            ("CONDUIT_PROXY_ORIGINALS", format!("{used}={original}")),
        ]);
        command.env("CONDUIT_PROXY_TRUST_ANCHORS_FILE", self.cluster.trust_anchors());
        command.env("CONDUIT_PROXY_IDENTITY_TOKEN_FILE", self.token(&name));
        command.env("CONDUIT_PROXY_CACHE_FILE", self.token(&name).with_extension("cache"));
    }
}

fn pods() -> impl Iterator<Item = (Proxy, Part)> {
    OURS.into_iter().flat_map(|proxy| [Part::Hop, Part::Out, Part::In].map(|part| (proxy, part)))
}

/// Of a pod, and of its service account.
fn name(proxy: Proxy, part: Part) -> String {
    match proxy {
        Proxy::Other => format!("{part}-other"),
        _ => part.to_string(),
    }
}

/// Of a pod.
///
/// # Errors
/// Never, with these names.
pub fn identity(proxy: Proxy, part: Part) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::new(&Cluster::trust_domain(), NAMESPACE, &name(proxy, part))?)
}

fn pod(proxy: Proxy, part: Part) -> anyhow::Result<Pod> {
    let name = name(proxy, part);
    Ok(Pod {
        name: PodName::new(NAMESPACE, &name)?,
        ip: proxy.ip(part),
        workload: None,
        service_account: name,
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready: true,
        application_ended: false,
    })
}

fn service(meant: Meant, endpoints: impl IntoIterator<Item = Endpoint>) -> anyhow::Result<Service> {
    let endpoints: BTreeMap<_, _> = endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint)).collect();
    let address = meant.address();
    Ok(Service {
        name: ServiceName::new(NAMESPACE, &format!("service-{}", meant.number()))?,
        cluster_ips: [address.ip()].into(),
        ports: [(address.port(), ServicePort { endpoints, ..ServicePort::default() })].into(),
        balancing: Default::default(),
    })
}

//! A control plane for the proxies of ours that are measured: a real controller, three pods and the services between them.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use conduit_api::{Endpoint, Pod, PodName, Service, ServiceName, ServicePort, SpiffeId, mesh::Inventory};
use conduit_ca::LaunchToken;
use conduit_chaos::cluster::Cluster;

use super::subject::{OWN_PORT, Part, Proxy, SERVER, SERVER_IN_POD};

/// Of everything here.
const NAMESPACE: &str = "bench";
/// Longer than any measurement.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Where proxies tell of themselves.
const METRICS_PORT: u16 = 4191;
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
    /// The service whose only endpoint is the pod with the other proxy.
    Meshed,
    /// The service with many endpoints.
    Many,
}

impl Meant {
    fn address(self) -> SocketAddr {
        ([10, 96, 79, self as u8 + 1], 80).into()
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
        for part in [Part::Hop, Part::Out, Part::In] {
            let token =
                LaunchToken { namespace: NAMESPACE.into(), service_account: part.to_string(), pod: part.to_string() };
            fs::write(mesh.token(part), token.mint(mesh.cluster.seed(), SystemTime::now() + TOKEN_LIFE))?;
        }
        mesh.describe(0)?;
        Ok(mesh)
    }

    fn token(&self, part: Part) -> PathBuf {
        self.cluster.trust_anchors().with_file_name(format!("{part}.token"))
    }

    /// The service with many endpoints has so many from now on.
    ///
    /// # Errors
    /// When the platform's file cannot be written.
    pub fn describe(&self, many: u16) -> anyhow::Result<()> {
        let foreign = |address| Endpoint { address, pod: None, workload: None, identity: None, zone: None };
        let identity = SpiffeId::new(&Cluster::trust_domain(), NAMESPACE, &Part::In.to_string())?;
        let meshed = Endpoint { pod: Some(pod_name(Part::In)?), identity: Some(identity), ..foreign(inbound()) };
        let many = (0..many).map(|number| {
            let [high, low] = number.to_be_bytes();
            foreign(SocketAddr::from(([127, 80, high, low], 8080)))
        });
        let services = vec![
            service(Meant::Plain, [foreign(SERVER.into())])?,
            service(Meant::Meshed, [meshed])?,
            service(Meant::Many, many)?,
        ];
        let pods = [Part::Hop, Part::Out, Part::In].map(pod).into_iter().collect::<anyhow::Result<_>>()?;
        Ok(self.cluster.describe(&Inventory { services, pods, routes: None })?)
    }

    /// Tells `command`, which is to run `conduit-bench` on the proxies' core, to be this proxy.
    pub fn configure(&self, command: &mut Command, part: Part) {
        let meant = match part {
            Part::Hop | Part::In => Meant::Plain,
            Part::Out => Meant::Meshed,
        };
        self.configure_for(command, part, meant);
    }

    /// The same, for a client of the service with many endpoints.
    pub fn configure_with_many(&self, command: &mut Command) {
        self.configure_for(command, Part::Hop, Meant::Many);
    }

    fn configure_for(&self, command: &mut Command, part: Part, meant: Meant) {
        let (used, other) = (SocketAddr::new(ip(part), OWN_PORT), SocketAddr::new(ip(part), OTHER_PORT));
        let (outbound, inbound, original) = match part {
            Part::Hop | Part::Out => (used, other, meant.address()),
            Part::In => (other, used, SERVER_IN_POD.into()),
        };
        command.args(["sidecar", "--originals", &format!("{used}={original}")]);
        command.envs([
            ("CONDUIT_PROXY_POD_NAMESPACE", NAMESPACE.to_owned()),
            ("CONDUIT_PROXY_POD_NAME", part.to_string()),
            ("CONDUIT_PROXY_POD_IP", ip(part).to_string()),
            ("CONDUIT_PROXY_CONTROL_URL", format!("{}:8086", self.cluster.ip(0))),
            ("CONDUIT_PROXY_TRUST_DOMAIN", Cluster::trust_domain().to_string()),
            ("CONDUIT_PROXY_PRIVATE_LISTENER", outbound.to_string()),
            ("CONDUIT_PROXY_PUBLIC_LISTENER", inbound.to_string()),
            ("CONDUIT_PROXY_METRICS_LISTENER", SocketAddr::new(ip(part), METRICS_PORT).to_string()),
            ("CONDUIT_PROXY_CORES", "1".to_owned()),
        ]);
        command.env("CONDUIT_PROXY_TRUST_ANCHORS_FILE", self.cluster.trust_anchors());
        command.env("CONDUIT_PROXY_IDENTITY_TOKEN_FILE", self.token(part));
        command.env("CONDUIT_PROXY_CACHE_FILE", self.token(part).with_extension("cache"));
    }
}

fn ip(part: Part) -> IpAddr {
    let host = match part {
        Part::Hop => 1,
        Part::Out => 2,
        Part::In => 3,
    };
    [127, 79, Proxy::Conduit as u8, host].into()
}

fn inbound() -> SocketAddr {
    (ip(Part::In), OWN_PORT).into()
}

fn pod_name(part: Part) -> anyhow::Result<PodName> {
    Ok(PodName::new(NAMESPACE, &part.to_string())?)
}

fn pod(part: Part) -> anyhow::Result<Pod> {
    Ok(Pod {
        name: pod_name(part)?,
        ip: ip(part),
        workload: None,
        service_account: part.to_string(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready: true,
    })
}

fn service(meant: Meant, endpoints: impl IntoIterator<Item = Endpoint>) -> anyhow::Result<Service> {
    let endpoints: BTreeMap<_, _> = endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint)).collect();
    let address = meant.address();
    Ok(Service {
        name: ServiceName::new(NAMESPACE, &format!("service-{}", meant as u8))?,
        cluster_ips: [address.ip()].into(),
        ports: [(address.port(), ServicePort { endpoints, ..ServicePort::default() })].into(),
        balancing: Default::default(),
    })
}

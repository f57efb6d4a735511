//! Names in the local mesh, as a cluster's DNS has them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
};

use conduit_api::mesh::Inventory;
use simple_dns::{
    CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE,
    rdata::{A, RData},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::spawn_local,
    time::{Duration, timeout},
};
use tracing::{debug, warn};

/// How long an answer may be remembered: short, since headless services change with every instance.
const TTL_SECONDS: u32 = 5;
/// The largest answer over UDP (RFC 1035 section 2.3.4).
const UDP_BYTES_MAX: usize = 512;
/// A TCP client that asks nothing is let go.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// The names end here.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Answers on `address` from the latest of `inventory`.
///
/// # Errors
/// When it cannot listen there.
pub async fn serve(address: SocketAddr, inventory: watch::Receiver<Rc<Inventory>>) -> io::Result<()> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    let latest = inventory.clone();
    spawn_local(async move {
        let mut buffer = [0; UDP_BYTES_MAX];
        loop {
            match udp.recv_from(&mut buffer).await {
                Ok((length, client)) => {
                    let answer = answer(&buffer[..length], &latest.borrow(), UDP_BYTES_MAX);
                    if let Some(answer) = answer {
                        // The client is gone, or asks again.
                        let _ = udp.send_to(&answer, client).await;
                    }
                }
                Err(error) => debug!(%error, "a question was lost"),
            }
        }
    });
    spawn_local(async move {
        loop {
            match tcp.accept().await {
                Ok((stream, _)) => {
                    let inventory = inventory.clone();
                    spawn_local(async move { timeout(TCP_IDLE, tcp_client(stream, inventory)).await });
                }
                Err(error) => warn!(%error, "cannot accept a DNS connection"),
            }
        }
    });
    Ok(())
}

async fn tcp_client(mut stream: TcpStream, inventory: watch::Receiver<Rc<Inventory>>) -> io::Result<()> {
    loop {
        let mut question = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut question).await?;
        let answer = answer(&question, &inventory.borrow(), usize::from(u16::MAX));
        let Some(answer) = answer else { return Ok(()) };
        stream.write_u16(answer.len() as u16).await?;
        stream.write_all(&answer).await?;
    }
}

/// The answer to one message; `None` to what is not a question.
pub fn answer(message: &[u8], inventory: &Inventory, bytes_max: usize) -> Option<Vec<u8>> {
    let question = Packet::parse(message).ok().filter(|packet| !packet.has_flags(PacketFlag::RESPONSE))?;
    let asked = question.questions.first()?;
    let mut reply = Packet::new_reply(question.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    if question.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    }
    reply.questions.push(asked.clone());
    match lookup(&asked.qname.to_string(), inventory) {
        None => *reply.rcode_mut() = RCODE::NameError,
        // A name that is there and has no such record is an empty answer, not an error: else the client gives up.
        Some(addresses) if asked.qtype == QTYPE::TYPE(TYPE::A) => {
            for address in addresses {
                let data = RData::A(A { address: address.into() });
                reply.answers.push(ResourceRecord::new(asked.qname.clone(), CLASS::IN, TTL_SECONDS, data));
            }
        }
        Some(_) => {}
    }
    let mut bytes = reply.build_bytes_vec_compressed().ok()?;
    if bytes.len() > bytes_max {
        reply.answers.clear();
        reply.set_flags(PacketFlag::TRUNCATION);
        bytes = reply.build_bytes_vec_compressed().ok()?;
    }
    Some(bytes)
}

/// The addresses of `name`; `None` when there is no such name.
fn lookup(name: &str, inventory: &Inventory) -> Option<Vec<Ipv4Addr>> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let name =
        name.strip_suffix(&format!(".svc.{CLUSTER_DOMAIN}")).or_else(|| name.strip_suffix(".svc")).unwrap_or(&name);
    let (service, namespace) = name.rsplit_once('.')?;
    let service =
        inventory.services.iter().find(|known| known.name.name() == service && known.name.namespace() == namespace)?;
    let endpoints = service.ports.values().flat_map(|port| port.endpoints.keys().map(SocketAddr::ip));
    let addresses: Box<dyn Iterator<Item = IpAddr>> =
        if service.is_headless() { Box::new(endpoints) } else { Box::new(service.cluster_ips.iter().copied()) };
    let mut addresses: Vec<_> = addresses
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    Some(addresses)
}

#[cfg(test)]
mod tests {
    use conduit_api::{Endpoint, Service, ServiceName, ServicePort};
    use simple_dns::{Name, QCLASS, Question};

    use super::*;

    fn inventory() -> Inventory {
        let endpoint = |i: u8| {
            let address = SocketAddr::from(([10, 244, 1, i], 8080));
            (address, Endpoint { address, pod: None, workload: None, identity: None, zone: None })
        };
        let service = |name: &str, ip: Option<[u8; 4]>, count: u8| Service {
            name: ServiceName::new("emojivoto", name).unwrap(),
            cluster_ips: ip.map(IpAddr::from).into_iter().collect(),
            ports: [(80, ServicePort { endpoints: (1..=count).map(endpoint).collect(), ..ServicePort::default() })]
                .into(),
            balancing: Default::default(),
        };
        let services = vec![
            service("web-svc", Some([10, 96, 0, 1]), 1),
            service("voting-svc", None, 2),
            service("many", None, 100),
        ];
        Inventory { services, ..Inventory::default() }
    }

    fn ask(name: &str, kind: TYPE) -> (RCODE, usize, bool) {
        let mut question = Packet::new_query(7);
        question.questions.push(Question::new(
            Name::new_unchecked(name),
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        let bytes = answer(&question.build_bytes_vec().unwrap(), &inventory(), UDP_BYTES_MAX).unwrap();
        let reply = Packet::parse(&bytes).unwrap();
        (reply.rcode(), reply.answers.len(), reply.has_flags(PacketFlag::TRUNCATION))
    }

    #[test]
    fn names_are_those_of_a_cluster() {
        let there = Some(vec![Ipv4Addr::new(10, 96, 0, 1)]);
        for name in ["web-svc.emojivoto", "Web-Svc.emojivoto.svc", "web-svc.emojivoto.svc.cluster.local."] {
            assert_eq!(lookup(name, &inventory()), there, "{name}");
        }
        assert_eq!(lookup("voting-svc.emojivoto", &inventory()).unwrap().len(), 2);
        for name in ["web-svc", "web-svc.other", "example.com", "x.web-svc.emojivoto.svc.cluster.local", ""] {
            assert_eq!(lookup(name, &inventory()), None, "{name}");
        }
    }

    #[test]
    fn questions_get_fitting_answers() {
        assert_eq!(ask("web-svc.emojivoto", TYPE::A), (RCODE::NoError, 1, false));
        assert_eq!(ask("web-svc.emojivoto", TYPE::AAAA), (RCODE::NoError, 0, false));
        assert_eq!(ask("nobody.emojivoto", TYPE::A), (RCODE::NameError, 0, false));
        assert_eq!(ask("many.emojivoto", TYPE::A), (RCODE::NoError, 0, true), "the client asks again over TCP");
        assert_eq!(answer(b"nonsense", &inventory(), 512), None);
    }
}

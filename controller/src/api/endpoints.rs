//! Where the requests for a service go, as any replica tells proxies.

use conduit_api::{
    ServiceName,
    proto::public::{EndpointsRequest, EndpointsResponse, endpoints_response::Endpoint},
};
use conduit_consensus::MeshState;
use tonic::Status;

/// By the state as it is here.
///
/// # Errors
/// As the API describes them.
pub fn endpoints(state: &MeshState, request: &EndpointsRequest) -> Result<EndpointsResponse, Status> {
    let EndpointsRequest { namespace, service, port } = request;
    let name = ServiceName::new(namespace, service).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let service = state.services().get(&name);
    let ports = &service.ok_or_else(|| Status::not_found(format!("there is no service {name}")))?.value.ports;
    if *port != 0 && !ports.keys().any(|number| u32::from(*number) == *port) {
        let numbers = ports.keys().map(u16::to_string).collect::<Vec<_>>().join(", ");
        return Err(Status::not_found(format!("service {name} has no port {port}; it has {numbers}")));
    }
    let of_port = ports.iter().filter(|(number, _)| *port == 0 || u32::from(**number) == *port);
    let endpoints = of_port.flat_map(|(number, of_port)| {
        of_port.endpoints.values().map(|endpoint| Endpoint {
            service_port: (*number).into(),
            ip: endpoint.address.ip().to_string(),
            port: endpoint.address.port().into(),
            namespace: endpoint.pod.as_ref().map(|pod| pod.namespace().to_owned()).unwrap_or_default(),
            pod: endpoint.pod.as_ref().map(|pod| pod.name().to_owned()).unwrap_or_default(),
            identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            zone: endpoint.zone.clone().unwrap_or_default(),
        })
    });
    Ok(EndpointsResponse { endpoints: endpoints.collect(), revision: state.revision().as_u64() })
}

#[cfg(test)]
mod tests {
    use conduit_api::{Endpoint as Known, Service, ServicePort};
    use conduit_consensus::{Change, Command, Proposal};
    use tonic::Code;

    use super::*;

    #[test]
    fn a_service_has_the_endpoints_of_the_port_that_is_asked_for() {
        let port = |address: &str, pod: Option<&str>| {
            let address = address.parse().unwrap();
            let pod = pod.map(|pod| pod.parse().unwrap());
            let known = Known { address, pod, workload: None, identity: None, zone: Some("west".to_owned()) };
            ServicePort { endpoints: [(address, known)].into(), ..ServicePort::default() }
        };
        let ports = [(80, port("10.0.0.1:8080", Some("shop/web-0"))), (90, port("[fd00::1]:9090", None))];
        let service = Service {
            name: "shop/web".parse().unwrap(),
            cluster_ips: Default::default(),
            ports: ports.into(),
            balancing: Default::default(),
        };
        let mut state = MeshState::default();
        state.apply(7, Proposal::new("test", 0, Command::Batch(vec![Change::UpsertService(service)])));
        let ask = |service: &str, port| {
            let request = EndpointsRequest { namespace: "shop".to_owned(), service: service.to_owned(), port };
            endpoints(&state, &request)
        };
        let all = ask("web", 0).unwrap();
        let lines = all
            .endpoints
            .iter()
            .map(|e| format!("{} {} {} {}/{} {}", e.service_port, e.ip, e.port, e.namespace, e.pod, e.zone));
        assert_eq!(lines.collect::<Vec<_>>(), ["80 10.0.0.1 8080 shop/web-0 west", "90 fd00::1 9090 / west"]);
        assert_eq!(all.revision, 7);
        assert_eq!(ask("web", 90).unwrap().endpoints, all.endpoints[1..]);
        for (service, port, code, says) in [
            ("web", 81, Code::NotFound, "service shop/web has no port 81; it has 80, 90"),
            ("other", 0, Code::NotFound, "there is no service shop/other"),
            ("WEB", 0, Code::InvalidArgument, "shop/WEB"),
        ] {
            let status = ask(service, port).unwrap_err();
            assert!(status.code() == code && status.message().contains(says), "{status}");
        }
    }
}

//! The exchange that Conduit's first users saw.

use conduit_api::proto::{
    common::{Direction, ResourceRef, SocketAddress, Tls, tls},
    tap::{
        TapEvent,
        tap_event::{Id, Kind, Peer, RequestInit, ResponseEnd, ResponseInit, response_end},
    },
};

/// A request, its response, and the end of it.
pub(super) fn exchange() -> [TapEvent; 3] {
    let request = RequestInit {
        method: "POST".into(),
        scheme: "http".into(),
        authority: "voting-svc.emojivoto:8080".into(),
        path: "/emojivoto.v1.VotingService/VoteDoughnut".into(),
        headers: Vec::new(),
    };
    let response = ResponseInit { http_status: 200, since_request_init_us: 478, ..ResponseInit::default() };
    let end = ResponseEnd {
        since_request_init_us: 485,
        since_response_init_us: 7,
        response_bytes: 5,
        end: Some(response_end::End::GrpcStatus(0)),
    };
    [Kind::RequestInit(request), Kind::ResponseInit(response), Kind::ResponseEnd(end)].map(event)
}

fn event(kind: Kind) -> TapEvent {
    TapEvent {
        id: Some(Id { base: 0, stream: 809 }),
        direction: Direction::Inbound.into(),
        source: Some(peer("10.244.6.239:57202", "web")),
        destination: Some(peer("10.244.1.237:8080", "voting")),
        tls: Some(Tls {
            state: tls::State::Mutual.into(),
            peer_id: "spiffe://cluster.local/ns/emojivoto/sa/web".into(),
        }),
        kind: Some(kind),
        dropped: 0,
    }
}

fn peer(address: &str, deployment: &str) -> Peer {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let resource =
        |kind: &str, name: &str| ResourceRef { kind: kind.into(), namespace: "emojivoto".into(), name: name.into() };
    Peer {
        address: Some(SocketAddress::from(address)),
        pod: Some(resource("pod", &format!("{deployment}-0"))),
        workload: Some(resource("deployment", deployment)),
    }
}

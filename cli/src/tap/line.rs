//! An event as a line for people. Pure.

use std::{fmt::Write as _, net::SocketAddr};

use conduit_api::proto::{
    common::{Direction, ResourceRef, SocketAddress, Tls, tls},
    tap::{
        TapEvent,
        tap_event::{Kind, Peer, ResponseEnd, response_end},
    },
};

use crate::printable::printable;

/// How much a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// As Conduit has printed it since 2018, to the byte.
    Short,
    /// The same, and after it the proxy that saw it, TLS, and who is at both ends.
    Wide,
}

/// The line, without its end. None for a kind of event that this version does not know.
pub(super) fn line(event: &TapEvent, detail: Detail) -> Option<String> {
    let (word, what) = match event.kind.as_ref()? {
        Kind::RequestInit(request) => {
            let what = format!(":method={} :authority={} :path={}", request.method, request.authority, request.path);
            ("req", what)
        }
        Kind::ResponseInit(response) => {
            let what = format!(":status={} latency={}µs", response.http_status, response.since_request_init_us);
            ("rsp", what)
        }
        Kind::ResponseEnd(end) => ("end", end_of(end)),
        // These are not lines of their own.
        Kind::Message(_) | Kind::Schema(_) | Kind::PayloadsDisabled(_) => return None,
    };
    let id = event.id.unwrap_or_default();
    let (source, destination) = (address(event.source.as_ref()), address(event.destination.as_ref()));
    let mut line = format!("{word} id={}:{} src={source} dst={destination} {what}", id.base, id.stream);
    if detail == Detail::Wide {
        append_details(&mut line, event);
    }
    Some(printable(&line).into_owned())
}

fn end_of(end: &ResponseEnd) -> String {
    let how = match end.end {
        Some(response_end::End::GrpcStatus(code)) => format!("grpc-status={} ", conduit_api::grpc::status_name(code)),
        Some(response_end::End::ResetError(code)) => format!("reset-error={code} "),
        None => String::new(),
    };
    format!("{how}duration={}µs response-length={}B", end.since_response_init_us, end.response_bytes)
}

fn append_details(line: &mut String, event: &TapEvent) {
    let proxy = match event.direction() {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
        Direction::Unspecified => "???",
    };
    let mut append = |key: &str, value: &str| {
        if !value.is_empty() {
            write!(line, " {key}={value}").expect("a string can be written");
        }
    };
    append("proxy", proxy);
    append("tls", tls_state(event.tls.as_ref()));
    append("peer_id", event.tls.as_ref().map_or("", |tls| &tls.peer_id));
    for (end, peer) in [("src", &event.source), ("dst", &event.destination)] {
        let Some(peer) = peer else { continue };
        append(&format!("{end}_res"), &peer.workload.as_ref().map(short_resource).unwrap_or_default());
        let namespace = peer.pod.as_ref().or(peer.workload.as_ref()).map_or("", |resource| &resource.namespace);
        append(&format!("{end}_ns"), namespace);
        append(&format!("{end}_pod"), peer.pod.as_ref().map_or("", |pod| &pod.name));
    }
}

/// `true` for mutual TLS, else why not.
pub(super) fn tls_state(tls: Option<&Tls>) -> &'static str {
    match tls.map_or(tls::State::Unspecified, Tls::state) {
        tls::State::Mutual => "true",
        tls::State::NoIdentity => "no_identity",
        tls::State::Loopback => "loopback",
        tls::State::Passthrough => "passthrough",
        tls::State::Unspecified => "???",
    }
}

pub(crate) fn short_resource(resource: &ResourceRef) -> String {
    let kind = if resource.kind == "deployment" { "deploy" } else { &resource.kind };
    format!("{kind}/{}", resource.name)
}

/// `ip:port`, or `???` for what a faulty controller sends.
fn address(peer: Option<&Peer>) -> String {
    socket_address(peer.and_then(|peer| peer.address.as_ref()))
        .map_or_else(|| "???".to_owned(), |address| address.to_string())
}

pub(crate) fn socket_address(wire: Option<&SocketAddress>) -> Option<SocketAddr> {
    wire.and_then(|address| address.try_into().ok())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::{super::samples, *};

    fn lines(events: &[TapEvent], detail: Detail) -> String {
        events.iter().map(|event| line(event, detail).unwrap() + "\n").collect()
    }

    #[test]
    fn as_the_first_users_know_it() {
        expect![[r"
            req id=0:809 src=10.244.6.239:57202 dst=10.244.1.237:8080 :method=POST :authority=voting-svc.emojivoto:8080 :path=/emojivoto.v1.VotingService/VoteDoughnut
            rsp id=0:809 src=10.244.6.239:57202 dst=10.244.1.237:8080 :status=200 latency=478µs
            end id=0:809 src=10.244.6.239:57202 dst=10.244.1.237:8080 grpc-status=OK duration=7µs response-length=5B
        "]]
        .assert_eq(&lines(&samples::exchange(), Detail::Short));
    }

    #[test]
    fn wide_adds_who_it_was() {
        expect![[r#"
            req id=0:809 src=10.244.6.239:57202 dst=10.244.1.237:8080 :method=POST :authority=voting-svc.emojivoto:8080 :path=/emojivoto.v1.VotingService/VoteDoughnut proxy=in tls=true peer_id=spiffe://cluster.local/ns/emojivoto/sa/web src_res=deploy/web src_ns=emojivoto src_pod=web-0 dst_res=deploy/voting dst_ns=emojivoto dst_pod=voting-0
            rsp id=0:809 src=10.244.6.239:57202 dst=10.244.1.237:8080 :status=200 latency=478µs proxy=in tls=true peer_id=spiffe://cluster.local/ns/emojivoto/sa/web src_res=deploy/web src_ns=emojivoto src_pod=web-0 dst_res=deploy/voting dst_ns=emojivoto dst_pod=voting-0
            end id=0:809 src=10.244.6.239:57202 dst=10.244.1.237:8080 grpc-status=OK duration=7µs response-length=5B proxy=in tls=true peer_id=spiffe://cluster.local/ns/emojivoto/sa/web src_res=deploy/web src_ns=emojivoto src_pod=web-0 dst_res=deploy/voting dst_ns=emojivoto dst_pod=voting-0
        "#]].assert_eq(&lines(&samples::exchange(), Detail::Wide));
    }

    #[test]
    fn ends_of_all_kinds() {
        let end = |end| {
            let kind = Kind::ResponseEnd(ResponseEnd {
                since_request_init_us: 100_000_478,
                since_response_init_us: 100_000_000,
                response_bytes: 1024,
                end,
            });
            TapEvent { kind: Some(kind), ..TapEvent::default() }
        };
        let events = [
            end(Some(response_end::End::GrpcStatus(2))),
            end(Some(response_end::End::GrpcStatus(666))),
            end(Some(response_end::End::ResetError(8))),
            end(None),
        ];
        expect![[r"
            end id=0:0 src=??? dst=??? grpc-status=Unknown duration=100000000µs response-length=1024B
            end id=0:0 src=??? dst=??? grpc-status=Code(666) duration=100000000µs response-length=1024B
            end id=0:0 src=??? dst=??? reset-error=8 duration=100000000µs response-length=1024B
            end id=0:0 src=??? dst=??? duration=100000000µs response-length=1024B
        "]]
        .assert_eq(&lines(&events, Detail::Short));
        assert_eq!(line(&TapEvent::default(), Detail::Short), None);
    }

    #[test]
    fn a_path_cannot_forge_a_line() {
        let [mut request, ..] = samples::exchange();
        let Some(Kind::RequestInit(init)) = &mut request.kind else { panic!("it is a request") };
        init.path = "/\nend id=0:809\x1b[1A".into();
        let line = line(&request, Detail::Short).unwrap();
        assert!(line.ends_with(r":path=/\nend id=0:809\u{1b}[1A"), "{line}");
    }
}

//! An event as an object for programs, with the keys that Linkerd's users know. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use conduit_api::proto::tap::{
    TapEvent,
    tap_event::{Header, Id, Kind, Message, Peer, response_end},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    line::{socket_address, tls_state},
    payload::Shown,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    source: End<'a>,
    destination: End<'a>,
    proxy_direction: &'static str,
    #[serde(flatten)]
    kind: Option<EventKind<'a>>,
}

#[derive(Serialize)]
struct End<'a> {
    ip: Option<String>,
    port: Option<u16>,
    metadata: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
enum EventKind<'a> {
    #[serde(rename = "requestInitEvent")]
    RequestInit {
        id: JsonId,
        method: &'a str,
        scheme: &'a str,
        authority: &'a str,
        path: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        headers: Vec<Field<'a>>,
    },
    #[serde(rename = "responseInitEvent", rename_all = "camelCase")]
    ResponseInit {
        id: JsonId,
        since_request_init: Elapsed,
        http_status: u32,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        headers: Vec<Field<'a>>,
    },
    #[serde(rename = "responseEndEvent", rename_all = "camelCase")]
    ResponseEnd {
        id: JsonId,
        since_request_init: Elapsed,
        since_response_init: Elapsed,
        response_bytes: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        grpc_status_code: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reset_error_code: Option<u32>,
    },
    #[serde(rename = "messageEvent", rename_all = "camelCase")]
    Message {
        id: JsonId,
        direction: &'static str,
        path: &'a str,
        number: u32,
        length: u32,
        truncated: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a Value>,
        /// By number: their names are not known.
        #[serde(skip_serializing_if = "Option::is_none")]
        fields: Option<&'a Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        not_shown: Option<&'a str>,
    },
}

/// Of a head. One without a value has one that nobody is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Field<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_str: Option<&'a str>,
    /// In base64, when it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bin: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redacted: bool,
}

#[derive(Serialize)]
struct JsonId {
    base: u32,
    stream: u64,
}

/// As protobuf's `Duration`.
#[derive(Serialize)]
struct Elapsed {
    seconds: u64,
    nanos: u64,
}

pub(super) fn event(event: &TapEvent) -> Event<'_> {
    let mut destination = end(event.destination.as_ref());
    destination.metadata.insert("tls", tls_state(event.tls.as_ref()));
    Event {
        source: end(event.source.as_ref()),
        destination,
        proxy_direction: event.direction().as_str_name().trim_start_matches("DIRECTION_"),
        kind: event.kind.as_ref().and_then(|kind| event_kind(kind, event.id.unwrap_or_default())),
    }
}

/// An event in a line, as which no terminal takes anything else: of control characters JSON itself escapes only some.
pub(super) fn line(event: &Event<'_>) -> serde_json::Result<String> {
    let text = serde_json::to_string(event)?;
    if !text.contains(char::is_control) {
        return Ok(text + "\n");
    }
    let escaped = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Ok(text.chars().map(escaped).collect::<String>() + "\n")
}

/// The same of a message.
pub(super) fn message<'a>(event: &'a TapEvent, message: &'a Message, shown: &'a Shown) -> Event<'a> {
    let (named, numbered, not_shown) = match shown {
        Shown::Json(json) => (Some(json), None, None),
        Shown::Raw(json) => (None, Some(json), None),
        Shown::Hidden(why) => (None, None, Some(why.as_str())),
    };
    let id = event.id.unwrap_or_default();
    let kind = EventKind::Message {
        id: JsonId { base: id.base, stream: id.stream },
        direction: if message.is_response { "response" } else { "request" },
        path: &message.path,
        number: message.number,
        length: message.length,
        truncated: message.bytes.len() < message.length as usize,
        message: named,
        fields: numbered,
        not_shown,
    };
    Event { kind: Some(kind), ..self::event(event) }
}

fn end(peer: Option<&Peer>) -> End<'_> {
    let address = socket_address(peer.and_then(|peer| peer.address.as_ref()));
    let mut metadata = BTreeMap::new();
    for resource in peer.into_iter().flat_map(|peer| peer.workload.iter().chain(&peer.pod)) {
        metadata.insert("namespace", resource.namespace.as_str());
        metadata.insert(resource.kind.as_str(), resource.name.as_str());
    }
    End { ip: address.map(|address| address.ip().to_string()), port: address.map(|address| address.port()), metadata }
}

fn event_kind(kind: &Kind, id: Id) -> Option<EventKind<'_>> {
    let id = JsonId { base: id.base, stream: id.stream };
    Some(match kind {
        Kind::RequestInit(init) => EventKind::RequestInit {
            id,
            method: &init.method,
            scheme: &init.scheme,
            authority: &init.authority,
            path: &init.path,
            headers: init.headers.iter().map(field).collect(),
        },
        Kind::ResponseInit(init) => EventKind::ResponseInit {
            id,
            since_request_init: elapsed(init.since_request_init_us),
            http_status: init.http_status,
            headers: init.headers.iter().map(field).collect(),
        },
        Kind::ResponseEnd(end) => {
            let (grpc_status_code, reset_error_code) = match end.end {
                Some(response_end::End::GrpcStatus(code)) => (Some(code), None),
                Some(response_end::End::ResetError(code)) => (None, Some(code)),
                None => (None, None),
            };
            EventKind::ResponseEnd {
                id,
                since_request_init: elapsed(end.since_request_init_us),
                since_response_init: elapsed(end.since_response_init_us),
                response_bytes: end.response_bytes,
                grpc_status_code,
                reset_error_code,
            }
        }
        Kind::Message(_) | Kind::Schema(_) | Kind::PayloadsDisabled(_) => return None,
    })
}

fn field(header: &Header) -> Field<'_> {
    let text = std::str::from_utf8(&header.value).ok();
    Field {
        name: &header.name,
        value_str: text.filter(|_| !header.redacted),
        value_bin: text.is_none().then(|| BASE64_STANDARD.encode(&header.value)),
        redacted: header.redacted,
    }
}

fn elapsed(us: u64) -> Elapsed {
    Elapsed { seconds: us / 1_000_000, nanos: us % 1_000_000 * 1000 }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::{super::samples, *};

    #[test]
    fn one_object_for_each_event() {
        let objects =
            samples::exchange().iter().map(|e| serde_json::to_string(&event(e)).unwrap() + "\n").collect::<String>();
        expect![[r#"
            {"source":{"ip":"10.244.6.239","port":57202,"metadata":{"deployment":"web","namespace":"emojivoto","pod":"web-0"}},"destination":{"ip":"10.244.1.237","port":8080,"metadata":{"deployment":"voting","namespace":"emojivoto","pod":"voting-0","tls":"true"}},"proxyDirection":"INBOUND","requestInitEvent":{"id":{"base":0,"stream":809},"method":"POST","scheme":"http","authority":"voting-svc.emojivoto:8080","path":"/emojivoto.v1.VotingService/VoteDoughnut"}}
            {"source":{"ip":"10.244.6.239","port":57202,"metadata":{"deployment":"web","namespace":"emojivoto","pod":"web-0"}},"destination":{"ip":"10.244.1.237","port":8080,"metadata":{"deployment":"voting","namespace":"emojivoto","pod":"voting-0","tls":"true"}},"proxyDirection":"INBOUND","responseInitEvent":{"id":{"base":0,"stream":809},"sinceRequestInit":{"seconds":0,"nanos":478000},"httpStatus":200}}
            {"source":{"ip":"10.244.6.239","port":57202,"metadata":{"deployment":"web","namespace":"emojivoto","pod":"web-0"}},"destination":{"ip":"10.244.1.237","port":8080,"metadata":{"deployment":"voting","namespace":"emojivoto","pod":"voting-0","tls":"true"}},"proxyDirection":"INBOUND","responseEndEvent":{"id":{"base":0,"stream":809},"sinceRequestInit":{"seconds":0,"nanos":485000},"sinceResponseInit":{"seconds":0,"nanos":7000},"responseBytes":5,"grpcStatusCode":0}}
        "#]].assert_eq(&objects);
    }
}

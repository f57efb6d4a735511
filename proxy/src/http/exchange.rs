//! One request and its response, counted and tapped, whichever way it goes and however it ends.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use conduit_api::proto::{
    common::{self, ResourceRef},
    tap::{
        TapEvent,
        tap_event::{self, Id, Peer, RequestInit, ResponseEnd, ResponseInit},
    },
};
use http::{HeaderMap, Request};
use tokio::time::Instant;

use super::{ERROR_HEADER, authority, is_grpc};
use crate::{
    balance::Balancer,
    tap::{self, Tap, Taps},
    telemetry::{Counters, End, Tls, report},
};

/// The HTTP/2 error code of a request that nobody waits for any longer (RFC 9113 section 7).
const CANCEL: u32 = 8;
/// ... and of one that was not begun.
const REFUSED_STREAM: u32 = 7;

/// What is the same for all requests of a connection to one peer.
#[derive(Clone)]
pub struct Path {
    /// Inbound or outbound.
    pub direction: common::Direction,
    /// Who asks.
    pub source: SocketAddr,
    /// Who answers.
    pub destination: SocketAddr,
    /// Who answers, if it is known.
    pub pod: Option<ResourceRef>,
    /// What that belongs to.
    pub workload: Option<ResourceRef>,
    /// How the connection between the two proxies is secured.
    pub tls: Tls,
}

/// A request that is under way. If it is dropped before its end, it was cancelled.
pub struct Exchange {
    counters: Arc<Counters>,
    load: Option<(Rc<RefCell<Balancer>>, SocketAddr)>,
    is_grpc: bool,
    status: u16,
    /// The gRPC status of a response that has no body.
    head_grpc_status: Option<u32>,
    started: Instant,
    responded: Option<Instant>,
    bytes: u64,
    tapped: Option<Box<Tapped>>,
    /// Runs at a good end: gives the connection back.
    at_end: Option<Box<dyn FnOnce()>>,
    ended: bool,
}

struct Tapped {
    taps: Taps,
    watching: Vec<Arc<Tap>>,
    id: Id,
    path: Path,
}

impl Exchange {
    /// A request begins, and those who watch are told. It is counted when it is answered, or fails. `connection` and `stream` number it.
    pub fn begin<B>(
        request: &Request<B>,
        counters: Arc<Counters>,
        taps: &Taps,
        path: &Path,
        (connection, stream): (u32, u64),
    ) -> Self {
        let tapped = (!taps.is_idle()).then(|| Tapped::begin(request, taps, path, connection, stream)).flatten();
        Self {
            counters,
            load: None,
            is_grpc: is_grpc(request.headers()),
            status: 0,
            head_grpc_status: None,
            started: Instant::now(),
            responded: None,
            bytes: 0,
            tapped,
            at_end: None,
            ended: false,
        }
    }

    /// It is part of the load of an endpoint.
    pub fn loads(&mut self, balancer: Rc<RefCell<Balancer>>, address: SocketAddr) {
        balancer.borrow_mut().begin(address);
        self.load = Some((balancer, address));
    }

    /// Does `then` when the response has come to its end, and not when it is cancelled.
    pub fn at_end(&mut self, then: impl FnOnce() + 'static) {
        self.at_end = Some(Box::new(then));
    }

    /// The head of the response is here.
    pub fn head(&mut self, status: u16, headers: &HeaderMap) {
        let now = Instant::now();
        self.responded = Some(now);
        self.status = status;
        self.head_grpc_status = grpc_status(headers);
        let latency = now.duration_since(self.started);
        self.counters.requests.add(1);
        self.counters.latency(latency);
        if let Some((balancer, address)) = self.load.take() {
            let mut balancer = balancer.borrow_mut();
            if headers.contains_key(ERROR_HEADER) {
                // The peer's proxy speaks for an application that is gone. It does so quickly, and must not be liked for it.
                balancer.end(now, address, None);
                balancer.unreachable(now, address, rand::random());
            } else {
                balancer.end(now, address, Some(latency));
            }
        }
        if let Some(tapped) = &self.tapped {
            let since_request_init_us = micros(latency);
            let http_status = status.into();
            tapped.tell(tap_event::Kind::ResponseInit(ResponseInit { http_status, since_request_init_us }));
        }
    }

    /// So many bytes of the response's body passed.
    pub fn data(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The response has ended, perhaps with trailers.
    pub fn end(&mut self, trailers: Option<&HeaderMap>) {
        let grpc = trailers.and_then(grpc_status).or(self.head_grpc_status);
        let end = match grpc {
            Some(code) if self.is_grpc || trailers.is_some() => End::Grpc(code),
            _ => End::Http(self.status),
        };
        self.finish(end);
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }

    /// It broke.
    pub fn reset(&mut self) {
        self.finish(End::Reset);
    }

    /// It was answered by this proxy itself, with `status`.
    pub fn fail(mut self, status: u16) {
        self.finish(End::Http(status));
    }

    /// Nothing of it was sent: it is tried again elsewhere, and counted there. Those who watch see it end as refused.
    pub fn abandon(mut self) {
        self.ended = true;
        self.tell_end(Some(tap_event::response_end::End::ResetError(REFUSED_STREAM)));
        if let Some((balancer, address)) = self.load.take() {
            balancer.borrow_mut().end(Instant::now(), address, None);
        }
    }

    fn finish(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if self.responded.is_none() {
            self.counters.requests.add(1);
        }
        self.counters.end(end);
        if let Some((balancer, address)) = self.load.take() {
            balancer.borrow_mut().end(Instant::now(), address, None);
        }
        self.tell_end(match end {
            End::Grpc(code) => Some(tap_event::response_end::End::GrpcStatus(code)),
            End::Reset => Some(tap_event::response_end::End::ResetError(CANCEL)),
            End::Http(_) => None,
        });
    }

    fn tell_end(&self, end: Option<tap_event::response_end::End>) {
        if let Some(tapped) = &self.tapped {
            let now = Instant::now();
            tapped.tell(tap_event::Kind::ResponseEnd(ResponseEnd {
                since_request_init_us: micros(now.duration_since(self.started)),
                since_response_init_us: micros(now.duration_since(self.responded.unwrap_or(now))),
                response_bytes: self.bytes,
                end,
            }));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish(End::Reset);
    }
}

impl Tapped {
    fn begin<B>(request: &Request<B>, taps: &Taps, path: &Path, base: u32, stream: u64) -> Option<Box<Self>> {
        let target = request.uri().path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
        let scheme = request.uri().scheme_str().unwrap_or("http");
        let watching = taps.watching(&tap::Request {
            direction: path.direction,
            method: request.method().as_str(),
            scheme,
            authority: authority(request),
            path: target,
            workload: path.workload.as_ref(),
            pod: path.pod.as_ref(),
        });
        if watching.is_empty() {
            return None;
        }
        let tapped = Self { taps: taps.clone(), watching, id: Id { base, stream }, path: path.clone() };
        tapped.tell(tap_event::Kind::RequestInit(RequestInit {
            method: request.method().to_string(),
            scheme: scheme.to_owned(),
            authority: authority(request).to_owned(),
            path: target.to_owned(),
        }));
        Some(Box::new(tapped))
    }

    fn tell(&self, kind: tap_event::Kind) {
        let peer = |address: SocketAddr| Peer { address: Some(address.into()), ..Peer::default() };
        let (pod, workload) = (self.path.pod.clone(), self.path.workload.clone());
        let event = TapEvent {
            id: Some(self.id),
            direction: self.path.direction.into(),
            source: Some(peer(self.path.source)),
            destination: Some(Peer { pod, workload, ..peer(self.path.destination) }),
            tls: Some(report::tls(&self.path.tls)),
            kind: Some(kind),
        };
        self.taps.observe(&self.watching, &event);
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

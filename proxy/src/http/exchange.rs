//! One request and its response, counted and tapped, whichever way it goes and however it ends.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use conduit_api::{
    grpc,
    proto::{
        common::{self, ResourceRef},
        tap::{
            TapEvent,
            tap_event::{self, Header, Id, Message, Peer, RequestInit, ResponseEnd, ResponseInit},
        },
    },
};
use tokio::time::Instant;

use super::{Failure, Headers, RequestView, UNANSWERED_MAX, pool::Connections};
use crate::{
    balance::Balancer,
    connect::Upstream,
    journal::Entry,
    tap::{
        self, Partial, Tap, Taps, headers,
        payload::{Frames, is_protobuf},
    },
    telemetry::{
        Counters, Direction, End, Labels, Tls,
        paths::{Row, ThreadPaths},
        report,
    },
    worker::Worker,
};

/// The HTTP/2 error code of a request that nobody waits for any longer (RFC 9113 section 7).
const CANCEL: u32 = 8;
/// ... and of one that was not begun.
const REFUSED_STREAM: u32 = 7;

/// What the requests of one authority to one peer have in common, for all connections of a thread.
pub struct Hop {
    /// Who gets them.
    pub upstream: Upstream,
    /// Connections to that.
    pub connections: Rc<Connections>,
    authority: String,
    /// How the connection between the two proxies is secured.
    tls: Tls,
    counters: Arc<Counters>,
    /// Of requests to the application: by what they ask for.
    paths: Option<Rc<ThreadPaths>>,
    pod: Option<ResourceRef>,
    workload: Option<ResourceRef>,
}

impl Hop {
    /// Looked up once.
    pub fn new(worker: &Worker, upstream: Upstream, labels: &Labels) -> Rc<Self> {
        let reference = |kind: &str, namespace: &str, name: &str| ResourceRef {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let endpoint = &upstream.endpoint;
        let pod = endpoint.pod.as_ref();
        let workload = pod.zip(endpoint.workload.as_ref());
        Rc::new(Self {
            connections: worker.pool.connections(&upstream),
            authority: labels.authority.clone(),
            tls: labels.tls.clone(),
            counters: worker.telemetry.requests(labels),
            paths: (labels.direction == Direction::Inbound).then(|| worker.telemetry.paths.clone()),
            pod: pod.map(|pod| reference("pod", pod.namespace(), pod.name())),
            workload: workload.map(|(pod, workload)| reference(&workload.kind, pod.namespace(), &workload.name)),
            upstream,
        })
    }

    /// Itself, unless too many requests wait for an answer of this one's already.
    ///
    /// # Errors
    /// [`Failure::Overloaded`].
    pub fn with_room(self: Rc<Self>) -> Result<Rc<Self>, Failure> {
        if self.connections.unanswered.get() < UNANSWERED_MAX { Ok(self) } else { Err(Failure::Overloaded) }
    }

    /// What its requests name as their destination.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether its requests go to the application beside this proxy.
    fn is_server(&self) -> bool {
        self.upstream.direction == Direction::Inbound
    }

    fn path(&self, request: &RequestView<'_>) -> Option<Rc<Row>> {
        let is_mutual = matches!(self.tls, Tls::Mutual(_));
        self.paths.as_ref().map(|paths| paths.row(is_mutual, request.method, request.path))
    }

    fn direction(&self) -> common::Direction {
        match self.upstream.direction {
            Direction::Inbound => common::Direction::Inbound,
            Direction::Outbound => common::Direction::Outbound,
        }
    }
}

/// Which request of which connection it is, and whose.
#[derive(Clone, Copy)]
pub struct Asked {
    /// Who asks.
    pub source: SocketAddr,
    /// Of the connection.
    pub connection: u32,
    /// Of the request on it.
    pub stream: u64,
}

/// A request that is under way. If it is dropped before its end, it was cancelled.
pub struct Exchange {
    hop: Rc<Hop>,
    load: Option<Rc<RefCell<Balancer>>>,
    is_grpc: bool,
    /// What it asks for.
    path: Option<Rc<Row>>,
    status: u16,
    /// The gRPC status of a response that has no body.
    head_grpc_status: Option<u32>,
    started: Instant,
    responded: Option<Instant>,
    bytes: u64,
    tapped: Option<Box<Tapped>>,
    entry: Option<Rc<Entry>>,
    ended: bool,
}

struct Tapped {
    taps: Taps,
    watching: Vec<Arc<Tap>>,
    id: Id,
    source: SocketAddr,
    /// Somebody sees its messages.
    messages: Option<Messages>,
}

struct Messages {
    path: String,
    requests: Frames,
    responses: Frames,
    partial: Partial,
}

impl Exchange {
    /// A request begins, and those who watch are told. It is counted when it is answered, or fails; and written down in `entry`.
    pub fn begin(
        request: &RequestView<'_>,
        hop: &Rc<Hop>,
        taps: &Taps,
        asked: Asked,
        entry: Option<&Rc<Entry>>,
    ) -> Self {
        hop.connections.unanswered.update(|count| count + 1);
        let tapped = (!taps.is_idle()).then(|| Tapped::begin(request, hop, taps, asked)).flatten();
        let path = hop.path(request);
        if let Some(entry) = entry {
            entry.attempt(hop, path.as_ref().map(|row| row.pattern()));
        }
        Self {
            hop: hop.clone(),
            load: None,
            is_grpc: request.is_grpc,
            path,
            status: 0,
            head_grpc_status: None,
            started: Instant::now(),
            responded: None,
            bytes: 0,
            tapped,
            entry: entry.cloned(),
            ended: false,
        }
    }

    /// Where it goes.
    pub fn address(&self) -> SocketAddr {
        self.hop.upstream.endpoint.address
    }

    /// It is part of the load of an endpoint.
    pub fn loads(&mut self, balancer: &Rc<RefCell<Balancer>>) {
        balancer.borrow_mut().begin(self.hop.upstream.endpoint.address);
        self.load = Some(balancer.clone());
    }

    /// The head of the response is here. `is_proxy_error` is whether the peer's proxy speaks for an application that is gone.
    pub fn head(&mut self, status: u16, grpc_status: Option<u32>, is_proxy_error: bool, headers: Headers<'_>) {
        let now = Instant::now();
        if self.responded.replace(now).is_none() {
            self.hop.connections.unanswered.update(|count| count - 1);
        }
        self.status = status;
        self.head_grpc_status = grpc_status;
        let latency = now.duration_since(self.started);
        self.hop.counters.requests.add(1);
        self.hop.counters.latency(latency);
        if let Some(balancer) = &self.load {
            let (mut balancer, address) = (balancer.borrow_mut(), self.hop.upstream.endpoint.address);
            if is_proxy_error {
                // It does so quickly, and must not be liked for it.
                balancer.unreachable(now, address, rand::random());
            } else {
                balancer.observe(now, address, latency);
            }
        }
        if let Some(entry) = &self.entry {
            entry.head(status, grpc_status.filter(|_| self.is_grpc));
        }
        if let Some(tapped) = &self.tapped {
            let since_request_init_us = micros(latency);
            let (http_status, headers) = (status.into(), tapped.shown(&self.hop, headers));
            let init = ResponseInit { http_status, since_request_init_us, headers };
            tapped.tell(&self.hop, tap_event::Kind::ResponseInit(init));
        }
    }

    /// So many bytes of the response's body passed.
    pub fn data(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Somebody sees the messages of this one.
    pub fn copies_messages(&self) -> bool {
        self.tapped.as_ref().is_some_and(|tapped| tapped.messages.is_some())
    }

    /// The head of the response says what its messages are compressed with.
    pub fn response_encoding(&mut self, encoding: impl FnOnce() -> Option<Vec<u8>>) {
        if let Some(messages) = self.tapped.as_mut().and_then(|tapped| tapped.messages.as_mut())
            && let Some(encoding) = encoding()
        {
            messages.responses.compressed_with(&encoding);
        }
    }

    /// This much of the request's body came.
    pub fn request_data(&mut self, data: &[u8]) {
        if let Some(tapped) = &mut self.tapped {
            tapped.copy(&self.hop, data, |messages| &mut messages.requests);
        }
    }

    /// This much of the response's body came.
    pub fn response_data(&mut self, data: &[u8]) {
        if let Some(tapped) = &mut self.tapped {
            tapped.copy(&self.hop, data, |messages| &mut messages.responses);
        }
    }

    /// The response has ended, perhaps with the gRPC status that its trailers gave.
    pub fn end(&mut self, trailer: Option<u32>) {
        let in_head = self.head_grpc_status.filter(|_| self.is_grpc);
        self.finish(trailer.or(in_head).map_or(End::Http(self.status), End::Grpc));
    }

    /// It broke.
    pub fn reset(&mut self) {
        if let Some(entry) = &self.entry {
            entry.reset();
        }
        self.finish(End::Reset);
    }

    /// It was answered by this proxy itself. Who is late is not to be asked all the more.
    pub fn fail(mut self, failure: Failure) {
        if let Some(balancer) = self.load.as_ref().filter(|_| failure == Failure::Timeout) {
            let (now, address) = (Instant::now(), self.hop.upstream.endpoint.address);
            balancer.borrow_mut().late(now, address, now.duration_since(self.started), rand::random());
        }
        self.finish(End::Http(failure.status()));
    }

    /// Nothing of it was sent: it is tried again elsewhere, and counted there. Those who watch see it end as refused.
    pub fn abandon(mut self) {
        self.ended = true;
        self.tell_end(Some(tap_event::response_end::End::ResetError(REFUSED_STREAM)));
        self.unload();
    }

    /// The same, because the peer could not be connected to.
    pub fn unreachable(self) {
        if let Some(balancer) = &self.load {
            balancer.borrow_mut().unreachable(Instant::now(), self.hop.upstream.endpoint.address, rand::random());
        }
        self.abandon();
    }

    fn finish(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if self.responded.is_none() {
            self.hop.counters.requests.add(1);
        }
        self.hop.counters.end(end);
        if let Some(path) = &self.path {
            path.end(end, self.responded.map(|at| at.duration_since(self.started)));
        }
        self.unload();
        if let Some(entry) = &self.entry {
            entry.end(end, self.bytes);
        }
        self.tell_end(match end {
            End::Grpc(code) => Some(tap_event::response_end::End::GrpcStatus(code)),
            End::Reset => Some(tap_event::response_end::End::ResetError(CANCEL)),
            End::Http(_) => None,
        });
    }

    fn unload(&mut self) {
        if let Some(balancer) = self.load.take() {
            balancer.borrow_mut().end(self.hop.upstream.endpoint.address);
        }
    }

    fn tell_end(&self, end: Option<tap_event::response_end::End>) {
        if let Some(tapped) = &self.tapped {
            let now = Instant::now();
            tapped.tell(
                &self.hop,
                tap_event::Kind::ResponseEnd(ResponseEnd {
                    since_request_init_us: micros(now.duration_since(self.started)),
                    since_response_init_us: micros(now.duration_since(self.responded.unwrap_or(now))),
                    response_bytes: self.bytes,
                    end,
                }),
            );
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish(End::Reset);
        if self.responded.is_none() {
            self.hop.connections.unanswered.update(|count| count - 1);
        }
    }
}

impl Tapped {
    fn begin(request: &RequestView<'_>, hop: &Hop, taps: &Taps, asked: Asked) -> Option<Box<Self>> {
        let watching = taps.watching(&tap::Request {
            direction: hop.direction(),
            method: request.method,
            scheme: request.scheme,
            authority: request.authority,
            path: request.path,
            source: asked.source,
            destination: hop.upstream.endpoint.address,
            workload: hop.workload.as_ref(),
            pod: hop.pod.as_ref(),
        });
        if watching.is_empty() {
            return None;
        }
        let id = Id { base: asked.connection, stream: asked.stream };
        // Whose messages they are is for their server to say, not for each of its clients.
        let is_seen = hop.is_server() && watching.iter().any(|tap| tap.sees_payloads());
        let messages = is_seen.then(|| Messages::of(request, taps)).flatten();
        let tapped = Self { taps: taps.clone(), watching, id, source: asked.source, messages };
        let init = RequestInit {
            method: request.method.to_owned(),
            scheme: request.scheme.to_owned(),
            authority: request.authority.to_owned(),
            path: request.path.to_owned(),
            headers: tapped.shown(hop, request.headers),
        };
        tapped.tell(hop, tap_event::Kind::RequestInit(init));
        Some(Box::new(tapped))
    }

    /// What those see of a head who asked for it. It is its server's to say what that is, as of its messages.
    fn shown(&self, hop: &Hop, headers: Headers<'_>) -> Vec<Header> {
        let is_seen = hop.is_server() && self.watching.iter().any(|tap| tap.sees_headers());
        if is_seen { headers::shown(headers, self.taps.payloads().redact()) } else { Vec::new() }
    }

    fn copy(&mut self, hop: &Hop, data: &[u8], way: impl FnOnce(&mut Messages) -> &mut Frames) {
        let Some(mut messages) = self.messages.take() else { return };
        // Who asked may have gone since the request began.
        if !self.watching.iter().any(|tap| tap.sees_payloads()) {
            return;
        }
        let mut whole = Vec::new();
        way(&mut messages).push(data, |message| whole.push(message));
        for message in whole {
            let (path, redact) = (messages.path.clone(), self.taps.payloads().redact().to_vec());
            self.tell(hop, tap_event::Kind::Message(Message { path, redact, ..message }));
        }
        if messages.partial.hold(messages.requests.held() + messages.responses.held()) {
            self.messages = Some(messages);
        } else {
            self.taps.lost_messages(&self.watching);
        }
    }

    fn tell(&self, hop: &Hop, kind: tap_event::Kind) {
        let peer = |address: SocketAddr| Peer { address: Some(address.into()), ..Peer::default() };
        let (pod, workload) = (hop.pod.clone(), hop.workload.clone());
        let event = TapEvent {
            id: Some(self.id),
            direction: hop.direction().into(),
            source: Some(peer(self.source)),
            destination: Some(Peer { pod, workload, ..peer(hop.upstream.endpoint.address) }),
            tls: Some(report::tls(&hop.tls)),
            kind: Some(kind),
            dropped: 0,
        };
        self.taps.observe(&self.watching, &event);
    }
}

impl Messages {
    /// Those of `request`, if they are of protobuf, and of a method that can be described.
    fn of(request: &RequestView<'_>, taps: &Taps) -> Option<Self> {
        grpc::method(request.path)?;
        request.headers.get("content-type").filter(|value| is_protobuf(value))?;
        let mut requests = Frames::new(false);
        if let Some(encoding) = request.headers.get("grpc-encoding") {
            requests.compressed_with(encoding);
        }
        let (path, responses, partial) = (request.path.to_owned(), Frames::new(true), taps.partial());
        Some(Self { path, requests, responses, partial })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

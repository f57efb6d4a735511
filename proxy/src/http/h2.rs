//! HTTP/2 from its clients to whoever answers: each stream by a task of its own, on connections that many share.
//!
//! What flow control lets a receiver take is what is asked of the sender: at any time a stream holds one frame's data at most.

mod flight;

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use ::h2::{
    Ping, PingPong, Reason, RecvStream,
    client::{self, SendRequest},
    ext, server,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version, header::HOST};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinSet, spawn_local},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use self::flight::{Broken, Flight, Pump, Upload};
use super::{
    ATTEMPTS_MAX, Failure, Forward, HEAD_BYTES_MAX, Headers, Refusal, RequestView,
    exchange::{Exchange, Hop},
    is_grpc,
    pool::Shared,
    strip_reserved,
};
use crate::{buffered::Buffered, worker::Worker};

/// Streams that one connection of an application may have open.
const STREAMS_MAX: u32 = 250;
/// RFC 9113's default for a stream.
const STREAM_WINDOW: u32 = 65_535;
/// An application's connection has room for sixteen streams that it does not read: what that blocks is its own.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// One that many clients share has room for all of their streams: one that does not read must not block the others.
const SHARED_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
/// Written to one stream, and not taken by its connection yet.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// What h2 lets small frames cost that nobody has read, 256 less their size each: sixty thousand of them, so that sixteen streams of small
/// messages can wait for their readers. Past it the connection ends.
const DATA_FRAME_BUDGET: usize = 16 * 1024 * 1024;
/// Streams that this side has reset and whose frames may still come. Where many clients share a connection there are as many as all of
/// them cancel; and what is too much for one is not for those (linkerd2#14908).
const RESET_STREAMS_MAX: usize = 50;
const RESET_STREAMS_MAX_SHARED: usize = 1024;
/// Requests of an application that it has cancelled again within a second: more is an attack (CVE-2023-44487).
const CANCELLED_PER_SECOND_MAX: u32 = 500;
/// Before a server has said how many streams it allows.
const STREAMS_AT_FIRST: usize = 100;
/// Another proxy that says nothing for this long, while it is waited for, is probed. Servers of others would take probes amiss; those
/// that are gone, TCP notices.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers the requests of `client`, until it ends; one that is told to leave may finish what it has begun.
///
/// # Errors
/// When the connection breaks, or is not HTTP/2.
pub async fn serve<F: Forward>(forward: Rc<F>, client: Buffered) -> Result<(), ::h2::Error> {
    let is_mesh = forward.client().is_mesh;
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(if is_mesh { SHARED_WINDOW } else { CONNECTION_WINDOW })
        .max_send_buffer_size(SEND_BYTES_MAX)
        .max_concurrent_reset_streams(if is_mesh { RESET_STREAMS_MAX_SHARED } else { RESET_STREAMS_MAX })
        .enable_connect_protocol();
    if is_mesh {
        builder
            .data_frame_budget(DATA_FRAME_BUDGET)
            .max_local_error_reset_streams(None)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX_SHARED);
    }
    let mut connection = builder.handshake::<_, Bytes>(client).await?;
    let mut cancelled = Cancelled { count: Rc::default(), since: Instant::now() };
    let idle = forward.client().worker.idle(forward.client().number);
    let mut streams = JoinSet::new();
    let mut is_leaving = false;
    loop {
        let accepted = poll_fn(|cx| {
            if !is_leaving {
                idle.watch(cx);
                if forward.is_leaving() {
                    is_leaving = true;
                    connection.graceful_shutdown();
                }
            }
            while let Poll::Ready(Some(_)) = streams.poll_join_next(cx) {}
            connection.poll_accept(cx)
        });
        match accepted.await {
            Some(Ok((request, respond))) => {
                if !is_mesh && cancelled.is_too_much() {
                    forward.refused(Refusal::TooManyCancelled);
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                let stream = u64::from(respond.stream_id().as_u32());
                streams.spawn_local(answer(forward.clone(), request, respond, stream, cancelled.count.clone()));
            }
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

/// The requests of one connection that its client did not wait for, in this second.
struct Cancelled {
    count: Rc<Cell<u32>>,
    since: Instant,
}

impl Cancelled {
    fn is_too_much(&mut self) -> bool {
        if self.since.elapsed() > Duration::from_secs(1) {
            self.since = Instant::now();
            self.count.set(0);
        }
        self.count.get() > CANCELLED_PER_SECOND_MAX
    }
}

/// A client's side of `stream`, which is driven by a task of its own from here on; `requests` says how many are under way on it.
///
/// # Errors
/// When it breaks before it begins.
pub async fn client<S>(stream: S, is_mesh: bool, requests: Rc<Cell<usize>>) -> Result<SendRequest<Bytes>, ::h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(SHARED_WINDOW)
        .initial_max_send_streams(STREAMS_AT_FIRST)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX_SHARED)
        .max_local_error_reset_streams(None)
        .handshake::<_, Bytes>(stream)
        .await?;
    let pings = if is_mesh { connection.ping_pong() } else { None };
    spawn_local(async move {
        let mut dead = pin!(silence(pings));
        let driven = poll_fn(|cx| {
            // First: an answer to a ping may be in the socket already.
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended);
            }
            // Without requests a peer that is silent owes nothing.
            if requests.get() > 0 && dead.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Reason::CANCEL.into()));
            }
            Poll::Pending
        });
        if let Err(error) = driven.await {
            debug!(%error, "a connection to a server ended badly");
        }
    });
    Ok(sender)
}

/// Resolves when the peer does not answer a ping.
async fn silence(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(KEEPALIVE_INTERVAL).await;
        if pings.send_ping(Ping::opaque()).is_err() {
            return std::future::pending().await;
        }
        if timeout(KEEPALIVE_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx))).await.is_err() {
            return;
        }
    }
}

/// One request, to whoever gets it, until its response has ended.
async fn answer<F: Forward>(
    forward: Rc<F>,
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    stream: u64,
    cancelled: Rc<Cell<u32>>,
) {
    let _busy = forward.client().worker.busy();
    let (parts, body) = request.into_parts();
    let mut request = Request::from_parts(parts, ());
    strip_reserved(request.headers_mut());
    let authority = match authority(&request) {
        Ok(authority) => authority,
        Err(refusal) => {
            forward.refused(refusal);
            return say(&mut respond, &request, Failure::Refused(refusal));
        }
    };
    let asked = forward.client().asks(stream);
    let worker = &forward.client().worker;
    let view = view(&request, authority);
    let service = match forward.resolve(&view).await {
        Ok(service) => service,
        Err(failure) => {
            forward.failed(&view, failure);
            return say(&mut respond, &request, failure);
        }
    };

    let mut body = Some(body);
    let (mut tried, mut failure, mut is_unprocessed) = (Vec::new(), Failure::NoEndpoints, false);
    for _ in 0..ATTEMPTS_MAX {
        let Some(hop) = forward.pick(&service, &view, &tried) else { break };
        let mut recorded = Exchange::begin(&view, &hop, &worker.setup.taps, asked);
        if let Some(balancer) = forward.balancer(&service) {
            recorded.loads(balancer);
        }
        let mut server = match hop.connections.http2() {
            Some(server) => server,
            None => match connect(worker, &hop, &mut respond).await {
                Ok(server) => server,
                Err(NotConnected::Failed(error)) => {
                    let address = hop.upstream.endpoint.address;
                    debug!(dst.addr = %address, %error, "an endpoint cannot be connected to");
                    recorded.unreachable();
                    tried.push(address);
                    failure = Failure::Connect;
                    continue;
                }
                Err(NotConnected::Cancelled(connecting)) => {
                    spawn_local(async move {
                        if connecting.await.is_err() {
                            recorded.unreachable();
                        }
                    });
                    return cancelled.set(cancelled.get() + 1);
                }
            },
        };
        let Some(from) = body.take() else { break };
        let ends = from.is_end_stream();
        let (response, to) = match server.sender.send_request(copy(&request), ends) {
            Ok(sent) => sent,
            Err(error) => {
                debug!(%error, "a connection did not take a request");
                recorded.abandon();
                failure = Failure::Broken;
                // What one does not take because of what it is, none does.
                if error.is_io() || error.is_go_away() {
                    body = Some(from);
                    continue;
                }
                break;
            }
        };
        let upload = if ends { Upload::Nothing(from) } else { Upload::Going(Pump::new(from, to, false)) };
        let flight = Flight { respond: &mut respond, response, upload };
        match flight.run(&hop, &mut recorded).await {
            Ok(()) => return,
            // The client has cancelled: dropping everything tells the server so.
            Err(Broken::Client) => return cancelled.set(cancelled.get() + 1),
            // It cannot be sent again from here; its client may.
            Err(Broken::Refused) => {
                recorded.reset();
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
            Err(Broken::BadResponse(refusal)) => {
                forward.refused(refusal);
                recorded.fail(Failure::BadResponse);
                return say(&mut respond, &request, Failure::BadResponse);
            }
            Err(Broken::Unprocessed(unsent)) => {
                recorded.abandon();
                failure = Failure::Broken;
                is_unprocessed = true;
                body = Some(unsent);
            }
            Err(Broken::Undelivered(unsent)) => {
                recorded.unreachable();
                tried.push(hop.upstream.endpoint.address);
                failure = Failure::Connect;
                body = Some(unsent);
            }
            Err(Broken::Server(error)) => {
                debug!(dst.addr = %hop.upstream.endpoint.address, %error, "an endpoint did not answer");
                match error.reason().filter(|_| error.is_reset()) {
                    // What the server says of this stream alone is for its client.
                    Some(reason) => respond.send_reset(reason),
                    None => {
                        recorded.fail(Failure::Broken);
                        say(&mut respond, &request, Failure::Broken);
                    }
                }
                return;
            }
        }
    }
    forward.failed(&view, failure);
    if is_unprocessed && failure == Failure::Broken {
        // Its client may send it again, and is told so.
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    say(&mut respond, &request, failure);
}

/// Why there is no connection.
enum NotConnected {
    /// It could not be made.
    Failed(io::Error),
    /// The client waits no longer. It is made all the same: others wait for it, and whether it can be made is to be known.
    Cancelled(Connecting),
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Shared>>>>;

/// A new connection for a request, unless its client goes before there is one.
async fn connect(
    worker: &Rc<Worker>,
    hop: &Rc<Hop>,
    respond: &mut server::SendResponse<Bytes>,
) -> Result<Shared, NotConnected> {
    let (worker, hop) = (worker.clone(), hop.clone());
    let mut connecting: Connecting = Box::pin(async move { worker.pool.http2(&hop.upstream, &hop.connections).await });
    let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(connected) => Poll::Ready(Some(connected)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    });
    match connected.await {
        Some(connected) => connected.map_err(NotConnected::Failed),
        None => Err(NotConnected::Cancelled(connecting)),
    }
}

/// The host that a request is for. `:authority` and Host must not be two different ones (RFC 9113 section 8.3.1).
fn authority(request: &Request<()>) -> Result<&str, Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, other) = (hosts.next().map(HeaderValue::as_bytes), hosts.next());
    match (request.uri().authority(), host, other) {
        (_, _, Some(_)) => Err(Refusal::ManyHosts),
        (Some(authority), Some(host), None) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host) => {
            Err(Refusal::ManyHosts)
        }
        (Some(authority), _, None) => Ok(authority.as_str()),
        (None, host, None) => Ok(std::str::from_utf8(host.unwrap_or_default()).unwrap_or_default()),
    }
}

fn view<'a>(request: &'a Request<()>, authority: &'a str) -> RequestView<'a> {
    RequestView {
        method: request.method().as_str(),
        scheme: request.uri().scheme_str().unwrap_or("http"),
        authority,
        path: request.uri().path_and_query().map_or("*", http::uri::PathAndQuery::as_str),
        is_grpc: is_grpc(request.headers()),
        headers: Headers::Http2(request.headers()),
    }
}

/// What is sent is gone, and may have to be sent once more.
fn copy(request: &Request<()>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    // h2 knows no request of its own version without an authority, and there are some: they have come from HTTP/1.
    let has_authority = request.uri().authority().is_some();
    *copy.version_mut() = if has_authority { request.version() } else { Version::HTTP_11 };
    copy.headers_mut().clone_from(request.headers());
    if request.method() == Method::CONNECT
        && let Some(protocol) = request.extensions().get::<ext::Protocol>()
    {
        copy.extensions_mut().insert(protocol.clone());
    }
    copy
}

/// This proxy's own answer.
fn say(respond: &mut server::SendResponse<Bytes>, request: &Request<()>, failure: Failure) {
    let (head, body) = failure.response(is_grpc(request.headers())).into_parts();
    let has_body = !body.is_empty() && request.method() != Method::HEAD;
    let sent = respond.send_response(Response::from_parts(head, ()), !has_body);
    // A client that has gone does not hear it.
    if let Ok(mut stream) = sent
        && has_body
    {
        let _ = stream.send_data(body, true);
    }
}

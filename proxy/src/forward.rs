//! What both directions do with a connection once they know where it goes: send a request on, or copy bytes.

use std::{io, sync::Arc};

use bytes::BytesMut;
use conduit_api::Endpoint;
use http::{Request, Response};
use hyper::{
    body::{Body as _, Incoming},
    upgrade,
};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{net::TcpStream, task::spawn_local, time::Instant};
use tracing::debug;

use crate::{
    http::{Protocol, Proxied, ResponseBody, exchange::Exchange, grants_tunnel, pool::SendError, strip_hop_by_hop},
    io::{self as streams, Stream, read_ahead},
    telemetry::Counters,
    worker::Worker,
};

/// What became of a request.
pub enum Answered {
    /// It was answered.
    Response(Response<ResponseBody>),
    /// It was not; what is to be recorded depends on whether it is tried again.
    Failed(SendError, Box<Exchange>),
}

/// Sends `request` to `endpoint`, and its response back, recorded in `exchange`. If it asks for a tunnel and gets it, the
/// two connections are tied together.
pub async fn request(
    worker: &Worker,
    endpoint: &Endpoint,
    plain: bool,
    protocol: Protocol,
    tunnel: bool,
    mut request: Request<Incoming>,
    mut exchange: Exchange,
) -> Answered {
    let method = request.method().clone();
    let client = tunnel.then(|| upgrade::on(&mut request));
    let sent = match worker.pool.send(endpoint, plain, protocol, tunnel, request).await {
        Ok(sent) => sent,
        Err(error) => return Answered::Failed(error, Box::new(exchange)),
    };
    let (mut response, give_back) = sent.split();
    exchange.head(response.status().as_u16(), response.headers());
    if let Some(give_back) = give_back {
        exchange.at_end(give_back);
    }
    if response.body().is_end_stream() {
        // Nobody asks a body that has ended already: a gRPC status that is all there is comes in the head.
        exchange.end(None);
    }
    let granted = tunnel && grants_tunnel(&method, &response);
    strip_hop_by_hop(response.headers_mut(), granted);
    if let Some(client) = client.filter(|_| granted) {
        let server = upgrade::on(&mut response);
        spawn_local(tie(client, server));
    }
    Answered::Response(response.map(|body| ResponseBody::Proxied(Box::new(Proxied::new(body, exchange)))))
}

async fn tie(client: upgrade::OnUpgrade, server: upgrade::OnUpgrade) {
    match tokio::try_join!(client, server) {
        Ok((client, server)) => {
            streams::copy(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
        }
        Err(error) => debug!(%error, "a tunnel was granted and not used"),
    }
}

/// Copies bytes both ways until both sides have ended. A reset of one side becomes a reset of the other.
pub async fn copy(mut client: Stream, mut server: Stream, counters: &Arc<Counters>) {
    counters.tcp_opened.add(1);
    let started = Instant::now();
    let copied = streams::copy(&mut client, &mut server).await;
    if copied.reset {
        reset(client.tcp());
        reset(server.tcp());
    }
    counters.tcp_read_bytes.add(copied.there);
    counters.tcp_write_bytes.add(copied.back);
    counters.tcp_duration_ms.add(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    counters.tcp_closed.add(1);
}

/// Makes the close that follows an abortive one.
pub fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)) {
        debug!(%error, "a reset is passed on as an end");
    }
}

/// Who spoke first.
pub enum First {
    /// The client; `false` if it ended instead.
    Client(bool),
    /// The server. Nothing of what it said was read.
    Server,
}

/// Waits for the first bytes of either side.
///
/// # Errors
/// When one of the connections breaks.
pub async fn first_to_speak(client: &mut TcpStream, buffer: &mut BytesMut, server: &Stream) -> io::Result<First> {
    tokio::select! {
        read = read_ahead(client, buffer) => Ok(First::Client(read?)),
        // Under TLS as well: our peers send nothing after the handshake but what their side has said.
        spoke = server.tcp().readable() => spoke.map(|()| First::Server),
    }
}

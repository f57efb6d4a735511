//! What both directions do with a connection once they know where it goes: send a request on, or copy bytes.

use std::{io, time::Duration};

use bytes::BytesMut;
use http::{Request, Response};
use hyper::{
    body::{Body as _, Incoming},
    upgrade,
};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;
use tracing::debug;

use crate::{
    connect::Upstream,
    detect::{Detected, detect},
    http::{
        Protocol, Proxied, ResponseBody, exchange::Exchange, grants_tunnel, pool::SendError, strip_hop_by_hop,
        strip_reserved,
    },
    io::{self as streams, DETECTION_TIMEOUT, read_ahead, read_ahead_for},
    telemetry::transport::Counted,
    worker::Worker,
};

/// A client that says nothing for so long may be waiting for the server to speak first.
const CLIENT_FIRST: Duration = Duration::from_millis(10);

/// What became of a request.
pub enum Answered {
    /// It was answered.
    Response(Response<ResponseBody>),
    /// It was not; what is to be recorded depends on whether it is tried again.
    Failed(SendError, Box<Exchange>),
}

/// Sends `request` to `upstream`, and its response back, recorded in `exchange`. If it asks for a tunnel and gets it, the
/// two connections are tied together.
pub async fn request(
    worker: &Worker,
    upstream: &Upstream,
    protocol: Protocol,
    tunnel: bool,
    mut request: Request<Incoming>,
    mut exchange: Exchange,
) -> Answered {
    let method = request.method().clone();
    let client = tunnel.then(|| upgrade::on(&mut request));
    let sent = match worker.pool.send(upstream, protocol, tunnel, request).await {
        Ok(sent) => sent,
        Err(error) => return Answered::Failed(error, Box::new(exchange)),
    };
    let (mut response, give_back) = sent.split();
    if upstream.peer().is_none() {
        // Only a proxy of this mesh, which has proved to be one, speaks for it.
        strip_reserved(response.headers_mut());
    }
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
        worker.tunnel(tie(client, server));
    }
    Answered::Response(response.map(|body| ResponseBody::Proxied(Box::new(Proxied::new(body, exchange)))))
}

async fn tie(client: upgrade::OnUpgrade, server: upgrade::OnUpgrade) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(upgraded) => upgraded,
        Err(error) => return debug!(%error, "a tunnel was granted and not used"),
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    if streams::copy(&mut client, &mut server).await.reset {
        for side in [client, server] {
            // A stream of an HTTP/2 connection is reset when it is dropped.
            if let Ok(connection) = side.into_inner().downcast::<TokioIo<Counted>>() {
                reset(connection.io.inner().tcp());
            }
        }
    }
}

/// Copies bytes both ways until both sides have ended. A reset of one side becomes a reset of the other.
pub async fn copy(mut client: Counted, mut server: Counted) {
    if streams::copy(&mut client, &mut server).await.reset {
        reset(client.tcp());
        reset(server.tcp());
    }
}

/// Makes the close that follows an abortive one.
pub fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        debug!(%error, "a reset is passed on as an end");
    }
}

/// What a connection carries, as its first bytes say.
pub enum Spoken {
    /// Requests.
    Http(Protocol),
    /// TLS; its ClientHello has begun.
    Tls,
    /// Anything else, and nothing at all.
    Other,
}

/// Finds out what `client` speaks; what was read of it is in `buffer` then. Nobody waits for long: a client that is silent may be
/// waiting for the server, which is connected to by `connect` and returned as well.
///
/// # Errors
/// When one of the connections breaks, or there is nobody to connect to.
pub async fn spoken(
    client: &mut TcpStream,
    buffer: &mut BytesMut,
    connect: impl AsyncFn() -> io::Result<Counted>,
) -> io::Result<(Spoken, Option<Counted>)> {
    let mut server = None;
    loop {
        match detect(buffer) {
            Detected::Http1 => return Ok((Spoken::Http(Protocol::Http1), server)),
            Detected::Http2 => return Ok((Spoken::Http(Protocol::Http2), server)),
            Detected::Tls => return Ok((Spoken::Tls, server)),
            Detected::Opaque => return Ok((Spoken::Other, server)),
            Detected::Undecided => {}
        }
        let open = match &server {
            None => match read_ahead_for(CLIENT_FIRST, client, buffer).await? {
                Some(open) => open,
                None if buffer.is_empty() => {
                    server = Some(connect().await?);
                    continue;
                }
                // One that has begun to speak and stops is carried as bytes.
                None => read_ahead_for(DETECTION_TIMEOUT, client, buffer).await?.unwrap_or(false),
            },
            Some(server) => tokio::select! {
                read = read_ahead(client, buffer) => read?,
                // Under TLS as well: our peers send nothing after the handshake but what their side has said.
                spoke = server.tcp().readable() => {
                    spoke?;
                    false
                }
            },
        };
        if !open {
            return Ok((Spoken::Other, server));
        }
    }
}

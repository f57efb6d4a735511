//! HTTP as this proxy carries it: what it changes, what it answers itself, and when an exchange is over.

pub mod exchange;
pub mod pool;
pub mod serve;

use std::{
    error::Error as StdError,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{self, CONNECTION, CONTENT_TYPE, HOST, TE, UPGRADE},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use self::exchange::Exchange;

/// Why this proxy answered itself; for people, and for programs.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("conduit-proxy-error");
/// Names that only this mesh may set.
const RESERVED: &str = "conduit-";

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, gRPC included.
    Http2,
    /// Anything else.
    Opaque,
}

impl Protocol {
    /// What two proxies agree on in their TLS handshake, so that the receiving one need not find out.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"conduit/h1",
            Self::Http2 => b"conduit/h2",
            Self::Opaque => b"conduit/tcp",
        }
    }

    /// The protocol that was agreed on; `None` when it is not one of this mesh.
    pub fn from_alpn(alpn: &[u8]) -> Option<Self> {
        [Self::Http1, Self::Http2, Self::Opaque].into_iter().find(|protocol| protocol.alpn() == alpn)
    }
}

/// Why a request got no answer from where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The service has no instance that is ready.
    NoEndpoints,
    /// No instance could be connected to.
    Connect,
    /// The connection broke before the answer.
    Broken,
    /// The service has routes, and none of them is for such a request.
    NoRoute,
    /// The route for such requests leads nowhere.
    NoBackend,
}

impl Failure {
    /// What an HTTP client is told.
    pub fn status(self) -> u16 {
        match self {
            Self::NoEndpoints => 503,
            Self::Connect | Self::Broken => 502,
            Self::NoRoute => 404,
            Self::NoBackend => 500,
        }
    }

    /// What a gRPC client is told: what it may ask again elsewhere is UNAVAILABLE, what is not there UNIMPLEMENTED.
    fn grpc_status(self) -> &'static str {
        match self {
            Self::NoEndpoints | Self::Connect | Self::Broken | Self::NoBackend => "14",
            Self::NoRoute => "12",
        }
    }

    /// The answer to `request` in its place: a status, and a reason that a program can read. A gRPC client gets it as it
    /// gets every status, in the head of a response without a body.
    pub fn response(self, is_grpc: bool) -> Response<ResponseBody> {
        let reason = match self {
            Self::NoEndpoints => "no ready endpoints",
            Self::Connect => "no endpoint could be connected to",
            Self::Broken => "the connection to the endpoint broke",
            Self::NoRoute => "no route accepts the request",
            Self::NoBackend => "the route has no backend",
        };
        let mut response = Response::new(ResponseBody::Own(Bytes::new()));
        response.headers_mut().insert(ERROR_HEADER, HeaderValue::from_static(reason));
        if is_grpc {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(self.grpc_status()));
            headers.insert("grpc-message", HeaderValue::from_static(reason));
        } else {
            *response.status_mut() = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::BAD_GATEWAY);
            *response.body_mut() = ResponseBody::Own(Bytes::from(format!("{reason}\n")));
        }
        response
    }
}

/// Whether a request is gRPC: then its response's status is in the trailers.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a request asks for the connection itself: by `Upgrade`, or by CONNECT. To go on as HTTP/2 in clear is not asking
/// for that (RFC 9113 section 3.1 has made it obsolete): such a request is answered as what it is.
pub fn wants_tunnel<B>(request: &Request<B>) -> bool {
    let upgrade = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"h2c");
    request.method() == Method::CONNECT
        || (request.headers().get(UPGRADE).is_some_and(upgrade) && lists(request.headers(), "upgrade"))
}

/// Whether a response to such a request grants it.
pub fn grants_tunnel<B>(method: &Method, response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (*method == Method::CONNECT && response.status().is_success())
}

/// The host that a request is for, as it names it (RFC 9112 section 3.2.2: the target's authority wins over Host).
pub fn authority<B>(request: &Request<B>) -> &str {
    let host = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(http::uri::Authority::as_str).or_else(host).unwrap_or_default()
}

/// Takes out what is meant for the next hop only (RFC 9110 section 7.6.1), except what an upgrade needs.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, tunnel: bool) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // What routes and frames the message is never for the next hop only, whatever a client says.
        .filter(|name| ![HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::AUTHORIZATION].contains(name))
        .collect();
    for name in listed {
        if !(tunnel && name == UPGRADE) && name != CONNECTION && name != TE {
            headers.remove(name);
        }
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|te| te.as_bytes() != b"trailers") {
        headers.remove(TE);
    }
    if tunnel {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
}

/// Takes out what only this mesh may say, before it could be believed.
pub fn strip_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with(RESERVED)).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

fn lists(headers: &HeaderMap, option: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(option))
}

/// The body of a response to the one who asked.
pub enum ResponseBody {
    /// As it comes, watched until its end.
    Proxied(Box<Proxied>),
    /// This proxy's own words.
    Own(Bytes),
}

/// A body on its way through, and what is to happen at its end.
pub struct Proxied {
    body: Incoming,
    exchange: Exchange,
}

impl Proxied {
    /// `exchange` is told of everything that passes.
    pub fn new(body: Incoming, exchange: Exchange) -> Self {
        Self { body, exchange }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Proxied(proxied) => {
                let polled = Pin::new(&mut proxied.body).poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Some(data) = frame.data_ref() {
                            proxied.exchange.data(data.len());
                        }
                        if let Some(trailers) = frame.trailers_ref() {
                            proxied.exchange.end(Some(trailers));
                        } else if proxied.body.is_end_stream() {
                            proxied.exchange.end(None);
                        }
                    }
                    Poll::Ready(None) => proxied.exchange.end(None),
                    Poll::Ready(Some(Err(_))) => proxied.exchange.reset(),
                    Poll::Pending => {}
                }
                polled.map_err(Into::into)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_empty(),
            Self::Proxied(proxied) => proxied.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Proxied(proxied) => proxied.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_for_the_next_hop_only_goes_no_further() {
        for (before, tunnel, after) in [
            (&[("connection", "close"), ("a", "1")][..], false, &["a"][..]),
            (&[("connection", "x-secret, Keep-Alive"), ("x-secret", "1"), ("keep-alive", "5")], false, &[]),
            (
                &[("connection", "host, content-length"), ("host", "a"), ("content-length", "1")],
                false,
                &["content-length", "host"],
            ),
            (&[("connection", "te"), ("te", "trailers")], false, &["te"]),
            (&[("te", "trailers, deflate")], false, &[]),
            (&[("connection", "Upgrade"), ("upgrade", "websocket")], true, &["connection", "upgrade"]),
            (&[("connection", "Upgrade"), ("upgrade", "h2c")], false, &[]),
            (&[("proxy-connection", "keep-alive")], false, &[]),
        ] {
            let mut headers = headers(before);
            strip_hop_by_hop(&mut headers, tunnel);
            assert_eq!(names(&headers), after, "{before:?}");
        }
    }

    #[test]
    fn nobody_outside_speaks_for_the_mesh() {
        let mut headers = headers(&[("conduit-proxy-error", "x"), ("Conduit-Anything", "y"), ("conduits", "z")]);
        strip_reserved(&mut headers);
        assert_eq!(names(&headers), ["conduits"]);
    }

    #[test]
    fn a_request_is_for_its_target_and_else_for_its_host() {
        let request = |uri: &str, host: Option<&str>| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            request.body(()).unwrap()
        };
        assert_eq!(authority(&request("/x", Some("web:80"))), "web:80");
        assert_eq!(authority(&request("http://a/x", Some("b"))), "a");
        assert_eq!(authority(&request("/x", None)), "");
    }

    #[test]
    fn failures_are_for_people_and_programs() {
        let plain = Failure::NoEndpoints.response(false);
        assert_eq!(plain.status(), 503);
        assert_eq!(plain.headers()[ERROR_HEADER], "no ready endpoints");
        let grpc = Failure::Connect.response(true);
        assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from_static("14")));
        assert!(grpc.body().is_end_stream());
    }

    #[test]
    fn tunnels_are_asked_for_and_granted() {
        let upgrade = Request::builder().header("connection", "keep-alive, Upgrade").header("upgrade", "websocket");
        assert!(wants_tunnel(&upgrade.body(()).unwrap()));
        let half = Request::builder().header("upgrade", "websocket").body(()).unwrap();
        assert!(!wants_tunnel(&half));
        let h2c = Request::builder().header("connection", "Upgrade, HTTP2-Settings").header("upgrade", "h2c");
        assert!(!wants_tunnel(&h2c.body(()).unwrap()));
        let connect = Request::builder().method(Method::CONNECT).uri("host:443").body(()).unwrap();
        assert!(wants_tunnel(&connect));
        let ok = Response::new(());
        assert!(grants_tunnel(&Method::CONNECT, &ok));
        assert!(!grants_tunnel(&Method::GET, &ok));
    }
}

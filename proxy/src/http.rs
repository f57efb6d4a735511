//! HTTP as this proxy carries it: what it changes, what it refuses, what it answers itself.
//!
//! HTTP/1 stays HTTP/1 ([`h1`], with [`head`] and [`body`]), HTTP/2 stays HTTP/2 ([`h2`]): nothing is translated, so nothing is
//! lost in translation. What becomes of an exchange is recorded by [`exchange`] whichever it is, and where a request goes is asked
//! of its direction, which is a [`Forward`].

pub mod body;
pub mod exchange;
pub mod h1;
pub mod h2;
pub mod head;
pub mod pool;

use std::{cell::RefCell, future::Future, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit_api::SpiffeId;
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use tracing::debug;

use self::exchange::{Asked, Hop};
use crate::{
    balance::Balancer,
    buffer::TooLarge,
    buffered::Buffered,
    policy::Policy,
    telemetry::{Direction, Layer, Meant},
    worker::Worker,
};

/// Why this proxy answered itself; for people, and for programs.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("conduit-proxy-error");
/// Names that only this mesh may set.
pub const RESERVED: &str = "conduit-";
/// Of a head, of HTTP/2 as well as HTTP/1.
pub const HEAD_BYTES_MAX: usize = crate::buffer::LARGE_BYTES;
/// How often a request is sent to somebody, as long as nobody has got it.
pub const ATTEMPTS_MAX: usize = 3;

/// Requests of one thread that wait for one instance to answer: what comes after so many would only wait for those before it, and take
/// memory that others need.
pub const UNANSWERED_MAX: usize = 10_000;

/// How long a request may go on after its response, or after it was told that what follows it may begin.
pub const REST_TIMEOUT: Duration = Duration::from_secs(30);
/// Interim responses to one request: more are an attack on whoever must pass them on.
pub const INTERIM_MAX: usize = 16;

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

/// What routes, taps and counters look at of a request, whatever it came in.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    /// e.g. `GET`
    pub method: &'a str,
    /// e.g. `http`
    pub scheme: &'a str,
    /// Host and port, as the request names them.
    pub authority: &'a str,
    /// With the query.
    pub path: &'a str,
    /// Whether its response's status is in the trailers.
    pub is_grpc: bool,
    /// Everything else.
    pub headers: Headers<'a>,
}

/// A request's fields.
#[derive(Clone, Copy)]
pub enum Headers<'a> {
    /// As lines.
    Http1(&'a [u8]),
    /// As they were decoded.
    Http2(&'a h2::fields::Fields),
}

impl<'a> Headers<'a> {
    /// The first value of the field `name`, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        match self {
            Self::Http1(head) => head::field(head, name),
            Self::Http2(fields) => fields.get(name),
        }
    }

    /// All of them, in the order in which they came: name, in whatever case, and value.
    pub fn for_each(&self, mut visit: impl FnMut(&'a [u8], &'a [u8])) {
        match self {
            Self::Http1(head) => head::fields(head).for_each(|(name, value)| visit(name, value)),
            Self::Http2(fields) => fields.iter().for_each(|(name, value, _)| visit(name, value)),
        }
    }
}

/// A connection that carries requests, as both directions know it.
pub struct Client {
    /// The thread that this is on.
    pub worker: Rc<Worker>,
    /// Inbound or outbound.
    pub direction: Direction,
    /// For those who watch.
    pub number: u32,
    /// Who asks.
    pub source: SocketAddr,
    /// Who that has proved to be: another proxy of this mesh, or nobody.
    pub identity: Option<SpiffeId>,
}

impl Client {
    /// One that begins.
    pub fn new(worker: &Rc<Worker>, direction: Direction, source: SocketAddr, identity: Option<SpiffeId>) -> Self {
        Self { worker: worker.clone(), direction, number: worker.number(), source, identity }
    }

    /// Whether it comes from another proxy of this mesh, which speaks for many.
    pub fn is_mesh(&self) -> bool {
        self.identity.is_some()
    }

    /// A request on it, which is told from the others by `stream`.
    fn asks(&self, stream: u64) -> Asked {
        Asked { source: self.source, connection: self.number, stream }
    }
}

/// Answers the requests of `client`, which are of `protocol`.
///
/// # Errors
/// When the connection breaks, or is not what it should be.
pub async fn serve<F: Forward>(forward: F, protocol: Protocol, client: Buffered) -> io::Result<()> {
    match protocol {
        Protocol::Http2 => h2::serve(Rc::new(forward), client).await,
        Protocol::Http1 | Protocol::Opaque => h1::serve(&forward, client).await,
    }
}

/// Where the requests of a connection go: what an engine asks of the direction that it serves.
pub trait Forward: 'static {
    /// What a request is for.
    type Service;

    /// Whose requests they are.
    fn client(&self) -> &Client;

    /// What `request` is for.
    ///
    /// # Errors
    /// When it is for nothing.
    fn resolve(&self, request: &RequestView<'_>) -> impl Future<Output = Result<Self::Service, Failure>>;

    /// Who gets it, of those that are not in `tried`.
    ///
    /// # Errors
    /// When there is nobody, because of its route or otherwise, or whoever there is has too much to do. Of one that was tried already, what became of that
    /// says more.
    fn pick(
        &self,
        service: &Self::Service,
        request: &RequestView<'_>,
        tried: &[SocketAddr],
    ) -> Result<Rc<Hop>, Failure>;

    /// What decides among several, and is to know what becomes of the request.
    fn balancer<'a>(&self, service: &'a Self::Service) -> Option<&'a Rc<RefCell<Balancer>>>;

    /// The service that it is for, and which of that one's routes has accepted it.
    fn meant<'a>(&self, service: &'a Self::Service) -> Option<&'a Meant>;

    /// What its route says of it besides.
    fn policy<'a>(&self, service: &'a Self::Service) -> Option<&'a Arc<Policy>>;

    /// Nobody got it, and it is answered here, with `status`: it counts all the same, for `service` if it is known what that is.
    fn answered(&self, service: Option<&Self::Service>, request: &RequestView<'_>, status: u16);

    /// The same, because it could not be answered otherwise.
    fn failed(&self, service: Option<&Self::Service>, request: &RequestView<'_>, failure: Failure) {
        self.answered(service, request, failure.status());
    }

    /// Its clients are to leave: this proxy is told to stop.
    fn is_leaving(&self) -> bool;

    /// Counts a message that is not passed on.
    fn refused(&self, refusal: Refusal) {
        let Client { worker, direction, source, .. } = self.client();
        debug!(src.addr = %source, reason = refusal.reason(), "refused a message");
        worker.telemetry.refused(*direction, Layer::Http, refusal.reason());
    }
}

/// Why a request got no answer from where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The service has no instance that is ready.
    NoEndpoints,
    /// See [`UNANSWERED_MAX`].
    Overloaded,
    /// No instance could be connected to.
    Connect,
    /// The connection broke before the answer.
    Broken,
    /// What was answered is not HTTP, or means two things.
    BadResponse,
    /// The service has routes, and none of them is for such a request.
    NoRoute,
    /// The route for such requests leads nowhere.
    NoBackend,
    /// The response did not come within the time that the route gives it.
    Timeout,
    /// The server has not said that it takes CONNECT with a protocol, and must not be sent it (RFC 8441 section 3).
    NoExtendedConnect,
    /// The request is refused as it is.
    Refused(Refusal),
}

/// Why what a peer sent is not forwarded. A request that two programs could understand differently is one to this proxy and
/// perhaps two to the next (request smuggling).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// It is not HTTP.
    MalformedHead,
    /// A line does not end with CR LF.
    BareLineFeed,
    /// Of another version than 1.0 or 1.1.
    UnknownVersion,
    /// More than [`HEAD_BYTES_MAX`].
    HeadTooLarge,
    /// More than [`head::HEADERS_MAX`].
    TooManyHeaders,
    /// It did not come in time.
    HeadTimeout,
    /// Without Host, which HTTP/1.1 requires.
    NoHost,
    /// Host more than once, or another one than `:authority`.
    ManyHosts,
    /// Not a number, or several.
    BadContentLength,
    /// Two lengths (RFC 9112 section 6.3).
    LengthAndEncoding,
    /// Chunked, and not.
    BadTransferEncoding,
    /// Another coding than `chunked`.
    UnknownEncoding,
    /// `Connection` names what is not for the next hop only.
    BadConnectionOption,
    /// CONNECT has none.
    ConnectWithBody,
    /// A chunk that is framed wrongly.
    BadChunk,
    /// A trailer that is none, or must not be one.
    BadTrailer,
    /// A response that goes over to a protocol that nobody asked for.
    UnaskedUpgrade,
    /// More interim responses than a server has reasons for.
    TooManyInterim,
    /// More requests that were not waited for than a client has reasons for.
    TooManyCancelled,
    /// Of HTTP/2: a frame that is none, or must not come now.
    BadFrame,
    /// More frames that say nothing than a peer has reasons for.
    TooManyFrames,
    /// A pseudo-field that is missing, there twice, out of place, or no value of its kind.
    BadPseudoField,
    /// A name or a value that is none.
    BadField,
    /// What is for one connection only (RFC 9113 section 8.2.2).
    ConnectionField,
    /// A body that is not what its head has promised.
    BadBody,
}

impl Refusal {
    /// For metrics and the error header.
    pub fn reason(self) -> &'static str {
        match self {
            Self::MalformedHead => "malformed-head",
            Self::BareLineFeed => "bare-line-feed",
            Self::UnknownVersion => "unknown-version",
            Self::HeadTooLarge => "head-too-large",
            Self::TooManyHeaders => "too-many-headers",
            Self::HeadTimeout => "head-timeout",
            Self::NoHost => "no-host",
            Self::ManyHosts => "many-hosts",
            Self::BadContentLength => "bad-content-length",
            Self::LengthAndEncoding => "length-and-encoding",
            Self::BadTransferEncoding => "bad-transfer-encoding",
            Self::UnknownEncoding => "unknown-encoding",
            Self::BadConnectionOption => "bad-connection-option",
            Self::ConnectWithBody => "connect-with-body",
            Self::BadChunk => "bad-chunk",
            Self::BadTrailer => "bad-trailer",
            Self::UnaskedUpgrade => "unasked-upgrade",
            Self::TooManyInterim => "too-many-interim",
            Self::TooManyCancelled => "too-many-cancelled",
            Self::BadFrame => "bad-frame",
            Self::TooManyFrames => "too-many-frames",
            Self::BadPseudoField => "bad-pseudo-field",
            Self::BadField => "bad-field",
            Self::ConnectionField => "connection-field",
            Self::BadBody => "bad-body",
        }
    }

    fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::HeadTimeout => 408,
            Self::UnknownEncoding => 501,
            Self::UnknownVersion => 505,
            _ => 400,
        }
    }
}

impl From<httparse::Error> for Refusal {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyHeaders,
            httparse::Error::Version => Self::UnknownVersion,
            _ => Self::MalformedHead,
        }
    }
}

impl From<TooLarge> for Refusal {
    fn from(_: TooLarge) -> Self {
        Self::HeadTooLarge
    }
}

impl Failure {
    /// What an HTTP client is told.
    pub fn status(self) -> u16 {
        match self {
            Self::NoEndpoints | Self::Overloaded => 503,
            Self::Connect | Self::Broken | Self::BadResponse => 502,
            Self::NoRoute => 404,
            Self::NoBackend => 500,
            Self::Timeout => 504,
            Self::NoExtendedConnect => 501,
            Self::Refused(refusal) => refusal.status(),
        }
    }

    /// What a gRPC client is told: what it may ask again elsewhere is UNAVAILABLE, what is not there UNIMPLEMENTED,
    /// what was late DEADLINE_EXCEEDED.
    pub fn grpc_status(self) -> u16 {
        match self {
            Self::NoEndpoints | Self::Overloaded | Self::Connect | Self::Broken | Self::NoBackend => 14,
            Self::NoRoute | Self::NoExtendedConnect => 12,
            Self::Timeout => 4,
            Self::BadResponse | Self::Refused(_) => 13,
        }
    }

    /// For programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no-endpoints",
            Self::Overloaded => "overloaded",
            Self::Connect => "connect-failed",
            Self::Broken => "connection-broken",
            Self::BadResponse => "bad-response",
            Self::NoRoute => "no-route",
            Self::NoBackend => "no-backend",
            Self::Timeout => "timeout",
            Self::NoExtendedConnect => "no-extended-connect",
            Self::Refused(refusal) => refusal.reason(),
        }
    }

    /// For people.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no ready endpoints",
            Self::Overloaded => "too many requests wait for an answer already",
            Self::Connect => "no endpoint could be connected to",
            Self::Broken => "the connection to the endpoint broke",
            Self::BadResponse => "the endpoint's response could not be understood",
            Self::NoRoute => "no route accepts the request",
            Self::NoBackend => "the route has no backend",
            Self::Timeout => "the response did not come within the route's timeout",
            Self::NoExtendedConnect => "the server takes no CONNECT with a protocol over HTTP/2; use HTTP/1.1",
            Self::Refused(_) => "the request could mean more than one thing, or is beyond a limit",
        }
    }

    /// The answer in its place: a status, and a reason that a program can read. A gRPC client gets it as it gets every status,
    /// in the head of a response without a body.
    pub fn response(self, is_grpc: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(ERROR_HEADER, HeaderValue::from_static(self.reason()));
        if is_grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", self.grpc_status().into());
            headers.insert("grpc-message", HeaderValue::from_static(self.message()));
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            *response.status_mut() = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::BAD_GATEWAY);
            *response.body_mut() = Bytes::from(format!("conduit: {}\n", self.message()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_for_people_and_programs() {
        let plain = Failure::NoEndpoints.response(false);
        assert_eq!(plain.status(), 503);
        assert_eq!(plain.headers()[ERROR_HEADER], "no-endpoints");
        assert_eq!(plain.body(), "conduit: no ready endpoints\n");
        let grpc = Failure::Connect.response(true);
        assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from_static("14")));
        assert!(grpc.body().is_empty());
        let late = Failure::Timeout.response(true);
        assert_eq!(
            (&late.headers()["grpc-status"], &late.headers()[ERROR_HEADER]),
            (&HeaderValue::from_static("4"), &HeaderValue::from_static("timeout"))
        );
    }
}

//! What is measured, and where it listens: everything has an address of its own, so that all of it can run at once.
//!
//! ```text
//! direct   load ──────────────────────────────────────────► server   127.79.0.1:8080
//! hop      load ──► 127.79.N.1 ───────────────────────────► server
//! pair     load ──► 127.79.N.2 ══ mutual TLS ══► 127.79.N.3 ► server
//! ```

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use clap::ValueEnum;

/// What carries the bytes; N above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Proxy {
    /// Nothing.
    Direct,
    /// Ours.
    Conduit,
    /// <https://www.envoyproxy.io>
    Envoy,
    /// <https://www.haproxy.org>
    Haproxy,
    /// <https://nginx.org>
    Nginx,
    /// Ours, of another build.
    Other,
}

/// How many of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Shape {
    /// One, in plaintext on both sides.
    Hop,
    /// Two, with mutual TLS between them.
    Pair,
}

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1 on kept connections.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Any.
    Tcp,
}

/// The server.
pub const SERVER: ([u8; 4], u16) = ([127, 79, 0, 1], 8080);
/// Builds of ours.
pub const OURS: [Proxy; 2] = [Proxy::Conduit, Proxy::Other];
/// Where ours is listening, whatever it carries.
pub const OWN_PORT: u16 = 8001;

impl Proxy {
    /// The address of one of its parts.
    pub fn ip(self, part: Part) -> IpAddr {
        let host = match part {
            Part::Hop => 1,
            Part::Out => 2,
            Part::In => 3,
        };
        [127, 79, self as u8, host].into()
    }

    /// The server beside the second of a pair of ours: an application is at its pod's address.
    pub fn server_in_pod(self) -> SocketAddr {
        (self.ip(Part::In), SERVER.1).into()
    }

    /// Where its clients connect to.
    pub fn entrance(self, shape: Shape, protocol: Protocol) -> SocketAddr {
        let part = match shape {
            Shape::Hop => Part::Hop,
            Shape::Pair => Part::Out,
        };
        let port = match (self, protocol) {
            (Self::Direct, _) => return SERVER.into(),
            (Self::Conduit | Self::Other, _) => OWN_PORT,
            (_, Protocol::Http1) => 8001,
            (_, Protocol::Http2) => 8002,
            (_, Protocol::Tcp) => 8003,
        };
        (self.ip(part), port).into()
    }
}

impl Shape {
    /// What it is made of, in the order in which it has to be started: names of configurations.
    pub fn parts(self) -> &'static [Part] {
        match self {
            Self::Hop => &[Part::Hop],
            Self::Pair => &[Part::In, Part::Out],
        }
    }
}

/// One proxy, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The only one.
    Hop,
    /// That of the client.
    Out,
    /// That of the server.
    In,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Conduit => "Conduit",
            Self::Envoy => "Envoy",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Other => "Conduit, other build",
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hop => "one hop",
            Self::Pair => "pair, mutual TLS",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Tcp => "opaque TCP",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hop => "hop",
            Self::Out => "out",
            Self::In => "in",
        })
    }
}

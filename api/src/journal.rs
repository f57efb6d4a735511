//! What proxies write down of requests one by one: access logs, and where traces go. As annotations and variables say it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where collectors listen for OTLP over gRPC, and over HTTP (<https://opentelemetry.io/docs/specs/otlp/>).
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// Not at all.
    #[default]
    None,
    /// Common Log Format, and what a mesh knows behind it.
    #[serde(alias = "apache")]
    Text,
    /// An object to a line.
    Json,
}

/// None of the three.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("must be one of: text (or apache), json, none")]
pub struct ParseAccessLogError;

impl FromStr for AccessLog {
    type Err = ParseAccessLogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "text" | "apache" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(ParseAccessLogError),
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What a collector is told spans by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otlp {
    /// Over gRPC.
    Grpc,
    /// Over HTTP, as protobuf.
    Http,
}

/// Where spans go: `host:port`, or `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Collector {
    otlp: Otlp,
    authority: String,
}

/// Why that is no collector.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ParseCollectorError {
    /// It wants TLS.
    #[error("spans are sent without TLS; name a collector in the cluster, which may send them on: host:4317")]
    Tls,
    /// It is something else.
    #[error("must be host:port for OTLP over gRPC, or http://host:port for OTLP over HTTP")]
    Malformed,
}

impl Collector {
    /// What it is told spans by.
    pub fn otlp(&self) -> Otlp {
        self.otlp
    }

    /// `host:port`
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl FromStr for Collector {
    type Err = ParseCollectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("https://") {
            return Err(ParseCollectorError::Tls);
        }
        let (otlp, rest, default_port) = match text.strip_prefix("http://") {
            Some(rest) => (Otlp::Http, rest.strip_suffix('/').unwrap_or(rest), HTTP_PORT),
            None => (Otlp::Grpc, text, GRPC_PORT),
        };
        let bracket = rest.rfind(']').unwrap_or(0);
        let (host, port) = match rest[bracket..].rfind(':') {
            Some(colon) => {
                let (host, port) = rest.split_at(bracket + colon);
                (host, port[1..].parse::<u16>().ok().filter(|port| *port > 0).ok_or(ParseCollectorError::Malformed)?)
            }
            None => (rest, default_port),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(is_name),
        };
        // Somebody who wants none has said it in the wrong place.
        if !is_host || text == "none" {
            return Err(ParseCollectorError::Malformed);
        }
        Ok(Self { otlp, authority: format!("{host}:{port}") })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.otlp == Otlp::Http { "http://" } else { "" };
        write!(f, "{scheme}{}", self.authority)
    }
}

impl TryFrom<String> for Collector {
    type Error = ParseCollectorError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Collector> for String {
    fn from(collector: Collector) -> Self {
        collector.to_string()
    }
}

/// Which share of the requests that nobody has decided about is traced.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Sampling(f64);

/// Not a share.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("must be a share from 0.0 to 1.0")]
pub struct ParseSamplingError;

impl Sampling {
    /// The share.
    pub fn share(self) -> f64 {
        self.0
    }
}

impl Default for Sampling {
    /// A tenth: enough to see what happens, and little enough for a collector that nobody has sized.
    fn default() -> Self {
        Self(0.1)
    }
}

impl TryFrom<f64> for Sampling {
    type Error = ParseSamplingError;

    fn try_from(share: f64) -> Result<Self, Self::Error> {
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(ParseSamplingError) }
    }
}

impl FromStr for Sampling {
    type Err = ParseSamplingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<f64>().map_err(|_| ParseSamplingError)?.try_into()
    }
}

impl From<Sampling> for f64 {
    fn from(sampling: Sampling) -> Self {
        sampling.0
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_named_as_people_name_them() {
        for (text, otlp, authority) in [
            ("otel:4317", Otlp::Grpc, "otel:4317"),
            ("otel.observability", Otlp::Grpc, "otel.observability:4317"),
            ("http://otel", Otlp::Http, "otel:4318"),
            ("http://10.0.0.1:80/", Otlp::Http, "10.0.0.1:80"),
            ("[::1]:4317", Otlp::Grpc, "[::1]:4317"),
            ("[::1]", Otlp::Grpc, "[::1]:4317"),
        ] {
            let collector: Collector = text.parse().unwrap();
            assert_eq!((collector.otlp(), collector.authority()), (otlp, authority), "{text}");
            assert_eq!(collector.to_string().parse(), Ok(collector));
        }
        for text in [
            "",
            "none",
            ":4317",
            "otel:",
            "otel:0",
            "otel:http",
            "http://a/v1/traces",
            "a b:1",
            "::1",
            "grpc://a:1",
            "[a]:1",
        ] {
            assert_eq!(text.parse::<Collector>(), Err(ParseCollectorError::Malformed), "{text}");
        }
        assert_eq!("https://otel:4318".parse::<Collector>(), Err(ParseCollectorError::Tls));
    }

    #[test]
    fn shares_are_from_none_to_all() {
        for (text, share) in [("0", 0.0), ("0.25", 0.25), ("1.0", 1.0)] {
            assert_eq!(text.parse::<Sampling>().unwrap().share(), share);
        }
        for text in ["", "-0.1", "1.1", "NaN", "10%", "inf"] {
            assert_eq!(text.parse::<Sampling>(), Err(ParseSamplingError), "{text}");
        }
    }

    #[test]
    fn what_linkerd_calls_apache_is_text() {
        assert_eq!(("apache".parse(), "json".parse()), (Ok(AccessLog::Text), Ok(AccessLog::Json)));
        assert_eq!("Text".parse::<AccessLog>(), Err(ParseAccessLogError));
        assert_eq!(AccessLog::default().to_string().parse(), Ok(AccessLog::None));
    }
}

//! Where a replica of the control plane is.

use std::{fmt, path::PathBuf, str::FromStr};

/// A plaintext gRPC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, whose directory's permissions protect it.
    Unix(PathBuf),
    /// `host:port`
    Tcp(String),
}

/// Neither `unix:/path` nor `host:port`.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an address: host:port or unix:/path is expected")]
pub struct ParseAddressError(String);

impl Address {
    /// As tonic's `Endpoint` takes it.
    pub fn to_uri(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Tcp(address) => format!("http://{address}"),
        }
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ParseAddressError(s.to_owned());
        if let Some(path) = s.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(error()) };
        }
        let (host, port) = s.rsplit_once(':').ok_or_else(error)?;
        let is_host = !host.is_empty() && !host.contains(['/', ' ', '@', '?', '#']);
        if !is_host || port.parse::<u16>().is_err() {
            return Err(error());
        }
        Ok(Self::Tcp(s.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_hosts() {
        for (text, uri) in [
            ("unix:/run/api.sock", "unix:/run/api.sock"),
            ("unix:///run/api.sock", "unix:/run/api.sock"),
            ("127.0.0.1:8085", "http://127.0.0.1:8085"),
            ("[::1]:8085", "http://[::1]:8085"),
            ("api.conduit:8085", "http://api.conduit:8085"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_uri(), uri);
        }
        for bad in ["", "api", "api:", ":8085", "api:http", "api:99999", "unix:", "unix:api.sock", "http://api:8085"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}

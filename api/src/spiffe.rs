//! Who a workload is: SPIFFE ids as this mesh issues them.
//!
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest SPIFFE id that implementations must support (SPIFFE-ID section 2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// The longest trust domain name (SPIFFE-ID section 2.3).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// Why a string is not an id of this mesh.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ParseSpiffeError {
    /// Trust domains are lower-case letters, digits, dots, dashes and underscores (SPIFFE-ID section 2.1).
    #[error("`{0}` is not a trust domain: lower-case letters, digits, `.`, `-` and `_` are allowed")]
    TrustDomain(String),
    /// Only this shape is ever issued, so only this shape is accepted.
    #[error("`{0}` is not of the form spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
    Shape(String),
    /// Longer than [`SPIFFE_ID_BYTES_MAX`].
    #[error("a SPIFFE id of {0} bytes is longer than the {SPIFFE_ID_BYTES_MAX} allowed")]
    TooLong(usize),
}

/// The namespace of identities that one root of trust speaks for, e.g. `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The name, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = ParseSpiffeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if s.is_empty() || s.len() > TRUST_DOMAIN_BYTES_MAX || !s.bytes().all(allowed) {
            return Err(ParseSpiffeError::TrustDomain(s.to_owned()));
        }
        Ok(Self(s.to_owned()))
    }
}

/// `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: String,
    service_account: String,
}

impl SpiffeId {
    /// An id from its parts.
    ///
    /// # Errors
    /// When a part is not a valid path segment (SPIFFE-ID section 2.2).
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, ParseSpiffeError> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// Whose root must have signed it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account that the workload runs as.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl FromStr for SpiffeId {
    type Err = ParseSpiffeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() > SPIFFE_ID_BYTES_MAX {
            return Err(ParseSpiffeError::TooLong(s.len()));
        }
        let shape = || ParseSpiffeError::Shape(s.to_owned());
        let mut parts = s.strip_prefix("spiffe://").ok_or_else(shape)?.split('/');
        let trust_domain = parts.next().ok_or_else(shape)?.parse()?;
        let (ns, namespace, sa, service_account, end) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        match (ns, namespace, sa, service_account, end) {
            (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None)
                if is_path_segment(namespace) && is_path_segment(service_account) =>
            {
                Ok(Self { trust_domain, namespace: namespace.to_owned(), service_account: service_account.to_owned() })
            }
            _ => Err(shape()),
        }
    }
}

/// SPIFFE-ID section 2.2: letters, digits, dots, dashes and underscores, and neither `.` nor `..`.
pub fn is_path_segment(s: &str) -> bool {
    !matches!(s, "" | "." | "..") && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = ParseSpiffeError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(trust_domain: TrustDomain) -> Self {
        trust_domain.0
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = ParseSpiffeError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parses() {
        let text = "spiffe://cluster.local/ns/emojivoto/sa/web";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!((id.namespace(), id.service_account()), ("emojivoto", "web"));
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn refuses_everything_else() {
        for bad in [
            "",
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/%62",
            "spiffe://cluster.local/ns/a/sa/b?x=1",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_longer_than_the_standard() {
        let long = format!("spiffe://cluster.local/ns/a/sa/{}", "b".repeat(SPIFFE_ID_BYTES_MAX));
        assert!(matches!(long.parse::<SpiffeId>(), Err(ParseSpiffeError::TooLong(_))));
    }
}

//! What else becomes of a route's requests than where they go: Gateway API's timeouts and filters.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    proto::route,
    route::{HEADER_VALUE_MAX, PATH_MAX, PathMatch, RouteError, RouteMatch, RouteRule, is_token},
    wire::{self, WireError},
};

/// Gateway API's own limit: of each kind of edit.
const EDITS_MAX: usize = 16;
/// Statuses that send a client elsewhere, as the Gateway API allows them.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
/// What frames a message, names its server or is for one connection only: who could change it could make one request two.
const UNTOUCHABLE: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
];
/// Names that only this mesh may set.
const RESERVED: &str = "conduit-";

/// How long requests may take, in milliseconds; 0 for as long as they want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Until all of the response is here, whoever is asked for it.
    #[serde(default)]
    pub request_ms: u64,
    /// The same, of each attempt.
    #[serde(default)]
    pub backend_request_ms: u64,
}

/// What is changed of requests and responses, or answered in their place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// Of requests.
    #[serde(default)]
    pub request_headers: HeaderEdits,
    /// Of responses.
    #[serde(default)]
    pub response_headers: HeaderEdits,
    /// The answer, if nobody else gives one.
    #[serde(default)]
    pub redirect: Option<Redirect>,
}

/// What is changed of a message's headers. Names are lower-case, and each is there once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderEdits {
    /// In place of whatever has that name.
    #[serde(default)]
    pub set: Vec<(String, String)>,
    /// Beside whatever has that name.
    #[serde(default)]
    pub add: Vec<(String, String)>,
    /// Whatever has that name.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// Where clients are sent; what is not said is as they asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`
    pub scheme: Option<String>,
    /// Without port.
    pub hostname: Option<String>,
    /// See [`Redirect`].
    pub port: Option<u16>,
    /// See [`Redirect`]. The query stays.
    pub path: Option<PathEdit>,
    /// One of 301, 302, 303, 307 and 308.
    pub status: u16,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathEdit {
    /// In place of all of it.
    Full(String),
    /// In place of the prefix by which it was accepted.
    Prefix(String),
}

impl Timeouts {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn check(&self, at: &str) -> Result<(), RouteError> {
        if self.request_ms > 0 && self.backend_request_ms > self.request_ms {
            return Err(RouteError(format!("{at}: backendRequest is part of request, and cannot be longer")));
        }
        Ok(())
    }
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_none(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Whether what has this name, in whichever case, does not go on as it came.
    pub fn takes(&self, name: &[u8]) -> bool {
        let is = |known: &str| known.as_bytes().eq_ignore_ascii_case(name);
        self.set.iter().any(|(known, _)| is(known)) || self.remove.iter().any(|known| is(known))
    }

    /// What is there instead, or as well.
    pub fn gives(&self) -> impl Iterator<Item = (&str, &str)> {
        self.set.iter().chain(&self.add).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn normalise(&mut self, at: &str) -> Result<(), RouteError> {
        let named = self.set.iter_mut().chain(&mut self.add).map(|(name, _)| name);
        named.chain(&mut self.remove).for_each(|name| name.make_ascii_lowercase());
        for (field, count) in [("set", self.set.len()), ("add", self.add.len()), ("remove", self.remove.len())] {
            if count > EDITS_MAX {
                return Err(RouteError(format!("{at}.{field}: there must be 0 to {EDITS_MAX}, not {count}")));
            }
        }
        let mut names = BTreeSet::new();
        for name in self.gives().map(|(name, _)| name).chain(self.remove.iter().map(String::as_str)) {
            if !is_token(name) || UNTOUCHABLE.contains(&name) || name.starts_with(RESERVED) {
                return Err(RouteError(format!("{at}: `{name}` is not a header that a route can change")));
            }
            if !names.insert(name) {
                return Err(RouteError(format!("{at}: `{name}` is there twice")));
            }
        }
        if let Some((name, _)) = self.gives().find(|(_, value)| !is_value(value)) {
            return Err(RouteError(format!(
                "{at}: the value of `{name}` is not one of at most {HEADER_VALUE_MAX} bytes"
            )));
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.gives().map(|(name, value)| name.len() + value.len()).chain(self.remove.iter().map(String::len)).sum()
    }
}

/// No control characters, and no space around it (RFC 9110 section 5.5).
fn is_value(value: &str) -> bool {
    value.len() <= HEADER_VALUE_MAX && value.trim_ascii() == value && value.bytes().all(|b| b >= b' ' && b != 0x7f)
}

impl Filters {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        self.request_headers.is_none() && self.response_headers.is_none() && self.redirect.is_none()
    }

    /// Of `rule`, whose matches are normal.
    pub(crate) fn normalise(&mut self, at: &str, rule: &RouteRule) -> Result<(), RouteError> {
        self.request_headers.normalise(&format!("{at}: requestHeaderModifier"))?;
        self.response_headers.normalise(&format!("{at}: responseHeaderModifier"))?;
        let Some(redirect) = &self.redirect else { return Ok(()) };
        let at = format!("{at}: requestRedirect");
        if !rule.backends.is_empty() || rule.unresolved > 0 {
            return Err(RouteError(format!("{at}: requests that are redirected have no backendRefs")));
        }
        if !REDIRECTS.contains(&redirect.status) {
            return Err(RouteError(format!("{at}.statusCode: {} is none of {REDIRECTS:?}", redirect.status)));
        }
        if redirect.scheme.as_ref().is_some_and(|scheme| !["http", "https"].contains(&scheme.as_str())) {
            return Err(RouteError(format!("{at}.scheme: it is http or https")));
        }
        let is_host = |name: &String| {
            name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        };
        if redirect.hostname.as_ref().is_some_and(|name| name.is_empty() || !is_host(name)) {
            return Err(RouteError(format!("{at}.hostname: it is not the name of a host")));
        }
        let is_prefix = |accepted: &RouteMatch| matches!(accepted.path, PathMatch::Prefix(_));
        match &redirect.path {
            Some(PathEdit::Full(path)) if is_path(path) && path.starts_with('/') => Ok(()),
            Some(PathEdit::Prefix(path)) if is_path(path) => match rule.matches.iter().all(is_prefix) {
                true => Ok(()),
                false => Err(RouteError(format!("{at}.path: ReplacePrefixMatch needs matches by PathPrefix"))),
            },
            Some(_) => Err(RouteError(format!("{at}.path: it is not a path of at most {PATH_MAX} bytes"))),
            None => Ok(()),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let redirect = self.redirect.iter().map(|redirect| {
            let path = match &redirect.path {
                Some(PathEdit::Full(path) | PathEdit::Prefix(path)) => path.len(),
                None => 0,
            };
            path + redirect.hostname.as_ref().map_or(0, String::len)
        });
        self.request_headers.bytes() + self.response_headers.bytes() + redirect.sum::<usize>()
    }
}

/// As it stands in a URI (RFC 3986 section 3.3), or nothing.
fn is_path(path: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b);
    path.len() <= PATH_MAX && (path.is_empty() || path.starts_with('/')) && path.bytes().all(is_allowed)
}

impl From<Timeouts> for route::Timeouts {
    fn from(Timeouts { request_ms, backend_request_ms }: Timeouts) -> Self {
        Self { request_ms, backend_request_ms }
    }
}

impl From<route::Timeouts> for Timeouts {
    fn from(route::Timeouts { request_ms, backend_request_ms }: route::Timeouts) -> Self {
        Self { request_ms, backend_request_ms }
    }
}

impl From<&HeaderEdits> for route::HeaderEdits {
    fn from(edits: &HeaderEdits) -> Self {
        let header = |(name, value): &(String, String)| route::Header { name: name.clone(), value: value.clone() };
        Self {
            set: edits.set.iter().map(header).collect(),
            add: edits.add.iter().map(header).collect(),
            remove: edits.remove.clone(),
        }
    }
}

impl From<&route::HeaderEdits> for HeaderEdits {
    fn from(wire: &route::HeaderEdits) -> Self {
        let header = |header: &route::Header| (header.name.clone(), header.value.clone());
        Self {
            set: wire.set.iter().map(header).collect(),
            add: wire.add.iter().map(header).collect(),
            remove: wire.remove.clone(),
        }
    }
}

impl From<&Filters> for route::Filters {
    fn from(filters: &Filters) -> Self {
        Self {
            request_headers: Some((&filters.request_headers).into()),
            response_headers: Some((&filters.response_headers).into()),
            redirect: filters.redirect.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<&route::Filters> for Filters {
    type Error = WireError;

    fn try_from(wire: &route::Filters) -> Result<Self, WireError> {
        Ok(Self {
            request_headers: wire.request_headers.as_ref().map(Into::into).unwrap_or_default(),
            response_headers: wire.response_headers.as_ref().map(Into::into).unwrap_or_default(),
            redirect: wire.redirect.as_ref().map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&Redirect> for route::Redirect {
    fn from(redirect: &Redirect) -> Self {
        Self {
            scheme: redirect.scheme.clone(),
            hostname: redirect.hostname.clone(),
            port: redirect.port.map(u32::from),
            path: redirect.path.clone().map(|path| match path {
                PathEdit::Full(path) => route::redirect::Path::Full(path),
                PathEdit::Prefix(path) => route::redirect::Path::Prefix(path),
            }),
            status: redirect.status.into(),
        }
    }
}

impl TryFrom<&route::Redirect> for Redirect {
    type Error = WireError;

    fn try_from(wire: &route::Redirect) -> Result<Self, WireError> {
        Ok(Self {
            scheme: wire.scheme.clone(),
            hostname: wire.hostname.clone(),
            port: wire.port.map(wire::port).transpose()?,
            path: wire.path.clone().map(|path| match path {
                route::redirect::Path::Full(path) => PathEdit::Full(path),
                route::redirect::Path::Prefix(path) => PathEdit::Prefix(path),
            }),
            // What is no number of three digits is refused with the other limits.
            status: u16::try_from(wire.status).unwrap_or_default(),
        })
    }
}

//! Fields of HTTP/2 messages: kept as they came, and checked (RFC 9113 section 8). Pure.

use super::frame::Reason;
use crate::http::{
    Failure, RESERVED, Refusal,
    head::{FORBIDDEN_IN_TRAILERS, HEADERS_MAX, digits},
};
use crate::journal::context::Edit;

/// What whoever sent a field wants of the next hop's table (RFC 7541 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// It comes again.
    Incremental,
    /// It does not.
    Without,
    /// It is a secret.
    Never,
}

/// A list of fields: one piece of memory, in which each has its name and its value.
#[derive(Clone, Default)]
pub struct Fields {
    pub(super) bytes: Vec<u8>,
    fields: Vec<Field>,
}

#[derive(Clone, Copy)]
struct Field {
    start: u32,
    name: u32,
    value: u32,
    indexing: Indexing,
}

impl Field {
    fn end(&self) -> usize {
        (self.start + self.name + self.value) as usize
    }
}

impl Fields {
    /// Appends a field.
    pub fn push(&mut self, name: &[u8], value: &[u8], indexing: Indexing) {
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.added(name.len(), indexing);
    }

    /// The bytes behind the last field are another one, with a name of the length `name`.
    pub(super) fn added(&mut self, name: usize, indexing: Indexing) {
        let start = self.fields.last().map_or(0, Field::end);
        let value = self.bytes.len() - start - name;
        // A list is far from 4 GB.
        self.fields.push(Field { start: start as u32, name: name as u32, value: value as u32, indexing });
    }

    /// Without those whose names are taken, and with those that are given. What is new is put into no table: nobody has said that it is no secret,
    /// or that it comes again.
    pub fn edited<'a>(&self, takes: impl Fn(&[u8]) -> bool, gives: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut edited = Self::default();
        for (name, value, indexing) in self.iter().filter(|(name, ..)| !takes(name)) {
            edited.push(name, value, indexing);
        }
        for (name, value) in gives {
            edited.push(name.as_bytes(), value.as_bytes(), Indexing::Without);
        }
        edited
    }

    /// Forgets all of them, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// In the order in which they came: name, value, and what its sender wants of tables.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Indexing)> {
        self.fields.iter().map(|field| {
            let (name, value) = self.bytes[field.start as usize..field.end()].split_at(field.name as usize);
            (name, value, field.indexing)
        })
    }

    /// The first value of the field `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(known, ..)| *known == name.as_bytes()).map(|(_, value, _)| value)
    }

    /// Takes out what only this mesh may say, before it could be believed.
    pub fn strip_reserved(&mut self) {
        if self.iter().any(|(name, ..)| name.starts_with(RESERVED.as_bytes())) {
            let mut kept = Self::default();
            for (name, value, indexing) in self.iter().filter(|(name, ..)| !name.starts_with(RESERVED.as_bytes())) {
                kept.push(name, value, indexing);
            }
            *self = kept;
        }
    }

    fn text(&self, index: Option<usize>) -> Option<&str> {
        let field = self.fields.get(index?)?;
        std::str::from_utf8(&self.bytes[(field.start + field.name) as usize..field.end()]).ok()
    }
}

/// What a message's fields are, besides what is passed on as it is.
#[derive(Clone, Copy, Default)]
struct Meaning {
    method: Option<usize>,
    scheme: Option<usize>,
    authority: Option<usize>,
    path: Option<usize>,
    protocol: Option<usize>,
    status: Option<usize>,
    host: Option<usize>,
    has_hosts: bool,
    content_length: Option<u64>,
    is_grpc: bool,
    grpc_status: Option<u32>,
    is_proxy_error: bool,
    is_undelivered: bool,
}

impl Meaning {
    fn read(fields: &Fields) -> Result<Self, Refusal> {
        let mut meaning = Self::default();
        let (mut is_past_pseudo, mut counted) = (false, 0);
        for (index, (name, value, _)) in fields.iter().enumerate() {
            check_value(value)?;
            if let Some(pseudo) = name.strip_prefix(b":") {
                if is_past_pseudo {
                    return Err(Refusal::BadPseudoField);
                }
                meaning.pseudo(pseudo, index)?;
                continue;
            }
            is_past_pseudo = true;
            check_name(name)?;
            // Crumbs of cookies are one field (RFC 9113 section 8.2.3).
            counted += usize::from(name != b"cookie");
            meaning.field(name, value, index)?;
        }
        if counted > HEADERS_MAX { Err(Refusal::TooManyHeaders) } else { Ok(meaning) }
    }

    fn pseudo(&mut self, name: &[u8], index: usize) -> Result<(), Refusal> {
        let known = match name {
            b"method" => &mut self.method,
            b"scheme" => &mut self.scheme,
            b"authority" => &mut self.authority,
            b"path" => &mut self.path,
            b"protocol" => &mut self.protocol,
            b"status" => &mut self.status,
            _ => return Err(Refusal::BadPseudoField),
        };
        match known.replace(index) {
            Some(_) => Err(Refusal::BadPseudoField),
            None => Ok(()),
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8], index: usize) -> Result<(), Refusal> {
        match name {
            b"te" if value != b"trailers" => return Err(Refusal::ConnectionField),
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                return Err(Refusal::ConnectionField);
            }
            b"host" => self.has_hosts |= self.host.replace(index).is_some(),
            b"content-type" => self.is_grpc = value.starts_with(b"application/grpc"),
            b"content-length" => {
                let length = digits(value).filter(|_| self.content_length.is_none());
                self.content_length = Some(length.ok_or(Refusal::BadContentLength)?);
            }
            b"grpc-status" => self.grpc_status = digits(value).and_then(|status| status.try_into().ok()),
            b"conduit-proxy-error" => {
                self.is_proxy_error = true;
                self.is_undelivered = value == Failure::Connect.reason().as_bytes();
            }
            _ => {}
        }
        Ok(())
    }
}

/// Lower case, and a token (RFC 9113 section 8.2.1).
fn check_name(name: &[u8]) -> Result<(), Refusal> {
    let is_token = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'^' | b'`' | b'|' | b'~');
    if !name.is_empty() && name.iter().all(is_token) { Ok(()) } else { Err(Refusal::BadField) }
}

/// No control characters, and no space around it (RFC 9113 section 8.2.1).
fn check_value(value: &[u8]) -> Result<(), Refusal> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // Without a branch for each: this is done for every byte.
    let has_control =
        value.iter().fold(false, |found, byte| found | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f));
    if has_control || is_space(value.first()) || is_space(value.last()) { Err(Refusal::BadField) } else { Ok(()) }
}

/// Whether a name stands for a host, and nothing else: what follows it could be taken for a path.
fn is_authority(authority: &str) -> bool {
    authority.bytes().all(|byte| byte > b' ' && !matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\'))
}

/// A request, as its fields say.
pub struct Request {
    /// All of them, as they go on.
    pub fields: Fields,
    meaning: Meaning,
}

impl Request {
    /// What `fields` ask for, but for those that only this mesh may have.
    ///
    /// # Errors
    /// When the request is malformed (RFC 9113 section 8.1.1), or could mean more than one thing.
    pub fn read(mut fields: Fields) -> Result<Self, Refusal> {
        fields.strip_reserved();
        let meaning = Meaning::read(&fields)?;
        let request = Self { fields, meaning };
        let Meaning { method, scheme, authority, path, protocol, status, .. } = meaning;
        let is_connect = request.method() == "CONNECT";
        let is_complete = match (is_connect, protocol.is_some()) {
            // RFC 9113 section 8.5.
            (true, false) => authority.is_some() && scheme.is_none() && path.is_none(),
            // RFC 8441 section 4.
            (true, true) => authority.is_some() && scheme.is_some() && path.is_some(),
            (false, false) => method.is_some() && scheme.is_some() && path.is_some(),
            (false, true) => false,
        };
        // RFC 9110 section 5.6.2.
        let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
        // RFC 3986 section 3.1.
        let is_scheme = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphabetic())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        let is_path = |path: &str| (path.starts_with('/') || path == "*") && path.bytes().all(|byte| byte > b' ');
        let authority = request.fields.text(authority);
        if !is_complete
            || status.is_some()
            || !is_token(request.method())
            || (scheme.is_some() && !request.fields.text(scheme).is_some_and(is_scheme))
            || (path.is_some() && !request.fields.text(path).is_some_and(is_path))
            || (meaning.authority.is_some() && !authority.is_some_and(is_authority))
        {
            return Err(Refusal::BadPseudoField);
        }
        Ok(request)
    }

    /// The host that it is for. `:authority` and Host must not be two different ones (RFC 9113 section 8.3.1).
    ///
    /// # Errors
    /// When they are, or there are several.
    pub fn check_authority(&self) -> Result<(), Refusal> {
        let is_other =
            |host: &str| !self.fields.text(self.meaning.authority).is_none_or(|own| own.eq_ignore_ascii_case(host));
        let is_host =
            self.meaning.host.is_none() || self.fields.text(self.meaning.host).is_some_and(|host| !is_other(host));
        if self.meaning.has_hosts || !is_host {
            return Err(Refusal::ManyHosts);
        }
        if is_authority(self.authority()) { Ok(()) } else { Err(Refusal::BadPseudoField) }
    }

    /// Changes fields. A request that would have more of them than it may goes on as it is.
    pub fn edit(&mut self, edit: &Edit) {
        let takes = |name: &[u8]| edit.remove.iter().any(|known| known.as_bytes() == name);
        let edited = self.fields.edited(takes, edit.add.iter().map(|(name, value)| (*name, value.as_str())));
        if let Ok(meaning) = Meaning::read(&edited) {
            (self.fields, self.meaning) = (edited, meaning);
        }
    }

    /// e.g. `GET`
    pub fn method(&self) -> &str {
        self.fields.text(self.meaning.method).unwrap_or_default()
    }

    /// e.g. `http`
    pub fn scheme(&self) -> &str {
        self.fields.text(self.meaning.scheme).unwrap_or("http")
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        self.fields.text(self.meaning.authority.or(self.meaning.host)).unwrap_or_default()
    }

    /// With the query.
    pub fn path(&self) -> &str {
        self.fields.text(self.meaning.path).unwrap_or("*")
    }

    /// Whether it is CONNECT with a protocol, as WebSockets over HTTP/2 begin (RFC 8441).
    pub fn is_extended_connect(&self) -> bool {
        self.meaning.protocol.is_some()
    }

    /// Whether its response's status is in the trailers.
    pub fn is_grpc(&self) -> bool {
        self.meaning.is_grpc
    }

    /// How long it says that its body is.
    pub fn content_length(&self) -> Option<u64> {
        self.meaning.content_length
    }
}

/// A response's head, as its fields say.
pub struct Response {
    /// All of them.
    pub fields: Fields,
    /// Three digits.
    pub status: u16,
    /// How long it says that its body is.
    pub content_length: Option<u64>,
    /// The gRPC status of a response that has no body.
    pub grpc_status: Option<u32>,
    /// A proxy answered for an application that did not.
    pub is_proxy_error: bool,
    /// ... because that never got the request.
    pub is_undelivered: bool,
}

impl Response {
    /// What `fields` say.
    ///
    /// # Errors
    /// When the response is malformed (RFC 9113 section 8.1.1).
    pub fn read(fields: Fields) -> Result<Self, Refusal> {
        let meaning = Meaning::read(&fields)?;
        let Meaning { method, scheme, authority, path, protocol, status, .. } = meaning;
        let is_of_request = [method, scheme, authority, path, protocol].iter().any(Option::is_some);
        let digits =
            fields.text(status).filter(|status| status.len() == 3).and_then(|status| digits(status.as_bytes()));
        let status = digits.filter(|status| *status >= 100 && !is_of_request).ok_or(Refusal::BadPseudoField)? as u16;
        if status == 101 {
            // HTTP/2 has no such thing (RFC 9113 section 8.6).
            return Err(Refusal::UnaskedUpgrade);
        }
        let Meaning { content_length, grpc_status, is_proxy_error, is_undelivered, .. } = meaning;
        Ok(Self { fields, status, content_length, grpc_status, is_proxy_error, is_undelivered })
    }

    /// Another one will follow it.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// Whether `fields` may end a message; what of gRPC's status they say.
///
/// # Errors
/// When there are pseudo-fields among them (RFC 9113 section 8.1), or others that must not be there.
pub fn trailers(fields: &Fields) -> Result<Option<u32>, Refusal> {
    let meaning = Meaning::read(fields)?;
    let is_forbidden = |name: &[u8]| FORBIDDEN_IN_TRAILERS.iter().any(|forbidden| forbidden.as_bytes() == name);
    if fields.iter().any(|(name, ..)| name.starts_with(b":") || is_forbidden(name)) {
        Err(Refusal::BadTrailer)
    } else {
        Ok(meaning.grpc_status)
    }
}

impl Refusal {
    /// What the peer is told, of a stream of its own.
    pub fn of_stream(self) -> Reason {
        match self {
            Self::TooManyCancelled | Self::TooManyFrames => Reason::ENHANCE_YOUR_CALM,
            _ => Reason::PROTOCOL_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_request_are_changed_and_mean_what_they_meant() {
        let came =
            [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "shop"), ("b3", "0"), ("a", "b")];
        let mut fields = Fields::default();
        came.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes(), Indexing::Incremental));
        let mut request = Request::read(fields).ok().unwrap();
        request.edit(&Edit { remove: vec!["b3"], add: vec![("b3", "1-2".to_owned())] });
        let goes: Vec<_> = request.fields.iter().skip(4).collect();
        assert_eq!(goes, [(&b"a"[..], &b"b"[..], Indexing::Incremental), (b"b3", b"1-2", Indexing::Without)]);
        assert_eq!((request.method(), request.authority(), request.path()), ("GET", "shop", "/x"));
        let many = Edit { remove: Vec::new(), add: vec![("a", String::new()); HEADERS_MAX] };
        request.edit(&many);
        assert_eq!(request.fields.len(), 6, "it goes on as it is");
    }
}

//! Heads of HTTP/1 messages: read strictly, checked, and written as they go on. Pure.
//!
//! What goes on is what was understood, in the order and the case in which it came: lines that are for the next hop only are left
//! out, and nothing is guessed. A request that two programs could understand differently is refused (RFC 9112 section 11.2).

use std::{mem::MaybeUninit, ops::Range};

use httparse::{Header, Status};
use memchr::memchr;

use super::{ERROR_HEADER, Failure, Headers, RESERVED, Refusal, RequestView};
use crate::{
    buffer::{Buffer, TooLarge},
    journal::context::Edit,
};

/// The same bound as most servers have.
pub const HEADERS_MAX: usize = 128;

/// How long a body is (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 for none.
    Length(u64),
    /// Until its last chunk, and trailers.
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

/// What a request asks for besides a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// `Upgrade`
    Upgrade,
    /// CONNECT
    Connect,
}

/// A request, as its head says. The ranges are of the head as it goes on.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// How its body is framed.
    pub framing: Framing,
    /// What else it asks for.
    pub tunnel: Option<Tunnel>,
    /// Its client wants the connection to be kept.
    pub keep_alive: bool,
    /// Of HTTP/1.0.
    pub is_old: bool,
    /// Its response has no body, whatever that says.
    pub is_head: bool,
    /// It may be sent again, when nobody answered (RFC 9110 section 9.2.2).
    pub is_idempotent: bool,
    /// gRPC, over HTTP/1.
    pub is_grpc: bool,
    /// Its body comes when it is asked for.
    pub expects_continue: bool,
    method: Range<usize>,
    target: Range<usize>,
    authority: Range<usize>,
}

/// A response, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Three digits.
    pub status: u16,
    /// How its body is framed; after an interim response or a tunnel's begin there is none.
    pub framing: Framing,
    /// The server keeps the connection.
    pub keep_alive: bool,
    /// The gRPC status of a response that has no body.
    pub grpc_status: Option<u32>,
    /// The connection is a tunnel from here on, as the request has asked.
    pub starts_tunnel: bool,
    /// A proxy of this mesh answered for an application that did not.
    pub is_proxy_error: bool,
    /// ... because that never got the request.
    pub is_undelivered: bool,
}

/// Finds the end of a head, however slowly that comes: every byte is looked at once.
#[derive(Clone, Copy, Debug)]
pub struct EndOfHead {
    seen: usize,
    line: usize,
    is_uneven: bool,
    /// Lines may end without a carriage return: some applications' do (RFC 9112 section 2.2).
    is_lenient: bool,
}

impl EndOfHead {
    /// Of a request: nothing is forgiven.
    pub fn of_request() -> Self {
        Self { seen: 0, line: 0, is_uneven: false, is_lenient: false }
    }

    /// Of a response.
    pub fn of_response() -> Self {
        Self { seen: 0, line: 0, is_uneven: false, is_lenient: true }
    }

    /// The length of the head in `bytes`, which begin as they did the last time; `None` as long as it has no end.
    ///
    /// # Errors
    /// When a line of a request ends as lines do not.
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(at) = memchr(b'\n', &bytes[self.seen..]) {
            let end = self.seen + at;
            let line = &bytes[self.line..end];
            self.is_uneven |= line.last() != Some(&b'\r');
            if self.is_uneven && !self.is_lenient {
                return Err(Refusal::BareLineFeed);
            }
            self.seen = end + 1;
            let is_first = self.line == 0;
            self.line = end + 1;
            if matches!(line, b"" | b"\r") && !is_first {
                return Ok(Some(end + 1));
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }
}

/// The bytes of line ends before a request, which a client may have sent after the last one's body (RFC 9112 section 2.2).
pub fn empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take_while(|pair| pair == b"\r\n").count() * 2
}

/// What the fields that are not for the application say together.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
    content_lengths: usize,
    is_chunked: bool,
    has_other_coding: bool,
    transfer_encodings: usize,
    connection: Connection,
    has_upgrade: bool,
    is_grpc: bool,
    expects: bool,
    grpc_status: Option<u32>,
    error: Option<&'a [u8]>,
    /// By index: what does not go on.
    left_out: u128,
    /// ... unless the connection is to become something else, which is said there.
    connections: u128,
    has_listed: bool,
    /// Some lines end with a line feed alone.
    is_uneven: bool,
}

/// The options of `Connection` that mean something here.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

/// Reads a request's head, which is `bytes`, and writes it to `out` as it goes on.
///
/// # Errors
/// Why it is not forwarded.
pub fn request(bytes: &[u8], out: &mut Buffer) -> Result<RequestHead, Refusal> {
    let mut headers = [MaybeUninit::<Header<'_>>::uninit(); HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Refusal::MalformedHead),
        Err(httparse::Error::Version) if !names_a_version(bytes) => return Err(Refusal::MalformedHead),
        Err(error) => return Err(error.into()),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::MalformedHead);
    };
    let is_target = target.starts_with('/') || target == "*" || method == "CONNECT" || after_scheme(target).is_some();
    if !bytes.starts_with(method.as_bytes()) || !is_target {
        return Err(Refusal::MalformedHead);
    }
    let is_old = version == 0;
    let fields = Fields::read(parsed.headers, false)?;
    let tunnel = match method {
        "CONNECT" => Some(Tunnel::Connect),
        _ if fields.connection.upgrade && fields.has_upgrade && !is_old => Some(Tunnel::Upgrade),
        _ => None,
    };
    let framing = fields.request_framing(is_old)?;
    if tunnel == Some(Tunnel::Connect) && framing != Framing::Length(0) {
        return Err(Refusal::ConnectWithBody);
    }
    if fields.host.is_none() && !is_old {
        return Err(Refusal::NoHost);
    }

    // The request line goes on as it is, and so does the line that names the authority: where that stands is known.
    let authority = authority(method, target, fields.host.unwrap_or_default());
    let at = authority.as_ptr().addr().checked_sub(bytes.as_ptr().addr());
    let upgrade = tunnel == Some(Tunnel::Upgrade);
    let at = copy(bytes, parsed.headers, &fields, upgrade, at, out)?.unwrap_or_default();
    out.append_all(b"\r\n")?;
    Ok(RequestHead {
        framing,
        tunnel,
        keep_alive: if is_old { fields.connection.keep_alive } else { !fields.connection.close },
        is_old,
        is_head: method == "HEAD",
        is_idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        is_grpc: fields.is_grpc,
        expects_continue: fields.expects,
        method: 0..method.len(),
        target: method.len() + 1..method.len() + 1 + target.len(),
        authority: at..at + authority.len(),
    })
}

/// Reads a response's head, which is `bytes`, has the end `end` and answers `request`, and writes it to `out` as it goes on,
/// but for the empty line: [`Ending`] has that. `is_mesh` is whether a proxy of this mesh sent it, and may speak for it.
///
/// # Errors
/// Why it is not forwarded.
pub fn response(
    bytes: &[u8],
    end: &EndOfHead,
    request: &RequestHead,
    is_mesh: bool,
    out: &mut Buffer,
) -> Result<ResponseHead, Refusal> {
    let mut headers = [MaybeUninit::<Header<'_>>::uninit(); HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut headers) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Refusal::MalformedHead),
        Err(error) => return Err(error.into()),
    }
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else { return Err(Refusal::MalformedHead) };
    if !bytes.starts_with(b"HTTP/") {
        return Err(Refusal::MalformedHead);
    }
    let mut fields = Fields::read(parsed.headers, is_mesh)?;
    fields.is_uneven = end.is_uneven;
    let starts_tunnel = match request.tunnel {
        Some(Tunnel::Upgrade) => status == 101,
        Some(Tunnel::Connect) => (200..300).contains(&status),
        None => false,
    };
    if status == 101 && !starts_tunnel {
        return Err(Refusal::UnaskedUpgrade);
    }
    let framing = if starts_tunnel || request.is_head || status < 200 || matches!(status, 204 | 304) {
        Framing::Length(0)
    } else {
        fields.response_framing(version == 0)?
    };
    if starts_tunnel {
        // They would frame what is no body (RFC 9110 section 9.3.6).
        for (index, header) in parsed.headers.iter().enumerate() {
            let frames = is(header.name, "content-length") || is(header.name, "transfer-encoding");
            fields.left_out |= u128::from(frames) << index;
        }
    }
    copy(bytes, parsed.headers, &fields, status == 101, None, out)?;
    Ok(ResponseHead {
        status,
        framing,
        keep_alive: framing != Framing::UntilClose
            && if version == 0 { fields.connection.keep_alive } else { !fields.connection.close },
        grpc_status: fields.grpc_status,
        starts_tunnel,
        is_proxy_error: fields.error.is_some(),
        is_undelivered: fields.error == Some(Failure::Connect.reason().as_bytes()),
    })
}

/// Whether the first line ends with a version, of whichever kind; anything else there is no HTTP.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Names in trailers that would change what came before (RFC 9110 section 6.5.1).
pub const FORBIDDEN_IN_TRAILERS: [&str; 8] =
    ["content-length", "transfer-encoding", "host", "connection", "content-encoding", "trailer", "te", "upgrade"];

/// ... and those that only this mesh may say.
pub fn is_forbidden_in_trailers(name: &str) -> bool {
    FORBIDDEN_IN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) || begins_with(name, RESERVED)
}

fn is(name: &str, wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

impl<'a> Fields<'a> {
    /// `may_speak` is whether the sender speaks for this mesh.
    fn read(headers: &[Header<'a>], may_speak: bool) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for (index, header) in headers.iter().enumerate() {
            let leaves = fields.field(index, header, may_speak)?;
            fields.left_out |= u128::from(leaves) << index;
        }
        if fields.has_listed {
            fields.leave_out_listed(headers)?;
        }
        if fields.content_lengths > 1 {
            // All say the same: one is enough.
            let mut before = false;
            for (index, header) in headers.iter().enumerate() {
                if is(header.name, "content-length") && std::mem::replace(&mut before, true) {
                    fields.left_out |= 1 << index;
                }
            }
        }
        Ok(fields)
    }

    /// Whether the field does not go on.
    fn field(&mut self, index: usize, header: &Header<'a>, may_speak: bool) -> Result<bool, Refusal> {
        let (name, value) = (header.name, header.value);
        // By length first: of most fields that is all there is to look at.
        match name.len() {
            2 if is(name, "te") => return Ok(!value.trim_ascii().eq_ignore_ascii_case(b"trailers")),
            4 if is(name, "host") => self.host(value)?,
            6 if is(name, "expect") => self.expects = true,
            7 if is(name, "upgrade") => self.has_upgrade = true,
            10 if is(name, "connection") => {
                self.options(value)?;
                self.connections |= 1 << index;
            }
            10 if is(name, "keep-alive") => return Ok(true),
            11 if is(name, "grpc-status") => {
                self.grpc_status = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            }
            12 if is(name, "content-type") => {
                self.is_grpc = value.get(..16).is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"));
            }
            14 if is(name, "content-length") => self.length(value)?,
            16 if is(name, "proxy-connection") => return Ok(true),
            17 if is(name, "transfer-encoding") => {
                self.transfer_encodings += 1;
                match value.eq_ignore_ascii_case(b"chunked") {
                    true => self.is_chunked = true,
                    false => self.has_other_coding = true,
                }
            }
            _ => {}
        }
        if begins_with(name, RESERVED) {
            if is(name, ERROR_HEADER.as_str()) {
                self.error = Some(value);
            }
            return Ok(!may_speak);
        }
        Ok(false)
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        match self.host.replace(value) {
            Some(_) => Err(Refusal::ManyHosts),
            None => Ok(()),
        }
    }

    fn options(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let value = std::str::from_utf8(value).map_err(|_| Refusal::BadConnectionOption)?;
        for option in value.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            if option.eq_ignore_ascii_case("close") {
                self.connection.close = true;
            } else if option.eq_ignore_ascii_case("keep-alive") {
                self.connection.keep_alive = true;
            } else if option.eq_ignore_ascii_case("upgrade") {
                self.connection.upgrade = true;
            } else {
                self.has_listed = true;
            }
        }
        Ok(())
    }

    /// What `Connection` names is for the next hop only; but what routes, frames or authorizes a message is that never,
    /// whatever a client says.
    fn leave_out_listed(&mut self, headers: &[Header<'_>]) -> Result<(), Refusal> {
        let connection = headers.iter().filter(|header| is(header.name, "connection"));
        let options = connection.filter_map(|header| std::str::from_utf8(header.value).ok());
        for option in options.flat_map(|value| value.split(',')).map(str::trim) {
            let protected = ["host", "content-length", "transfer-encoding", "authorization"];
            if protected.iter().any(|name| option.eq_ignore_ascii_case(name)) || begins_with(option, RESERVED) {
                return Err(Refusal::BadConnectionOption);
            }
            let kept = ["te", "upgrade", "http2-settings"].iter().any(|name| option.eq_ignore_ascii_case(name));
            for (index, header) in headers.iter().enumerate() {
                if !kept && header.name.eq_ignore_ascii_case(option) {
                    self.left_out |= 1 << index;
                }
            }
        }
        Ok(())
    }

    /// Digits, or a list of the same ones (RFC 9110 section 8.6).
    fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let length = digits(value).ok_or(Refusal::BadContentLength)?;
        self.content_lengths += 1;
        match self.content_length.replace(length) {
            Some(before) if before != length => Err(Refusal::BadContentLength),
            _ => Ok(()),
        }
    }

    fn request_framing(&self, is_old: bool) -> Result<Framing, Refusal> {
        match (self.transfer_encodings, self.content_length) {
            (0, length) => Ok(Framing::Length(length.unwrap_or(0))),
            (_, Some(_)) => Err(Refusal::LengthAndEncoding),
            (1, None) if self.is_chunked && !is_old => Ok(Framing::Chunked),
            (1, None) if self.has_other_coding && !is_old => Err(Refusal::UnknownEncoding),
            _ => Err(Refusal::BadTransferEncoding),
        }
    }

    fn response_framing(&self, is_old: bool) -> Result<Framing, Refusal> {
        match (self.transfer_encodings, self.content_length) {
            (0, Some(length)) => Ok(Framing::Length(length)),
            (0, None) => Ok(Framing::UntilClose),
            (_, Some(_)) => Err(Refusal::LengthAndEncoding),
            (1, None) if self.is_chunked && !is_old => Ok(Framing::Chunked),
            _ => Err(Refusal::BadTransferEncoding),
        }
    }
}

/// A number as fields have it: digits, and nothing else.
pub(super) fn digits(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// The host that a request is for, as it names it (RFC 9112 section 3.2.2: the target's authority wins over Host).
fn authority<'a>(method: &str, target: &'a str, host: &'a [u8]) -> &'a [u8] {
    if method == "CONNECT" {
        return target.as_bytes();
    }
    match after_scheme(target) {
        Some(rest) => split(rest).0.as_bytes(),
        None => host,
    }
}

/// What follows the scheme of a target in absolute form.
fn after_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    (!scheme.is_empty() && scheme.bytes().all(is_scheme)).then_some(rest)
}

/// Authority, and path with query.
fn split(after_scheme: &str) -> (&str, &str) {
    after_scheme.split_at(after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len()))
}

/// Writes the lines of a head that go on, but for the empty one at its end; where byte `wanted` of it stands then.
/// `upgrade` keeps what asks for an upgrade, or grants it.
fn copy(
    bytes: &[u8],
    headers: &[Header<'_>],
    fields: &Fields<'_>,
    upgrade: bool,
    wanted: Option<usize>,
    out: &mut Buffer,
) -> Result<Option<usize>, Refusal> {
    let mut place = None;
    // Lines that stand together are copied together.
    let mut run = |lines: Range<usize>, out: &mut Buffer| {
        if let Some(wanted) = wanted.filter(|wanted| lines.contains(wanted)) {
            place = Some(out.filled().len() + wanted - lines.start);
        }
        copy_lines(&bytes[lines], fields.is_uneven, out)
    };
    let at = |header: &Header<'_>| header.name.as_ptr().addr() - bytes.as_ptr().addr();
    let end = bytes.len() - if bytes.ends_with(b"\r\n") { 2 } else { 1 };
    let left_out = if upgrade { fields.left_out } else { fields.left_out | fields.connections };
    let mut from = 0;
    for (index, header) in headers.iter().enumerate() {
        if left_out >> index & 1 == 1 || (fields.has_upgrade && !upgrade && is(header.name, "upgrade")) {
            run(from..at(header), out)?;
            from = headers.get(index + 1).map_or(end, at);
        }
    }
    run(from..end, out)?;
    Ok(place)
}

fn copy_lines(lines: &[u8], is_uneven: bool, out: &mut Buffer) -> Result<(), TooLarge> {
    if !is_uneven {
        return out.append_all(lines);
    }
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        out.append_all(line.trim_ascii_end())?;
        out.append_all(b"\r\n")?;
    }
    Ok(())
}

/// What ends a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is said of the connection, which is kept.
    Silent,
    /// The connection is kept, which a client of HTTP/1.0 is to be told.
    KeepAlive,
    /// The connection ends after this response.
    Close,
}

impl Ending {
    /// The lines.
    pub fn lines(self) -> &'static [u8] {
        match self {
            Self::Silent => b"\r\n",
            Self::KeepAlive => b"connection: keep-alive\r\n\r\n",
            Self::Close => b"connection: close\r\n\r\n",
        }
    }
}

impl RequestHead {
    /// What the rest of the proxy may look at; `out` is the head as it goes on.
    pub fn view<'a>(&self, out: &'a [u8]) -> RequestView<'a> {
        let text =
            |range: &Range<usize>| std::str::from_utf8(out.get(range.clone()).unwrap_or_default()).unwrap_or_default();
        let (method, target) = (text(&self.method), text(&self.target));
        let path = match after_scheme(target).map(split) {
            Some((_, "")) => "/",
            Some((_, path)) => path,
            None => target,
        };
        let (authority, headers) = (text(&self.authority), Headers::Http1(out));
        RequestView { method, scheme: "http", authority, path, is_grpc: self.is_grpc, headers }
    }

    /// What it is in.
    pub fn version(&self) -> &'static str {
        if self.is_old { "HTTP/1.0" } else { "HTTP/1.1" }
    }

    /// Changes fields of the head as it goes on, which is all that is in `head` yet. One that would be more than a head may be
    /// goes on as it is.
    pub fn edit(&mut self, head: &mut Buffer, edit: &Edit) {
        let takes = |name: &[u8]| edit.remove.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        let gives = edit.add.iter().map(|(name, value)| (*name, value.as_str()));
        let mut out = Buffer::small();
        if edited(head.filled(), takes, gives, &mut out).is_err() {
            return;
        }
        let lines = out.filled().iter().filter(|byte| **byte == b'\n').count();
        // The request line and the empty one are no fields.
        if lines <= HEADERS_MAX + 2 {
            let (before, _) = head.filled().split_at(self.authority.start);
            let gone = field_lines(before).filter(|(name, _)| takes(name)).map(|(_, line)| line.len()).sum::<usize>();
            self.authority = self.authority.start - gone..self.authority.end - gone;
            *head = out;
        }
    }
}

/// The lines of a head as it goes on behind the first one, each with the name of its field.
fn field_lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = head.split_inclusive(|byte| *byte == b'\n').skip(1);
    lines.map(|line| (memchr(b':', line).map_or(&[][..], |colon| &line[..colon]), line))
}

/// Writes `head` as it goes on, with or without the empty line at its end, to `out`: without the fields whose names are taken, and with those that
/// are given.
///
/// # Errors
/// When it is too large for a head then.
pub fn edited<'a>(
    head: &[u8],
    takes: impl Fn(&[u8]) -> bool,
    gives: impl Iterator<Item = (&'a str, &'a str)>,
    out: &mut Buffer,
) -> Result<(), TooLarge> {
    let end = if head.ends_with(b"\r\n\r\n") { head.len() - 2 } else { head.len() };
    let (lines, rest) = head.split_at(end);
    out.append_all(lines.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default())?;
    for (_, line) in field_lines(lines).filter(|(name, _)| !takes(name)) {
        out.append_all(line)?;
    }
    for (name, value) in gives {
        for part in [name, ": ", value, "\r\n"] {
            out.append_all(part.as_bytes())?;
        }
    }
    out.append_all(rest)
}

/// The value of the field `name` in a head as it goes on: it is searched again, which only routes ask for.
pub fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    fields(head).find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

/// Names and values of a head as it goes on.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = head.split(|byte| *byte == b'\n').skip(1).take_while(|line| *line != b"\r");
    lines.filter_map(|line| {
        let colon = memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request's head, `\n` standing for CR LF, as it goes on, and what is known of it.
    fn read(text: &str) -> Result<(String, RequestHead), Refusal> {
        let bytes = text.replace('\n', "\r\n");
        let mut out = Buffer::default();
        let head = request(bytes.as_bytes(), &mut out)?;
        Ok((String::from_utf8(out.filled().to_vec()).unwrap().replace("\r\n", "\n"), head))
    }

    fn answer(text: &str, to: &str, is_mesh: bool) -> Result<(String, ResponseHead), Refusal> {
        let (bytes, mut out, mut end) = (text.replace('\n', "\r\n"), Buffer::default(), EndOfHead::of_response());
        assert_eq!(end.find(bytes.as_bytes()), Ok(Some(bytes.len())));
        let head = response(bytes.as_bytes(), &end, &read(to).unwrap().1, is_mesh, &mut out)?;
        Ok((String::from_utf8(out.filled().to_vec()).unwrap().replace("\r\n", "\n"), head))
    }

    const GET: &str = "GET / HTTP/1.1\nHost: a\n\n";

    #[test]
    fn heads_go_on_as_they_came_but_for_what_is_for_the_next_hop() {
        for (came, goes) in [
            (GET, GET),
            (
                "GET /a?b HTTP/1.1\nhOsT: a\nX-Case: Kept \nx-case: twice\n\n",
                "GET /a?b HTTP/1.1\nhOsT: a\nX-Case: Kept \nx-case: twice\n\n",
            ),
            ("GET / HTTP/1.1\nConnection: close\nHost: a\nA: b\n\n", "GET / HTTP/1.1\nHost: a\nA: b\n\n"),
            ("GET / HTTP/1.1\nHost: a\nA: b\nConnection: keep-alive\n\n", "GET / HTTP/1.1\nHost: a\nA: b\n\n"),
            (
                "GET / HTTP/1.1\nHost: a\nX-Secret: 1\nConnection: x-secret, Keep-Alive\nKeep-Alive: 5\nB: c\nx-secret: 2\n\n",
                "GET / HTTP/1.1\nHost: a\nB: c\n\n",
            ),
            ("GET / HTTP/1.1\nHost: a\nTE: trailers\nConnection: te\n\n", "GET / HTTP/1.1\nHost: a\nTE: trailers\n\n"),
            ("GET / HTTP/1.1\nHost: a\nTE: trailers, deflate\n\n", GET),
            ("GET / HTTP/1.1\nHost: a\nProxy-Connection: keep-alive\nUpgrade: x\n\n", GET),
            (
                "GET / HTTP/1.1\nHost: a\nConduit-Proxy-Error: x\nconduits: y\n\n",
                "GET / HTTP/1.1\nHost: a\nconduits: y\n\n",
            ),
            (
                "GET / HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: websocket\n\n",
                "GET / HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: websocket\n\n",
            ),
            (
                "PUT / HTTP/1.1\nContent-Length: 5\nHost: a\nContent-Length: 5\n\n",
                "PUT / HTTP/1.1\nContent-Length: 5\nHost: a\n\n",
            ),
        ] {
            assert_eq!(read(came).unwrap().0, goes, "{came:?}");
        }
        let lenient = b"HTTP/1.1 200 OK\nA: b \n\n";
        let (mut end, mut out) = (EndOfHead::of_response(), Buffer::default());
        assert_eq!(end.find(lenient), Ok(Some(lenient.len())));
        response(lenient, &end, &read(GET).unwrap().1, false, &mut out).unwrap();
        assert_eq!(out.filled(), b"HTTP/1.1 200 OK\r\nA: b\r\n");
    }

    #[test]
    fn fields_are_changed_and_the_authority_is_where_it_goes() {
        let edit = Edit { remove: vec!["b3"], add: vec![("b3", "1-2".to_owned()), ("c", "d".to_owned())] };
        for (came, goes, authority) in [
            (
                "GET /x HTTP/1.1\nB3: 0\nHost: shop\nb3s: 1\nb3: 7\n\n",
                "GET /x HTTP/1.1\nHost: shop\nb3s: 1\nb3: 1-2\nc: d\n\n",
                "shop",
            ),
            (
                "GET http://a/x HTTP/1.1\nb3: 0\nHost: shop\n\n",
                "GET http://a/x HTTP/1.1\nHost: shop\nb3: 1-2\nc: d\n\n",
                "a",
            ),
        ] {
            let (bytes, mut out) = (came.replace('\n', "\r\n"), Buffer::default());
            let mut head = request(bytes.as_bytes(), &mut out).unwrap();
            head.edit(&mut out, &edit);
            assert_eq!(out.filled(), goes.replace('\n', "\r\n").as_bytes());
            let view = head.view(out.filled());
            assert_eq!((view.method, view.authority, view.path), ("GET", authority, "/x"));
        }
        for (fields, is_changed) in [(HEADERS_MAX - 3, true), (HEADERS_MAX - 2, false)] {
            let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(fields));
            let mut out = Buffer::default();
            let mut head = request(many.as_bytes(), &mut out).unwrap();
            head.edit(&mut out, &edit);
            assert_eq!(out.filled() != many.as_bytes(), is_changed, "{fields}");
        }
        let large =
            format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "b".repeat(super::super::HEAD_BYTES_MAX - 40));
        let mut out = Buffer::default();
        let mut head = request(large.as_bytes(), &mut out).unwrap();
        head.edit(&mut out, &edit);
        assert_eq!((out.filled(), head.view(out.filled()).authority), (large.as_bytes(), "a"));
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for (text, refusal) in [
            ("GET / HTTP/1.1\n\n", Refusal::NoHost),
            ("GET / HTTP/1.1\nHost: a\nHost: a\n\n", Refusal::ManyHosts),
            ("GET / HTTP/2.0\nHost: a\n\n", Refusal::UnknownVersion),
            ("GET /\nHost: a\n\n", Refusal::MalformedHead),
            ("GET  / HTTP/1.1\nHost: a\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1 \nHost: a\n\n", Refusal::MalformedHead),
            ("GE(T / HTTP/1.1\nHost: a\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1\nHost : a\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1\nHost: a\n folded\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1\n Host: a\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1\nHost: a\n: b\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1\nHost: a\nA\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1\nHost: a\nA: b\u{0}c\n\n", Refusal::MalformedHead),
            ("GET / HTTP/1.1\nHost: a\nA: b\rc\n\n", Refusal::MalformedHead),
            ("GET a?u=http://b/ HTTP/1.1\nHost: a\n\n", Refusal::MalformedHead),
            ("GET a HTTP/1.1\nHost: a\n\n", Refusal::MalformedHead),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nTransfer-Encoding: chunked\n\n", Refusal::LengthAndEncoding),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 6\n\n", Refusal::BadContentLength),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 5, 5\n\n", Refusal::BadContentLength),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: +5\n\n", Refusal::BadContentLength),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 0x5\n\n", Refusal::BadContentLength),
            ("POST / HTTP/1.1\nHost: a\nContent-Length:\n\n", Refusal::BadContentLength),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 18446744073709551616\n\n", Refusal::BadContentLength),
            ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n", Refusal::UnknownEncoding),
            ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity\n\n", Refusal::UnknownEncoding),
            ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n", Refusal::UnknownEncoding),
            (
                "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n",
                Refusal::BadTransferEncoding,
            ),
            ("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n", Refusal::BadTransferEncoding),
            ("GET / HTTP/1.1\nHost: a\nConnection: Host\n\n", Refusal::BadConnectionOption),
            ("GET / HTTP/1.1\nHost: a\nConnection: content-length\n\n", Refusal::BadConnectionOption),
            ("CONNECT a:1 HTTP/1.1\nHost: a\nContent-Length: 5\n\n", Refusal::ConnectWithBody),
        ] {
            assert_eq!(read(text).map(|(out, _)| out), Err(refusal), "{text:?}");
        }
        for (text, refusal) in [
            ("HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n", Refusal::LengthAndEncoding),
            ("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n\n", Refusal::BadContentLength),
            ("HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade\n\n", Refusal::UnaskedUpgrade),
            ("HTTP/1.1 2x0 OK\n\n", Refusal::MalformedHead),
            ("\nHTTP/1.1 200 OK\n\n", Refusal::MalformedHead),
            ("HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n", Refusal::BadTransferEncoding),
            ("HTTP/1.1 200 OK\nA: b\n folded\n\n", Refusal::MalformedHead),
            ("HTTP/1.1 200 OK\nA : b\n\n", Refusal::MalformedHead),
        ] {
            assert_eq!(answer(text, GET, false).map(|(out, _)| out), Err(refusal), "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\nHost: a\n{}\n", "A: b\n".repeat(HEADERS_MAX));
        assert_eq!(read(&many).map(|(out, _)| out), Err(Refusal::TooManyHeaders));
    }

    #[test]
    fn bodies_are_framed_by_their_heads() {
        for (text, framing) in [
            (GET, Framing::Length(0)),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 7\n\n", Framing::Length(7)),
            ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked\n\n", Framing::Chunked),
        ] {
            assert_eq!(read(text).unwrap().1.framing, framing, "{text:?}");
        }
        let head = "HEAD / HTTP/1.1\nHost: a\n\n";
        let connect = "CONNECT a:1 HTTP/1.1\nHost: a\n\n";
        for (text, to, framing) in [
            ("HTTP/1.1 200 OK\nContent-Length: 7\n\n", GET, Framing::Length(7)),
            ("HTTP/1.1 200 OK\nContent-Length: 7\n\n", head, Framing::Length(0)),
            ("HTTP/1.1 304 Not Modified\nContent-Length: 7\n\n", GET, Framing::Length(0)),
            ("HTTP/1.1 204 No Content\n\n", GET, Framing::Length(0)),
            ("HTTP/1.1 100 Continue\n\n", GET, Framing::Length(0)),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", GET, Framing::Chunked),
            ("HTTP/1.0 200 OK\n\n", GET, Framing::UntilClose),
            ("HTTP/1.1 200 OK\nContent-Length: 7\n\n", connect, Framing::Length(0)),
            ("HTTP/1.1 407 No\nContent-Length: 7\n\n", connect, Framing::Length(7)),
        ] {
            assert_eq!(answer(text, to, false).unwrap().1.framing, framing, "{text:?} to {to:?}");
        }
    }

    #[test]
    fn connections_are_kept_as_both_sides_say() {
        for (text, keep_alive) in [
            (GET, true),
            ("GET / HTTP/1.1\nHost: a\nConnection: Close\n\n", false),
            ("GET / HTTP/1.0\n\n", false),
            ("GET / HTTP/1.0\nConnection: Keep-Alive\n\n", true),
        ] {
            assert_eq!(read(text).unwrap().1.keep_alive, keep_alive, "{text:?}");
        }
        for (text, keep_alive) in [
            ("HTTP/1.1 200 OK\nContent-Length: 7\n\n", true),
            ("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 7\n\n", false),
            ("HTTP/1.1 200 OK\n\n", false),
            ("HTTP/1.0 200 OK\nContent-Length: 7\n\n", false),
        ] {
            assert_eq!(answer(text, GET, false).unwrap().1.keep_alive, keep_alive, "{text:?}");
        }
    }

    #[test]
    fn a_request_is_for_its_target_and_else_for_its_host() {
        for (text, authority, path) in [
            ("GET /x HTTP/1.1\nConnection: close\nHost: web:80\n\n", "web:80", "/x"),
            ("GET http://a/x?y HTTP/1.1\nHost: b\n\n", "a", "/x?y"),
            ("GET http://a HTTP/1.1\nHost: b\n\n", "a", "/"),
            ("GET http://a?x=/admin HTTP/1.1\nHost: b\n\n", "a", "?x=/admin"),
            ("GET /x?to=http://b/ HTTP/1.1\nHost: a\n\n", "a", "/x?to=http://b/"),
            ("GET /x HTTP/1.0\n\n", "", "/x"),
            ("CONNECT a:443 HTTP/1.1\nHost: b\n\n", "a:443", "a:443"),
            ("OPTIONS * HTTP/1.1\nHost: a\n\n", "a", "*"),
        ] {
            let (out, head) = read(text).unwrap();
            let out = out.replace('\n', "\r\n");
            let view = head.view(out.as_bytes());
            assert_eq!((view.authority, view.path), (authority, path), "{text:?}");
        }
        let (out, head) = read("POST /x HTTP/1.1\nX-A: 1\nConnection: x-a\nHost: h\nX-B:  2 \n\n").unwrap();
        let out = out.replace('\n', "\r\n");
        let view = head.view(out.as_bytes());
        assert_eq!((view.method, view.authority), ("POST", "h"));
        assert_eq!((view.headers.get("x-b"), view.headers.get("x-a")), (Some(&b"2"[..]), None));
    }

    #[test]
    fn only_a_proxy_of_this_mesh_speaks_for_it() {
        let text = "HTTP/1.1 502 Bad Gateway\nConduit-Proxy-Error: connect-failed\nContent-Length: 0\n\n";
        let (out, head) = answer(text, GET, true).unwrap();
        assert!(out.contains("connect-failed") && head.is_proxy_error);
        let (out, _) = answer(text, GET, false).unwrap();
        assert!(!out.contains("connect-failed"));
    }

    #[test]
    fn tunnels_are_asked_for_and_granted() {
        let upgrade = "GET / HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: websocket\n\n";
        assert_eq!(read(upgrade).unwrap().1.tunnel, Some(Tunnel::Upgrade));
        assert_eq!(read("GET / HTTP/1.1\nHost: a\nUpgrade: websocket\n\n").unwrap().1.tunnel, None);
        assert_eq!(read("GET / HTTP/1.0\nConnection: upgrade\nUpgrade: x\n\n").unwrap().1.tunnel, None);
        assert_eq!(read("CONNECT a:1 HTTP/1.1\nHost: a\n\n").unwrap().1.tunnel, Some(Tunnel::Connect));
        let granted = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: upgrade\n\n";
        let (out, _) =
            answer("HTTP/1.1 200 OK\nContent-Length: 5\nA: b\n\n", "CONNECT a:1 HTTP/1.1\nHost: a\n\n", false).unwrap();
        assert_eq!(out, "HTTP/1.1 200 OK\nA: b\n", "a tunnel has no length");
        let (out, _) = answer(granted, upgrade, false).unwrap();
        assert_eq!(out, "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: upgrade\n");
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_comes() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n";
        for piece in 1..bytes.len() {
            let (mut end, mut found) = (EndOfHead::of_request(), None);
            for length in (piece..=bytes.len()).step_by(piece).chain([bytes.len()]) {
                found = end.find(&bytes[..length]).unwrap();
                if found.is_some() {
                    break;
                }
            }
            assert_eq!(found, Some(27), "by {piece}");
        }
        for bytes in [&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], b"GET / HTTP/1.1\r\nHost: a\n\r\n", b"\nGET"] {
            assert_eq!(EndOfHead::of_request().find(bytes), Err(Refusal::BareLineFeed));
        }
        assert_eq!(empty_lines(b"\r\n\r\nGET"), 4);
    }
}

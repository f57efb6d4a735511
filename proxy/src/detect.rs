//! Which protocol a connection speaks, from its first bytes. Pure, and never in need of more bytes than it takes to know.

use memchr::memchr;

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.0 or HTTP/1.1: a request line, whole (RFC 9112 section 3). RTSP, SIP and ICAP begin likewise, and end otherwise.
    Http1,
    /// HTTP/2 with prior knowledge: its connection preface (RFC 9113 section 3.4).
    Http2,
    /// A TLS handshake record (RFC 8446 section 5.1).
    Tls,
    /// Nothing that we know: bytes.
    Opaque,
    /// Too little to tell.
    Undecided,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is longer, and has begun like a request, is one with a long target.
const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;

/// The methods of RFC 9110, PATCH (RFC 5789), and WebDAV's (RFC 4918), which are the ones that are met.
const METHODS: [&[u8]; 16] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
];

/// Looks at the first bytes of a connection.
pub fn detect(bytes: &[u8]) -> Detected {
    if bytes.is_empty() {
        return Detected::Undecided;
    }
    match bytes {
        [0x16] => return Detected::Undecided,
        [0x16, 0x03, ..] => return Detected::Tls,
        _ => {}
    }
    if begins(PREFACE, bytes) {
        return if bytes.len() >= PREFACE.len() { Detected::Http2 } else { Detected::Undecided };
    }
    let mut possible = METHODS.iter().filter(|method| begins(method, bytes));
    let Some(method) = possible.next() else { return Detected::Opaque };
    match memchr(b'\n', bytes) {
        Some(end) => request_line(&bytes[..end]),
        None if bytes.len() > method.len() + REQUEST_LINE_BYTES_MAX => Detected::Http1,
        None => Detected::Undecided,
    }
}

/// With or without its carriage return: whether that is required is not decided here.
fn request_line(line: &[u8]) -> Detected {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") { Detected::Http1 } else { Detected::Opaque }
}

/// As far as there are bytes, they are those of `expected`.
fn begins(expected: &[u8], bytes: &[u8]) -> bool {
    let length = expected.len().min(bytes.len());
    expected[..length] == bytes[..length]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_each_protocol_wherever_its_first_bytes_are_split() {
        for (first, whole, detected) in [
            (16, &b"GET / HTTP/1.1\r\n"[..], Detected::Http1),
            (27, b"CONNECT host:443 HTTP/1.0\r\nHost", Detected::Http1),
            (15, b"GET / HTTP/1.1\n", Detected::Http1),
            (32, b"OPTIONS rtsp://a/film RTSP/1.0\r\n\r\n", Detected::Opaque),
            (17, b"GET me a coffee\r\n", Detected::Opaque),
            (PREFACE.len(), PREFACE, Detected::Http2),
            (2, b"\x16\x03\x01\x02\x00", Detected::Tls),
            (3, b"PRO", Detected::Undecided),
            (1, b"\x00\x00", Detected::Opaque),
            (1, b"*1\r\n$4\r\nPING\r\n", Detected::Opaque),
            (1, b"get / HTTP/1.1", Detected::Opaque),
            (4, b"GETX / HTTP/1.1", Detected::Opaque),
            (16, b"GET / HTTP/2.0\r\n", Detected::Opaque),
        ] {
            assert_eq!(detect(whole), detected, "{whole:?}");
            for split in 0..whole.len() {
                let early = detect(&whole[..split]);
                assert!(early == Detected::Undecided || early == detected, "{split} bytes of {whole:?}");
                assert!(split < first || early == detected, "{split} bytes of {whole:?} suffice");
                assert!(split >= first || early == Detected::Undecided, "{split} bytes of {whole:?} do not suffice");
            }
        }
    }

    proptest! {
        /// A decision stays what it is, however many bytes follow.
        #[test]
        fn never_changes_its_mind(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut decided = Detected::Undecided;
            for length in 0..=bytes.len() {
                let now = detect(&bytes[..length]);
                prop_assert!(decided == Detected::Undecided || now == decided);
                decided = now;
            }
        }
    }
}

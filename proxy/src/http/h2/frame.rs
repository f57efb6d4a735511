//! Frames of HTTP/2: their heads, and those that say little (RFC 9113 sections 4 and 6). Pure.

/// What a client's connection begins with (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of every frame.
pub const HEAD_BYTES: usize = 9;
/// The longest payload that this side takes, and sends: RFC 9113's default, which everybody must take.
pub const PAYLOAD_BYTES_MAX: usize = 16_384;
/// A window never has more (RFC 9113 section 6.9.1).
pub const WINDOW_MAX: u32 = 0x7fff_ffff;

/// Types (RFC 9113 section 6).
#[allow(missing_docs, reason = "their names are the RFC's")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of a frame's head.
#[allow(missing_docs, reason = "their names are the RFC's")]
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Parameters of SETTINGS (RFC 9113 section 6.5.2, RFC 8441 section 3).
#[allow(missing_docs, reason = "their names are the RFCs'")]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ends (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u32);

#[allow(missing_docs, reason = "their names are the RFC's")]
impl Reason {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the payload.
    pub length: usize,
    /// One of [`kind`], or one that is ignored.
    pub kind: u8,
    /// Those of [`flag`] that its kind has.
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// The head at the beginning of `bytes`, if all of it is there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        Some(Self {
            length: u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize,
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW_MAX,
        })
    }

    /// As bytes.
    pub fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, l0, l1, l2] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether `flag` is set.
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a frame of this kind may have this length and this stream.
    ///
    /// # Errors
    /// The error of the connection that it is otherwise.
    pub fn check(self) -> Result<(), Reason> {
        if self.length > PAYLOAD_BYTES_MAX {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let is_of_stream = match self.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => false,
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => true,
            _ => self.stream != 0,
        };
        if is_of_stream != (self.stream != 0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let fits = match self.kind {
            kind::RST_STREAM | kind::WINDOW_UPDATE => self.length == 4,
            kind::PING => self.length == 8,
            kind::GOAWAY => self.length >= 8,
            kind::SETTINGS if self.has(flag::ACK) => self.length == 0,
            kind::SETTINGS => self.length.is_multiple_of(6),
            _ => true,
        };
        if fits { Ok(()) } else { Err(Reason::FRAME_SIZE_ERROR) }
    }
}

/// Appends a whole frame.
pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Head { length: payload.len(), kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

/// The number that the first four bytes are.
pub fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// What is between `payload`'s padding, and a priority, if it has them.
///
/// # Errors
/// When there is more padding than payload.
pub fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Reason> {
    let mut inner = payload;
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (length, rest) = inner.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
        (padding, inner) = (usize::from(*length), rest);
    }
    if head.kind == kind::HEADERS && head.has(flag::PRIORITY) {
        inner = inner.get(5..).ok_or(Reason::FRAME_SIZE_ERROR)?;
    }
    let length = inner.len().checked_sub(padding).ok_or(Reason::PROTOCOL_ERROR)?;
    Ok(&inner[..length])
}

/// The parameters of a SETTINGS frame.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload
        .as_chunks()
        .0
        .iter()
        .map(|[i0, i1, rest @ ..]: &[u8; 6]| (u16::from_be_bytes([*i0, *i1]), u32::from_be_bytes(*rest)))
}

/// Appends a SETTINGS frame.
pub fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let head = Head { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 };
    out.extend_from_slice(&head.bytes());
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends a GOAWAY frame.
pub fn write_go_away(out: &mut Vec<u8>, last: u32, reason: Reason) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    payload[4..].copy_from_slice(&reason.0.to_be_bytes());
    write(out, kind::GOAWAY, 0, 0, &payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_what_was_written() {
        let head = Head { length: 0x1_0203, kind: kind::PING, flags: 9, stream: 0x7fff_ffff };
        assert_eq!(Head::read(&head.bytes()), Some(head));
        assert_eq!(Head::read(&head.bytes()[..8]), None);
        let reserved = [0, 0, 0, 0, 0, 0x80, 0, 0, 1];
        assert_eq!(Head::read(&reserved).map(|head| head.stream), Some(1), "the reserved bit is ignored");
    }

    #[test]
    fn frames_have_the_streams_and_lengths_of_their_kinds() {
        let check = |kind, flags, stream, length| Head { length, kind, flags, stream }.check();
        for (kind, flags, stream, length, expected) in [
            (kind::DATA, 0, 1, 16_384, Ok(())),
            (kind::DATA, 0, 1, 16_385, Err(Reason::FRAME_SIZE_ERROR)),
            (kind::DATA, 0, 0, 1, Err(Reason::PROTOCOL_ERROR)),
            (kind::HEADERS, 0, 0, 1, Err(Reason::PROTOCOL_ERROR)),
            (kind::RST_STREAM, 0, 1, 3, Err(Reason::FRAME_SIZE_ERROR)),
            (kind::RST_STREAM, 0, 0, 4, Err(Reason::PROTOCOL_ERROR)),
            (kind::SETTINGS, 0, 0, 12, Ok(())),
            (kind::SETTINGS, 0, 0, 5, Err(Reason::FRAME_SIZE_ERROR)),
            (kind::SETTINGS, 0, 3, 6, Err(Reason::PROTOCOL_ERROR)),
            (kind::SETTINGS, flag::ACK, 0, 6, Err(Reason::FRAME_SIZE_ERROR)),
            (kind::PING, 0, 0, 7, Err(Reason::FRAME_SIZE_ERROR)),
            (kind::PING, 0, 1, 8, Err(Reason::PROTOCOL_ERROR)),
            (kind::GOAWAY, 0, 0, 7, Err(Reason::FRAME_SIZE_ERROR)),
            (kind::WINDOW_UPDATE, 0, 0, 4, Ok(())),
            (kind::WINDOW_UPDATE, 0, 1, 5, Err(Reason::FRAME_SIZE_ERROR)),
            (77, 0, 0, 1, Ok(())),
        ] {
            assert_eq!(check(kind, flags, stream, length), expected, "{kind} {stream} {length}");
        }
    }

    #[test]
    fn padding_is_within_its_frame() {
        let head = |kind, flags| Head { length: 0, kind, flags, stream: 1 };
        assert_eq!(unpadded(head(kind::DATA, 0), b"\x02ab"), Ok(&b"\x02ab"[..]));
        assert_eq!(unpadded(head(kind::DATA, flag::PADDED), b"\x02abcd"), Ok(&b"ab"[..]));
        assert_eq!(unpadded(head(kind::DATA, flag::PADDED), b"\x02ab"), Ok(&b""[..]));
        assert_eq!(unpadded(head(kind::DATA, flag::PADDED), b"\x03ab"), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(unpadded(head(kind::DATA, flag::PADDED), b""), Err(Reason::FRAME_SIZE_ERROR));
        let both = flag::PADDED | flag::PRIORITY;
        assert_eq!(unpadded(head(kind::HEADERS, both), b"\x01pppppabc"), Ok(&b"ab"[..]));
        assert_eq!(unpadded(head(kind::HEADERS, flag::PRIORITY), b"pppp"), Err(Reason::FRAME_SIZE_ERROR));
    }
}

//! The tables of HPACK (RFC 7541 section 2.3): what both sides know from the start, and what they have told each other. Pure.

use std::collections::VecDeque;

/// What an entry costs besides its bytes (RFC 7541 section 4.1).
pub const ENTRY_OVERHEAD: usize = 32;

/// RFC 7541 appendix A; the first has the index 1.
#[rustfmt::skip]
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// A name, and a value behind it.
#[derive(Debug)]
pub(super) struct Entry {
    bytes: Box<[u8]>,
    name: usize,
}

impl Entry {
    pub(super) fn name(&self) -> &[u8] {
        &self.bytes[..self.name]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.bytes[self.name..]
    }

    fn size(&self) -> usize {
        self.bytes.len() + ENTRY_OVERHEAD
    }
}

/// What was told on one connection, in one direction.
#[derive(Debug)]
pub(super) struct Dynamic {
    /// The last one first.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
}

impl Dynamic {
    pub(super) fn new(size_max: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, size_max }
    }

    /// Counted from 0, which was added last.
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    pub(super) fn size_max(&self) -> usize {
        self.size_max
    }

    /// Entries that there is no room for any more are gone.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.make_room(0);
    }

    /// Adds an entry: whether it is there now. One that is larger than the table leaves it empty (RFC 7541 section 4.4).
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) -> bool {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        self.make_room(size);
        let fits = size <= self.size_max;
        if fits {
            self.size += size;
            self.entries.push_front(Entry { bytes: [name, value].concat().into_boxed_slice(), name: name.len() });
        }
        fits
    }

    fn make_room(&mut self, size: usize) {
        while self.size + size > self.size_max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

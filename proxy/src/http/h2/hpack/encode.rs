//! Writing blocks of fields.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _},
    sync::LazyLock,
};

use foldhash::fast::FixedState;

use super::{
    TABLE_BYTES,
    table::{Dynamic, ENTRY_OVERHEAD, STATIC},
};
use crate::http::h2::fields::{Fields, Indexing};

/// Places in which entries are looked for by what they are; a table has 128 entries at most, and mostly ten.
const PLACES: usize = 128;
/// A field that takes more than this part of the table would drive out what is worth more.
const ENTRY_PART_MAX: usize = 2;

/// By name: the first index in the static table.
static NAMES: LazyLock<HashMap<&'static [u8], usize, FixedState>> = LazyLock::new(|| {
    let names = STATIC.iter().enumerate().rev();
    names.map(|(at, (name, _))| (name.as_bytes(), at + 1)).collect()
});

/// What a peer was told of fields. A field is remembered if whoever sent it here wanted that; so the table has what comes again.
pub struct Encoder {
    table: Dynamic,
    /// Entries that were ever added.
    added: u32,
    /// By name and value, and by name alone: which entry it was, counted from 1; another one may have taken its place.
    places: Option<Box<[[u32; PLACES]; 2]>>,
    /// What is to be said of the table's size first: the smallest since the last block, and what it is now.
    resized: Option<(usize, usize)>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: Dynamic::new(TABLE_BYTES), added: 0, places: None, resized: None }
    }
}

impl Encoder {
    /// The peer's table has room for so many bytes from now on.
    pub fn resize(&mut self, size_max: usize) {
        let size_max = size_max.min(TABLE_BYTES);
        if size_max != self.table.size_max() {
            let smallest = self.resized.map_or(size_max, |(smallest, _)| smallest.min(size_max));
            self.resized = Some((smallest, size_max));
            self.table.resize(size_max);
        }
    }

    /// Appends a block to `out`.
    pub fn encode(&mut self, fields: &Fields, out: &mut Vec<u8>) {
        if let Some((smallest, last)) = self.resized.take() {
            number(out, 0x20, 5, smallest);
            if last != smallest {
                number(out, 0x20, 5, last);
            }
        }
        for (name, value, indexing) in fields.iter() {
            match indexing {
                Indexing::Incremental => self.remembered(name, value, out),
                Indexing::Without => literal(out, 0x00, 4, static_name(name).unwrap_or(0), name, value),
                Indexing::Never => literal(out, 0x10, 4, static_name(name).unwrap_or(0), name, value),
            }
        }
    }

    fn remembered(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let mut known = 0;
        if name.first() == Some(&b':') {
            // Nothing else has values in the static table that are worth a look.
            known = static_name(name).unwrap_or(0);
            let same =
                (known.max(1)..).zip(&STATIC[known.max(1) - 1..]).take_while(|(_, entry)| entry.0.as_bytes() == name);
            if let Some((index, _)) = same.into_iter().find(|(_, entry)| entry.1.as_bytes() == value) {
                return number(out, 0x80, 7, index);
            }
        }
        let by_name = hash(name, &[]);
        let by_both = hash(name, value);
        let places = self.places.get_or_insert_with(|| Box::new([[0; PLACES]; 2]));
        let (both, named) = (places[0][by_both], places[1][by_name]);
        let at = |entry: u32| self.added.wrapping_sub(entry) as usize;
        if both != 0 && self.table.get(at(both)).is_some_and(|entry| entry.name() == name && entry.value() == value) {
            return number(out, 0x80, 7, STATIC.len() + 1 + at(both));
        }
        if known == 0 {
            let dynamic = || {
                let entry = self.table.get(at(named)).filter(|entry| named != 0 && entry.name() == name);
                entry.map(|_| STATIC.len() + 1 + at(named))
            };
            known = static_name(name).or_else(dynamic).unwrap_or(0);
        }
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        if size > self.table.size_max() / ENTRY_PART_MAX {
            return literal(out, 0x00, 4, known, name, value);
        }
        literal(out, 0x40, 6, known, name, value);
        self.table.add(name, value);
        self.added = self.added.wrapping_add(1).max(1);
        places[0][by_both] = self.added;
        places[1][by_name] = self.added;
    }
}

fn static_name(name: &[u8]) -> Option<usize> {
    NAMES.get(name).copied()
}

fn hash(name: &[u8], value: &[u8]) -> usize {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(name);
    hasher.write(value);
    hasher.finish() as usize % PLACES
}

fn literal(out: &mut Vec<u8>, pattern: u8, prefix: u32, index: usize, name: &[u8], value: &[u8]) {
    number(out, pattern, prefix, index);
    if index == 0 {
        string(out, name);
    }
    string(out, value);
}

/// As it is: the Huffman code would make it shorter, and cost more than the bytes do.
fn string(out: &mut Vec<u8>, string: &[u8]) {
    number(out, 0, 7, string.len());
    out.extend_from_slice(string);
}

fn number(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

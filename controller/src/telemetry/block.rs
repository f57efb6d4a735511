//! The counts of one slot and one proxy as few bytes as they need: there are millions of them. Pure.
//!
//! A row is a name's number, as the difference to the one before; the length of what follows, so that rows that nobody asked about are
//! passed over; and what was counted. All numbers are LEB128.

use std::{collections::BTreeMap, sync::Arc};

use conduit_api::latency::Latencies;

use super::counts::{Counts, Tcp};

/// What a row has: requests and their latencies, and of these failures, and TLS for some of them or for all; bytes.
const REQUESTS: u8 = 1;
const FAILURES: u8 = 2;
const SOME_TLS: u8 = 4;
const ALL_TLS: u8 = 8;
const BYTES: u8 = 16;

/// What is counted of one name in a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests.
    pub requests: Counts,
    /// Bytes; how many connections are open is no sum.
    pub tcp: Tcp,
}

impl Sums {
    /// Adds `other`.
    pub fn merge(&mut self, other: &Self) {
        self.requests.merge(&other.requests);
        self.tcp.merge(&other.tcp);
    }
}

/// Rows by the number of their name. Clones share them.
#[derive(Clone, Debug)]
pub struct Block(Arc<[u8]>);

impl Block {
    /// Of these rows.
    pub fn of(rows: &BTreeMap<u32, Sums>) -> Self {
        let (mut bytes, mut body, mut previous) = (Vec::new(), Vec::new(), 0);
        for (name, sums) in rows {
            body.clear();
            write_sums(&mut body, sums);
            write(&mut bytes, (name - previous).into());
            write(&mut bytes, body.len() as u64);
            bytes.extend_from_slice(&body);
            previous = *name;
        }
        Self(bytes.into())
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Its rows, none of them read yet.
    pub fn rows(&self) -> impl Iterator<Item = (u32, Packed<'_>)> {
        let (mut bytes, mut name) = (self.0.as_ref(), 0_u32);
        std::iter::from_fn(move || {
            name = name.wrapping_add(read(&mut bytes)? as u32);
            let length = read(&mut bytes)? as usize;
            let (body, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            Some((name, Packed(body)))
        })
    }

    /// Adds all of it to `sums`, under the names that they have by `rename`.
    pub fn add_to(&self, sums: &mut BTreeMap<u32, Sums>, rename: impl Fn(u32) -> u32) {
        for (name, row) in self.rows() {
            let sum = sums.entry(rename(name)).or_default();
            row.add_requests(&mut sum.requests);
            row.add_bytes(&mut sum.tcp);
        }
    }
}

/// A row that was not read yet.
#[derive(Clone, Copy)]
pub struct Packed<'a>(&'a [u8]);

impl Packed<'_> {
    /// Adds its requests.
    pub fn add_requests(self, counts: &mut Counts) {
        // What it was written by is this file: it is whole.
        let _ = self.try_add_requests(counts);
    }

    /// Adds its bytes.
    pub fn add_bytes(self, tcp: &mut Tcp) {
        let _ = self.try_add_bytes(tcp);
    }

    fn try_add_requests(self, counts: &mut Counts) -> Option<()> {
        let mut bytes = self.0;
        let has = take_flags(&mut bytes)?;
        if has & BYTES > 0 {
            read(&mut bytes)?;
            read(&mut bytes)?;
        }
        if has & REQUESTS == 0 {
            return Some(());
        }
        let success = read(&mut bytes)?;
        let failure = if has & FAILURES > 0 { read(&mut bytes)? } else { 0 };
        let tls = match has & (SOME_TLS | ALL_TLS) {
            0 => 0,
            SOME_TLS => read(&mut bytes)?,
            _ => success.saturating_add(failure),
        };
        counts.success = counts.success.saturating_add(success);
        counts.failure = counts.failure.saturating_add(failure);
        counts.tls = counts.tls.saturating_add(tls);
        read_latencies(&mut bytes, &mut counts.latencies)
    }

    fn try_add_bytes(self, tcp: &mut Tcp) -> Option<()> {
        let mut bytes = self.0;
        if take_flags(&mut bytes)? & BYTES > 0 {
            tcp.merge(&Tcp { open: 0, read_bytes: read(&mut bytes)?, write_bytes: read(&mut bytes)? });
        }
        Some(())
    }
}

fn take_flags(bytes: &mut &[u8]) -> Option<u8> {
    let (flags, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*flags)
}

fn write_sums(bytes: &mut Vec<u8>, sums: &Sums) {
    let Sums { requests, tcp } = sums;
    let total = requests.total();
    let mut has = 0;
    has |= if requests == &Counts::default() { 0 } else { REQUESTS };
    has |= if requests.failure > 0 { FAILURES } else { 0 };
    has |= match requests.tls {
        0 => 0,
        tls if tls == total => ALL_TLS,
        _ => SOME_TLS,
    };
    has |= if tcp.read_bytes | tcp.write_bytes > 0 { BYTES } else { 0 };
    bytes.push(has);
    if has & BYTES > 0 {
        write(bytes, tcp.read_bytes);
        write(bytes, tcp.write_bytes);
    }
    if has & REQUESTS == 0 {
        return;
    }
    write(bytes, requests.success);
    if has & FAILURES > 0 {
        write(bytes, requests.failure);
    }
    if has & SOME_TLS > 0 {
        write(bytes, requests.tls);
    }
    write_latencies(bytes, &requests.latencies);
}

/// Runs of buckets that are not empty: how many empty ones there are before, how many there are, and their counts.
fn write_latencies(bytes: &mut Vec<u8>, latencies: &Latencies) {
    let buckets: Vec<_> = latencies.iter().collect();
    let mut end = 0;
    for run in buckets.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
        write(bytes, (run[0].0 - end).into());
        write(bytes, run.len() as u64);
        run.iter().for_each(|(_, count)| write(bytes, *count));
        end = run[0].0 + run.len() as u32;
    }
}

fn read_latencies(bytes: &mut &[u8], latencies: &mut Latencies) -> Option<()> {
    let mut bucket = 0_u32;
    while !bytes.is_empty() {
        bucket = bucket.wrapping_add(read(bytes)? as u32);
        for _ in 0..read(bytes)? {
            latencies.add(bucket, read(bytes)?);
            bucket = bucket.wrapping_add(1);
        }
    }
    Some(())
}

fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use conduit_api::latency::BUCKETS;

    use super::*;

    fn sums(success: u64, failure: u64, tls: u64, buckets: &[(u32, u64)], read_bytes: u64) -> Sums {
        let mut latencies = Latencies::default();
        buckets.iter().for_each(|(bucket, count)| latencies.add(*bucket, *count));
        let requests = Counts { success, failure, tls, latencies };
        Sums { requests, tcp: Tcp { open: 0, read_bytes, write_bytes: read_bytes / 2 } }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let last = BUCKETS as u32 - 1;
        let rows = BTreeMap::from([
            (0, sums(0, 0, 0, &[], 0)),
            (1, sums(5, 0, 5, &[(0, 1), (1, 3), (2, 1)], 0)),
            (7, sums(5, 2, 1, &[(9, 300), (last - 1, 1), (last, 6)], 70_000)),
            (300, sums(0, u64::MAX, u64::MAX, &[(last, u64::MAX)], u64::MAX)),
            (u32::MAX, sums(0, 0, 0, &[(3, 1)], 1)),
        ]);
        let block = Block::of(&rows);
        let mut read = BTreeMap::new();
        block.add_to(&mut read, |name| name);
        assert_eq!(read, rows);
        block.add_to(&mut read, |name| name);
        assert_eq!((read[&1].requests.success, read[&7].tcp.read_bytes), (10, 140_000));
        assert_eq!(block.rows().map(|(name, _)| name).collect::<Vec<_>>(), [0, 1, 7, 300, u32::MAX]);
    }

    #[test]
    fn what_is_usual_takes_few_bytes() {
        let usual = sums(50, 0, 50, &[(150, 4), (151, 20), (152, 20), (153, 6)], 0);
        // Name, length, what there is, requests; a gap of two bytes, a length, and four counts.
        assert_eq!(Block::of(&BTreeMap::from([(3, usual)])).size(), 11);
    }
}

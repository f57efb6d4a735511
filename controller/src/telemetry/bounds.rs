//! How much is told at once. Pure.

use conduit_api::proto::{
    peer::{Counts, EdgeCounts},
    public::{BasicStats, Edge, StatRow, TcpStats},
};
use prost::Message;

/// Of an answer: rows, and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    rows: usize,
    bytes: usize,
}

/// What a replica tells another. Merged, what each has left out could have been more than what others told: so it is much more than a person is told.
pub const ANSWER: Bounds = Bounds { rows: 100_000, bytes: 60 << 20 };
/// What another replica may tell, with what is around the rows.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What people are told. gRPC's clients take four megabytes if nobody has told them otherwise, and nobody reads ten thousand lines.
pub const TOLD: Bounds = Bounds { rows: 10_000, bytes: 3 << 20 };

/// As many of `rows` as may be told, in their order, and whether some were left out: those that have the least traffic.
pub fn bounded<T: Message>(rows: Vec<T>, bounds: Bounds, traffic: impl Fn(&T) -> (u64, u64)) -> (Vec<T>, bool) {
    // Before each there are a tag and its length.
    let size = |row: &T| row.encoded_len() + 10;
    if rows.len() <= bounds.rows && rows.iter().map(size).sum::<usize>() <= bounds.bytes {
        return (rows, false);
    }
    let mut numbered: Vec<_> = rows.into_iter().enumerate().collect();
    numbered.sort_by_cached_key(|(_, row)| std::cmp::Reverse(traffic(row)));
    let mut bytes = 0;
    let fits = |(_, row): &(usize, T)| {
        bytes += size(row);
        bytes <= bounds.bytes
    };
    let mut told: Vec<_> = numbered.into_iter().take(bounds.rows).take_while(fits).collect();
    told.sort_unstable_by_key(|(index, _)| *index);
    (told.into_iter().map(|(_, row)| row).collect(), true)
}

/// How much traffic a row has: requests, and bytes.
pub trait Busy {
    /// More is told before less.
    fn traffic(&self) -> (u64, u64);
}

impl Busy for Counts {
    fn traffic(&self) -> (u64, u64) {
        (self.success.saturating_add(self.failure), self.read_bytes.saturating_add(self.write_bytes))
    }
}

impl Busy for EdgeCounts {
    fn traffic(&self) -> (u64, u64) {
        self.counts.as_ref().map(Busy::traffic).unwrap_or_default()
    }
}

fn requests(stats: Option<&BasicStats>) -> u64 {
    stats.map_or(0, |stats| stats.success_count.saturating_add(stats.failure_count))
}

impl Busy for StatRow {
    fn traffic(&self) -> (u64, u64) {
        let bytes = |tcp: &TcpStats| tcp.read_bytes.saturating_add(tcp.write_bytes);
        (requests(self.stats.as_ref()), self.tcp.as_ref().map_or(0, bytes))
    }
}

impl Busy for Edge {
    fn traffic(&self) -> (u64, u64) {
        (requests(self.stats.as_ref()), self.read_bytes.saturating_add(self.write_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u64) -> Vec<Counts> {
        let row = |at: u64| Counts { name: format!("row-{at}"), success: (at * 7) % count, ..Counts::default() };
        (0..count).map(row).collect()
    }

    #[test]
    fn what_has_the_least_traffic_is_left_out_and_the_order_stays() {
        let of_rows = Bounds { rows: 4, bytes: usize::MAX };
        let (told, truncated) = bounded(rows(10), of_rows, Counts::traffic);
        assert!(truncated);
        let told: Vec<_> = told.iter().map(|row| (row.name.as_str(), row.success)).collect();
        assert_eq!(told, [("row-1", 7), ("row-4", 8), ("row-7", 9), ("row-8", 6)]);
        assert!(!bounded(rows(4), of_rows, Counts::traffic).1);
    }

    #[test]
    fn an_answer_fits_whatever_its_rows_are() {
        let of_bytes = Bounds { rows: usize::MAX, bytes: 1_000 };
        let mut rows = rows(40);
        rows[39].name = "x".repeat(300);
        let (told, truncated) = bounded(rows, of_bytes, Counts::traffic);
        let answer = conduit_api::proto::peer::CollectStatResponse { counts: told, heard: None };
        assert!(truncated && (600..1_000).contains(&answer.encoded_len()), "{}", answer.encoded_len());
    }
}

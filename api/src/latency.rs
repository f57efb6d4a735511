//! The buckets in which latency is counted: by proxies per request, merged by controllers, percentiles taken at the end.
//!
//! Log-linear, as in HdrHistogram: 16 buckets to each power of two of microseconds, so that a bucket is at most 1/16 wide and
//! its middle at most 3.2 % off. A proxy adds to plain arrays indexed by [`bucket`]; only what is not zero is sent.

/// Buckets for each power of two.
const PER_OCTAVE: u64 = 16;
const PER_OCTAVE_LOG2: u32 = PER_OCTAVE.ilog2();

/// Latencies from here on are counted as this long: 2^26 µs, a little over a minute.
pub const LATENCY_US_MAX: u64 = (1 << 26) - 1;

/// How many buckets there are; every index is below.
pub const BUCKETS: usize = bucket(LATENCY_US_MAX) + 1;

/// The bucket that a latency in microseconds falls into.
pub const fn bucket(latency_us: u64) -> usize {
    let us = if latency_us > LATENCY_US_MAX { LATENCY_US_MAX } else { latency_us };
    if us < PER_OCTAVE {
        return us as usize;
    }
    // The highest bit chooses the octave, the next four bits the bucket in it.
    let octave = us.ilog2() - PER_OCTAVE_LOG2;
    ((octave as u64 + 1) * PER_OCTAVE + ((us >> octave) - PER_OCTAVE)) as usize
}

/// The lowest latency, in microseconds, that falls into `bucket`.
pub const fn lower_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PER_OCTAVE {
        return bucket;
    }
    let octave = bucket / PER_OCTAVE - 1;
    (PER_OCTAVE + bucket % PER_OCTAVE) << octave
}

/// The middle of `bucket`, in microseconds: what percentiles report.
pub const fn midpoint(bucket: usize) -> u64 {
    (lower_bound(bucket) + lower_bound(bucket + 1) - 1) / 2
}

/// Counts per bucket, as controllers add them up: from the first bucket that is not empty to the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    first: u32,
    counts: Vec<u64>,
}

impl Latencies {
    /// Adds `count` latencies that fell into `bucket`; one out of range, which only a faulty peer sends, is ignored.
    pub fn add(&mut self, bucket: u32, count: u64) {
        if bucket as usize >= BUCKETS || count == 0 {
            return;
        }
        if self.counts.is_empty() {
            self.first = bucket;
        } else if bucket < self.first {
            let before = (self.first - bucket) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(0, before));
            self.first = bucket;
        }
        let index = (bucket - self.first) as usize;
        if index >= self.counts.len() {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] = self.counts[index].saturating_add(count);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.iter() {
            self.add(bucket, count);
        }
    }

    /// The buckets that are not empty, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (self.first..).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// How many there are, and how many of them are over `latency_us`: those in its own bucket are taken for within.
    pub fn over(&self, latency_us: u64) -> (u64, u64) {
        let limit = bucket(latency_us) as u32;
        self.iter().fold((0, 0), |(all, over): (u64, u64), (bucket, count)| {
            let is_over = if bucket > limit { count } else { 0 };
            (all.saturating_add(count), over.saturating_add(is_over))
        })
    }

    /// The latency in microseconds that `quantile` (0 to 1) of the requests did not exceed; `None` without requests.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let total = self.counts.iter().copied().fold(0, u64::saturating_add);
        let rank = ((quantile * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0_u64;
        self.iter().find_map(|(bucket, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then(|| midpoint(bucket as usize))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for b in 0..BUCKETS {
            let (low, next) = (lower_bound(b), lower_bound(b + 1));
            assert!(low < next, "bucket {b} is empty");
            assert_eq!((bucket(low), bucket(next - 1)), (b, b));
            let off = (midpoint(b) as f64 - low as f64).max((next - 1) as f64 - midpoint(b) as f64);
            assert!(off <= 0.05 * low.max(1) as f64 || next - low == 1, "bucket {b} is {off} off at {low}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_one_bucket() {
        let mut latencies = Latencies::default();
        for us in 1..=10_000 {
            latencies.add(bucket(us) as u32, 1);
        }
        for (quantile, exact) in [(0.5, 5_000.0), (0.95, 9_500.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let got = latencies.quantile(quantile).unwrap() as f64;
            assert!((got - exact).abs() / exact < 0.05, "{quantile}: {got} for {exact}");
        }
        assert_eq!(Latencies::default().quantile(0.5), None);
    }

    #[test]
    fn what_is_over_a_latency_is_counted_within_one_bucket() {
        let mut latencies = Latencies::default();
        for us in (1_000..=200_000).step_by(1_000) {
            latencies.add(bucket(us) as u32, 1);
        }
        let (all, over) = latencies.over(100_000);
        assert_eq!(all, 200);
        // A bucket there is 4 ms wide.
        assert!((96..=100).contains(&over), "{over}");
        assert_eq!(latencies.over(LATENCY_US_MAX), (200, 0));
        assert_eq!(Latencies::default().over(1), (0, 0));
    }

    #[test]
    fn the_order_in_which_they_come_makes_no_difference() {
        let mut sums = [Latencies::default(), Latencies::default()];
        let counts = [(9, 1), (3, 2), (20, 0), (12, 5), (BUCKETS as u32, 7), (3, 1)];
        counts.iter().for_each(|(bucket, count)| sums[0].add(*bucket, *count));
        counts.iter().rev().for_each(|(bucket, count)| sums[1].add(*bucket, *count));
        assert_eq!(sums[0], sums[1]);
        assert_eq!(sums[0].iter().collect::<Vec<_>>(), [(3, 3), (9, 1), (12, 5)]);
    }

    #[test]
    fn a_faulty_peer_counts_no_further_than_there_are_numbers() {
        let mut latencies = Latencies::default();
        (1..4).for_each(|bucket| latencies.add(bucket, u64::MAX));
        assert_eq!((latencies.quantile(0.01), latencies.quantile(1.0)), (Some(midpoint(1)), Some(midpoint(1))));
    }
}

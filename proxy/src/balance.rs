//! Which endpoint the next request goes to: the better of two that are picked at random, by peak EWMA. Pure.
//!
//! "The Power of Two Choices in Randomized Load Balancing" (Mitzenmacher, 1996); the cost function is Finagle's `PeakEwma`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::time::Instant;

/// How long a slow answer is remembered.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is taken for that has not answered yet: slow enough not to be flooded, fast enough to be tried.
const DEFAULT_RTT: Duration = Duration::from_millis(30);
/// An endpoint that could not be connected to is put aside for this long, doubled at each further failure ...
const ASIDE_MIN: Duration = Duration::from_millis(100);
/// ... up to this.
const ASIDE_MAX: Duration = Duration::from_secs(5);

/// The load of one endpoint, as one thread sees it.
#[derive(Clone, Debug)]
struct Load {
    /// Seconds; rises at once, falls over [`DECAY`].
    ewma: f64,
    updated: Instant,
    pending: u32,
    failures: u32,
    aside_until: Option<Instant>,
}

impl Load {
    fn new(now: Instant) -> Self {
        Self { ewma: DEFAULT_RTT.as_secs_f64(), updated: now, pending: 0, failures: 0, aside_until: None }
    }

    fn cost(&self, now: Instant) -> f64 {
        self.decayed(now, 0.0) * f64::from(self.pending + 1)
    }

    /// The average at `now`, drawn towards `rtt`.
    fn decayed(&self, now: Instant, rtt: f64) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        let weight = (-elapsed / DECAY.as_secs_f64()).exp();
        self.ewma * weight + rtt * (1.0 - weight)
    }

    fn observe(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.as_secs_f64();
        self.ewma = if rtt > self.ewma { rtt } else { self.decayed(now, rtt) };
        self.updated = now;
    }
}

/// The endpoints of one service, for one thread.
#[derive(Debug, Default)]
pub struct Balancer {
    loads: BTreeMap<SocketAddr, Load>,
}

impl Balancer {
    /// Takes over a new set of endpoints; those that stay keep what is known of them.
    pub fn update<'a>(&mut self, now: Instant, endpoints: impl Iterator<Item = &'a SocketAddr> + Clone) {
        let wanted: std::collections::BTreeSet<_> = endpoints.copied().collect();
        self.loads.retain(|address, _| wanted.contains(address));
        for address in wanted {
            self.loads.entry(address).or_insert_with(|| Load::new(now));
        }
    }

    /// Chooses an endpoint that is not in `tried`. `random` are two numbers below 1. One that is put aside is chosen only
    /// when there is no other: a wrong guess must not make an outage.
    pub fn pick(&self, now: Instant, random: (f64, f64), tried: &[SocketAddr]) -> Option<SocketAddr> {
        let usable = |(_, load): &(&SocketAddr, &Load)| load.aside_until.is_none_or(|until| until <= now);
        let untried: Vec<_> = self.loads.iter().filter(|(address, _)| !tried.contains(address)).collect();
        let fit: Vec<_> = untried.iter().copied().filter(usable).collect();
        let candidates = if fit.is_empty() { untried } else { fit };
        let count = candidates.len();
        let first = candidates.get((random.0 * count as f64) as usize)?;
        if count == 1 {
            return Some(*first.0);
        }
        // The second is another than the first.
        let mut second = (random.1 * (count - 1) as f64) as usize;
        if candidates[second].0 >= first.0 {
            second += 1;
        }
        let second = candidates.get(second).unwrap_or(first);
        let better = if first.1.cost(now) <= second.1.cost(now) { first } else { second };
        Some(*better.0)
    }

    /// A request is on its way.
    pub fn begin(&mut self, address: SocketAddr) {
        if let Some(load) = self.loads.get_mut(&address) {
            load.pending += 1;
        }
    }

    /// A request is over; `rtt` if it was answered.
    pub fn end(&mut self, now: Instant, address: SocketAddr, rtt: Option<Duration>) {
        if let Some(load) = self.loads.get_mut(&address) {
            load.pending = load.pending.saturating_sub(1);
            if let Some(rtt) = rtt {
                load.observe(now, rtt);
                load.failures = 0;
                load.aside_until = None;
            }
        }
    }

    /// It could not be connected to, or its proxy said that there is nobody behind it; `jitter` is below 1. Of requests that
    /// fail at the same time only the first counts: they all saw one and the same failure.
    pub fn unreachable(&mut self, now: Instant, address: SocketAddr, jitter: f64) {
        let load = self.loads.get_mut(&address).filter(|load| load.aside_until.is_none_or(|until| until <= now));
        if let Some(load) = load {
            let aside = (ASIDE_MIN * 2_u32.saturating_pow(load.failures)).min(ASIDE_MAX);
            load.failures = (load.failures + 1).min(16);
            load.aside_until = Some(now + aside.mul_f64(0.5 + jitter / 2.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(i: u16) -> SocketAddr {
        ([10, 0, 0, 1], i).into()
    }

    fn balancer(now: Instant, count: u16) -> Balancer {
        let mut balancer = Balancer::default();
        let addresses: Vec<_> = (0..count).map(address).collect();
        balancer.update(now, addresses.iter());
        balancer
    }

    /// Every pair of picks, evenly: what chance does in the long run.
    fn shares(balancer: &Balancer, now: Instant, count: u16) -> Vec<usize> {
        let mut shares = vec![0; count.into()];
        for i in 0..100 {
            for j in 0..100 {
                let random = (f64::from(i) / 100.0, f64::from(j) / 100.0);
                let picked = balancer.pick(now, random, &[]).unwrap();
                shares[usize::from(picked.port())] += 1;
            }
        }
        shares
    }

    #[test]
    fn equal_endpoints_get_equal_shares() {
        let now = Instant::now();
        for share in shares(&balancer(now, 4), now, 4) {
            assert!((1_000..=4_500).contains(&share), "{share}");
        }
        assert_eq!(Balancer::default().pick(now, (0.0, 0.0), &[]), None);
    }

    #[test]
    fn a_slow_endpoint_is_avoided_and_forgiven() {
        let now = Instant::now();
        let mut balancer = balancer(now, 3);
        for i in 0..3 {
            let rtt = if i == 0 { 300 } else { 30 };
            balancer.begin(address(i));
            balancer.end(now, address(i), Some(Duration::from_millis(rtt)));
        }
        assert_eq!(shares(&balancer, now, 3)[0], 0);
        let later = now + Duration::from_secs(60);
        for i in 1..3 {
            balancer.end(later, address(i), Some(Duration::from_millis(30)));
        }
        assert!(shares(&balancer, later, 3)[0] > 0, "it is tried again");
    }

    #[test]
    fn pending_requests_count_as_load() {
        let now = Instant::now();
        let mut balancer = balancer(now, 2);
        balancer.begin(address(0));
        assert_eq!(shares(&balancer, now, 2), [0, 10_000]);
        balancer.end(now, address(0), None);
        balancer.begin(address(1));
        assert_eq!(shares(&balancer, now, 2), [10_000, 0]);
    }

    #[test]
    fn unreachable_endpoints_are_put_aside_but_not_the_last() {
        let now = Instant::now();
        let mut balancer = balancer(now, 2);
        balancer.unreachable(now, address(0), 0.0);
        assert_eq!(shares(&balancer, now, 2), [0, 10_000]);
        assert_eq!(balancer.pick(now, (0.0, 0.0), &[address(1)]), Some(address(0)), "rather that than nothing");
        let back = now + ASIDE_MIN;
        assert!(balancer.loads[&address(0)].aside_until.unwrap() <= back);
        for _ in 0..20 {
            balancer.unreachable(now, address(0), 1.0);
        }
        assert!(balancer.loads[&address(0)].aside_until.unwrap() <= back, "one failure, seen by many requests");
        let mut later = now;
        for _ in 0..20 {
            later += ASIDE_MAX;
            balancer.unreachable(later, address(0), 1.0);
        }
        assert_eq!(balancer.loads[&address(0)].aside_until, Some(later + ASIDE_MAX));
        balancer.end(later, address(0), Some(Duration::from_millis(1)));
        assert_eq!(balancer.loads[&address(0)].aside_until, None);
    }

    #[test]
    fn endpoints_that_stay_keep_their_load() {
        let now = Instant::now();
        let mut balancer = balancer(now, 2);
        balancer.begin(address(0));
        balancer.update(now, [address(0), address(5)].iter());
        assert_eq!(balancer.loads[&address(0)].pending, 1);
        assert!(!balancer.loads.contains_key(&address(1)));
        assert_eq!(balancer.pick(now, (0.9, 0.0), &[address(0), address(5)]), None);
    }
}

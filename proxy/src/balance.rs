//! Which endpoint the next request goes to: the better of two that are picked at random, by peak EWMA or by requests under way; in the
//! own zone first, if that is wished for. Pure.
//!
//! "The Power of Two Choices in Randomized Load Balancing" (Mitzenmacher, 1996); the cost function is Finagle's `PeakEwma`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use conduit_api::{Balancing, mesh::Strategy};
use tokio::time::Instant;

/// How long a slow answer is remembered.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is taken for that has not answered yet, as long as no other has: slow enough not to be flooded, fast enough to be
/// tried.
const DEFAULT_RTT: Duration = Duration::from_millis(30);
/// An endpoint that joins others has its whole share after this long ...
const SLOW_START: Duration = Duration::from_secs(30);
/// ... and this part of it at first: its caches are empty, and its code is not compiled yet.
const SLOW_START_SHARE: f64 = 0.1;
/// An endpoint that could not be connected to is put aside for this long, doubled at each further failure ...
const ASIDE_MIN: Duration = Duration::from_millis(100);
/// ... up to this.
const ASIDE_MAX: Duration = Duration::from_secs(5);

/// An endpoint of the own zone is left for one of another when it takes so many times as long, as it was last seen ...
const ZONE_LATENCY_FACTOR: f64 = 2.0;
/// ... or has so many times as many requests under way, which says so of one that does not answer.
const ZONE_PENDING_FACTOR: u32 = 8;

/// The load of one endpoint, as one thread sees it.
#[derive(Clone, Debug)]
struct Load {
    /// Seconds; rises at once, falls over [`DECAY`].
    ewma: f64,
    updated: Instant,
    /// It has answered: before that it is taken for what the others are.
    has_answered: bool,
    /// When it joined others.
    joined: Option<Instant>,
    pending: u32,
    failures: u32,
    aside_until: Option<Instant>,
}

impl Load {
    /// `others` is the average of those that it joins.
    fn new(now: Instant, others: Option<f64>) -> Self {
        Self {
            ewma: others.unwrap_or(DEFAULT_RTT.as_secs_f64()),
            updated: now,
            has_answered: false,
            joined: others.map(|_| now),
            pending: 0,
            failures: 0,
            aside_until: None,
        }
    }

    fn cost(&self, now: Instant, strategy: Strategy) -> f64 {
        if strategy == Strategy::LeastRequest {
            return self.pending.into();
        }
        if !self.has_answered && self.pending == 0 {
            // One request is what it takes to know.
            return 0.0;
        }
        self.decayed(now, 0.0) * f64::from(self.pending + 1)
    }

    /// It is not put aside.
    fn is_fit(&self, now: Instant) -> bool {
        self.aside_until.is_none_or(|until| until <= now)
    }

    /// This one is of the own zone, and so much worse than `far` that the way there is worth it: it answers late, or not at all.
    fn is_worth_leaving_for(&self, far: &Self, now: Instant) -> bool {
        let is_late = self.has_answered && far.has_answered && self.decayed(now, 0.0) > ZONE_LATENCY_FACTOR * far.ewma;
        is_late || self.pending > ZONE_PENDING_FACTOR * (far.pending + 1)
    }

    /// Whether it takes part this time; `chance` is below 1.
    fn takes_part(&self, now: Instant, chance: f64) -> bool {
        let Some(joined) = self.joined else { return true };
        let age = now.saturating_duration_since(joined).as_secs_f64() / SLOW_START.as_secs_f64();
        chance < SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * age
    }

    /// The average at `now`, drawn towards `rtt`.
    fn decayed(&self, now: Instant, rtt: f64) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        let weight = decay(elapsed / DECAY.as_secs_f64());
        self.ewma * weight + rtt * (1.0 - weight)
    }

    fn observe(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.as_secs_f64();
        self.ewma = if rtt > self.ewma || !self.has_answered { rtt } else { self.decayed(now, rtt) };
        self.has_answered = true;
        self.updated = now;
    }
}

/// e^-x for any `x` from 0 on, as its definition says, cut short: too high by 1 % at 0.5 and by 12 % at 2, where little is left of
/// the old value anyway. A few multiplications, and no mathematical library in the memory of every proxy.
fn decay(x: f64) -> f64 {
    let squared = |y: f64| y * y;
    1.0 / squared(squared(squared(squared(1.0 + x / 16.0))))
}

/// The endpoints of one service, for one thread.
#[derive(Debug, Default)]
pub struct Balancer {
    balancing: Balancing,
    /// Those that come first: all, or those of the own zone.
    near: Group,
    far: Group,
}

/// Endpoints that come before or after others.
#[derive(Debug, Default)]
struct Group {
    /// Ascending by address.
    loads: Vec<Entry>,
}

type Entry = (SocketAddr, Load);

impl Balancer {
    /// Takes over a new set of endpoints, each with whether it is in the own zone; those that stay keep what is known of them.
    pub fn update(&mut self, now: Instant, balancing: Balancing, endpoints: impl Iterator<Item = (SocketAddr, bool)>) {
        self.balancing = balancing;
        let (near, far) = (std::mem::take(&mut self.near.loads), std::mem::take(&mut self.far.loads));
        let mut known: BTreeMap<_, _> = near.into_iter().chain(far).collect();
        let answered: Vec<_> = known.values().filter(|load| load.has_answered).map(|load| load.ewma).collect();
        let others = (!answered.is_empty()).then(|| answered.iter().sum::<f64>() / answered.len() as f64);
        let wanted: BTreeMap<_, _> = endpoints.collect();
        for (address, is_near) in wanted {
            let load = known.remove(&address).unwrap_or_else(|| Load::new(now, others));
            let group = if is_near || !balancing.prefer_own_zone { &mut self.near } else { &mut self.far };
            group.loads.push((address, load));
        }
        if self.near.loads.is_empty() {
            std::mem::swap(&mut self.near, &mut self.far);
        }
    }

    /// Chooses an endpoint that is not in `tried`. `random` are two numbers below 1. One that is put aside is chosen only
    /// when there is no other: a wrong guess must not make an outage.
    pub fn pick(&self, now: Instant, random: (f64, f64), tried: &[SocketAddr]) -> Option<SocketAddr> {
        let strategy = self.balancing.strategy;
        let near = self.near.pick(now, strategy, random, tried);
        let picked = if self.far.loads.is_empty() {
            near
        } else {
            match (near, self.far.pick(now, strategy, random, tried)) {
                (Some(near), Some(far)) => {
                    // One that is new there is not to get all at once, because it is the only one.
                    let takes_part = near.1.takes_part(now, (random.0 * self.near.loads.len() as f64).fract());
                    Some(if !takes_part || near.1.is_worth_leaving_for(&far.1, now) { far } else { near })
                }
                (near, far) => near.or(far),
            }
        };
        let untried = |entry: &Entry| !tried.contains(&entry.0);
        let unfit = |group: &Group| group.pick_among(now, strategy, random, untried).map(|(address, _)| *address);
        picked.map(|(address, _)| *address).or_else(|| unfit(&self.near)).or_else(|| unfit(&self.far))
    }

    fn load_mut(&mut self, address: SocketAddr) -> Option<&mut Load> {
        self.near.load_mut(address).or_else(|| self.far.load_mut(address))
    }

    /// A request is on its way. It is part of the load until its response has ended.
    pub fn begin(&mut self, address: SocketAddr) {
        if let Some(load) = self.load_mut(address) {
            load.pending += 1;
        }
    }

    /// An answer has begun, after `rtt`.
    pub fn observe(&mut self, now: Instant, address: SocketAddr, rtt: Duration) {
        if let Some(load) = self.load_mut(address) {
            load.observe(now, rtt);
            load.failures = 0;
            load.aside_until = None;
        }
    }

    /// A request was given up after `elapsed`, without an answer. Nothing was shown to be well by that, and so it stays put aside if it was; and
    /// where latency does not count, it counts as a failure. `jitter` is below 1.
    pub fn late(&mut self, now: Instant, address: SocketAddr, elapsed: Duration, jitter: f64) {
        if self.balancing.strategy == Strategy::LeastRequest {
            return self.unreachable(now, address, jitter);
        }
        let elapsed = elapsed.as_secs_f64();
        if let Some(load) = self.load_mut(address) {
            // Who was late is known, and is not tried as if it were not.
            load.has_answered = true;
            if elapsed > load.ewma {
                (load.ewma, load.updated) = (elapsed, now);
            }
        }
    }

    /// A request is over.
    pub fn end(&mut self, address: SocketAddr) {
        if let Some(load) = self.load_mut(address) {
            load.pending = load.pending.saturating_sub(1);
        }
    }

    /// It could not be connected to, or its proxy said that there is nobody behind it; `jitter` is below 1. Of requests that
    /// fail at the same time only the first counts: they all saw one and the same failure.
    pub fn unreachable(&mut self, now: Instant, address: SocketAddr, jitter: f64) {
        let load = self.load_mut(address).filter(|load| load.is_fit(now));
        if let Some(load) = load {
            let aside = (ASIDE_MIN * 2_u32.saturating_pow(load.failures)).min(ASIDE_MAX);
            load.failures = (load.failures + 1).min(16);
            load.aside_until = Some(now + aside.mul_f64(0.5 + jitter / 2.0));
        }
    }
}

impl Group {
    /// One that was neither tried nor put aside.
    fn pick(&self, now: Instant, strategy: Strategy, random: (f64, f64), tried: &[SocketAddr]) -> Option<&Entry> {
        let fit = |entry: &Entry| !tried.contains(&entry.0) && entry.1.is_fit(now);
        // Nearly always all are fit, and it need not be asked of more than these two.
        let (first, second) = two_of(random, self.loads.len())?;
        let (first, second) = (&self.loads[first], &self.loads[second]);
        if !fit(first) || !fit(second) {
            return self.pick_among(now, strategy, random, fit);
        }
        // What is left of a number that has said which of several is a number of its own.
        let count = self.loads.len() as f64;
        let chances = ((random.0 * count).fract(), (random.1 * (count - 1.0)).fract());
        Some(match (first.1.takes_part(now, chances.0), second.1.takes_part(now, chances.1)) {
            (true, false) => first,
            (false, true) => second,
            _ => cheaper(now, strategy, first, second),
        })
    }

    fn pick_among(
        &self,
        now: Instant,
        strategy: Strategy,
        random: (f64, f64),
        accepts: impl Fn(&Entry) -> bool,
    ) -> Option<&Entry> {
        let accepted = || self.loads.iter().filter(|entry| accepts(entry));
        let (first, second) = two_of(random, accepted().count())?;
        Some(cheaper(now, strategy, accepted().nth(first)?, accepted().nth(second)?))
    }

    fn load_mut(&mut self, address: SocketAddr) -> Option<&mut Load> {
        let index = self.loads.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        Some(&mut self.loads[index].1)
    }
}

/// Two different numbers below `count` (one twice, when there is no other).
fn two_of(random: (f64, f64), count: usize) -> Option<(usize, usize)> {
    let others = count.checked_sub(1)?;
    let first = ((random.0 * count as f64) as usize).min(others);
    let second = (random.1 * others as f64) as usize;
    let second = if second >= first { second + 1 } else { second };
    Some((first, second.min(others)))
}

fn cheaper<'a>(now: Instant, strategy: Strategy, a: &'a Entry, b: &'a Entry) -> &'a Entry {
    if a.1.cost(now, strategy) <= b.1.cost(now, strategy) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(i: u16) -> SocketAddr {
        ([10, 0, 0, 1], i).into()
    }

    impl Balancer {
        fn over(&mut self, now: Instant, address: SocketAddr, rtt: Duration) {
            self.observe(now, address, rtt);
            self.end(address);
        }

        fn update_all(&mut self, now: Instant, addresses: &[SocketAddr]) {
            self.update(now, Balancing::default(), addresses.iter().map(|address| (*address, false)));
        }

        fn load(&self, port: u16) -> &Load {
            &self.near.loads.iter().find(|(candidate, _)| *candidate == address(port)).unwrap().1
        }
    }

    #[test]
    fn the_past_decays_as_an_exponential_would() {
        for (x, most) in [(0.0, 1.0), (0.1, 1.001), (0.5, 1.01), (1.0, 1.04), (2.0, 1.13)] {
            let ratio = decay(x) / f64::exp(-x);
            assert!((1.0..=most).contains(&ratio), "{x}: {ratio}");
        }
        assert!(decay(1e9) < 1e-100);
    }

    fn balancer(now: Instant, count: u16) -> Balancer {
        let mut balancer = Balancer::default();
        let addresses: Vec<_> = (0..count).map(address).collect();
        balancer.update_all(now, &addresses);
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
            balancer.over(now, address(i), Duration::from_millis(rtt));
        }
        assert_eq!(shares(&balancer, now, 3)[0], 0);
        let later = now + Duration::from_secs(60);
        for i in 1..3 {
            balancer.over(later, address(i), Duration::from_millis(30));
        }
        assert!(shares(&balancer, later, 3)[0] > 0, "it is tried again");
    }

    /// Shares, second by second, of endpoints that answer within so many milliseconds; 200 requests a second, chance by seed.
    fn simulate(balancer: &mut Balancer, from: Instant, seconds: u64, answers_ms: &[u64]) -> Vec<Vec<usize>> {
        let all_at_once = |port: usize, _| answers_ms[port];
        simulate_servers(balancer, from, seconds, 200, answers_ms.len(), all_at_once)
    }

    /// The same at another rate, of servers that say how long they take with so many requests before this one.
    fn simulate_servers(
        balancer: &mut Balancer,
        from: Instant,
        seconds: u64,
        rate: u64,
        servers: usize,
        answers_ms: impl Fn(usize, u64) -> u64,
    ) -> Vec<Vec<usize>> {
        use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
        let mut chance = StdRng::seed_from_u64(7);
        let mut under_way: Vec<(Instant, u16, Duration)> = Vec::new();
        let mut shares = vec![vec![0; servers]; seconds as usize];
        for i in 0..seconds * rate {
            let now = from + Duration::from_millis(i * 1000 / rate);
            under_way.retain(|(end, port, rtt)| {
                let is_over = *end <= now;
                if is_over {
                    balancer.over(*end, address(*port), *rtt);
                }
                !is_over
            });
            let picked = balancer.pick(now, (chance.random(), chance.random()), &[]).unwrap();
            balancer.begin(picked);
            let before = under_way.iter().filter(|(_, port, _)| *port == picked.port()).count();
            let rtt = Duration::from_millis(answers_ms(picked.port().into(), before as u64));
            under_way.push((now + rtt, picked.port(), rtt));
            shares[(i / rate) as usize][usize::from(picked.port())] += 1;
        }
        for (end, port, rtt) in under_way {
            balancer.over(end, address(port), rtt);
        }
        shares
    }

    #[test]
    fn an_endpoint_ten_times_slower_gets_little_and_recovers() {
        let now = Instant::now();
        let mut balancer = balancer(now, 3);
        let slow = simulate(&mut balancer, now, 20, &[100, 10, 10]);
        for (second, shares) in slow.iter().enumerate().skip(1) {
            assert!(shares[0] * 100 < 200 * 5, "second {second}: {shares:?}");
        }
        let well = simulate(&mut balancer, now + Duration::from_secs(20), 30, &[10, 10, 10]);
        let shares = well.last().unwrap();
        assert!(shares.iter().all(|share| (40..=100).contains(share)), "{shares:?}");
    }

    #[test]
    fn a_new_endpoint_is_not_flooded() {
        let now = Instant::now();
        let mut balancer = balancer(now, 2);
        simulate(&mut balancer, now, 10, &[5, 5]);
        let later = now + Duration::from_secs(10);
        balancer.update_all(later, &[address(0), address(1), address(2)]);
        let shares = simulate(&mut balancer, later, 30, &[5, 5, 5]);
        assert!(shares[0][2] < 60, "not more than its share at first: {:?}", shares[0]);
        assert!(shares.last().unwrap()[2] > 40, "its share in the end: {:?}", shares.last());
    }

    #[test]
    fn pending_requests_count_as_load() {
        let now = Instant::now();
        let mut balancer = balancer(now, 2);
        balancer.begin(address(0));
        assert_eq!(shares(&balancer, now, 2), [0, 10_000]);
        balancer.end(address(0));
        balancer.begin(address(1));
        assert_eq!(shares(&balancer, now, 2), [10_000, 0]);
    }

    #[test]
    fn least_request_looks_at_nothing_else() {
        let (now, mut balancer) = (Instant::now(), Balancer::default());
        let balancing = Balancing { strategy: Strategy::LeastRequest, ..Balancing::default() };
        balancer.update(now, balancing, (0..2).map(|port| (address(port), false)));
        for (port, rtt) in [(0, 500), (1, 1)] {
            balancer.begin(address(port));
            balancer.over(now, address(port), Duration::from_millis(rtt));
        }
        assert!(shares(&balancer, now, 2).iter().all(|share| *share > 3_000), "latency is nothing to it");
        balancer.begin(address(1));
        assert_eq!(shares(&balancer, now, 2), [10_000, 0]);
    }

    /// Two endpoints of the own zone, two of another.
    fn zones(now: Instant) -> Balancer {
        let mut balancer = Balancer::default();
        let balancing = Balancing { prefer_own_zone: true, ..Balancing::default() };
        balancer.update(now, balancing, (0..4).map(|port| (address(port), port < 2)));
        balancer
    }

    #[test]
    fn the_own_zone_comes_first_as_long_as_it_is_not_overloaded() {
        let now = Instant::now();
        // One request after the other, 20 ms each: 50 a second.
        let one_by_one = |_, before| 20 * (before + 1);
        let calm = simulate_servers(&mut zones(now), now, 20, 40, 4, one_by_one);
        assert!(calm.iter().all(|shares| shares[2] + shares[3] == 0), "{calm:?}");
        // More than the zone can take, and less than both.
        let busy = simulate_servers(&mut zones(now), now, 30, 140, 4, one_by_one);
        for (second, shares) in busy.iter().enumerate().skip(2) {
            let near = shares[0] + shares[1];
            assert!((40..=110).contains(&near), "second {second}: {shares:?}");
        }
        let near: usize = busy.iter().map(|shares| shares[0] + shares[1]).sum();
        assert!(near * 2 > 30 * 140, "still most of them: {near}");
    }

    #[test]
    fn a_zone_without_endpoints_or_with_dead_ones_is_left() {
        let now = Instant::now();
        let mut balancer = zones(now);
        for port in 0..2 {
            balancer.unreachable(now, address(port), 0.5);
        }
        assert!(balancer.pick(now, (0.3, 0.3), &[]).unwrap().port() >= 2);
        assert!(
            balancer.pick(now, (0.3, 0.3), &[address(2), address(3)]).unwrap().port() < 2,
            "rather that than nothing"
        );
        // Those of the own zone take requests, and do not answer.
        let mut balancer = zones(now);
        let silent = simulate_servers(&mut balancer, now, 5, 100, 4, |port, _| if port < 2 { 60_000 } else { 10 });
        assert!(silent[4][0] + silent[4][1] < 5, "{silent:?}");
        balancer.update(now, balancer.balancing, [(address(3), false)].into_iter());
        assert_eq!(balancer.pick(now, (0.3, 0.3), &[]), Some(address(3)));
    }

    #[test]
    fn unreachable_endpoints_are_put_aside_but_not_the_last() {
        let now = Instant::now();
        let mut balancer = balancer(now, 2);
        balancer.unreachable(now, address(0), 0.0);
        assert_eq!(shares(&balancer, now, 2), [0, 10_000]);
        assert_eq!(balancer.pick(now, (0.0, 0.0), &[address(1)]), Some(address(0)), "rather that than nothing");
        let back = now + ASIDE_MIN;
        assert!(balancer.load(0).aside_until.unwrap() <= back);
        for _ in 0..20 {
            balancer.unreachable(now, address(0), 1.0);
        }
        assert!(balancer.load(0).aside_until.unwrap() <= back, "one failure, seen by many requests");
        let mut later = now;
        for _ in 0..20 {
            later += ASIDE_MAX;
            balancer.unreachable(later, address(0), 1.0);
        }
        assert_eq!(balancer.load(0).aside_until, Some(later + ASIDE_MAX));
        balancer.over(later, address(0), Duration::from_millis(1));
        assert_eq!(balancer.load(0).aside_until, None);
    }

    #[test]
    fn who_is_late_is_not_taken_for_well() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut balancer = balancer(now, 2);
        balancer.unreachable(now, address(0), 1.0);
        balancer.late(now, address(0), second, 0.0);
        assert!(!balancer.load(0).is_fit(now) && balancer.load(0).failures == 1);
        balancer.late(now, address(1), second, 0.0);
        assert!(balancer.load(1).is_fit(now) && balancer.load(1).cost(now, Strategy::default()) >= 1.0);
        balancer.late(now, address(1), second / 2, 0.0);
        assert!(balancer.load(1).ewma >= 1.0, "it is never brought down");
        balancer.balancing.strategy = Strategy::LeastRequest;
        balancer.late(now, address(1), second, 0.0);
        assert!(!balancer.load(1).is_fit(now));
    }

    #[test]
    fn endpoints_that_stay_keep_their_load() {
        let now = Instant::now();
        let mut balancer = balancer(now, 2);
        balancer.begin(address(0));
        balancer.update_all(now, &[address(0), address(5)]);
        assert_eq!(balancer.load(0).pending, 1);
        assert!(balancer.load_mut(address(1)).is_none());
        assert_eq!(balancer.pick(now, (0.9, 0.0), &[address(0), address(5)]), None);
    }
}

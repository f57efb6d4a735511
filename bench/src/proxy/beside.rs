//! Requests at a constant rate, alone and beside somebody else: who watches them (`conduit tap`), or who opens TLS connections as fast as
//! the proxy takes them.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, interval};

use super::{
    All, Bench, Measure, bytes_text,
    flood::Flood,
    paced::{self, Paced},
    running::{Place, Running},
    saturation::Work,
    subject::{OURS, OWN_PORT, Part, Proxy, Shape},
    tap::Tap,
};
use crate::report::Percentiles;

/// Of what is said of a request to whoever watches it: it begins, its answer begins, it ends.
const EVENTS: u64 = 3;
/// Between two looks at the memory.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Bench<'_> {
    /// Of ours only.
    pub(super) async fn beside_others(&mut self, all: &All, work: &Work, round: u32) {
        let ours: Vec<_> = OURS.into_iter().filter(|proxy| self.plan.proxies.contains(proxy)).collect();
        for proxy in ours {
            let running = &all[&(work.shape, proxy)];
            if self.wants(Measure::Tapped) {
                self.tapped(running, work, proxy, round).await;
            }
            if self.wants(Measure::Flooded) && work.shape == Shape::Pair {
                self.flooded(running, work, proxy, round).await;
            }
        }
    }

    async fn tapped(&mut self, running: &Running, work: &Work, proxy: Proxy, round: u32) {
        let (rate, duration) = (self.plan.rate, self.plan.duration);
        let group = format!("{}, {}, {}, at {rate}/s", work.shape, work.protocol, bytes_text(work.body_bytes));
        // Alone and watched in turn, so that what becomes slower by itself falls on both.
        let is_even = round.is_multiple_of(2);
        for is_watched in [!is_even, is_even] {
            if is_watched {
                let watched = watched(&self.place, work, proxy, running, rate, duration).await;
                let Some(watched) = self.note(&group, proxy, watched) else { continue };
                self.latency(&group, ", watched", proxy, round, &watched.paced);
                self.results.add(&group, "of all events seen, %", proxy, round, watched.seen);
            } else {
                let alone = paced::measure(work, proxy, running, rate, duration).await;
                let Some(alone) = self.note(&group, proxy, alone) else { continue };
                self.latency(&group, ", alone", proxy, round, &alone);
            }
        }
    }

    async fn flooded(&mut self, running: &Running, work: &Work, proxy: Proxy, round: u32) {
        let (rate, duration) = (self.plan.rate, self.plan.duration);
        let group = format!("{}, {}, {}, at {rate}/s", work.shape, work.protocol, bytes_text(work.body_bytes));
        let alone = paced::measure(work, proxy, running, rate, duration).await;
        if let Some(alone) = self.note(&group, proxy, alone) {
            self.latency(&group, ", alone", proxy, round, &alone);
        }
        self.resident(&group, "resident MiB, alone", proxy, round, running.resident());
        let flooded = flooded(work, proxy, running, rate, duration).await;
        let Some(flooded) = self.note(&group, proxy, flooded) else { return };
        self.latency(&group, ", flooded", proxy, round, &flooded.paced);
        self.results.add(&group, "handshakes/s", proxy, round, flooded.handshakes);
        self.resident(&group, "resident MiB, flooded, at most", proxy, round, Ok(flooded.resident));
    }

    fn latency(&mut self, group: &str, beside: &str, proxy: Proxy, round: u32, paced: &Paced) {
        let Percentiles { p50, p99, p999, .. } = paced.latency_us;
        for (name, value) in [("p50 µs", p50), ("p99 µs", p99), ("p99.9 µs", p999)] {
            self.results.add(group, &format!("{name}{beside}"), proxy, round, value);
        }
        if let Some(cpu_us) = paced.cpu_us {
            self.results.add(group, &format!("CPU µs/request{beside}"), proxy, round, cpu_us);
        }
    }
}

/// What was seen while somebody watched.
struct Watched {
    /// Of the requests.
    paced: Paced,
    /// Of all events, the part that came, in percent.
    seen: f64,
}

/// Requests that all are watched, in every proxy.
///
/// # Errors
/// When one is not answered, or the tap is refused.
async fn watched(
    place: &Place,
    work: &Work,
    proxy: Proxy,
    running: &Running,
    rate: f64,
    duration: Duration,
) -> anyhow::Result<Watched> {
    let tap = Tap::start(&place.mesh).await?;
    let paced = paced::measure(work, proxy, running, rate, duration).await?;
    let proxies = work.shape.parts().len() as u64;
    let expected = rate * (paced::WARMUP + duration).as_secs_f64() * (EVENTS * proxies) as f64;
    ensure!(tap.events() > 0, "nothing was seen");
    Ok(Watched { paced, seen: tap.events() as f64 / expected * 100.0 })
}

/// What was seen while somebody opened connections.
struct Flooded {
    /// Of the requests.
    paced: Paced,
    /// Handshakes that the proxy answered, each second.
    handshakes: f64,
    /// The most memory, in bytes, of all of it.
    resident: u64,
}

/// Requests through a pair, at whose second proxy somebody opens TLS connections.
///
/// # Errors
/// When a request is not answered, or no handshake.
async fn flooded(
    work: &Work,
    proxy: Proxy,
    running: &Running,
    rate: f64,
    duration: Duration,
) -> anyhow::Result<Flooded> {
    ensure!(work.shape == Shape::Pair, "only what comes from other proxies is TLS");
    let flood = Flood::start((proxy.ip(Part::In), OWN_PORT).into())?;
    let began = Instant::now();
    let mut looks = interval(LOOK_AGAIN);
    let mut resident = 0;
    let paced = paced::measure(work, proxy, running, rate, duration);
    tokio::pin!(paced);
    let paced = loop {
        tokio::select! {
            paced = &mut paced => break paced?,
            _ = looks.tick() => resident = resident.max(running.resident()?),
        }
    };
    ensure!(flood.answered() > 0, "no handshake was answered");
    Ok(Flooded { paced, handshakes: flood.answered() as f64 / began.elapsed().as_secs_f64(), resident })
}

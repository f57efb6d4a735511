//! Tells a collector of spans, on the control thread: in batches, again if it may take them later, and never at a request's cost.

mod sending;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use conduit_api::journal::Collector;
use conduit_ca::WorkloadTls;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{info, warn};

use self::sending::{Blames, Connection, Exported};
use super::{Counts, Record, otlp};
use crate::connect::Connector;

/// Spans in one message, of about a kilobyte each.
const BATCH_MAX: usize = 256;
/// The first span of a batch waits so long for others.
const GATHER: Duration = Duration::from_millis(500);
/// The first pause after a failure, doubled at each further one ...
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// ... up to this; each is drawn from half to all of its length.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A batch that a collector is there for, and does not take, is given up after so many times: a minute, more or less.
const ATTEMPTS_MAX: u32 = 8;

/// Sends spans to a collector.
pub struct Exporter {
    /// Where to.
    pub collector: Collector,
    /// How: not through this proxy.
    pub connector: Connector,
    /// Whose they are.
    pub source: otlp::Source,
    /// Who that is.
    pub tls: WorkloadTls,
    /// What becomes of them.
    pub counts: Arc<Counts>,
}

impl Exporter {
    /// Runs until the journal has ended, and what was in it is sent; that is tried once.
    pub async fn run(self, mut records: mpsc::Receiver<Arc<Record>>) {
        let (mut pending, mut connection, mut failures) = (Pending::default(), Connection::None, 0);
        let mut told = None;
        while pending.gather(&mut records).await {
            let sent = pending.next().len();
            match self.export(&mut connection, pending.next()).await {
                Exported::Taken { rejected, why } => {
                    self.count(sent as u64, rejected);
                    if failures > 0 {
                        info!(collector = %self.collector, "the trace collector takes spans again");
                    }
                    failures = 0;
                    self.refused(&mut told, why);
                    pending.taken();
                }
                Exported::Refused(error) => {
                    self.count(sent as u64, sent as u64);
                    failures = 0;
                    self.refused(&mut told, Some(format!("{error:#}")));
                    pending.taken();
                }
                Exported::Failed { error, blames } => {
                    if failures == 0 {
                        warn!(collector = %self.collector, error = %format_args!("{error:#}"), "the trace collector takes no spans; trying again");
                    }
                    if records.is_closed() {
                        let left = pending.batch.len() + records.len();
                        return self.count(left as u64, left as u64);
                    }
                    connection = Connection::None;
                    let given_up = pending.failed(blames);
                    self.count(given_up, given_up);
                    // New ones are counted while the old ones wait: whoever looks for a trace looks for the beginning of an outage.
                    self.pause(&mut records, backoff(failures, rand::random())).await;
                    failures += 1;
                }
            }
        }
    }

    /// Says so once, and again when it is for another reason.
    fn refused(&self, told: &mut Option<String>, why: Option<String>) {
        if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(why)) {
            warn!(collector = %self.collector, error = why, "the trace collector refuses spans");
        }
        *told = why;
    }

    /// Not longer than the journal is there.
    async fn pause(&self, records: &mut mpsc::Receiver<Arc<Record>>, pause: Duration) {
        let until_closed = async {
            while !records.is_closed() {
                sleep(GATHER).await;
            }
        };
        let _ = timeout(pause, until_closed).await;
    }

    fn count(&self, all: u64, rejected: u64) {
        self.counts.spans_exported.fetch_add(all - rejected, Ordering::Relaxed);
        self.counts.spans_dropped.fetch_add(rejected, Ordering::Relaxed);
    }
}

/// What is to be sent, and how much of it at once.
struct Pending {
    batch: Vec<Arc<Record>>,
    limit: usize,
    attempts: u32,
}

impl Default for Pending {
    fn default() -> Self {
        Self { batch: Vec::new(), limit: BATCH_MAX, attempts: 0 }
    }
}

impl Pending {
    /// Whether there is something to send, of which there is enough then, or has been no more for a while.
    async fn gather(&mut self, records: &mut mpsc::Receiver<Arc<Record>>) -> bool {
        if self.batch.is_empty() {
            if records.recv_many(&mut self.batch, BATCH_MAX).await == 0 {
                return false;
            }
            let until = Instant::now() + GATHER;
            while self.batch.len() < BATCH_MAX {
                let missing = BATCH_MAX - self.batch.len();
                // None are received, at once, when the journal has ended.
                match timeout_at(until, records.recv_many(&mut self.batch, missing)).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
        while self.batch.len() < BATCH_MAX
            && let Ok(record) = records.try_recv()
        {
            self.batch.push(record);
        }
        true
    }

    fn next(&self) -> &[Arc<Record>] {
        &self.batch[..self.limit.min(self.batch.len())]
    }

    /// The collector has what was next, or never will.
    fn taken(&mut self) {
        self.batch.drain(..self.limit.min(self.batch.len()));
        (self.limit, self.attempts) = ((self.limit * 2).min(BATCH_MAX), 0);
    }

    /// How many are given up.
    fn failed(&mut self, blames: Blames) -> u64 {
        match blames {
            Blames::Nobody => return 0,
            Blames::Batch => {}
            Blames::Size => self.limit = (self.limit.min(self.batch.len()) / 2).max(1),
        }
        self.attempts += 1;
        if self.attempts < ATTEMPTS_MAX {
            return 0;
        }
        let given_up = std::mem::take(self).batch.len();
        given_up as u64
    }
}

/// The pause after a number of failures in a row; `random` is below 1.
fn backoff(failures: u32, random: f64) -> Duration {
    (BACKOFF_MIN * 2_u32.saturating_pow(failures.min(16))).min(BACKOFF_MAX).mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(backoff(0, 0.0), BACKOFF_MIN / 2);
        assert_eq!(backoff(2, 1.0), BACKOFF_MIN * 4);
        assert_eq!(backoff(1000, 1.0), BACKOFF_MAX);
    }

    fn pending(spans: usize) -> Pending {
        let span = || Arc::new(super::super::tests::record());
        Pending { batch: std::iter::repeat_with(span).take(spans).collect(), ..Pending::default() }
    }

    #[test]
    fn what_is_too_much_is_halved_until_it_is_not() {
        let mut pending = pending(256);
        for left in [128, 64] {
            assert_eq!((pending.failed(Blames::Size), pending.next().len()), (0, left));
        }
        pending.taken();
        assert_eq!((pending.batch.len(), pending.next().len(), pending.attempts), (192, 128, 0));
    }

    #[test]
    fn a_batch_that_is_never_taken_is_given_up_unless_nobody_is_there() {
        let mut pending = pending(3);
        for _ in 0..100 {
            assert_eq!(pending.failed(Blames::Nobody), 0);
        }
        let given_up: Vec<_> = (0..ATTEMPTS_MAX).map(|_| pending.failed(Blames::Batch)).collect();
        assert_eq!(given_up, [0, 0, 0, 0, 0, 0, 0, 3]);
        assert!(pending.batch.is_empty());
    }

    /// Those that come while others are waited for go with them, and nothing is waited for when there are enough.
    #[test]
    fn a_batch_that_is_full_waits_no_longer() {
        crate::app::runtime().unwrap().block_on(async {
            let (sender, mut records) = mpsc::channel(1024);
            let (started, span) = (Instant::now(), Arc::new(super::super::tests::record()));
            sender.try_send(span.clone()).unwrap();
            let feeder = tokio::task::spawn_local(async move {
                tokio::task::yield_now().await;
                (0..1000).for_each(|_| sender.try_send(span.clone()).unwrap());
                sender
            });
            let mut pending = Pending::default();
            assert!(pending.gather(&mut records).await);
            assert_eq!((pending.batch.len(), records.len()), (BATCH_MAX, 1001 - BATCH_MAX));
            assert!(started.elapsed() < GATHER);
            drop(feeder.await.unwrap());
            for left in [489, 233, 0] {
                pending.taken();
                assert!(pending.gather(&mut records).await);
                assert_eq!(records.len(), left);
            }
            pending.taken();
            assert!(!pending.gather(&mut records).await);
            assert!(started.elapsed() < GATHER);
        });
    }
}

//! Says when a request is due.

use std::{
    io,
    thread::{Builder, JoinHandle, sleep},
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{sync::mpsc, time::Instant};

use super::{histogram, record};

/// Sends the moment at which each request is due, when it has come; ends after `length`, and returns how late it was.
///
/// A thread, because the runtime's timer is only good to a millisecond, which is more than what is measured; the kernel's
/// is good to some fifty microseconds.
pub(super) fn start(
    start: Instant,
    rate: f64,
    length: Duration,
    queue: mpsc::Sender<Instant>,
) -> io::Result<JoinHandle<Histogram<u64>>> {
    Builder::new().name("pacer".to_owned()).spawn(move || {
        let mut lateness = histogram();
        for due in schedule(rate, length) {
            let due = start + due;
            sleep(due.saturating_duration_since(Instant::now()));
            record(&mut lateness, due.elapsed());
            if queue.blocking_send(due).is_err() {
                break;
            }
        }
        lateness
    })
}

/// When each request is due, from the start. Computed from its number, so that no error adds up.
fn schedule(rate: f64, length: Duration) -> impl Iterator<Item = Duration> {
    let count = (rate * length.as_secs_f64()).round() as u64;
    (0..count).map(move |number| Duration::from_secs_f64(number as f64 / rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_evenly_spread() {
        let all: Vec<_> = schedule(1000.0, Duration::from_secs(30)).collect();
        assert_eq!(all.len(), 30_000);
        assert_eq!(all[0], Duration::ZERO);
        assert_eq!(all[29_999], Duration::from_micros(29_999_000));
        assert_eq!(schedule(0.5, Duration::from_secs(4)).collect::<Vec<_>>(), [0, 2].map(Duration::from_secs));
    }
}

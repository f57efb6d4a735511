//! Responses by HTTP status, in a few hundred bytes: a service answers with a handful of the nine hundred that there could be.

use std::sync::atomic::{AtomicU16, Ordering};

use super::Counter;

/// Statuses that are told apart, besides 200, 300 and so on. Past it a status is counted as the first one of its class.
const TOLD_APART_MAX: usize = 22;

/// Written by one thread.
#[derive(Default)]
pub struct Statuses {
    /// 0 (not a status), 100, 200 ... 900 (RFC 9110 section 15 leaves 600 to 999 undefined; servers send them all the same).
    classes: [Counter; 10],
    others: [(AtomicU16, Counter); TOLD_APART_MAX],
}

impl Statuses {
    /// Counts.
    pub fn add(&self, status: u16) {
        let class = &self.classes[usize::from(status / 100).min(9)];
        if status.is_multiple_of(100) {
            return class.add(1);
        }
        for (known, count) in &self.others {
            let slot = known.load(Ordering::Relaxed);
            if slot == 0 {
                known.store(status, Ordering::Relaxed);
            } else if slot != status {
                continue;
            }
            return count.add(1);
        }
        class.add(1);
    }

    /// What was counted.
    pub fn counts(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let classes = self.classes.iter().zip(0..).map(|(count, class)| (class * 100, count.value()));
        classes.chain(self.others.iter().map(|(status, count)| (status.load(Ordering::Relaxed), count.value())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(statuses: impl Iterator<Item = u16>) -> Vec<(u16, u64)> {
        let counters = Statuses::default();
        statuses.for_each(|status| counters.add(status));
        let mut counted: Vec<_> = counters.counts().filter(|(_, count)| *count > 0).collect();
        counted.sort_unstable();
        counted
    }

    #[test]
    fn statuses_are_told_apart() {
        let sent = [200, 204, 404, 200, 503, 500, 404, 200, 999].into_iter();
        assert_eq!(counted(sent), [(200, 3), (204, 1), (404, 2), (500, 1), (503, 1), (999, 1)]);
    }

    #[test]
    fn none_is_lost_however_many_there_are() {
        let counted = counted(100..=999);
        assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>(), 900);
        assert_eq!(counted.iter().find(|(status, _)| *status == 500), Some(&(500, 100)));
        assert_eq!(counted.len(), 9 + TOLD_APART_MAX);
    }
}

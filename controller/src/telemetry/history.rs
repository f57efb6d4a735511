//! What one proxy has told this replica: slots that get longer as they get older, and when that was. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use conduit_api::{
    latency::Latencies,
    proto::telemetry::ReportRequest,
    window::{SLOT, TIERS, WINDOW_MAX},
};
use tokio::time::Instant;

use super::{
    Reporter,
    block::{Block, Sums},
    counts::{Counts, Tcp},
    names::{Link, NAMES_MAX, Name, Names, Requests},
    paths::Path,
    select::Tellers,
    slots::Now,
    spans::Spans,
};

/// How many connections are open is told at least every ten seconds: what was said earlier is of a proxy that has gone.
const OPEN_FOR: Duration = Duration::from_secs(15);
/// What there is of a slot besides its rows, and of a history: their places, and what the allocator needs.
const SLOT_SIZE: usize = 80;
const HISTORY_SIZE: usize = 512;

/// What is told apart in one slot may take more than a share, but not so many times as much.
const SHARES_MAX: usize = 4;
/// Reports that another replica may have added as well: one for each time that a replica did not say that it took one. Past it the oldest is taken for
/// what this one alone has.
const REPEATED_MAX: usize = 16;

/// One proxy's counts. A clone shares them.
#[derive(Clone, Debug)]
pub struct History {
    reporter: Arc<Reporter>,
    names: Arc<Names>,
    /// The oldest first; those without counts are not there.
    slots: VecDeque<Slot>,
    /// How many connections are open, and who has said so when.
    open: BTreeMap<u32, (u64, Instant)>,
    /// Reports that are not in the slots, because another replica may have them too. The oldest first.
    repeated: VecDeque<Repeated>,
    /// The last report: its incarnation and sequence, and when it came.
    last: (u64, u64),
    heard: Instant,
    /// When the last one came that had something to tell.
    counted: Instant,
    spans: Spans,
    /// The memory that has what came before the last of these.
    kept_by: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    start: Instant,
    counts: Block,
    /// It has been made of others, or has become long by itself.
    is_long: bool,
}

/// A report that another replica may have added.
#[derive(Clone, Debug)]
struct Repeated {
    /// Its incarnation and sequence.
    id: (u64, u64),
    /// Of its slot.
    start: Instant,
    counts: Block,
}

impl History {
    /// Without any counts yet.
    pub fn new(reporter: Arc<Reporter>, now: Now) -> Self {
        Self {
            reporter,
            names: Arc::default(),
            slots: VecDeque::new(),
            open: BTreeMap::new(),
            repeated: VecDeque::new(),
            last: (0, 0),
            heard: now.monotonic,
            counted: now.monotonic,
            spans: Spans::default(),
            kept_by: 0,
        }
    }

    /// Whose it is.
    pub fn reporter(&self) -> &Arc<Reporter> {
        &self.reporter
    }

    /// Whether it is one of those.
    pub fn is_of(&self, tellers: Tellers<'_>) -> bool {
        tellers.has(&self.reporter.pod, self.reporter.workload.as_ref())
    }

    /// What is known of whose it is, now.
    ///
    /// A proxy may say something when its pod is no longer known: what it has counted goes on being its workload's.
    pub fn know(&mut self, reporter: Reporter) {
        if *self.reporter != reporter && (reporter.is_known || !self.reporter.is_known) {
            self.reporter = Arc::new(reporter);
        }
    }

    /// When its proxy was heard last.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// When that had something to tell.
    pub fn counted(&self) -> Instant {
        self.counted
    }

    /// Whether there is anything to be added up.
    pub fn has_counts(&self) -> bool {
        !(self.slots.is_empty() && self.repeated.is_empty() && self.open.is_empty())
    }

    /// The name of a number.
    pub fn name(&self, number: u32) -> Option<&Name> {
        self.names.name(number)
    }

    /// Names, of numbers from zero on.
    pub fn names(&self) -> usize {
        self.names.count()
    }

    /// Adds a report, and says how many of its rows had names that there was no room for; none when it was added before.
    pub fn report(&mut self, now: Now, report: ReportRequest) -> Option<u64> {
        let sent = (report.incarnation, report.sequence);
        if self.last.0 == sent.0 && sent.1 <= self.last.1 {
            return None;
        }
        let heard_of = report.since_previous_ms.unwrap_or(report.interval_ms);
        if !self.spans.add(now, sent, Duration::from_millis(heard_of.into())) {
            self.kept_by = report.previous_memory;
        }
        if self.last.0 != sent.0 {
            self.open.clear();
        }
        (self.last, self.heard) = (sent, now.monotonic);
        if report.requests.is_empty() && report.tcp.is_empty() && report.paths.is_empty() {
            return Some(0);
        }
        self.counted = now.monotonic;
        // Before names get numbers for this report: those that nothing is counted under are forgotten.
        if !self.slots.back().is_some_and(|last| now.is_in(last.start)) {
            self.tidy(now);
            // Not with each report: it looks through everything.
            if self.names.is_full() {
                self.forget_names(self.names.count() / 2);
            }
        }
        let is_repeated = report.is_repeated;
        let (rows, crowded) = self.rows(now, report);
        if is_repeated {
            self.repeat(now, sent, rows);
        } else {
            self.add(now, rows);
        }
        Some(crowded)
    }

    fn repeat(&mut self, now: Now, id: (u64, u64), rows: BTreeMap<u32, Sums>) {
        if rows.is_empty() {
            return;
        }
        self.repeated.push_back(Repeated { id, start: now.slot_start(), counts: Block::of(&rows) });
        if self.repeated.len() <= REPEATED_MAX {
            return;
        }
        let Some(Repeated { start, counts, .. }) = self.repeated.pop_front() else { return };
        let at = self.slots.partition_point(|slot| slot.start < start);
        match self.slots.get_mut(at) {
            Some(slot) if slot.start == start => {
                let mut rows = BTreeMap::new();
                [&slot.counts, &counts].into_iter().for_each(|counts| counts.add_to(&mut rows, |number| number));
                slot.counts = Block::of(&rows);
            }
            _ => self.slots.insert(at, Slot { start, counts, is_long: false }),
        }
    }

    fn rows(&mut self, now: Now, report: ReportRequest) -> (BTreeMap<u32, Sums>, u64) {
        let (mut rows, mut crowded) = (BTreeMap::<u32, Sums>::new(), 0);
        let mut open = BTreeMap::<u32, u64>::new();
        for counts in report.requests {
            let parsed = Counts::of(&counts);
            let link = Link::of_requests(&counts).map(Name::Link);
            for name in [Name::Requests(Requests::of(&counts))].into_iter().chain(link) {
                rows.entry(self.number(name, &mut crowded)).or_default().requests.merge(&parsed);
            }
        }
        for (path, counts) in report.paths.into_iter().flat_map(Path::rows) {
            rows.entry(self.number(Name::Path(path), &mut crowded)).or_default().requests.merge(&counts);
        }
        for counts in report.tcp {
            let number = self.number(Name::Link(Link::of_connections(&counts)), &mut crowded);
            let (read_bytes, write_bytes) = (counts.read_bytes, counts.write_bytes);
            if read_bytes | write_bytes > 0 {
                rows.entry(number).or_default().tcp.merge(&Tcp { open: 0, read_bytes, write_bytes });
            }
            // Several links are one when there is no room for their names.
            let sum = open.entry(number).or_default();
            *sum = sum.saturating_add(counts.open);
        }
        self.open.extend(open.into_iter().map(|(number, count)| (number, (count, now.monotonic))));
        (rows, crowded)
    }

    fn number(&mut self, name: Name, crowded: &mut u64) -> u32 {
        if let Some(number) = self.names.known(&name) {
            return number;
        }
        let (number, is_other) = Arc::make_mut(&mut self.names).learn(name);
        *crowded += u64::from(is_other);
        number
    }

    fn add(&mut self, now: Now, mut rows: BTreeMap<u32, Sums>) {
        if rows.is_empty() {
            return;
        }
        match self.slots.back_mut() {
            Some(last) if now.is_in(last.start) => {
                last.counts.add_to(&mut rows, |number| number);
                last.counts = Block::of(&rows);
            }
            _ => self.slots.push_back(Slot { start: now.slot_start(), counts: Block::of(&rows), is_long: false }),
        }
    }

    /// Adds slots that have become old to longer ones, and forgets those that nobody may ask for any more.
    pub fn tidy(&mut self, now: Now) {
        let coarsest = TIERS[TIERS.len() - 1].length;
        let is_kept = |slot: &Slot| now.since(slot.start) <= WINDOW_MAX + coarsest;
        let of = |slot: &Slot| now.slot_of(now.date(slot.start));
        let before = self.slots.len();
        let slots: Vec<_> = std::mem::take(&mut self.slots).into_iter().filter(is_kept).collect();
        // One that is half of a slot after another does not begin with it: clocks are set.
        let together = |a: &Slot, b: &Slot| of(a) == of(b) && of(a).1 > SLOT.as_millis() as u64;
        for group in slots.chunk_by(together) {
            let is_long = of(&group[0]).1 > SLOT.as_millis() as u64;
            let counts = if let [only] = group
                && only.is_long == is_long
            {
                only.counts.clone()
            } else {
                let mut rows = BTreeMap::new();
                group.iter().for_each(|slot| slot.counts.add_to(&mut rows, |number| number));
                self.forget_latencies_of_links(&mut rows);
                Block::of(&rows)
            };
            self.slots.push_back(Slot { start: group[0].start, counts, is_long });
        }
        self.open.retain(|_, (_, told)| now.since(*told) <= OPEN_FOR);
        self.repeated.retain(|report| now.since(report.start) <= WINDOW_MAX + coarsest);
        if self.slots.len() < before {
            self.forget_names(NAMES_MAX);
        }
    }

    /// Pairs of pods are many, and what requests between them took is told by their workloads as well.
    fn forget_latencies_of_links(&self, rows: &mut BTreeMap<u32, Sums>) {
        for (number, sums) in rows {
            if let Some(Name::Link(_)) = self.names.name(*number) {
                sums.requests.latencies = Latencies::default();
            }
        }
    }

    /// Forgets names that nothing is counted under any more, and all but `most` of the others, those that were used last.
    fn forget_names(&mut self, most: usize) {
        let mut used = vec![0_usize; self.names.count()];
        for (age, slot) in (1..).zip(&self.slots) {
            slot.counts.rows().for_each(|(number, _)| used[number as usize] = age);
        }
        let repeated = self.repeated.iter().flat_map(|report| report.counts.rows());
        repeated.for_each(|(number, _)| used[number as usize] = self.slots.len() + 1);
        self.open.keys().for_each(|number| used[*number as usize] = usize::MAX);
        let mut by_age: Vec<_> = (0..used.len()).filter(|number| used[*number] > 0).collect();
        if by_age.len() == used.len() && used.len() <= most {
            return;
        }
        by_age.sort_by_key(|number| std::cmp::Reverse(used[*number]));
        let mut is_kept = vec![false; used.len()];
        by_age.into_iter().take(most).for_each(|number| is_kept[number] = true);
        let (names, numbers) = self.names.retain(|number| is_kept[number as usize], |number| used[number as usize] > 0);
        let renamed = |number: u32| numbers[number as usize];
        let slots = self.slots.iter_mut().map(|slot| &mut slot.counts);
        for counts in slots.chain(self.repeated.iter_mut().map(|report| &mut report.counts)) {
            let mut rows = BTreeMap::new();
            counts.add_to(&mut rows, renamed);
            *counts = Block::of(&rows);
        }
        let mut open = BTreeMap::new();
        for (number, (count, told)) in std::mem::take(&mut self.open) {
            let (sum, last) = open.entry(renamed(number)).or_insert((0_u64, told));
            (*sum, *last) = (sum.saturating_add(count), told.max(*last));
        }
        (self.open, self.names) = (open, Arc::new(names));
    }

    /// Forgets the oldest slots until it takes no more than `size`, but the last one; all that was counted, if that takes [`SHARES_MAX`] times as much.
    pub fn shrink(&mut self, size: usize) {
        let mut rest = self.size();
        if rest <= size {
            return;
        }
        while rest > size
            && let Some((oldest, newest)) = self.begins().min().zip(self.begins().max())
            && oldest + SLOT / 2 < newest
        {
            rest -= self.forget_slot(oldest);
        }
        self.forget_names(NAMES_MAX);
        if self.size() > size.saturating_mul(SHARES_MAX) {
            self.slots.clear();
            self.repeated.clear();
            self.open.clear();
            self.names = Arc::default();
        }
        let known_from = self.begins().min().unwrap_or(self.heard);
        self.spans.forget(known_from);
    }

    /// When what is kept began.
    fn begins(&self) -> impl Iterator<Item = Instant> {
        self.slots.iter().map(|slot| slot.start).chain(self.repeated.iter().map(|report| report.start))
    }

    /// Forgets what began at `start` or just after it, as clocks tell it, and says how many bytes that was. What another replica may have too goes with the rest: the numbers of its reports
    /// must not be known here any longer than they are.
    fn forget_slot(&mut self, start: Instant) -> usize {
        let before = self.size();
        self.slots.retain(|slot| slot.start > start + SLOT / 2);
        self.repeated.retain(|report| report.start > start + SLOT / 2);
        before - self.size()
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        let slots = self.slots.iter().map(|slot| &slot.counts).chain(self.repeated.iter().map(|report| &report.counts));
        let slots: usize = slots.map(|counts| counts.size() + SLOT_SIZE).sum();
        HISTORY_SIZE + slots + self.spans.size() + self.names.size() + self.open.len() * 48
    }

    /// Slots, from the first that begins at `from` or later: when, by the clock as it is now, and what was counted.
    pub fn slots(&self, now: Now, from: u64) -> impl Iterator<Item = (u64, &Block)> {
        let dated = self.slots.iter().rev().map(move |slot| (now.date(slot.start), &slot.counts));
        dated.take_while(move |(date, _)| *date >= from)
    }

    /// The same of reports that another replica may have too, each with its incarnation and sequence.
    pub fn repeated(&self, now: Now, from: u64) -> impl Iterator<Item = ((u64, u64), u64, &Block)> {
        let dated = self.repeated.iter().map(move |report| (report.id, now.date(report.start), &report.counts));
        dated.filter(move |(_, date, _)| *date >= from)
    }

    /// When it was heard.
    pub fn spans(&self) -> &Spans {
        &self.spans
    }

    /// The memory that has what came before it was last heard without a gap, as it says; 0 if it does not.
    pub fn kept_by(&self) -> u64 {
        self.kept_by
    }

    /// Whether it was not heard of for so long that it may be speaking to another replica: if it has open connections, it tells of these.
    pub fn is_quiet(&self, now: Now) -> bool {
        now.since(self.heard) > OPEN_FOR
    }

    /// How many connections are open now, by name.
    pub fn open(&self, now: Now) -> impl Iterator<Item = (u32, u64)> {
        let recent = self.open.iter().filter(move |(_, (_, told))| now.since(*told) <= OPEN_FOR);
        recent.map(|(number, (count, _))| (*number, *count))
    }
}

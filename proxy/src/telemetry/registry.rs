//! Counters by label set: looked up once, then written by one thread, and added up when somebody asks.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Direction;

/// Label sets of one kind and direction in one proxy. Past it, what is new is counted under [`LabelSet::past_the_budget`]: a caller that
/// makes names up must not fill the memory of everybody who looks at metrics, nor hide what the application itself asks for.
pub const LABEL_SETS_MAX: usize = 1000;
/// Those past it that are told apart by what nobody makes up: the services and routes of a client, of which a hundred are many, on each thread.
const CONFIGURED_MAX: usize = 500;

/// What is counted together.
pub trait LabelSet: Clone + Ord + Hash {
    /// Whose budget it is of.
    fn direction(&self) -> Direction;

    /// What it is counted as when there are too many. Of these there are few.
    #[must_use]
    fn past_the_budget(&self) -> Self;

    /// What it is counted as before that, as long as there is room for it: by what comes from configuration, and is no more than that.
    #[must_use]
    fn configured(&self) -> Self {
        self.past_the_budget()
    }
}

/// The counters of all threads; clones are the same.
pub struct Registry<L, C> {
    all: Arc<Mutex<All<L, C>>>,
}

struct All<L, C> {
    registered: Vec<Registered<L, C>>,
    /// How many of them there are.
    inbound: usize,
    outbound: usize,
}

/// The counters of one label set in one thread.
type Registered<L, C> = (L, Arc<C>);

impl<L, C> Clone for Registry<L, C> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone() }
    }
}

impl<L, C> Default for Registry<L, C> {
    fn default() -> Self {
        Self { all: Arc::new(Mutex::new(All { registered: Vec::new(), inbound: 0, outbound: 0 })) }
    }
}

impl<L, C> All<L, C> {
    fn known(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }
}

impl<L: LabelSet, C: Default> Registry<L, C> {
    /// One thread's view.
    pub fn thread(&self) -> ThreadRegistry<L, C> {
        ThreadRegistry { shared: self.clone(), own: RefCell::default() }
    }

    /// The sums over all threads, each made by `add`.
    pub fn sums<T: Default>(&self, add: impl Fn(&C, &mut T)) -> BTreeMap<L, T> {
        let mut sums: BTreeMap<L, T> = BTreeMap::new();
        for (labels, counters) in &self.locked().registered {
            add(counters, sums.entry(labels.clone()).or_default());
        }
        sums
    }

    fn locked(&self) -> MutexGuard<'_, All<L, C>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counters of one data thread.
pub struct ThreadRegistry<L, C> {
    shared: Registry<L, C>,
    own: RefCell<HashMap<L, Arc<C>>>,
}

impl<L: LabelSet, C: Default> ThreadRegistry<L, C> {
    /// The counters for `labels`.
    pub fn counters(&self, labels: &L) -> Arc<C> {
        if let Some(counters) = self.own.borrow().get(labels) {
            return counters.clone();
        }
        let labels = self.within_the_budget(labels);
        let register = |labels: &L| {
            let counters = Arc::<C>::default();
            let mut all = self.shared.locked();
            *all.known(labels.direction()) += 1;
            all.registered.push((labels.clone(), counters.clone()));
            counters
        };
        self.own.borrow_mut().entry(labels).or_insert_with_key(register).clone()
    }

    fn within_the_budget(&self, labels: &L) -> L {
        let known = *self.shared.locked().known(labels.direction());
        if known < LABEL_SETS_MAX {
            return labels.clone();
        }
        let configured = labels.configured();
        if known < LABEL_SETS_MAX + CONFIGURED_MAX || self.own.borrow().contains_key(&configured) {
            return configured;
        }
        labels.past_the_budget()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Labels, Meant, OTHER, Telemetry, tests::labels};

    #[test]
    fn names_made_up_do_not_fill_the_memory() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        for i in 0..5 * LABEL_SETS_MAX {
            thread.requests(&labels(&format!("made-up-{i}"))).requests.add(1);
        }
        let totals = telemetry.requests();
        assert!(totals.len() <= LABEL_SETS_MAX + 1, "{}", totals.len());
        assert_eq!(totals.values().map(|totals| totals.requests).sum::<u64>(), 5 * LABEL_SETS_MAX as u64);
        assert!(totals[&labels(OTHER)].requests >= 4 * LABEL_SETS_MAX as u64);
    }

    /// Whoever makes names up must not hide what the application itself asks for.
    #[test]
    fn what_callers_make_up_is_not_of_the_same_budget() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        for i in 0..2 * LABEL_SETS_MAX {
            thread.requests(&labels(&format!("made-up-{i}"))).requests.add(1);
        }
        let asked = Labels { direction: Direction::Outbound, ..labels("payments.example.com") };
        thread.requests(&asked).requests.add(1);
        assert_eq!(telemetry.requests()[&asked].requests, 1);
    }

    /// Whoever makes names up must not hide how routes fare.
    #[test]
    fn past_the_budget_services_and_routes_are_told_apart() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        for i in 0..3 * LABEL_SETS_MAX {
            let meant = Meant { name: "web".into(), route: format!("route-{}", i % 3), ..Meant::default() };
            let backend = Some(("shop".to_owned(), "web".to_owned()));
            let meant = Some(Arc::new(meant));
            thread.requests(&Labels { meant, backend, ..labels(&format!("made-up-{i}")) }).requests.add(1);
        }
        let totals = telemetry.requests();
        let by_route = |route: &str| {
            let of_route = |labels: &Labels| labels.meant.as_ref().is_some_and(|meant| meant.route == route);
            let totals = totals.iter().filter(|(labels, _)| of_route(labels));
            totals.map(|(_, totals)| totals.requests).sum::<u64>()
        };
        assert_eq!(["route-0", "route-1", "route-2", OTHER].map(by_route), [1000, 1000, 1000, 0]);
        assert_eq!(totals.len(), LABEL_SETS_MAX + 3);
    }

    /// What fails must not go unnoticed because there is much of it.
    #[test]
    fn what_is_past_the_budget_is_said_to_be_for_some_service() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        for i in 0..LABEL_SETS_MAX + CONFIGURED_MAX + 7 {
            let meant = Some(Arc::new(Meant { name: format!("service-{i}"), ..Meant::default() }));
            let backend = Some(("shop".to_owned(), format!("service-{i}")));
            thread.requests(&Labels { meant, backend, ..labels("web") }).fail(503);
        }
        let of_some = |labels: &Labels| labels.meant.as_ref().is_some_and(|meant| meant.name == OTHER);
        let totals = telemetry.requests();
        let (labels, other) = totals.iter().find(|(labels, _)| of_some(labels)).unwrap();
        assert_eq!((other.requests, &labels.meant.as_ref().unwrap().route[..]), (7, OTHER));
        assert_eq!(labels.backend, Some((String::new(), OTHER.to_owned())));
    }
}

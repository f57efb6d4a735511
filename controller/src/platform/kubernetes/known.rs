//! What is known of the objects of one kind, by what a watch tells. Pure.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// Looks in a row, a minute from one to the next and with no other error in between, after which it is believed that there are no objects because
/// there is no such kind.
const MISSED_BELIEVED: usize = 2;

/// All objects of one kind that are known.
pub struct Known<K, V> {
    /// By their names.
    pub objects: BTreeMap<K, V>,
    /// What a list has brought so far.
    listing: Option<BTreeMap<K, V>>,
    /// A list was complete, once.
    pub is_listed: bool,
    /// There may be nothing. A cluster that says so of other kinds has failed to say which it has.
    may_be_none: bool,
    /// The last list had none.
    pub has_none: bool,
}

/// What an event has brought.
pub struct News<K, V> {
    /// The objects that are otherwise now, or gone, and what they were, of those that were there.
    pub objects: Vec<(K, Option<V>)>,
    /// Whether there is anything: also that objects of this kind were listed at all, or are not missing any more.
    pub is_any: bool,
}

impl<K, V> News<K, V> {
    /// Nothing.
    pub fn none() -> Self {
        Self { objects: Vec::new(), is_any: false }
    }

    fn of(key: K, before: Option<V>) -> Self {
        Self { objects: vec![(key, before)], is_any: true }
    }
}

impl<K: Ord + Clone, V: PartialEq> Known<K, V> {
    /// Nothing yet, of a kind that every cluster has.
    pub fn new() -> Self {
        Self { objects: BTreeMap::new(), listing: None, is_listed: false, may_be_none: false, has_none: false }
    }

    /// Nothing yet, of a kind of which there may be nothing.
    pub fn perhaps_none() -> Self {
        Self { may_be_none: true, ..Self::new() }
    }

    /// That there are none, whatever was told.
    pub fn none() -> Self {
        Self { is_listed: true, ..Self::perhaps_none() }
    }

    /// Takes over what has happened to the object of which `read` tells the name, and what is known of it, unless it is none of ours.
    pub fn observe<O>(&mut self, event: Event<O>, read: impl Fn(O) -> Option<(K, Option<V>)>) -> News<K, V> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                News::none()
            }
            Event::InitApply(object) => {
                if let (Some((key, Some(value))), Some(listing)) = (read(object), &mut self.listing) {
                    listing.insert(key, value);
                }
                News::none()
            }
            Event::InitDone => self.listed(),
            Event::Apply(object) => match read(object) {
                Some((key, Some(value))) => {
                    let is_new = self.objects.get(&key) != Some(&value);
                    let is_any = std::mem::take(&mut self.has_none) || is_new;
                    let before = self.objects.insert(key.clone(), value);
                    let objects = if is_new { vec![(key, before)] } else { Vec::new() };
                    News { objects, is_any }
                }
                Some((key, None)) => self.remove(key),
                None => News::none(),
            },
            Event::Delete(object) => match read(object) {
                Some((key, _)) => self.remove(key),
                None => News::none(),
            },
        }
    }

    /// That there is no such object any more.
    pub fn remove(&mut self, key: K) -> News<K, V> {
        match self.objects.remove(&key) {
            Some(before) => News::of(key, Some(before)),
            None => News::none(),
        }
    }

    /// The list is complete.
    fn listed(&mut self) -> News<K, V> {
        let listed = self.listing.take().unwrap_or_default();
        let had_none = std::mem::replace(&mut self.has_none, listed.is_empty());
        if listed.is_empty() && !self.may_be_none {
            return News::none();
        }
        let first = !std::mem::replace(&mut self.is_listed, true);
        let before = std::mem::replace(&mut self.objects, listed);
        let new: Vec<_> = self.objects.keys().filter(|key| !before.contains_key(key)).cloned().collect();
        let otherwise = before.into_iter().filter(|(key, value)| self.objects.get(key) != Some(value));
        let objects: Vec<_> = otherwise.map(|(key, value)| (key, Some(value))).collect();
        let objects: Vec<_> = objects.into_iter().chain(new.into_iter().map(|key| (key, None))).collect();
        News { is_any: first || had_none || !objects.is_empty(), objects }
    }
}

/// All objects that are known of a kind which a cluster may lack.
pub struct Perhaps<K, V> {
    known: Known<K, V>,
    /// How often in a row it was said that there is no such kind.
    missed: usize,
}

impl<K: Ord + Clone, V: PartialEq> Perhaps<K, V> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { known: Known::perhaps_none(), missed: 0 }
    }

    /// As [`Known::observe`]; whether anything is otherwise now.
    pub fn observe<O>(&mut self, event: Event<O>, read: impl Fn(O) -> Option<(K, Option<V>)>) -> bool {
        // That a list is asked for is no answer.
        if !matches!(event, Event::Init) {
            self.missed = 0;
        }
        self.known.observe(event, read).is_any
    }

    /// Nobody could say anything of them.
    pub fn untold(&mut self) {
        self.missed = 0;
    }

    /// The cluster does not know this kind, and has said so in all that it says of itself; whether anything is otherwise now.
    pub fn missing(&mut self) -> bool {
        self.missed = self.missed.saturating_add(1);
        let is_new = self.missed == MISSED_BELIEVED;
        if is_new {
            self.known = Known::none();
        }
        is_new
    }

    /// By their names.
    pub fn objects(&self) -> &BTreeMap<K, V> {
        &self.known.objects
    }

    /// Whether there are just these.
    pub fn is_listed(&self) -> bool {
        self.known.is_listed
    }
}

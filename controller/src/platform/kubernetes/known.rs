//! What is known of the objects of one kind, by what a watch tells. Pure.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

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

impl<K: Ord, V: PartialEq> Known<K, V> {
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

    /// Takes over what has happened to the object of which `read` tells the name, and what is known of it, unless it is none of ours;
    /// whether anything is otherwise now.
    pub fn observe<O>(&mut self, event: Event<O>, read: impl Fn(O) -> Option<(K, Option<V>)>) -> bool {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                if let (Some((key, Some(value))), Some(listing)) = (read(object), &mut self.listing) {
                    listing.insert(key, value);
                }
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let had_none = std::mem::replace(&mut self.has_none, listed.is_empty());
                if listed.is_empty() && !self.may_be_none {
                    return false;
                }
                let first = !std::mem::replace(&mut self.is_listed, true);
                let is_new = first || had_none || listed != self.objects;
                self.objects = listed;
                return is_new;
            }
            Event::Apply(object) => match read(object) {
                Some((key, Some(value))) => {
                    let is_new = self.objects.get(&key) != Some(&value) || self.has_none;
                    self.has_none = false;
                    self.objects.insert(key, value);
                    return is_new;
                }
                Some((key, None)) => return self.objects.remove(&key).is_some(),
                None => {}
            },
            Event::Delete(object) => {
                if let Some((key, _)) = read(object) {
                    return self.objects.remove(&key).is_some();
                }
            }
        }
        false
    }
}

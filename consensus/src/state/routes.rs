//! What people have configured, and what it was before: enough to show what changed, and to take it back.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use conduit_api::{HttpRoute, Revision, RouteName, RouteTable, ServiceName};
use serde::{Deserialize, Serialize};

use super::{Section, Versioned, section};

/// How many changes can be taken back: as many as the audit tells of. A route has some seventy kilobytes at most, and an ordinary one
/// a few hundred bytes.
const HISTORY_MAX: usize = super::AUDIT_MAX;

/// All routes as they are, and as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Routes {
    current: Section<RouteName, HttpRoute>,
    /// Oldest first.
    past: Arc<VecDeque<Past>>,
    /// What was before this is not remembered.
    since: Revision,
}

/// What a route was before the change at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Past {
    until: Revision,
    name: RouteName,
    before: Option<Arc<Versioned<HttpRoute>>>,
}

impl Routes {
    /// Nothing of another state's past can be taken back here.
    pub(super) fn restored(at: Revision, backup: &Self) -> Self {
        let routes = backup.current.values().map(|route| route.value.clone());
        Self { current: section(at, routes, |route| route.name.clone()), past: Arc::default(), since: at }
    }

    pub(super) fn current(&self) -> &BTreeMap<RouteName, Arc<Versioned<HttpRoute>>> {
        &self.current
    }

    /// All that there are, and all that there were.
    pub(super) fn all(&self) -> impl Iterator<Item = &HttpRoute> {
        let past = self.past.iter().filter_map(|past| past.before.as_ref());
        self.current.values().chain(past).map(|route| &route.value)
    }

    /// Sets or removes a route; the services whose requests it has routed or routes now, `None` when it is so already.
    pub(super) fn set(
        &mut self,
        at: Revision,
        name: RouteName,
        route: Option<HttpRoute>,
    ) -> Option<BTreeSet<ServiceName>> {
        let before = self.current.get(&name).cloned();
        if before.as_ref().map(|before| &before.value) == route.as_ref() {
            return None;
        }
        let concerned = before.iter().map(|before| &before.value).chain(&route).flat_map(|route| &route.parents);
        let concerned = concerned.map(|parent| parent.service.clone()).collect();
        let current = Arc::make_mut(&mut self.current);
        match route {
            Some(value) => drop(current.insert(name.clone(), Arc::new(Versioned { version: at, value }))),
            None => drop(current.remove(&name)),
        }
        let past = Arc::make_mut(&mut self.past);
        past.push_back(Past { until: at, name, before });
        // What one revision changed is forgotten together.
        while past.len() > HISTORY_MAX || past.front().is_some_and(|oldest| oldest.until <= self.since) {
            self.since = past.pop_front().map_or(self.since, |oldest| self.since.max(oldest.until));
        }
        Some(concerned)
    }

    /// The routes as they were at `revision`, which is not after the last one; `None` when that is not remembered.
    pub(super) fn at(&self, revision: Revision) -> Option<BTreeMap<RouteName, HttpRoute>> {
        if revision < self.since {
            return None;
        }
        let mut routes: BTreeMap<_, _> = self.current.iter().map(|(name, route)| (name, &route.value)).collect();
        for past in self.past.iter().rev().take_while(|past| past.until > revision) {
            match &past.before {
                Some(before) => drop(routes.insert(&past.name, &before.value)),
                None => drop(routes.remove(&past.name)),
            }
        }
        Some(routes.into_iter().map(|(name, route)| (name.clone(), route.clone())).collect())
    }

    /// For the requests of `service`; `None` when no route is about them.
    pub(super) fn table(&self, service: &ServiceName) -> Option<Arc<RouteTable>> {
        let about = |route: &&HttpRoute| route.parents.iter().any(|parent| parent.service == *service);
        let mut routes = self.current.values().map(|route| &route.value).filter(about).peekable();
        routes.peek()?;
        Some(Arc::new(RouteTable::new(service, routes)))
    }

    /// For the requests of all services.
    pub(super) fn tables(&self) -> BTreeMap<ServiceName, Arc<RouteTable>> {
        let parents = self.current.values().flat_map(|route| &route.value.parents).map(|parent| &parent.service);
        let parents: BTreeSet<_> = parents.collect();
        parents.into_iter().filter_map(|service| Some((service.clone(), self.table(service)?))).collect()
    }
}

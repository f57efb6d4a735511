//! What a platform has said, and in what the replicated state differs from it. Pure.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use conduit_api::{
    HttpRoute, Pod, PodName, ResourceName, RouteName, Service, ServiceName,
    mesh::{self, Inventory},
    objective::Declared,
};
use conduit_consensus::{Change, DECLARATIONS_LEVEL, MeshState, Versioned};

use super::super::told::Changed;

/// From this feature level on members keep all that is said.
pub const LEVEL_OF_ALL: u32 = DECLARATIONS_LEVEL;

/// What is to be in the state.
#[derive(Default)]
pub struct Wanted {
    services: BTreeMap<ServiceName, Want<Service>>,
    pods: BTreeMap<PodName, Want<Pod>>,
    routes: Option<Vec<HttpRoute>>,
    objectives: Option<Vec<Declared>>,
}

/// One value of it.
enum Want<T> {
    /// As it was told.
    Told(Box<T>),
    /// As the state has it, which holds it anyway: a large cluster's are megabytes, and pointers are soon compared.
    Kept(Arc<Versioned<T>>),
}

/// One thing that is to become otherwise.
pub enum Difference<'a> {
    /// There is no such service any more.
    ServiceGone(&'a ServiceName),
    /// A service is this now; it may have been that.
    Service(Cow<'a, Service>, Option<&'a Service>),
    /// There is no such pod any more.
    PodGone(&'a PodName),
    /// A pod is this now; it may have been that.
    Pod(Cow<'a, Pod>, Option<&'a Pod>),
    /// There is no such route any more.
    RouteGone(&'a RouteName),
    /// A route is this now.
    Route(Cow<'a, HttpRoute>),
    /// No object declares anything of this resource any more.
    ObjectiveGone(&'a ResourceName),
    /// An object declares this now.
    Objective(&'a Declared),
}

impl From<Inventory> for Wanted {
    fn from(inventory: Inventory) -> Self {
        let services = inventory.services.into_iter().map(|service| (service.name.clone(), Want::told(service)));
        let pods = inventory.pods.into_iter().map(|pod| (pod.name.clone(), Want::told(pod)));
        Self {
            services: services.collect(),
            pods: pods.collect(),
            routes: inventory.routes,
            objectives: inventory.objectives,
        }
    }
}

impl Wanted {
    /// Whether nothing runs, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.pods.is_empty()
    }

    /// Takes over what is otherwise now.
    pub fn change(&mut self, changed: Changed) {
        replace(&mut self.services, changed.services);
        replace(&mut self.pods, changed.pods);
        self.routes = changed.routes;
        self.objectives = changed.objectives;
    }

    /// Gives up its own copies of what the state holds as well.
    pub fn settle(&mut self, state: &MeshState) {
        settle(&mut self.services, state.services());
        settle(&mut self.pods, state.pods());
    }

    /// What takes `state` there, as far as members of feature level `level` know it; nothing when it is there. What differs from service to service is
    /// first: an endpoint must be out of every service before its pod is forgotten.
    pub fn differences<'a>(&'a self, state: &'a MeshState, level: u32) -> Vec<Difference<'a>> {
        let mut differences = Vec::new();
        let (gone, new) = compare(state.services(), &self.services, level, Service::is_known_at, Service::simplify);
        differences.extend(gone.into_iter().map(Difference::ServiceGone));
        differences.extend(new.into_iter().map(|(now, before)| Difference::Service(now, before)));
        let (gone, new) = compare(state.pods(), &self.pods, level, Pod::is_known_at, Pod::simplify);
        differences.extend(gone.into_iter().map(Difference::PodGone));
        differences.extend(new.into_iter().map(|(now, before)| Difference::Pod(now, before)));
        let routes = self.routes.as_deref().and_then(|routes| routes_of_level(routes, level));
        differences.extend(routes.into_iter().flat_map(|routes| compare_routes(state, routes)));
        let objectives = self.objectives.as_deref().filter(|_| level >= DECLARATIONS_LEVEL);
        differences.extend(objectives.into_iter().flat_map(|objectives| compare_objectives(state, objectives)));
        differences
    }
}

impl<T: PartialEq> Want<T> {
    fn told(value: T) -> Self {
        Self::Told(Box::new(value))
    }

    fn value(&self) -> &T {
        match self {
            Self::Told(value) => value,
            Self::Kept(kept) => &kept.value,
        }
    }

    fn is_itself(&self, known: &Arc<Versioned<T>>) -> bool {
        matches!(self, Self::Kept(kept) if Arc::ptr_eq(kept, known))
    }

    fn equals(&self, known: &Arc<Versioned<T>>) -> bool {
        self.is_itself(known) || *self.value() == known.value
    }
}

fn replace<K: Ord, T: PartialEq>(wanted: &mut BTreeMap<K, Want<T>>, changed: Vec<(K, Option<T>)>) {
    for (name, value) in changed {
        match value {
            Some(value) => drop(wanted.insert(name, Want::told(value))),
            None => drop(wanted.remove(&name)),
        }
    }
}

/// Both are in the order of their names: side by side each is met once.
fn settle<K: Ord, T: PartialEq>(wanted: &mut BTreeMap<K, Want<T>>, known: &BTreeMap<K, Arc<Versioned<T>>>) {
    let mut known = known.iter().peekable();
    for (name, want) in wanted {
        while known.next_if(|(other, _)| *other < name).is_some() {}
        if let Some((_, known)) = known.next_if(|(other, _)| *other == name)
            && !want.is_itself(known)
            && want.equals(known)
        {
            *want = Want::Kept(known.clone());
        }
    }
}

/// What is now, and what was, if there was one.
type New<'a, T> = (Cow<'a, T>, Option<&'a T>);

/// Who is gone, and what is new.
fn compare<'a, K: Ord, T: Clone + PartialEq>(
    known: &'a BTreeMap<K, Arc<Versioned<T>>>,
    wanted: &'a BTreeMap<K, Want<T>>,
    level: u32,
    is_known: impl Fn(&T, u32) -> bool,
    simplify: impl Fn(&mut T, u32),
) -> (Vec<&'a K>, Vec<New<'a, T>>) {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    let mut known = known.iter().peekable();
    for (name, want) in wanted {
        while let Some((other, _)) = known.next_if(|(other, _)| *other < name) {
            gone.push(other);
        }
        let before = known.next_if(|(other, _)| *other == name).map(|(_, known)| known);
        if is_known(want.value(), level) {
            if !before.is_some_and(|before| want.equals(before)) {
                new.push((Cow::Borrowed(want.value()), before.map(|before| &before.value)));
            }
            continue;
        }
        let mut now = want.value().clone();
        simplify(&mut now, level);
        if before.is_none_or(|before| before.value != now) {
            new.push((Cow::Owned(now), before.map(|before| &before.value)));
        }
    }
    gone.extend(known.map(|(other, _)| other));
    (gone, new)
}

fn routes_of_level(routes: &[HttpRoute], level: u32) -> Option<BTreeMap<RouteName, Cow<'_, HttpRoute>>> {
    if level >= LEVEL_OF_ALL {
        return Some(routes.iter().map(|route| (route.name.clone(), Cow::Borrowed(route))).collect());
    }
    let routes = mesh::simplify_routes(routes.to_vec(), level)?;
    Some(routes.into_iter().map(|route| (route.name.clone(), Cow::Owned(route))).collect())
}

fn compare_routes<'a>(
    state: &'a MeshState,
    routes: BTreeMap<RouteName, Cow<'a, HttpRoute>>,
) -> impl Iterator<Item = Difference<'a>> {
    let known = state.routes();
    let gone: Vec<_> = known.keys().filter(|name| !routes.contains_key(name)).map(Difference::RouteGone).collect();
    let is_new = |route: &HttpRoute| known.get(&route.name).is_none_or(|known| known.value != *route);
    gone.into_iter().chain(routes.into_values().filter(move |route| is_new(route)).map(Difference::Route))
}

fn compare_objectives<'a>(state: &'a MeshState, declared: &'a [Declared]) -> impl Iterator<Item = Difference<'a>> {
    let wanted: BTreeSet<_> = declared.iter().map(|declared| &declared.resource).collect();
    let gone = state.declarations().keys().filter(move |resource| !wanted.contains(resource));
    let is_so = |declared: &Declared| {
        state.declarations().get(&declared.resource) == Some(&declared.by)
            && state.objectives().get(&declared.resource).is_some_and(|known| known.value == declared.objective)
    };
    let new = declared.iter().filter(move |declared| !is_so(declared));
    gone.map(Difference::ObjectiveGone).chain(new.map(Difference::Objective))
}

impl Difference<'_> {
    /// Whether it takes something away that proxies may be sending to.
    pub fn removes(&self) -> bool {
        match self {
            Self::ServiceGone(_) | Self::PodGone(_) => true,
            // Requests arrive either way.
            Self::Route(_) | Self::RouteGone(_) | Self::Objective(_) | Self::ObjectiveGone(_) => false,
            Self::Pod(now, before) => before.is_some_and(|before| before.ready && !now.ready),
            Self::Service(now, before) => before.is_some_and(|before| {
                before.ports.iter().any(|(number, port)| {
                    let after = now.ports.get(number);
                    port.endpoints
                        .keys()
                        .any(|address| after.is_none_or(|after| !after.endpoints.contains_key(address)))
                })
            }),
        }
    }

    /// As it is proposed.
    pub fn change(&self) -> Change {
        match self {
            Self::ServiceGone(name) => Change::RemoveService((*name).clone()),
            Self::Service(now, _) => Change::UpsertService(now.clone().into_owned()),
            Self::PodGone(name) => Change::RemovePod((*name).clone()),
            Self::Pod(now, _) => Change::UpsertPod(now.clone().into_owned()),
            Self::RouteGone(name) => Change::RemoveRoute((*name).clone()),
            Self::Route(now) => Change::UpsertRoute(now.clone().into_owned()),
            Self::ObjectiveGone(resource) => Change::WithdrawObjective((*resource).clone()),
            Self::Objective(declared) => Change::DeclareObjective((*declared).clone()),
        }
    }
}

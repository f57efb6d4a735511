//! From what a platform says runs to what the replicated state should say. Pure.
//!
//! The leader compares and proposes the difference; nothing else writes the discovery state. What is gone is proposed at
//! once, because traffic to a dead endpoint is what users see; what is new may gather for a moment, because a
//! deployment brings many changes together.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::{HttpRoute, mesh::Inventory};
use conduit_consensus::{Change, MeshState};
use tokio::time::Instant;

/// Changes that only add are proposed when nothing has changed for this long ...
const QUIET: Duration = Duration::from_millis(25);
/// ... and at most this long after the first of them.
const GATHER_MAX: Duration = Duration::from_millis(500);
/// In one proposal: a few hundred kilobytes, so that no entry of the log holds up those behind it for long.
const CHANGES_MAX: usize = 1_000;
/// See [`CHANGES_MAX`]: of all of them as the log has them. One that is larger goes alone.
const BYTES_MAX: usize = 1024 * 1024;
/// Pause after a refused proposal, so that a cluster in trouble is not hammered.
const RETRY: Duration = Duration::from_millis(200);

/// What takes `state` to `inventory`; empty when it is there.
pub fn diff(state: &MeshState, inventory: &Inventory) -> Vec<Change> {
    let services: BTreeMap<_, _> = inventory.services.iter().map(|service| (&service.name, service)).collect();
    let pods: BTreeMap<_, _> = inventory.pods.iter().map(|pod| (&pod.name, pod)).collect();
    let mut changes = Vec::new();
    // Services first: an endpoint must be out of every service before its pod is forgotten.
    for name in state.services().keys().filter(|name| !services.contains_key(name)) {
        changes.push(Change::RemoveService(name.clone()));
    }
    for (name, service) in services {
        if state.services().get(name).is_none_or(|known| known.value != *service) {
            changes.push(Change::UpsertService(service.clone()));
        }
    }
    for name in state.pods().keys().filter(|name| !pods.contains_key(name)) {
        changes.push(Change::RemovePod(name.clone()));
    }
    for (name, pod) in pods {
        if state.pods().get(name).is_none_or(|known| known.value != *pod) {
            changes.push(Change::UpsertPod(pod.clone()));
        }
    }
    changes.extend(inventory.routes.iter().flat_map(|routes| diff_routes(state, routes)));
    changes
}

fn diff_routes(state: &MeshState, routes: &[HttpRoute]) -> Vec<Change> {
    let known = state.routes();
    let routes: BTreeMap<_, _> = routes.iter().map(|route| (&route.name, route)).collect();
    let gone = known.keys().filter(|name| !routes.contains_key(name)).cloned().map(Change::RemoveRoute);
    let is_new = |route: &HttpRoute| known.get(&route.name).is_none_or(|known| known.value != *route);
    let new = routes.values().filter(|route| is_new(route)).map(|route| Change::UpsertRoute((*route).clone()));
    gone.chain(new).collect()
}

/// As many as one proposal takes; if that is not all, what is gone first.
fn first(mut changes: Vec<Change>, state: &MeshState) -> Vec<Change> {
    if fitting(&changes) < changes.len() {
        changes.sort_by_key(|change| !removes(change, state));
        changes.truncate(fitting(&changes));
    }
    changes
}

/// How many of them, from the first on, one proposal takes.
fn fitting(changes: &[Change]) -> usize {
    let mut bytes = 0_usize;
    let fits = |change: &&Change| {
        bytes = bytes.saturating_add(change.size());
        bytes <= BYTES_MAX
    };
    changes.iter().take(CHANGES_MAX).take_while(fits).count().max(1)
}

/// Whether a change takes something away that proxies may be sending to.
fn removes(change: &Change, state: &MeshState) -> bool {
    match change {
        Change::RemoveService(_) | Change::RemovePod(_) => true,
        // Requests arrive either way.
        Change::UpsertRoute(_) | Change::RemoveRoute(_) => false,
        Change::UpsertPod(pod) => state.pods().get(&pod.name).is_some_and(|known| known.value.ready && !pod.ready),
        Change::UpsertService(service) => state.services().get(&service.name).is_some_and(|known| {
            known.value.ports.iter().any(|(number, port)| {
                let after = service.ports.get(number);
                port.endpoints.keys().any(|address| after.is_none_or(|after| !after.endpoints.contains_key(address)))
            })
        }),
    }
}

/// Decides when the difference is proposed.
#[derive(Default)]
pub struct Reconciler {
    inventory: Option<Inventory>,
    leading: bool,
    proposing: bool,
    /// When the gathered changes are due; and when the first of them was seen.
    due: Option<Instant>,
    since: Option<Instant>,
}

/// What happens around a [`Reconciler`].
pub enum Input {
    /// The platform described itself anew.
    Inventory(Inventory),
    /// This replica became the leader, or ceased to be.
    Leading(bool),
    /// A proposal came to its end; whether it was committed.
    Proposed(bool),
    /// The time it asked to be woken at.
    Timer,
}

/// What its shell does for it.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Proposes these changes together, and answers with [`Input::Proposed`].
    Propose(Vec<Change>),
    /// Comes back with [`Input::Timer`] at this time; replaces an earlier one.
    WakeAt(Instant),
}

impl Reconciler {
    /// Takes `input`; `state` is the applied state of this replica, which on a leader holds all that was committed
    /// before it led.
    pub fn handle(&mut self, now: Instant, state: &MeshState, input: Input) -> Vec<Effect> {
        match input {
            // A platform that has nothing at all has rather failed to say what it has. Whether the state is empty as well does
            // not matter: this replica may have lost its disk, and lead before long.
            Input::Inventory(Inventory { services, pods, .. }) if services.is_empty() && pods.is_empty() => {}
            Input::Inventory(inventory) => self.inventory = Some(inventory),
            Input::Leading(leading) => {
                self.leading = leading;
                self.proposing = false;
                if !leading {
                    // What it was told, others have long known better.
                    self.inventory = None;
                }
            }
            Input::Proposed(committed) => {
                self.proposing = false;
                if !committed {
                    self.due = Some(now + RETRY);
                    return vec![Effect::WakeAt(now + RETRY)];
                }
            }
            Input::Timer => {}
        }
        self.reconcile(now, state)
    }

    fn reconcile(&mut self, now: Instant, state: &MeshState) -> Vec<Effect> {
        let Some(inventory) = self.inventory.as_ref().filter(|_| self.leading && !self.proposing) else {
            return Vec::new();
        };
        let changes = diff(state, inventory);
        if changes.is_empty() {
            (self.due, self.since) = (None, None);
            return Vec::new();
        }
        let since = *self.since.get_or_insert(now);
        let urgent = changes.iter().any(|change| removes(change, state));
        let due = *self.due.get_or_insert_with(|| (now + QUIET).min(since + GATHER_MAX));
        if !urgent && now < due {
            return vec![Effect::WakeAt(due)];
        }
        (self.due, self.since) = (None, None);
        let count = changes.len();
        let changes = first(changes, state);
        if changes.len() < count {
            // The rest as soon as this is committed.
            (self.due, self.since) = (Some(now), Some(now));
        }
        self.proposing = true;
        vec![Effect::Propose(changes)]
    }
}

#[cfg(test)]
mod tests;

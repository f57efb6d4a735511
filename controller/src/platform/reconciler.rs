//! From what a platform says runs to what the replicated state should say. Pure.
//!
//! The leader compares and proposes the difference; nothing else writes the discovery state. What is gone is proposed at
//! once, because traffic to a dead endpoint is what users see; what is new may gather for a moment, because a
//! deployment brings many changes together.

mod wanted;

use std::time::Duration;

use conduit_api::mesh::Inventory;
use conduit_consensus::{Change, MeshState};
use tokio::time::Instant;

use self::wanted::{Difference, LEVEL_OF_ALL, Wanted};
use super::told::Told;

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
    let wanted = Wanted::from(inventory.clone());
    wanted.differences(state, LEVEL_OF_ALL).iter().map(Difference::change).collect()
}

/// As many as one proposal takes; if that is not all, what is gone first.
fn first(mut differences: Vec<Difference<'_>>) -> Vec<Change> {
    let changes = fitting(&differences);
    if changes.len() == differences.len() {
        return changes;
    }
    differences.sort_by_key(|difference| !difference.removes());
    fitting(&differences)
}

/// As many of them, from the first on, as one proposal takes. The others, of which there may be very many, are not copied.
fn fitting(differences: &[Difference<'_>]) -> Vec<Change> {
    let mut bytes = 0_usize;
    let fits = |change: &Change| {
        let is_first = bytes == 0;
        bytes = bytes.saturating_add(change.size());
        is_first || bytes <= BYTES_MAX
    };
    differences.iter().take(CHANGES_MAX).map(Difference::change).take_while(fits).collect()
}

/// Decides when the difference is proposed.
pub struct Reconciler {
    wanted: Option<Wanted>,
    level: u32,
    leading: bool,
    proposing: bool,
    /// When the gathered changes are due; and when the first of them was seen.
    due: Option<Instant>,
    since: Option<Instant>,
}

/// What happens around a [`Reconciler`].
pub enum Input {
    /// The platform described itself.
    Told(Told),
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

impl Default for Reconciler {
    /// Of members that understand everything.
    fn default() -> Self {
        Self { wanted: None, level: LEVEL_OF_ALL, leading: false, proposing: false, due: None, since: None }
    }
}

impl Reconciler {
    /// Members understand what is of feature level `level`: no more is proposed from now on.
    pub fn understood(&mut self, level: u32) {
        self.level = level;
    }

    /// Takes `input`; `state` is the applied state of this replica, which on a leader holds all that was committed
    /// before it led.
    pub fn handle(&mut self, now: Instant, state: &MeshState, input: Input) -> Vec<Effect> {
        match input {
            Input::Told(Told::All(inventory)) => {
                // A platform that has nothing at all has rather failed to say what it has. Whether the state is empty as well does
                // not matter: this replica may have lost its disk, and lead before long. What it says of changes is heard either way.
                let wanted = Wanted::from(inventory);
                if !wanted.is_empty() || self.wanted.is_none() {
                    self.wanted = Some(wanted);
                }
            }
            Input::Told(Told::Changed(changed)) => {
                if let Some(wanted) = &mut self.wanted {
                    wanted.change(changed);
                }
            }
            Input::Leading(leading) => {
                self.leading = leading;
                self.proposing = false;
                if !leading {
                    // What it was told, others have long known better.
                    self.wanted = None;
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
        let is_something = |wanted: &&mut Wanted| !wanted.is_empty();
        let Some(wanted) = self.wanted.as_mut().filter(is_something).filter(|_| self.leading && !self.proposing) else {
            return Vec::new();
        };
        wanted.settle(state);
        let differences = wanted.differences(state, self.level);
        if differences.is_empty() {
            (self.due, self.since) = (None, None);
            return Vec::new();
        }
        let since = *self.since.get_or_insert(now);
        let urgent = differences.iter().any(Difference::removes);
        let due = *self.due.get_or_insert_with(|| (now + QUIET).min(since + GATHER_MAX));
        if !urgent && now < due {
            return vec![Effect::WakeAt(due)];
        }
        (self.due, self.since) = (None, None);
        let count = differences.len();
        let changes = first(differences);
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

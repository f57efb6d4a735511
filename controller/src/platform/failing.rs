//! Pods that fail, and why. People are shown it, and nothing else depends on it: the leader has heard it of the platform, and it is in no log.

use std::sync::Arc;

use arc_swap::ArcSwap;
use conduit_api::proto::public::FailingPod;

/// Pods that are told of, some kilobytes each at most: whoever has more of them has one reason for most.
pub const FAILING_MAX: usize = 200;

/// What the platform has said last. Clones are the same.
#[derive(Clone, Default)]
pub struct Failing(Arc<ArcSwap<Failures>>);

/// Pods that fail.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failures {
    /// Sorted by namespace and name, [`FAILING_MAX`] of them.
    pub pods: Vec<FailingPod>,
    /// There are more.
    pub is_more: bool,
}

impl Failing {
    /// What is known now; nothing while somebody else leads.
    pub fn get(&self) -> Arc<Failures> {
        self.0.load_full()
    }

    /// Takes over what the platform says, until what is returned is dropped or [`Told::say`]s otherwise.
    pub fn told(&self) -> Told {
        Told(self.clone())
    }
}

/// Whoever listens to the platform.
pub struct Told(Failing);

impl Told {
    /// This is what fails.
    pub fn say(&self, failures: Failures) {
        self.0.0.store(Arc::new(failures));
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.say(Failures::default());
    }
}

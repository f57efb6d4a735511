//! Somebody who watches every request: what `conduit tap` asks for, without a limit that would spare the proxies.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Context as _;
use conduit_api::proto::{
    public::{ResourceSelection, TapRequest},
    tap::Match,
};
use tokio::task::JoinHandle;

use super::mesh::{Mesh, NAMESPACE};

/// More than any load here: nothing is left out.
const MAX_RPS: f32 = 1e6;

/// Watches until it is dropped.
pub struct Tap {
    events: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Tap {
    /// Watches all of `mesh`.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub async fn start(mesh: &Mesh) -> anyhow::Result<Self> {
        let target = ResourceSelection { kind: "namespace".into(), name: NAMESPACE.into(), ..Default::default() };
        let request =
            TapRequest { target: Some(target), r#match: Some(Match::default()), max_rps: MAX_RPS, headers: false };
        let mut watched = mesh.api().await?.tap(request).await.context("the tap does not start")?.into_inner();
        let events = Arc::<AtomicU64>::default();
        let task = tokio::spawn({
            let events = events.clone();
            async move {
                while let Ok(Some(_)) = watched.message().await {
                    events.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { events, task })
    }

    /// What was seen so far; a request is three events.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

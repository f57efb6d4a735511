//! Ending when asked to, with what is under way finished first.

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How long requests that are under way may still take after the signal. Kubernetes kills after 30 s.
const DRAIN: Duration = Duration::from_secs(5);

/// Tells every part of a process that it is to end.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Starts the shutdown. Dropping it starts it, too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    /// One that is started by hand.
    pub fn manual() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// One that SIGTERM, as Kubernetes sends it, or Ctrl-C starts.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub fn on_signal() -> io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (trigger, shutdown) = Self::manual();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            trigger.start();
        });
        Ok(shutdown)
    }

    /// Completes once the shutdown has started; at once when it already has.
    pub async fn started(mut self) {
        // An error says that the trigger is gone, which counts as started.
        let _ = self.0.wait_for(|started| *started).await;
    }

    /// Runs `serve`, which ends by itself after the shutdown has started, but waits no longer than five seconds for that.
    pub async fn bound<T>(self, serve: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
        let patience = async {
            self.started().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            result = serve => result.map(Some),
            () = patience => Ok(None),
        }
    }
}

impl Trigger {
    /// Starts the shutdown.
    pub fn start(self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_is_under_way_but_not_for_ever() {
        let (trigger, shutdown) = Shutdown::manual();
        trigger.start();
        let finishes = async {
            shutdown.clone().started().await;
            tokio::time::sleep(DRAIN / 2).await;
            Ok("finished")
        };
        assert_eq!(shutdown.clone().bound(finishes).await.unwrap(), Some("finished"));
        let hangs = std::future::pending::<anyhow::Result<()>>();
        assert_eq!(shutdown.bound(hangs).await.unwrap(), None);
    }
}

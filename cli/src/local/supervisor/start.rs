//! From nothing to a mesh that is ready, step by step.

use conduit_api::proto::{local::Step, public::PodsRequest};

use super::*;

/// A step that takes longer than this has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// A process that has ended so often before everything was ready will not do better.
const RESTARTS_MAX: u32 = 4;
/// Between two looks whether something is ready.
pub(super) const POLL: Duration = Duration::from_millis(20);

impl Supervisor {
    pub(super) async fn start(self: &Rc<Self>) -> anyhow::Result<()> {
        self.publish();
        let numbers = self.controllers.borrow().clone();
        let controllers = numbers.len() as u32;
        for (started, number) in (1..).zip(numbers) {
            self.start_controller(number).await?;
            self.step("network", started, controllers);
        }
        self.wait("controllers", controllers, async || self.sockets_that_answer().await).await?;
        self.wait("certificate authority", 1, async || u32::from(self.directory.trust_bundle().exists())).await?;
        self.start_pods().await?;
        let ready = async || self.state.borrow().pods.values().filter(|pod| pod.instance.ready).count() as u32;
        let pods = self.state.borrow().pods.len() as u32;
        self.wait("pods", pods, ready).await?;
        self.wait("control plane knows them", pods, async || self.known_ready().await).await?;
        self.progress.send_modify(|progress| progress.ready = true);
        info!("ready");
        Ok(())
    }

    async fn sockets_that_answer(&self) -> u32 {
        let mut answering = 0;
        for socket in self.directory.api_sockets() {
            answering += u32::from(UnixStream::connect(socket).await.is_ok());
        }
        answering
    }

    /// How many of the pods that are to be ready the control plane says are, with their proxies connected.
    pub(super) async fn known_ready(&self) -> u32 {
        let all = async |client: &mut crate::control_plane::Client| {
            client.pods(PodsRequest { namespace: String::new(), skip_connected: false }).await
        };
        let Ok(answer) = self.control_plane().ask(all).await else { return 0 };
        answer.pods.iter().filter(|pod| pod.ready && (pod.connected || !pod.meshed)).count() as u32
    }

    fn step(&self, name: &str, done: u32, total: u32) {
        self.progress.send_modify(|progress| match progress.steps.iter_mut().find(|step| step.name == name) {
            Some(step) => (step.done, step.total) = (done, total),
            None => progress.steps.push(Step { name: name.to_owned(), done, total }),
        });
    }

    /// Until `done` says `total`.
    async fn wait(&self, name: &str, total: u32, done: impl AsyncFn() -> u32) -> anyhow::Result<()> {
        let all_done = async {
            loop {
                let done = done().await.min(total);
                self.step(name, done, total);
                if done == total {
                    return;
                }
                sleep(POLL).await;
            }
        };
        let given_up = async {
            while !self.state.borrow().processes.values().any(|running| running.restarts.count >= RESTARTS_MAX) {
                sleep(POLL).await;
            }
        };
        tokio::select! {
            done = timeout(STEP_TIMEOUT, all_done) => done.map_err(|_| self.why_not(name)),
            () = given_up => Err(self.why_not(name)),
        }
    }

    /// Which process is in the way, in its own words.
    fn why_not(&self, step: &str) -> anyhow::Error {
        let state = self.state.borrow();
        let unready = |pod: &PodName| state.pods.get(pod).is_some_and(|pod| !pod.instance.ready);
        let blame = |running: &&Running| {
            running.state != "running" || running.restarts.count > 0 || running.spec.pod.as_ref().is_some_and(unready)
        };
        let suspect = state.processes.values().find(blame).or_else(|| state.processes.values().next());
        match suspect {
            Some(running) if running.restarts.count > 0 => {
                let (name, log) = (&running.spec.name, running.spec.log.display());
                anyhow!("{step}: {name} does not start: {} (its log is {log})", running.spec.last_words())
            }
            Some(running) => {
                let (name, log) = (&running.spec.name, running.spec.log.display());
                let seconds = STEP_TIMEOUT.as_secs();
                anyhow!(
                    "{step}: {name} is not ready within {seconds}s: {} (its log is {log})",
                    running.spec.last_words()
                )
            }
            None => anyhow!("{step}: not done within {}s", STEP_TIMEOUT.as_secs()),
        }
    }
}

/// A program of this mesh, beside this one.
pub(super) fn program(name: &str) -> anyhow::Result<String> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(name);
    if !path.exists() {
        bail!("{} is missing; build all programs with `cargo build --workspace --release`", path.display());
    }
    Ok(path.display().to_string())
}

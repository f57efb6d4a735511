//! From nothing to a mesh that is ready, step by step.

use std::net::Ipv4Addr;

use conduit_api::proto::{local::Step, public::PodsRequest};

use super::*;

/// A step that takes longer than this has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks whether something is ready.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// Controllers are at this address and the following ones.
const FIRST_CONTROLLER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 10);

impl Supervisor {
    pub(super) async fn start(self: &Rc<Self>) -> anyhow::Result<()> {
        self.publish();
        let controllers = self.controllers;
        for number in 0..controllers {
            self.start_controller(number).await?;
            self.step("network", number + 1, controllers);
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

    async fn start_controller(self: &Rc<Self>, number: u32) -> anyhow::Result<()> {
        let ip = |number| Ipv4Addr::from(u32::from(FIRST_CONTROLLER) + number);
        let name = format!("controller-{number}");
        let namespace = Rc::new(self.network.namespace(ip(number).into()).await?);
        let peers: Vec<_> = (0..self.controllers).map(|i| format!("controller-{i}={}:8300", ip(i))).collect();
        let path = |path: PathBuf| path.display().to_string();
        let program = program("conduit-controller")?;
        let mut enter = vec!["--netns".to_owned(), namespace.path(), "--".to_owned(), program];
        for (flag, value) in [
            ("--name", name.clone()),
            ("--data-dir", path(self.directory.controllers().join(&name))),
            ("--seed-file", path(self.directory.seed())),
            ("--trust-domain", self.trust_domain.to_string()),
            ("--peers", peers.join(",")),
            ("--listen-ip", ip(number).to_string()),
            ("--api-socket", path(self.directory.api_socket(&name))),
            ("--platform-file", path(self.directory.platform_file())),
            ("--bootstrap-gate", path(self.directory.bootstrap_gate())),
            ("--trust-bundle-file", path(self.directory.trust_bundle())),
            ("--leaf-lifetime", self.leaf_lifetime.clone()),
        ] {
            enter.extend([flag.to_owned(), value]);
        }
        let log = self.directory.log(&name);
        let ip = IpAddr::from(ip(number));
        let spec = Spec { name: name.clone(), role: "controller", pod: None, ip, enter, env: Vec::new(), log };
        let (stop, stopped) = watch::channel(false);
        self.state.borrow_mut().controllers.push(Controller { stop, _namespace: namespace });
        spawn_local(self.clone().keep(spec, stopped, || {}));
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
            client.pods(PodsRequest { namespace: String::new() }).await
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
        timeout(STEP_TIMEOUT, all_done).await.map_err(|_| self.why_not(name))
    }

    /// Which process is in the way, in its own words.
    fn why_not(&self, step: &str) -> anyhow::Error {
        let state = self.state.borrow();
        let unready = |pod: &PodName| state.pods.get(pod).is_some_and(|pod| !pod.instance.ready);
        let blame = |running: &&Running| {
            running.state != "running" || running.restarts.count > 0 || running.spec.pod.as_ref().is_some_and(unready)
        };
        let suspect = state.processes.values().find(blame).or_else(|| state.processes.values().next());
        let seconds = STEP_TIMEOUT.as_secs();
        match suspect {
            Some(running) => anyhow!(
                "{step}: not done within {seconds}s; {} is {}, and its log {} ends with: {}",
                running.spec.name,
                running.state,
                running.spec.log.display(),
                running.spec.last_words().replace('\n', " | "),
            ),
            None => anyhow!("{step}: not done within {seconds}s"),
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

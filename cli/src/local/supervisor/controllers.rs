//! The replicas of the control plane, and another number of them.

use std::net::Ipv4Addr;

use conduit_api::proto::public::{MemberRequest, RaftStatusRequest};

use super::{
    start::{POLL, program},
    *,
};

/// Replica n is at this address plus n.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 10);
/// Their addresses end where those of pods begin; and more than seven replicas only make every write slower.
const NUMBERS_MAX: u32 = 200;
/// A replica that joins has caught up by then.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The numbers of the replicas that have data in `directory`; `count` new ones if there are none.
pub(super) fn numbers(directory: &MeshDirectory, count: u32) -> BTreeSet<u32> {
    let found = fs::read_dir(directory.controllers()).into_iter().flatten().filter_map(Result::ok);
    let known: BTreeSet<u32> = found.filter_map(|entry| number_of(entry.file_name().to_str()?)).collect();
    if known.is_empty() { (0..count).collect() } else { known }
}

fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("controller-")?.parse().ok()
}

fn name_of(number: u32) -> String {
    format!("controller-{number}")
}

fn address_of(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST_ADDRESS) + number)
}

/// What whoever started this mesh has set of controllers, as every option that has a variable can be.
fn settings() -> Vec<(String, String)> {
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, _)| name.starts_with("CONDUIT_CONTROLLER_")).collect()
}

impl Supervisor {
    pub(super) async fn start_controller(self: &Rc<Self>, number: u32) -> anyhow::Result<()> {
        let (name, ip) = (name_of(number), address_of(number));
        let namespace = Rc::new(self.network.namespace(ip.into()).await?);
        let peer = |number: &u32| format!("{}={}:8300", name_of(*number), address_of(*number));
        let peers: Vec<_> = self.controllers.borrow().iter().map(peer).collect();
        let path = |path: PathBuf| path.display().to_string();
        let mut enter = vec!["--netns".to_owned(), namespace.path(), "--".to_owned(), program("conduit-controller")?];
        for (flag, value) in [
            ("--name", name.clone()),
            ("--data-dir", path(self.directory.controllers().join(&name))),
            ("--seed-file", path(self.directory.seed())),
            ("--trust-domain", self.trust_domain.to_string()),
            ("--peers", peers.join(",")),
            ("--listen-ip", ip.to_string()),
            ("--api-socket", path(self.directory.api_socket(&name))),
            ("--platform-file", path(self.directory.platform_file())),
            ("--bootstrap-gate", path(self.directory.bootstrap_gate())),
            ("--trust-bundle-file", path(self.directory.trust_bundle())),
            ("--root-backup-file", path(self.directory.root_backup())),
        ] {
            enter.extend([flag.to_owned(), value]);
        }
        enter.extend(self.authority.iter().cloned());
        let log = self.directory.log(&name);
        let spec = Spec { name, role: "controller", pod: None, ip: ip.into(), enter, env: settings(), log };
        let (stop, stopped) = watch::channel(false);
        let controller = Controller { stop, _namespace: namespace };
        self.state.borrow_mut().controllers.insert(number, controller);
        spawn_local(self.clone().keep(spec, stopped, || {}));
        Ok(())
    }

    /// Starts one more replica, and returns its name when it votes.
    pub(super) async fn add_controller(self: &Rc<Self>) -> anyhow::Result<String> {
        let number = {
            let mut controllers = self.controllers.borrow_mut();
            let number = controllers.last().map_or(0, |last| last + 1);
            if number >= NUMBERS_MAX {
                bail!("this mesh has had {NUMBERS_MAX} replicas; start it again from nothing");
            }
            controllers.insert(number);
            number
        };
        let name = name_of(number);
        self.start_controller(number).await?;
        let votes = async {
            while !self.votes(&name).await {
                sleep(POLL).await;
            }
        };
        if timeout(JOIN_TIMEOUT, votes).await.is_err() {
            let words = self.state.borrow().processes.get(&name).map(|running| running.spec.last_words());
            bail!(
                "{name} has not joined within {}s and goes on trying; its log ends with: {}",
                JOIN_TIMEOUT.as_secs(),
                words.unwrap_or_default()
            );
        }
        Ok(name)
    }

    async fn votes(&self, name: &str) -> bool {
        let asked = self.control_plane().ask(async |client| client.raft_status(RaftStatusRequest {}).await).await;
        asked.is_ok_and(|status| status.members.iter().any(|member| member.name == name && member.voter))
    }

    /// Removes a replica, by name or id, for good: from the control plane first, then its process and its data.
    pub(super) async fn remove_controller(&self, member: &str) -> anyhow::Result<()> {
        let status = self.control_plane().ask(async |client| client.raft_status(RaftStatusRequest {}).await).await?;
        let found = status.members.iter().find(|known| known.name == member || known.id == member);
        let name = found.map_or(member, |found| &found.name).to_owned();
        let request = MemberRequest { member: name.clone() };
        self.control_plane().ask(async |client| client.remove_member(request.clone()).await).await?;
        let Some(number) = number_of(&name) else { return Ok(()) };
        self.controllers.borrow_mut().remove(&number);
        let removed = self.state.borrow_mut().controllers.remove(&number);
        if let Some(controller) = removed {
            controller.stop.send_replace(true);
            while self.state.borrow().processes.contains_key(&name) {
                sleep(POLL).await;
            }
        }
        // Killed or not, it leaves nothing behind that could be asked or started again.
        let _ = fs::remove_file(self.directory.api_socket(&name));
        let data = self.directory.controllers().join(&name);
        fs::remove_dir_all(&data).with_context(|| format!("{name} is removed, but not its data {}", data.display()))
    }
}

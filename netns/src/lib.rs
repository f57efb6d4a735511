//! Networks of their own: one for the mesh, with a bridge, and one for each pod, connected to it.

use std::{
    cell::Cell,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    thread,
};

use anyhow::{Context as _, anyhow};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::route::{RouteMessage, RouteType},
};
use tokio::sync::oneshot;

/// The bridge's address: the pods' gateway, and where DNS is.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// All pods and controllers are on one link.
const PREFIX: u8 = 16;
const BRIDGE: &str = "conduit";
/// The interface in a pod.
const POD_INTERFACE: &str = "eth0";

/// Leaves the host's network for one of the mesh's own; as an ordinary user, in a user namespace in which that user is root.
/// Must be called before the process has a second thread.
///
/// # Errors
/// When the kernel forbids it; the error says which setting does.
pub fn leave_host() -> anyhow::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let networks = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if uid.is_root() {
        unshare(networks).map_err(|error| match error {
            // No space for one more of them.
            Errno::ENOSPC => anyhow!("cannot create network namespaces ({error}): {}", advice(setting)),
            _ => anyhow!(
                "cannot create network namespaces ({error}): as root this needs CAP_SYS_ADMIN, which containers mostly lack; \
                 run it outside, or as an ordinary user"
            ),
        })?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER)
            .map_err(|error| anyhow!("cannot create a user namespace ({error}): {}", advice(setting)))?;
        let map = || -> std::io::Result<()> {
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
        };
        map().map_err(|error| anyhow!("cannot use a user namespace ({error}): {}", advice(setting)))?;
        unshare(networks)
            .map_err(|error| anyhow!("cannot create network namespaces ({error}): {}", advice(setting)))?;
    }
    // What pods mount is theirs alone.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make this process's mounts its own")
}

fn setting(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Which of the kernel's settings forbids namespaces, and how it is changed.
fn advice(setting: impl Fn(&str) -> Option<String>) -> String {
    let set_to = |path: &str, value: &str| setting(path).is_some_and(|text| text.trim() == value);
    for (path, forbids, setting) in [
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ("/proc/sys/user/max_net_namespaces", "0", "user.max_net_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ] {
        if set_to(path, forbids) {
            return format!("{path} is {forbids}; enable them with `sysctl -w {setting}`, or run this as root");
        }
    }
    "the kernel or a security policy forbids namespaces to ordinary users; run this as root".to_owned()
}

/// The mesh's network. Lives on the supervisor's thread.
pub struct Network {
    links: Handle,
    bridge: u32,
    next: Cell<u32>,
}

/// A pod's network; it goes when this and everything in it has gone.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// By which a process of this user can enter it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Nothing that is sent to `ip` leaves this network any more; what comes from there arrives.
    ///
    /// # Errors
    /// When it is so already.
    pub async fn block(&self, ip: Ipv4Addr) -> anyhow::Result<()> {
        let inside = self.file.try_clone()?;
        in_namespace(inside, move || {
            with_links(async move |links| Ok(links.route().add(blackhole(ip)).execute().await?))
        })
        .await?
    }

    /// It does again.
    ///
    /// # Errors
    /// When it was not blocked.
    pub async fn unblock(&self, ip: Ipv4Addr) -> anyhow::Result<()> {
        let inside = self.file.try_clone()?;
        in_namespace(inside, move || {
            with_links(async move |links| Ok(links.route().del(blackhole(ip)).execute().await?))
        })
        .await?
    }
}

impl Network {
    /// Brings the bridge up in the network namespace that this process is in.
    ///
    /// # Errors
    /// When the kernel lacks bridges.
    pub async fn create() -> anyhow::Result<Self> {
        let (connection, links, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        up(&links, index(&links, "lo").await?).await?;
        let created = links.link().add(LinkBridge::new(BRIDGE).build()).execute().await;
        created.context("cannot create a network bridge; the kernel's `bridge` module is needed")?;
        let bridge = index(&links, BRIDGE).await?;
        links.address().add(bridge, NODE_IP.into(), PREFIX).execute().await?;
        up(&links, bridge).await?;
        Ok(Self { links, bridge, next: Cell::new(0) })
    }

    /// A namespace with `ip` in it, connected to the bridge.
    ///
    /// # Errors
    /// When the kernel lacks veth devices, or namespaces are used up.
    pub async fn namespace(&self, ip: IpAddr) -> anyhow::Result<Namespace> {
        let number = self.next.replace(self.next.get() + 1);
        let (near, far) = (format!("pod{number}"), format!("far{number}"));
        let file = new_namespace().await.context("cannot create a network namespace")?;
        let created = self.links.link().add(LinkVeth::new(&near, &far).build()).execute().await;
        created.context("cannot create a pair of network devices; the kernel's `veth` module is needed")?;
        let (near, moved) = (index(&self.links, &near).await?, index(&self.links, &far).await?);
        let joined = LinkUnspec::new_with_index(near).controller(self.bridge).up().build();
        self.links.link().set(joined).execute().await?;
        let moved = LinkUnspec::new_with_index(moved).setns_by_fd(file.as_raw_fd()).build();
        self.links.link().set(moved).execute().await?;
        let inside = file.try_clone()?;
        in_namespace(inside, move || configure(far, ip)).await??;
        Ok(Namespace { file })
    }
}

/// A network namespace belongs to threads: one that makes it, and ends.
async fn new_namespace() -> anyhow::Result<File> {
    let (sender, made) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        let make = || -> anyhow::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        };
        // The one who waits has gone: so goes the namespace.
        let _ = sender.send(make());
    })?;
    made.await?
}

async fn in_namespace<T: Send + 'static>(
    namespace: File,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, done) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        let worked = nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET).map(|()| work());
        let _ = sender.send(worked);
    })?;
    Ok(done.await??)
}

/// Does `work` in the namespace that this thread is in.
fn with_links(work: impl AsyncFnOnce(Handle) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let (connection, links, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        work(links).await
    })
}

fn blackhole(ip: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).kind(RouteType::BlackHole).build()
}

fn configure(interface: String, ip: IpAddr) -> anyhow::Result<()> {
    with_links(async move |links| {
        up(&links, index(&links, "lo").await?).await?;
        let eth0 = index(&links, &interface).await?;
        links.link().set(LinkUnspec::new_with_index(eth0).name(POD_INTERFACE).build()).execute().await?;
        links.address().add(eth0, ip, PREFIX).execute().await?;
        up(&links, eth0).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(NODE_IP).build();
        links.route().add(route).execute().await?;
        Ok(())
    })
}

async fn up(links: &Handle, index: u32) -> anyhow::Result<()> {
    Ok(links.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?)
}

async fn index(links: &Handle, name: &str) -> anyhow::Result<u32> {
    use futures::TryStreamExt as _;
    let found = links.link().get().match_name(name.to_owned()).execute().try_next().await?;
    found.map(|link| link.header.index).with_context(|| format!("there is no network device `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_namespaces_is_named() {
        let only = |path: &'static str, value: &'static str| {
            advice(move |asked| (asked == path).then(|| format!("{value}\n")))
        };
        let user = only("/proc/sys/user/max_user_namespaces", "0");
        assert!(user.contains("sysctl -w user.max_user_namespaces=10000"), "{user}");
        let apparmor = only("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1");
        assert!(apparmor.contains("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"), "{apparmor}");
        assert!(only("/proc/sys/user/max_net_namespaces", "10000").contains("run this as root"));
    }
}

//! The plugin as container runtimes run it, and its agent with an API server that is played: real network namespaces, all of them in one
//! that this test has made for itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use conduit_inject::{Decision, Settings, settings::annotations::Annotations, webhook};
use conduit_redirect::check::{Check, check};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_conduit-cni");
const SOON: Duration = Duration::from_secs(30);
const INSIDE: &str = "CONDUIT_TEST_INSIDE";
/// Where `cnitool` is, inside: nothing can be downloaded there.
const CNITOOL: &str = "CONDUIT_TEST_CNITOOL";
/// Its network is made by a program that makes none: how it is made is none of the plugin's business.
const NETWORK: &str =
    "#!/bin/sh\ncat >/dev/null\necho '{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"10.1.0.2/24\"}]}'\n";
const CONF: &str = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "network", "mtu": 1400}]}"#;

/// Runs the test of this name again, in namespaces of its own, where it is root.
fn again(test: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    if let Some(cnitool) = cnitool(directory.path()) {
        command.env(CNITOOL, cnitool);
    }
    command.args(["--user", "--map-root-user", "--net", "--mount"]).arg(std::env::current_exe().unwrap());
    let output = command.args([test, "--exact", "--nocapture"]).env(INSIDE, "1").output();
    let output = output.expect("`unshare` of util-linux is needed");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare failed") && std::env::var_os("CI").is_none() {
        eprintln!("SKIPPED: no namespaces can be made here: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
}

#[allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn run(command: &str) {
    let words: Vec<_> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pod's network, with a way out that leads nowhere.
struct Network(File);

impl Network {
    fn new() -> Self {
        let (sender, made) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for command in [
                "ip link set lo up",
                "ip link add eth0 type veth peer name eth1",
                "ip link set eth1 up",
                "ip link set eth0 up",
                "ip address add 10.1.0.2/24 dev eth0",
                "ip route add default via 10.1.0.1",
            ] {
                run(command);
            }
            sender.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        });
        Self(made.recv().unwrap())
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.0.try_clone().unwrap();
        let entered = thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        entered.join().unwrap()
    }

    /// Whether what a pod's program connects to comes to this port of the pod instead.
    fn is_redirected_to(&self, port: u16) -> bool {
        self.inside(move || match check(&Check { outgoing_proxy_port: port, to_port: 80 }) {
            Ok(()) => true,
            Err(error) => {
                assert!(error.to_string().contains("Delete the pod"), "{error}");
                false
            }
        })
    }

    fn has_rules(&self) -> bool {
        self.inside(|| conduit_redirect::is_applied().unwrap())
    }
}

/// As it is admitted, and then is in the API server.
fn pod(settings: &Settings) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "uid": "1", "labels": {}, "annotations": {}},
        "spec": {"containers": [{"name": "main", "image": "played"}], "initContainers": [], "volumes": []},
    });
    let enabled = Annotations::from([("conduit.io/inject".to_owned(), "enabled".to_owned())]);
    let Some(Decision::Inject(injection)) = webhook::admit(&pod, &enabled, settings).unwrap() else {
        panic!("it has none")
    };
    for operation in webhook::patch(&injection.operations) {
        let path = operation["path"].as_str().unwrap();
        let (parent, key) = path.rsplit_once('/').unwrap();
        match pod.pointer_mut(parent).unwrap() {
            Value::Object(object) => drop(object.insert(key.replace("~1", "/"), operation["value"].clone())),
            Value::Array(array) => array.push(operation["value"].clone()),
            _ => panic!("{operation}"),
        }
    }
    pod
}

/// What the API server says, by path; another path is not found.
fn play_api_server(objects: Vec<(&'static str, Value)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let path = request.split(' ').nth(1).unwrap();
            let found = objects.iter().find(|(name, _)| *name == path).map(|(_, object)| object.to_string());
            let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": "", "code": 404});
            let (status, body) = found.map_or(("404 Not Found", missing.to_string()), |body| ("200 OK", body));
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}",
                body.len()
            );
            write!(stream, "{head}\r\n\r\n{body}").unwrap();
        }
    });
    format!("http://{address}")
}

/// A node: its directories, and its agent.
struct Node {
    directory: tempfile::TempDir,
    agent: Option<Child>,
}

impl Node {
    fn new(conf: (&str, &str)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Self { directory, agent: None };
        for directory in ["bin", "net.d"] {
            fs::create_dir(node.path(directory)).unwrap();
        }
        fs::write(node.path("net.d").join(conf.0), conf.1).unwrap();
        fs::write(node.path("bin/network"), NETWORK).unwrap();
        run(&format!("chmod 755 {}", node.path("bin/network").display()));
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn conf(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.path("net.d/10-net.conflist")).ok()?).ok()
    }

    fn is_configured(&self) -> bool {
        let plugins = self.conf().and_then(|conf| conf["plugins"].as_array().cloned()).unwrap_or_default();
        plugins.iter().any(|plugin| plugin["type"] == "conduit-cni")
    }

    fn start_agent(&mut self, api_server: &str) {
        let clusters = json!([{"name": "a", "cluster": {"server": api_server}}]);
        let contexts = json!([{"name": "a", "context": {"cluster": "a", "user": "a"}}]);
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "clusters": clusters, "contexts": contexts, "current-context": "a", "users": [{"name": "a", "user": {}}]});
        fs::write(self.path("kubeconfig"), kubeconfig.to_string()).unwrap();
        self.agent = Some(self.agent_command().spawn().unwrap());
        let ready = || Command::new(PROGRAM).arg("ready").arg("--socket").arg(self.path("agent.sock")).output();
        eventually("the agent answers", || ready().unwrap().status.success().then_some(()));
        eventually("the plugin is configured", || self.is_configured().then_some(()));
    }

    fn agent_command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args([
            "agent",
            "--daemon-set",
            "kube-system/conduit-cni",
            "--exclude-namespaces",
            "kube-system,conduit",
        ]);
        for (flag, file) in [
            ("--bin-directory", "bin"),
            ("--conf-directory", "net.d"),
            ("--socket", "agent.sock"),
            ("--kubeconfig", "kubeconfig"),
        ] {
            command.arg(flag).arg(self.path(file));
        }
        command
    }

    fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).unwrap();
            assert!(agent.wait().unwrap().success());
        }
    }

    /// By the environment and standard input, as runtimes do.
    fn plugin(&self, command: &str, network: &Network, pod: &str, input: &str) -> Output {
        let arguments = pod.split_once('/').map_or(String::new(), |(namespace, name)| {
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_UID=1")
        });
        let mut plugin = Command::new(PROGRAM);
        plugin.env_clear().env("CNI_COMMAND", command).env("CNI_CONTAINERID", "a").env("CNI_NETNS", network.path());
        plugin.env("CNI_IFNAME", "eth0").env("CNI_PATH", self.path("bin")).env("CNI_ARGS", arguments);
        let mut plugin = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        plugin.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        plugin.wait_with_output().unwrap()
    }

    fn input(&self) -> Value {
        let mut input = self.conf().unwrap()["plugins"][1].clone();
        input["cniVersion"] = json!("1.0.0");
        input["name"] = json!("net");
        input["prevResult"] = result();
        input
    }

    fn add(&self, network: &Network, pod: &str) -> Result<Value, Value> {
        let output = self.plugin("ADD", network, pod, &self.input().to_string());
        let said = serde_json::from_slice(&output.stdout).unwrap();
        if output.status.success() { Ok(said) } else { Err(said) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

fn result() -> Value {
    json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}], "dns": {}, "unknown": [1]})
}

const WEB: &str = "/api/v1/namespaces/shop/pods/web";
const PLAIN: &str = "/api/v1/namespaces/shop/pods/plain";
const DAEMON_SET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/conduit-cni";

fn cluster() -> Vec<(&'static str, Value)> {
    let settings = Settings { cni: true, native_sidecar: true, outbound_port: 5140, ..Settings::default() };
    let plain = json!({"metadata": {"uid": "1"}, "spec": {"containers": [{"name": "main"}]}});
    vec![(WEB, pod(&settings)), (PLAIN, plain)]
}

#[test]
fn pods_are_redirected_from_outside() {
    if std::env::var_os(INSIDE).is_none() {
        return again("pods_are_redirected_from_outside");
    }
    run("ip link set lo up");
    let mut node =
        Node::new(("10-net.conf", r#"{"cniVersion": "1.0.0", "name": "net", "type": "network", "mtu": 1400}"#));
    let mut objects = cluster();
    objects.push((DAEMON_SET, json!({"metadata": {"name": "conduit-cni"}, "spec": {"selector": {}, "template": {}}})));
    node.start_agent(&play_api_server(objects));
    assert_eq!(node.conf().unwrap()["plugins"][0], json!({"type": "network", "mtu": 1400}));
    assert!(!node.path("net.d/10-net.conf").exists(), "runtimes would take it first");

    let (web, plain) = (Network::new(), Network::new());
    assert!(!web.has_rules() && !web.is_redirected_to(5140));
    for _ in 0..2 {
        assert_eq!(node.add(&web, "shop/web"), Ok(result()));
        assert!(web.has_rules() && web.is_redirected_to(5140) && !web.is_redirected_to(5141));
    }
    assert_eq!(node.add(&plain, "shop/plain"), Ok(result()));
    assert!(!plain.has_rules(), "nobody wants it to be redirected");
    let unknown = node.add(&plain, "shop/none").unwrap_err();
    assert_eq!(unknown["code"], 11, "{unknown}");
    let check =
        |network: &Network| node.plugin("CHECK", network, "shop/web", &node.input().to_string()).status.success();
    assert!(check(&web) && !check(&plain));
    for _ in 0..2 {
        assert!(node.plugin("DEL", &web, "shop/web", &node.input().to_string()).status.success());
        assert!(!web.has_rules() && !web.is_redirected_to(5140));
    }

    // Somebody else's agent writes what it wrote before.
    fs::write(node.path("net.d/10-net.conflist"), CONF).unwrap();
    eventually("the plugin is configured again", || node.is_configured().then_some(()));
    by_cnitool(&node);

    let ready = || Command::new(PROGRAM).arg("ready").arg("--socket").arg(node.path("agent.sock")).status().unwrap();
    assert!(ready().success());
    let list = fs::read_to_string(node.path("net.d/10-net.conflist")).unwrap();
    fs::write(node.path("net.d/10-net.conflist"), CONF.replace("1.0.0", "0.2.0")).unwrap();
    eventually("an agent whose plugin is not used says so", || (!ready().success()).then_some(()));
    assert!(!node.is_configured(), "with it, no pod would start");
    fs::write(node.path("net.d/10-net.conflist"), list).unwrap();
    eventually("it is as it should be again", || ready().success().then_some(()));

    // Another one waits, and takes nothing away.
    let mut other = node.agent_command().spawn().unwrap();
    sleep(Duration::from_millis(500));
    kill(Pid::from_raw(other.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(other.wait().unwrap().success());
    assert_eq!(node.add(&web, "shop/web"), Ok(result()));

    // As in an upgrade.
    node.stop_agent();
    assert!(node.is_configured() && node.path("bin/conduit-cni").exists());
    let away = node.add(&web, "shop/web").unwrap_err();
    assert_eq!(away["code"], 11);
    assert!(away["msg"].as_str().unwrap().contains("see the pod of the DaemonSet conduit-cni on this node"), "{away}");
    for pod in ["kube-system/dns", "conduit/controller-0", ""] {
        assert_eq!(node.add(&plain, pod), Ok(result()), "the cluster starts without it");
    }
    assert!(node.plugin("DEL", &plain, "shop/plain", &node.input().to_string()).status.success());

    // As when Conduit goes.
    node.start_agent(&play_api_server(cluster()));
    node.stop_agent();
    assert_eq!(node.conf().unwrap(), serde_json::from_str::<Value>(CONF).unwrap());
    assert!(!node.path("bin/conduit-cni").exists());
}

/// By the runtime's side of CNI as its authors have it.
fn by_cnitool(node: &Node) {
    let Some(tool) = std::env::var_os(CNITOOL) else { return };
    let network = Network::new();
    let cnitool = |command: &str| {
        let mut cnitool = Command::new(&tool);
        cnitool.args([command, "net", &network.path()]).env("NETCONFPATH", node.path("net.d"));
        cnitool.env("CNI_PATH", node.path("bin"));
        cnitool.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=1");
        let output = cnitool.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "cnitool {command}: {said}");
        said
    };
    let added: Value = serde_json::from_str(&cnitool("add")).unwrap();
    assert_eq!(added["ips"][0]["address"], "10.1.0.2/24");
    assert!(network.has_rules() && network.is_redirected_to(5140));
    cnitool("check");
    cnitool("del");
    assert!(!network.has_rules());
}

/// Builds it in `directory`; none where there is no go for that.
fn cnitool(directory: &Path) -> Option<PathBuf> {
    let (module, tool) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cnitool"), directory.join("cnitool"));
    let mut go = Command::new("go");
    go.current_dir(module).args(["build", "-o"]).arg(&tool).arg("github.com/containernetworking/cni/cnitool");
    let built = go.output().inspect(|output| eprint!("{}", String::from_utf8_lossy(&output.stderr)));
    if built.is_ok_and(|output| output.status.success()) {
        return Some(tool);
    }
    assert!(std::env::var_os("CI").is_none(), "CI has to have go, and its modules");
    eprintln!("SKIPPED: cnitool cannot be built without go");
    None
}

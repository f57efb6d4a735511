//! A Kubernetes whose kubelets are played (`tests/kubernetes`), with controllers and proxies that are real processes, in a network
//! of their own: there, all addresses of pods are this machine's.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::programs;

/// Everything here follows at once, but for what a busy machine keeps from running.
const SOON: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Pods have addresses of these (`tests/kubernetes/cluster/addresses.go`).
const POD_ADDRESSES: &str = "10.244.0.1/16";

/// A cluster, and what runs in it. Dropping it ends all of it.
pub struct Cluster {
    directory: TempDir,
    /// The cluster's own processes.
    kubernetes: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    processes: Vec<(String, Child)>,
    /// For whoever asks why a test fails.
    last_answer: RefCell<String>,
}

/// Whether there is what a cluster is made of. Where there is not, tests say so and are over.
pub fn is_possible() -> bool {
    let missing = ["go", "unshare", "nsenter", "ip", "curl"].into_iter().find(|program| which(program).is_none());
    if let Some(missing) = missing {
        assert!(std::env::var_os("CI").is_none(), "CI has to have `{missing}`");
        eprintln!("SKIPPED: the tests against Kubernetes need `{missing}`, which is not here");
    }
    missing.is_none()
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/go/bin")];
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|file| file.exists())
}

/// What `check` returns, as soon as that is something.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(SOON, what, check)
}

/// As [`eventually`], of what is not looked for all the time.
#[allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]
pub fn within<T>(time: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + time;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in {time:?}: {what}");
        sleep(LOOK_AGAIN);
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where `tests/kubernetes/build` puts what it builds.
fn built() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    repository().join(target).join("kubernetes")
}

impl Cluster {
    /// Builds it, if that was not done yet, and starts it.
    pub fn start() -> Self {
        let build = Command::new(repository().join("tests/kubernetes/build")).output().unwrap();
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        let directory = TempDir::with_prefix("conduit-kubernetes-").unwrap();
        let mut command = Command::new(which("unshare").unwrap());
        if nix::unistd::geteuid().is_root() {
            command.arg("--net");
        } else {
            command.args(["--map-root-user", "--net"]);
        }
        let script = format!(
            "ip address add {POD_ADDRESSES} dev lo && ip link set lo up && exec {} up --nodes 3 --dir {}",
            built().join("conduit-test-cluster").display(),
            directory.path().join("cluster").display(),
        );
        command.args(["sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut kubernetes = command.spawn().unwrap();
        let (orders, answers) = (kubernetes.stdin.take(), BufReader::new(kubernetes.stdout.take().unwrap()));
        let mut cluster =
            Self { directory, kubernetes, orders, answers, processes: Vec::new(), last_answer: RefCell::default() };
        assert_eq!(cluster.answer()["ready"], true);
        cluster
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the cluster says {line:?}"))
    }

    /// `stop` or `start` and a component: `stop kube-apiserver`.
    pub fn order(&mut self, order: &str) {
        writeln!(self.orders.as_ref().unwrap(), "{order}").unwrap();
        self.answer();
    }

    /// A file or directory of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// In the cluster's network.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(which("nsenter").unwrap());
        let pid = self.kubernetes.id().to_string();
        if nix::unistd::geteuid().is_root() {
            command.args(["--net", "--target", &pid]);
        } else {
            command.args(["--net", "--user", "--preserve-credentials", "--target", &pid]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs kubectl, given `stdin`; whether it succeeded, and all that it printed.
    pub fn try_kubectl(&self, args: &str, stdin: &str) -> (bool, String) {
        let mut command = self.command(&built().join("kubectl"));
        command.arg("--kubeconfig").arg(self.admin()).args(args.split_whitespace());
        run(command, stdin)
    }

    /// Starts it under `name`; what it prints is in a log of that name.
    pub fn kubectl_in_background(&mut self, name: &str, args: &str) {
        let mut command = self.command(&built().join("kubectl"));
        command.arg("--kubeconfig").arg(self.admin()).args(args.split_whitespace());
        let _ = fs::remove_file(self.path(&format!("{name}.log")));
        self.spawn(name, command);
    }

    /// What curl prints; somebody has to answer.
    pub fn curl(&self, args: &[&str]) -> String {
        let mut command = self.command(&which("curl").unwrap());
        command.args(["--silent", "--show-error"]).args(args);
        let (success, output) = run(command, "");
        assert!(success, "curl {args:?}: {output}");
        output
    }

    /// Opens `url` in a browser, which has to show all of `texts` when it looks at `namespace`, or at all of them; where `CONDUIT_TEST_BROWSER` says which one.
    pub fn browse(&self, url: &str, namespace: &str, texts: &[&str]) {
        let Some(browser) = std::env::var_os("CONDUIT_TEST_BROWSER") else {
            return eprintln!("SKIPPED: without CONDUIT_TEST_BROWSER, nobody looks at pages in a browser");
        };
        let browser = which(&browser.to_string_lossy()).expect("CONDUIT_TEST_BROWSER is a program");
        let mut command = self.command(&which("node").expect("a browser is driven by Node"));
        command
            .arg(repository().join("dashboard/tests/in_cluster.mjs"))
            .arg(browser)
            .args([url, namespace])
            .args(texts);
        let (success, output) = run(command, "");
        assert!(success, "{output}");
    }

    /// What it prints; it has to succeed.
    pub fn kubectl(&self, args: &str) -> String {
        let (success, output) = self.try_kubectl(args, "");
        assert!(success, "kubectl {args}: {output}");
        output
    }

    /// Applies `manifests`.
    pub fn apply(&self, manifests: &str) {
        let (success, output) = self.try_kubectl("apply -f -", manifests);
        assert!(success, "{output}");
    }

    /// Brings the Gateway API's kinds into the cluster.
    pub fn install_gateway_api(&self) {
        self.kubectl(&format!("apply --server-side -f {}", built().join("gateway-api.yaml").display()));
        self.kubectl("wait --for=condition=Established crd/httproutes.gateway.networking.k8s.io --timeout=60s");
        eventually("routes are served", || self.get("httproutes --all-namespaces"));
    }

    /// An object, if it is there.
    pub fn get(&self, what: &str) -> Option<Value> {
        let (success, output) = self.try_kubectl(&format!("get -o json {what}"), "");
        success.then(|| serde_json::from_str(&output).unwrap())
    }

    /// Runs the command that a person types, given `stdin`; what it prints on stdout and stderr. It has to succeed.
    pub fn conduit(&self, args: &str, stdin: &str) -> (String, String) {
        let mut command = Command::new(programs::built().join("conduit"));
        command.args(args.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, error) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "conduit {args}: {error}");
        (out, error)
    }

    /// The same, asked by way of the API server by who has `kubeconfig`: whether it succeeded, and all that was printed.
    pub fn through_api_server(&self, kubeconfig: &Path, args: &str) -> (bool, String) {
        let mut command = self.command(&programs::built().join("conduit"));
        command.arg("--kubeconfig").arg(kubeconfig).args(args.split_whitespace());
        let (success, output) = run(command, "");
        self.last_answer.replace(output.clone());
        (success, output)
    }

    /// The kubeconfig of who may do everything.
    pub fn admin(&self) -> PathBuf {
        self.path("cluster/kubeconfig")
    }

    /// That of a ServiceAccount, which is made now.
    pub fn person(&self, namespace: &str, name: &str) -> PathBuf {
        self.kubectl(&format!("-n {namespace} create serviceaccount {name}"));
        let token = self.kubectl(&format!("-n {namespace} create token {name} --duration 2h"));
        let kubeconfig = self.path(&format!("{name}.kubeconfig"));
        self.write_kubeconfig(&kubeconfig, token.trim());
        kubeconfig
    }

    /// The same, asked of the controller called `name`, if it answers.
    pub fn ask(&self, name: &str, args: &str) -> Option<String> {
        let mut command = Command::new(programs::built().join("conduit"));
        command.args(["--api-addr", &format!("unix:{}", self.path(&format!("{name}.sock")).display())]);
        let output = command.args(args.split_whitespace()).output().unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        self.last_answer.replace(format!("{out}{error}"));
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// What the controller called `name` says why it does not do that.
    pub fn refused(&self, name: &str, args: &str) -> String {
        assert!(self.ask(name, args).is_none(), "{args}: {}", self.last_answer.borrow());
        self.last_answer.borrow().clone()
    }

    /// The address that a pod was given.
    pub fn pod_ip(&self, namespace: &str, pod: &str) -> String {
        eventually(&format!("{namespace}/{pod} has an address"), || {
            let pod = self.get(&format!("-n {namespace} pod {pod}"))?;
            pod["status"]["podIP"].as_str().map(ToOwned::to_owned)
        })
    }

    /// Starts a controller as the pod of that name would, with the rights of its service account and no others.
    pub fn start_controller(&mut self, name: &str, replicas: usize) {
        let address = |name: &str| format!("{name}={}:8300", self.pod_ip("conduit", name));
        let peers: Vec<_> = (0..replicas).map(|number| address(&format!("controller-{number}"))).collect();
        let token = self.kubectl("-n conduit create token conduit-controller --duration 2h");
        let kubeconfig = self.path(&format!("{name}.kubeconfig"));
        self.write_kubeconfig(&kubeconfig, token.trim());
        let config = self.get("-n conduit configmap conduit-config").unwrap();
        let injection = self.path("injection.yaml");
        fs::write(&injection, config["data"]["injection.yaml"].as_str().unwrap()).unwrap();
        let mut command = self.command(&programs::built().join("conduit-controller"));
        command.args(["--kubernetes", "--namespace=conduit", "--service-account-audience=conduit.io/identity"]);
        command.arg(format!("--name={name}")).arg(format!("--peers={}", peers.join(",")));
        command.arg(format!("--listen-ip={}", self.pod_ip("conduit", name)));
        command.arg(format!("--data-dir={}", self.path(&format!("{name}.data")).display()));
        command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        command.arg(format!("--injection-file={}", injection.display()));
        // As its pod is told, if its release knows of it.
        let set = self.get("-n conduit statefulset controller").unwrap();
        let args = set["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().iter();
        command.args(args.filter_map(Value::as_str).filter(|arg| arg.starts_with("--repair-pods=")));
        command.arg(format!("--api-socket={}", self.path(&format!("{name}.sock")).display()));
        self.spawn(name, command);
    }

    /// Ends that controller and starts it as its pod is now, with a log that begins anew.
    pub fn restart_controller(&mut self, name: &str, replicas: usize) {
        self.kill(name);
        fs::remove_file(self.path(&format!("{name}.log"))).unwrap();
        self.start_controller(name, replicas);
    }

    fn write_kubeconfig(&self, path: &Path, token: &str) {
        let (success, admin) = self.try_kubectl("config view --raw -o json", "");
        assert!(success, "{admin}");
        let mut config: Value = serde_json::from_str(&admin).unwrap();
        config["users"][0]["user"] = serde_json::json!({ "token": token });
        fs::write(path, config.to_string()).unwrap();
    }

    /// Starts `command` under `name`; what it says is in a log of that name.
    pub fn spawn(&mut self, name: &str, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.processes.push((name.to_owned(), child));
    }

    /// What starts the proxy of that pod, as its container would; the token that the kubelet would give it is made now.
    pub fn proxy(&self, namespace: &str, pod: &str, controllers: &[String], trust_bundle: &Path) -> Command {
        let found = self.get(&format!("-n {namespace} pod {pod}")).unwrap();
        let account = found["spec"]["serviceAccountName"].as_str().unwrap();
        let uid = found["metadata"]["uid"].as_str().unwrap();
        let ip = self.pod_ip(namespace, pod);
        let token = self.path(&format!("{pod}.token"));
        let bound = format!("--bound-object-kind Pod --bound-object-name {pod} --bound-object-uid {uid}");
        let issue = format!("-n {namespace} create token {account} --audience conduit.io/identity {bound}");
        fs::write(&token, self.kubectl(&issue)).unwrap();
        let mut command = self.command(&programs::built().join("conduit-proxy"));
        command.env("CONDUIT_PROXY_POD_NAMESPACE", namespace).env("CONDUIT_PROXY_POD_NAME", pod);
        command.env("CONDUIT_PROXY_POD_IP", &ip).env("CONDUIT_PROXY_TRUST_DOMAIN", "cluster.local");
        command.env("CONDUIT_PROXY_CONTROL_URL", controllers.join(","));
        command.env("CONDUIT_PROXY_TRUST_ANCHORS_FILE", trust_bundle).env("CONDUIT_PROXY_IDENTITY_TOKEN_FILE", token);
        for (listener, port) in [("PRIVATE", 4140), ("PUBLIC", 4143), ("METRICS", 4191)] {
            command.env(format!("CONDUIT_PROXY_{listener}_LISTENER"), format!("{ip}:{port}"));
        }
        command
    }

    /// Ends the process called `name`, as a node that fails would.
    pub fn kill(&mut self, name: &str) {
        let index = self.processes.iter().position(|(known, _)| known == name).unwrap();
        let (_, mut child) = self.processes.remove(index);
        end(&mut child);
    }

    /// What the process called `name` has ended with, if it has by now.
    pub fn ended(&mut self, name: &str) -> Option<ExitStatus> {
        let (_, child) = self.processes.iter_mut().find(|(known, _)| known == name).unwrap();
        child.try_wait().unwrap()
    }

    /// All that the process called `name` has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }
}

/// Whether it succeeded, and all that it printed.
fn run(mut command: Command, stdin: &str) -> (bool, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let given = stdin.to_owned();
    // It may print before it has read all.
    let writer = std::thread::spawn(move || input.write_all(given.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    let success = output.status.success();
    let error = if success { String::new() } else { String::from_utf8_lossy(&output.stderr).into_owned() };
    (success, String::from_utf8_lossy(&output.stdout).into_owned() + &error)
}

/// nsenter becomes the program: it has no child.
fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (name, mut child) in std::mem::take(&mut self.processes) {
            end(&mut child);
            if std::thread::panicking() {
                let log = self.log(&name);
                let last: Vec<_> = log.lines().rev().take(15).collect();
                eprintln!("--- {name}\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the last question was answered with: {}", self.last_answer.borrow());
            let log = fs::read_to_string(self.path("cluster/kube-apiserver.log")).unwrap_or_default();
            log.lines()
                .filter(|line| line.contains("calling webhook"))
                .take(5)
                .for_each(|line| eprintln!("API server: {line}"));
        }
        drop(self.orders.take());
        let _ = self.kubernetes.wait();
    }
}

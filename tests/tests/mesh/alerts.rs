//! Objectives, against traffic of which half fails.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    harness::{Mesh, eventually},
    traffic::Traffic,
};

/// The shortest window, a look at it, and a machine that has much to do.
const SOON: Duration = Duration::from_secs(90);
const SECRET: &str = "a-secret-of-this-test-alone";
/// The first of them always fails.
const PATHS: &[&str] = &["/api/vote?choice=:poop:", "/api/vote?choice=:joy:"];

/// A webhook that refuses the first message that it gets.
#[derive(Clone, Default)]
struct Webhook(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    refused: Vec<String>,
    /// Signature and body of each.
    taken: Vec<(String, String)>,
}

impl Webhook {
    fn start(listener: UnixListener) -> Self {
        let webhook = Self::default();
        let heard = webhook.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                heard.hear(stream.unwrap());
            }
        });
        webhook
    }

    fn hear(&self, mut stream: UnixStream) {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let (mut read, mut bytes) = (String::new(), [0; 4096]);
        let body = loop {
            let count = stream.read(&mut bytes).unwrap();
            read.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            let body = read.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
            if let Some(body) = body.filter(|body| serde_json::from_str::<Value>(body).is_ok()) {
                break body;
            }
            assert_ne!(count, 0, "{read}");
        };
        let signature = read.lines().find_map(|line| line.strip_prefix("conduit-signature: ")).unwrap().to_owned();
        let mut heard = self.0.lock().unwrap();
        let status = if heard.refused.is_empty() {
            heard.refused.push(body);
            "503 Service Unavailable"
        } else {
            heard.taken.push((signature, body));
            "204 No Content"
        };
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
    }

    fn taken(&self) -> Vec<Value> {
        self.0.lock().unwrap().taken.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    }
}

/// By another implementation.
fn assert_signed(signature: &str, body: &str) {
    let (time, hex) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-hmac", SECRET]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().unwrap();
    write!(child.stdin.take().unwrap(), "{time}.{body}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().trim_end().ends_with(hex), "{signature} {body}");
}

fn alerts(mesh: &Mesh) -> Value {
    serde_json::from_str(&mesh.ok("-n emojivoto alerts -o json")).unwrap()
}

/// The one alert that fires.
fn firing(mesh: &Mesh) -> Option<Value> {
    let all = alerts(mesh)["alerts"].as_array().unwrap().clone();
    all.into_iter().find(|alert| alert["state"] == "firing")
}

#[test]
fn an_objective_that_is_not_kept_is_told_of_once_and_again_when_it_is_kept() {
    let mut mesh = Mesh::waiting();
    let secret = mesh.file("webhook-secret", SECRET);
    let socket = secret.with_file_name("webhook.sock");
    let webhook = Webhook::start(UnixListener::bind(&socket).unwrap());
    mesh.set("CONDUIT_CONTROLLER_ALERT_WINDOW", "15s");
    mesh.set("CONDUIT_CONTROLLER_ALERT_WEBHOOK", &format!("unix:{}", socket.display()));
    mesh.set("CONDUIT_CONTROLLER_ALERT_WEBHOOK_SECRET_FILE", &secret.display().to_string());
    mesh.start("");
    let traffic = Traffic::of(mesh.web_address(), PATHS);
    assert_eq!(
        mesh.ok("-n emojivoto slo set deploy/voting --success 99 --p99 30s"),
        "objective of deployment/voting set: success 99%, p99 30s\n"
    );
    assert!(mesh.ok("history").contains("objective of deployment/emojivoto/voting: success 99%, p99 30s"));

    let alert = eventually(SOON, "half of the requests fail, and that is told", || firing(&mesh));
    assert_eq!((alert["indicator"].as_str(), alert["severity"].as_str()), (Some("success"), Some("critical")));
    assert_eq!(alert["resource"]["name"], "voting");
    let list = mesh.ok("-n emojivoto slo list");
    assert!(list.lines().any(|line| line.contains("success 99%   firing")), "{list}");
    assert!(list.lines().any(|line| line.contains("p99 30s       met")), "{list}");
    let told = eventually(SOON, "the webhook takes it at the second attempt", || webhook.taken().pop());
    assert_eq!((told["state"].as_str(), told["objective"].as_str()), (Some("firing"), Some("success 99%")));
    {
        let heard = webhook.0.lock().unwrap();
        assert_eq!(heard.refused, [heard.taken[0].1.clone()], "it is the same message");
        assert_signed(&heard.taken[0].0, &heard.taken[0].1);
    }
    eventually(SOON, "that it was told is written down", || {
        (alerts(&mesh)["history"][0]["delivery"] == "told").then_some(())
    });

    let before = mesh.raft();
    mesh.kill9(before.leader().pid);
    eventually(SOON, "another leader knows all of a window, and it fires still", || {
        let raft = mesh.try_raft()?;
        let led = raft.term > before.term && !raft.leader_id.is_empty();
        let now = firing(&mesh).expect("it fires all the time");
        assert_eq!(now["since"], alert["since"]);
        let windows = now["windows"].as_array().unwrap();
        (led && windows[0]["partial"] == false && windows[1]["partial"] == false).then_some(())
    });
    assert_eq!(webhook.taken().len(), 1, "nobody is told twice");

    mesh.ok("-n emojivoto slo set deploy/voting --success 10");
    eventually(SOON, "half of the requests are enough for that", || firing(&mesh).is_none().then_some(()));
    let told = eventually(SOON, "the webhook is told", || webhook.taken().get(1).cloned());
    assert_eq!((told["state"].as_str(), told["since_ms"].as_u64().is_some()), (Some("resolved"), true));
    let history = mesh.ok("-n emojivoto alerts --history");
    assert_eq!(history.lines().filter(|line| line.contains(" firing ")).count(), 1, "{history}");
    assert_eq!(history.lines().filter(|line| line.contains(" resolved ")).count(), 1, "{history}");

    mesh.ok("-n emojivoto slo remove deploy/voting");
    assert!(
        mesh.fails("-n emojivoto slo remove deploy/voting")
            .contains("nothing is promised of deployment emojivoto/voting")
    );

    mesh.ok("-n emojivoto slo set deploy/web --p99 1ms");
    let late = eventually(SOON, "it asks others first, and each answer takes longer", || firing(&mesh));
    assert_eq!((late["indicator"].as_str(), late["resource"]["name"].as_str()), (Some("p99"), Some("web")));
    let told = eventually(SOON, "the webhook is told", || webhook.taken().get(2).cloned());
    assert_eq!((told["state"].as_str(), told["objective"].as_str()), (Some("firing"), Some("p99 1ms")));
    mesh.ok("-n emojivoto slo set deploy/web --p99 30s");
    eventually(SOON, "each is fast enough for that", || firing(&mesh).is_none().then_some(()));
    traffic.stop();
    mesh.down();
}

//! What the commands say of traffic, against traffic that is known.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

use super::harness::{Mesh, eventually};

/// A request, a report, a query.
const SOON: Duration = Duration::from_secs(30);
/// Requests that nobody else makes.
const REQUESTS: u64 = 20;

/// `web` calls `voting` over mutual TLS, and the command says as whom.
pub fn assert_edges(mesh: &Mesh) {
    let edge = eventually(SOON, "there is an edge from web to voting", || {
        let table = mesh.ok("-n emojivoto edges deployment -o wide");
        table.lines().find(|line| line.starts_with("web ") && line.contains(" voting ")).map(ToOwned::to_owned)
    });
    let id = |name: &str| format!("spiffe://cluster.local/ns/emojivoto/sa/{name}");
    let cells: Vec<_> = edge.split_whitespace().collect();
    assert_eq!(cells, ["web", "voting", "emojivoto", "emojivoto", &id("web"), &id("voting"), "√"]);
    let pods = mesh.ok("-n emojivoto edges po");
    assert!(pods.lines().any(|line| line.starts_with("web-0 ") && line.contains(" voting-0 ")), "{pods}");

    let wide = mesh.ok("-n emojivoto stat deploy/voting -o wide");
    assert!(wide.lines().next().unwrap().ends_with("TCP_CONN   READ_BYTES/SEC   WRITE_BYTES/SEC"), "{wide}");
    let open = wide.lines().nth(1).and_then(|row| row.split_whitespace().rev().nth(2)).unwrap();
    assert_ne!(open.parse::<u64>().unwrap(), 0, "{wide}");
}

/// What controllers and proxies say of themselves, asked through any of them.
pub fn assert_diagnostics(mesh: &Mesh) {
    let endpoints = mesh.ok("diagnostics endpoints web-svc.emojivoto:80 -o json");
    let endpoints: Value = serde_json::from_str(&endpoints).unwrap();
    let [web] = endpoints.as_array().unwrap().as_slice() else { panic!("{endpoints}") };
    assert_eq!((web["pod"].as_str(), web["service_port"].as_u64()), (Some("web-0"), Some(80)), "{endpoints}");
    assert_eq!(web["identity"], "spiffe://cluster.local/ns/emojivoto/sa/web");
    let metrics = mesh.ok("-n emojivoto diagnostics proxy-metrics deploy/web");
    assert!(metrics.starts_with("#\n# POD web-0 (1 of 1)\n#\n# HELP "), "{metrics}");
    assert!(metrics.lines().any(|line| line.starts_with("response_total{direction=\"inbound\"")), "{metrics}");
    let all = mesh.ok("diagnostics controller-metrics");
    assert_eq!(all.lines().filter(|line| line.starts_with("conduit_controller_raft_term ")).count(), 3, "{all}");
}

/// Every service has a row for what no route accepts, and one for each route; requests of older rules stay.
pub fn assert_routes(mesh: &Mesh) {
    let file = mesh.file(
        "routes.yml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: votes, namespace: emojivoto}\nspec:\n  \
         parentRefs: [{kind: Service, name: voting-svc}]\n  rules:\n  - matches: [{path: {type: PathPrefix, value: \
         /emojivoto.v1.VotingService}}]\n    backendRefs: [{name: voting-svc, port: 8080}]\n  - matches: [{path: {value: \
         /nobody}}]\n    backendRefs: []\n",
    );
    mesh.ok(&format!("apply -f {} --wait", file.display()));
    let rows = eventually(SOON, "requests take the route", || {
        let table = mesh.ok("-n emojivoto routes svc/voting-svc");
        let rows: Vec<Vec<_>> =
            table.lines().map(|line| line.split_whitespace().map(ToOwned::to_owned).collect()).collect();
        rows.iter().any(|row| row[0] == "votes" && row[2] != "-").then_some(rows)
    });
    let names = rows.iter().map(|row| [row[0].as_str(), row[1].as_str()]).collect::<Vec<_>>();
    assert_eq!(names, [["ROUTE", "SERVICE"], ["votes", "voting-svc:8080"], ["[DEFAULT]", "voting-svc:8080"]]);
    let sent = mesh.ok("-n emojivoto routes deploy/web --to svc/voting-svc");
    assert!(sent.lines().any(|line| line.starts_with("votes ")), "{sent}");
    mesh.ok("-n emojivoto delete httproute votes --wait");
}

/// Requests are counted by path and status, each once.
pub fn assert_paths(mesh: &Mesh) {
    for number in 0..REQUESTS {
        get(&mesh.web_address(), &format!("/nowhere/{number}?q={number}"));
    }
    let counted = || {
        let of_ours = of_path(&by_path(mesh), "/nowhere");
        of_ours
            .into_iter()
            .map(|row| {
                let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
                (text("path"), text("method"), text("status"), count(&row))
            })
            .collect::<Vec<_>>()
    };
    let rows = eventually(SOON, "all of them are counted", || {
        let rows = counted();
        (rows.iter().map(|row| row.3).sum::<u64>() >= REQUESTS).then_some(rows)
    });
    assert_eq!(rows, [("/nowhere/*".to_owned(), "GET".to_owned(), "404".to_owned(), REQUESTS)]);
    let voting = mesh.ok("-n emojivoto stat deploy/voting --by path,status,class");
    let vote = voting.lines().find(|line| line.contains(" /emojivoto.v1.VotingService/Vote")).unwrap();
    assert!(vote.contains(" OK ") && vote.contains(" success ") || vote.contains(" Unknown "), "{voting}");
}

/// Whichever replica dies: an answer has all requests, or says that it has not.
pub fn assert_never_silently_wrong(mesh: &Mesh) {
    for number in 0..REQUESTS {
        get(&mesh.web_address(), &format!("/lost/{number}"));
    }
    let counted = || {
        let json = by_path(mesh);
        let lost: u64 = of_path(&json, "/lost").iter().map(count).sum();
        (lost, json["partial"] == true, json["replicas_answered"].as_u64().unwrap())
    };
    eventually(SOON, "all of them are counted", || (counted() == (REQUESTS, false, 3)).then_some(()));
    let mut were_partial = 0;
    for controller in ["controller-0", "controller-1", "controller-2"] {
        let before = mesh.process(controller).pid;
        mesh.kill9(before);
        // Whoever counted for them begins anew, and what it knew is gone.
        eventually(SOON, "it is back, and all answer", || {
            let (lost, is_partial, answered) = counted();
            assert!(
                lost <= REQUESTS && (lost == REQUESTS || is_partial),
                "{lost} of {REQUESTS}, and nothing is said of it"
            );
            were_partial += u32::from(is_partial);
            (answered == 3 && mesh.process(controller).pid != before).then_some(())
        });
    }
    assert_ne!(were_partial, 0);
}

fn by_path(mesh: &Mesh) -> Value {
    let json = mesh.ok("-n emojivoto stat deploy/web --by path,method,status -t 5m -o json");
    serde_json::from_str(&json).unwrap()
}

fn of_path(json: &Value, prefix: &str) -> Vec<Value> {
    let rows = json["rows"].as_array().unwrap().iter();
    rows.filter(|row| row["path"].as_str().is_some_and(|path| path.starts_with(prefix))).cloned().collect()
}

fn count(row: &Value) -> u64 {
    (row["rps"].as_f64().unwrap() * row["window_ms"].as_f64().unwrap() / 1000.0).round() as u64
}

fn get(address: &str, path: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

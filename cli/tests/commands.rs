//! The `conduit` command as a process, against replicas that answer what they were told to.

#![allow(clippy::unwrap_used, reason = "what fails in a test shall fail the test")]

mod commands {
    pub mod fake;
}

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use commands::fake::{Answers, Replica};
use conduit_api::proto::{
    common::{Direction, ResourceRef, SocketAddress},
    public::{
        Alert, AlertEvent, Assessment, BasicStats, BurnRate, Change, CheckResult, Edge, EdgesResponse, Group,
        ListAlertsResponse, Objective, Pod, RaftMember, RaftStatusResponse, SelfCheckResponse, StatResponse, StatRow,
        TrustRoot, assessment::State, check_result,
    },
    tap::{
        TapEvent,
        tap_event::{Id, Kind, Peer, RequestInit, ResponseEnd, ResponseInit},
    },
};
use expect_test::expect;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UnixListener},
    process::Command,
    time::timeout,
};
use tonic::Status;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that finds no mesh on this machine by itself.
fn conduit(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conduit"));
    command.args(args.split(' ')).env("CONDUIT_LOCAL_DIR", "/nonexistent/conduit").env("HOME", "/nonexistent");
    for variable in ["CONDUIT_NAMESPACE", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(args: &str) -> Output {
    timeout(PATIENCE, conduit(args).output()).await.expect("the command ends").unwrap()
}

/// Standard output of a command that must succeed, and what it notes beside it.
async fn ok(args: &str) -> (String, String) {
    let output = run(args).await;
    let (out, notes) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "`conduit {args}`: {notes}{out}");
    (out, notes)
}

/// The one line with which a command fails.
async fn fails(args: &str) -> String {
    let output = run(args).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "`conduit {args}`: {error}");
    assert!(output.stdout.is_empty() && error.lines().count() == 1 && error.starts_with("error: "), "{args}: {error}");
    error
}

fn row(namespace: &str, name: &str, stats: Option<BasicStats>) -> StatRow {
    let resource = ResourceRef { kind: "deployment".into(), namespace: namespace.into(), name: name.into() };
    StatRow { resource: Some(resource), meshed_pods: 1, running_pods: 1, stats, ..StatRow::default() }
}

fn emojivoto() -> StatResponse {
    let stats = |success_count, failure_count, latency_ms: u64| BasicStats {
        success_count,
        failure_count,
        window_ms: 60_000,
        latency_p50_us: latency_ms * 1000,
        latency_p95_us: latency_ms * 1000,
        latency_p99_us: latency_ms * 1000,
        tls_count: success_count + failure_count,
    };
    let rows = vec![row("emojivoto", "vote-bot", None), row("emojivoto", "web", Some(stats(102, 18, 3)))];
    StatResponse { rows, replicas_answered: 3, replicas_total: 3, ..StatResponse::default() }
}

#[tokio::test]
async fn version_never_fails() {
    let replica = Replica::start(Answers { version: "v9.9.9".into(), ..Answers::default() });
    let address = replica.address();
    for (args, expected) in [
        ("version".to_owned(), "Client version: v0.1.0\nServer version: unavailable\n"),
        ("version --client".to_owned(), "Client version: v0.1.0\n"),
        ("version --short".to_owned(), "v0.1.0\nunavailable\n"),
        (format!("version --api-addr {address}"), "Client version: v0.1.0\nServer version: v9.9.9\n"),
        (format!("--api-addr {address} version --short"), "v0.1.0\nv9.9.9\n"),
    ] {
        assert_eq!(ok(&args).await, (expected.to_owned(), String::new()), "{args}");
    }
}

fn voting() -> ResourceRef {
    ResourceRef { kind: "deployment".into(), namespace: "emojivoto".into(), name: "voting".into() }
}

fn assessment(goal: &str, state: State, severity: &str, bad: u64) -> Assessment {
    let burn_rate = |(window_ms, requests): (u32, u64)| BurnRate {
        window_ms,
        rate: (requests > 0).then(|| bad as f64 * 100.0 / requests as f64),
        requests,
        bad: if requests > 0 { bad } else { 0 },
        partial: requests == 0,
    };
    Assessment {
        indicator: goal.split(' ').next().unwrap().into(),
        goal: goal.into(),
        state: state.into(),
        severity: severity.into(),
        since_ms: if state == State::Firing { 1_525_000_000_000 } else { 0 },
        burn_rates: [(300_000, 200), (600_000, 400), (1_800_000, 800), (3_600_000, 0)].map(burn_rate).into(),
    }
}

#[tokio::test]
async fn objectives_are_set_listed_and_removed() {
    let assessments =
        vec![assessment("success 99%", State::Firing, "critical", 32), assessment("p99 100ms", State::Met, "", 0)];
    let objective = Objective { resource: Some(voting()), revision: 7, assessments, ..Objective::default() };
    let replica = Replica::start(Answers { objectives: vec![objective], ..Answers::default() });
    let slo = |args: &str| format!("-n emojivoto --api-addr {} slo {args}", replica.address());
    for (args, expected) in [
        ("set deploy/web --success 99.9 --p99 20ms", "objective of deployment/web set: success 99.9%, p99 20ms\n"),
        ("set deploy voting --success 99", "objective of deployment/voting unchanged: success 99%\n"),
        ("remove deploy/voting", "objective of deployment/voting removed\n"),
    ] {
        assert_eq!(ok(&slo(args)).await.0, expected);
    }
    assert_eq!(fails(&slo("remove deploy/web")).await, "error: nothing is promised of it\n");
    let (table, notes) = ok(&slo("list")).await;
    assert_eq!(
        table,
        "\
NAME            OBJECTIVE     STATE       KEPT   BURN_5M   BURN_10M   BURN_30M   BURN_1H
deploy/voting   success 99%   firing    84.00%     16.0x       8.0x       4.0x         -
deploy/voting   p99 100ms     met      100.00%      0.0x       0.0x       0.0x         -
"
    );
    assert_eq!(notes, "1 of 3 controllers did not answer: what they know is missing.\n");
    assert!(ok(&slo("list -A")).await.0.starts_with("NAMESPACE   NAME            OBJECTIVE"));
    let json: Value = serde_json::from_str(&ok(&slo("list -o json")).await.0).unwrap();
    let firing = &json["objectives"][0]["objectives"][0];
    assert_eq!((firing["state"].as_str(), firing["since"].as_str()), (Some("firing"), Some("2018-04-29T11:06:40Z")));
    assert_eq!((firing["windows"][0]["burn_rate"].as_f64(), json["partial"].as_bool()), (Some(16.0), Some(true)));
    assert_eq!(firing["windows"][3]["burn_rate"], Value::Null);
    let nothing = ok(&format!("--api-addr {} slo list", replica.address())).await;
    assert!(nothing.0.is_empty() && nothing.1.starts_with("No objectives found.\n"), "{nothing:?}");
}

#[tokio::test]
async fn alerts_are_shown_with_their_history() {
    let (firing, pending) = (
        assessment("success 99%", State::Firing, "critical", 32),
        assessment("p99 100ms", State::Pending, "warning", 16),
    );
    let alert = |assessment| Alert { resource: Some(voting()), assessment: Some(assessment) };
    let event = |id, firing| AlertEvent {
        id,
        resource: Some(voting()),
        indicator: "success".into(),
        goal: "success 99%".into(),
        firing,
        severity: "critical".into(),
        time_ms: 1_525_000_000_000,
        delivery: if firing { "told" } else { "none" }.into(),
    };
    let alerts = ListAlertsResponse {
        alerts: vec![alert(firing), alert(pending)],
        events: vec![event(9, false), event(8, true)],
        replicas_answered: 3,
        replicas_total: 3,
    };
    let replica = Replica::start(Answers { alerts, ..Answers::default() });
    let (table, notes) = ok(&format!("-n emojivoto --api-addr {} alerts", replica.address())).await;
    assert_eq!(
        table,
        "\
NAME            OBJECTIVE     STATE     SEVERITY   SINCE                    KEPT   BURN_5M   BURN_10M   BURN_30M   BURN_1H
deploy/voting   success 99%   firing    critical   2018-04-29T11:06:40Z   84.00%     16.0x       8.0x       4.0x         -
deploy/voting   p99 100ms     pending   warning    -                      92.00%      8.0x       4.0x       2.0x         -
"
    );
    assert_eq!(notes, "");
    let (history, _) = ok(&format!("--api-addr {} alerts -A --history", replica.address())).await;
    assert_eq!(
        history,
        "\
TIME                   NAMESPACE   NAME            OBJECTIVE     STATE      SEVERITY   WEBHOOK
2018-04-29T11:06:40Z   emojivoto   deploy/voting   success 99%   resolved   critical   -
2018-04-29T11:06:40Z   emojivoto   deploy/voting   success 99%   firing     critical   told
"
    );
    let json: Value =
        serde_json::from_str(&ok(&format!("--api-addr {} alerts -o json", replica.address())).await.0).unwrap();
    assert_eq!(
        (json["alerts"][0]["resource"]["name"].as_str(), json["alerts"].as_array().unwrap().len()),
        (Some("voting"), 2)
    );
    assert_eq!(json["history"][1]["id"].as_str(), Some("8-success"));
    let empty = Replica::start(Answers::default());
    assert_eq!(
        ok(&format!("--api-addr {} alerts", empty.address())).await,
        (String::new(), "No alerts found.\n".into())
    );
}

#[tokio::test]
async fn without_a_control_plane_commands_say_how_to_start_one() {
    for args in ["stat deployment", "tap deploy/web", "raft status", "get pods", "pods"] {
        let error = fails(args).await;
        assert!(
            error.contains("no Conduit control plane found") && error.contains("`conduit local up --demo`"),
            "{error}"
        );
    }
    let error = fails("stat deploy --api-addr unix:/nonexistent/api.sock").await;
    assert!(error.contains("unix:/nonexistent/api.sock") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn wrong_input_is_told_in_one_line_before_anybody_is_asked() {
    for (args, says) in [
        ("stat nonsense", "`nonsense`"),
        ("stat deploy -t 1s", "15s"),
        ("-n not_valid stat deploy", "not_valid is not a valid namespace"),
        ("tap svc/web-svc", "--authority"),
        ("tap deploy/web --payload --descriptor-set /no/such/set", "/no/such/set"),
        ("tap deploy/web --payload --to deploy/voting", "tap the one in --to"),
        ("tap deploy/web --payload -o short", "leave one of both out"),
        ("tap deploy/web --headers", "--payload"),
        ("tap deploy/web -o jsonpath={.source.ip", "the brace at character 1 is not closed"),
        ("tap deploy/web -o yaml", "line, short, wide, json"),
        ("get services", "invalid resource type services, only pods and httproutes are allowed"),
        ("completion tcsh", "unsupported shell type (must be bash, zsh, fish or powershell): tcsh"),
        ("stat deploy --api-addr here", "`here` is not an address"),
        ("stta", "some similar subcommands exist: 'install', 'stat'"),
    ] {
        let error = fails(args).await;
        assert!(error.contains(says), "{args}: {error}");
    }
}

#[tokio::test]
async fn all_is_what_an_older_control_plane_counts() {
    let refused_kinds = vec!["job", "service"];
    let replica = Replica::start(Answers { stat: emojivoto(), refused_kinds, ..Answers::default() });
    let flags = format!("--api-addr {} -n emojivoto", replica.address());
    let (table, notes) = ok(&format!("{flags} stat all")).await;
    assert!(table.contains("deploy/web") && !table.contains("svc/"), "{table}");
    let note = |kind: &str| format!("note: without {kind}, which the control plane does not count: it is older\n");
    assert_eq!(notes, note("job") + &note("service"));
    assert!(fails(&format!("{flags} stat job")).await.contains("there are no stats by `job`"));
}

#[tokio::test]
async fn routes_are_told_apart_and_an_older_control_plane_is_found_out() {
    let of = |route: &str, row: StatRow| {
        let group = Group { service: "emojivoto/web-svc:80".into(), route: route.into(), ..Group::default() };
        StatRow { group: Some(group), ..row }
    };
    let mut stat = emojivoto();
    let (idle, busy) = (stat.rows[0].clone(), stat.rows[1].clone());
    stat.rows = vec![of("", StatRow { resource: busy.resource.clone(), ..idle }), of("canary", busy)];
    let replica = Replica::start(Answers { stat, ..Answers::default() });
    let flags = format!("--api-addr {} -n emojivoto", replica.address());
    let table = concat!(
        "ROUTE       SERVICE      SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99\n",
        "canary      web-svc:80    85.00%   2.0rps           3ms           3ms           3ms\n",
        "[DEFAULT]   web-svc:80         -        -             -             -             -\n",
    );
    assert_eq!(ok(&format!("{flags} routes deploy/web")).await, (table.to_owned(), String::new()));
    let (none, notes) = ok(&format!("{flags} routes deploy/nobody")).await;
    assert_eq!((none.as_str(), notes.as_str()), ("", "No routes found.\n"));

    let older = Replica::start(Answers { stat: emojivoto(), knows_no_routes: true, ..Answers::default() });
    for whose in ["deploy", "deploy/nobody"] {
        let error = fails(&format!("--api-addr {} -n emojivoto routes {whose}", older.address())).await;
        assert!(error.contains("of an older release, which does not count by route: upgrade it first"), "{error}");
    }
}

#[tokio::test]
async fn stat_writes_a_table_and_json() {
    let replica = Replica::start(Answers { stat: emojivoto(), ..Answers::default() });
    let flags = format!("--api-addr {}", replica.address());
    let table = "\
NAME       MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
vote-bot      1/1         -        -             -             -             -      -
web           1/1    85.00%   2.0rps           3ms           3ms           3ms   100%
";
    assert_eq!(ok(&format!("{flags} -n emojivoto stat deployment")).await, (table.to_owned(), String::new()));

    let (json, _) = ok(&format!("{flags} stat deploy -n emojivoto -o json")).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["rows"][1]["name"], &json["rows"][1]["success"]), (&"web".into(), &0.85.into()));
    assert_eq!(json["partial"], Value::Bool(false));

    assert_eq!(ok(&format!("{flags} stat deploy")).await, (String::new(), "No traffic found.\n".to_owned()));
    let error = fails(&format!("{flags} stat ns")).await;
    assert_eq!(error, "error: there are no stats by `namespace`\n");
    let (_, notes) = ok(&format!("{flags} stat svc -n emojivoto")).await;
    assert_eq!(notes, "No traffic found.\n");
}

#[tokio::test]
async fn several_kinds_are_blocks_and_everything_is_those_that_there_are() {
    let mut stat = emojivoto();
    let mut pod = stat.rows[0].clone();
    pod.resource = Some(ResourceRef { kind: "pod".into(), namespace: "emojivoto".into(), name: "web-0".into() });
    (pod.meshed_pods, pod.running_pods) = (0, 1);
    stat.rows.push(pod);
    let replica = Replica::start(Answers { stat, ..Answers::default() });
    let flags = format!("--api-addr {} -n emojivoto", replica.address());
    let blocks = "\
NAME              MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
deploy/vote-bot      1/1         -        -             -             -             -      -
deploy/web           1/1    85.00%   2.0rps           3ms           3ms           3ms   100%

NAME       MESHED   SUCCESS   RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TLS
po/web-0      0/1         -     -             -             -             -     -
";
    for words in ["stat all", "stat deploy po", "stat deploy,po"] {
        assert_eq!(ok(&format!("{flags} {words}")).await, (blocks.to_owned(), String::new()), "{words}");
    }
    let (one_block, _) = ok(&format!("{flags} stat deploy/web deploy/vote-bot")).await;
    assert!(one_block.contains("\nweb ") && one_block.contains("\nvote-bot "), "{one_block}");
    let (unmeshed, _) = ok(&format!("{flags} stat deploy po --unmeshed")).await;
    assert!(!unmeshed.contains("deploy/") && unmeshed.contains("po/web-0"), "{unmeshed}");
    let (csv, _) = ok(&format!("{flags} stat deploy/web -o csv")).await;
    assert_eq!(csv.lines().nth(1), Some("emojivoto,deployment,web,1/1,0.85,2,3,3,3,1,,,,60000"));
}

#[tokio::test]
async fn what_is_watched_is_written_again() {
    let replica = Replica::start(Answers { stat: emojivoto(), ..Answers::default() });
    let mut watch = conduit(&format!("--api-addr {} -n emojivoto stat deploy --watch", replica.address()));
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = async || timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let first = [next().await, next().await, next().await];
    assert!(first[0].starts_with("NAME ") && first[2].starts_with("web "), "{first:?}");
    assert_eq!(next().await, "");
    assert_eq!([next().await, next().await, next().await], first);
}

#[tokio::test]
async fn edges_say_who_speaks_with_whom() {
    let end =
        |name: &str| Some(ResourceRef { kind: "deployment".into(), namespace: "emojivoto".into(), name: name.into() });
    let edge = Edge {
        source: end("web"),
        destination: end("voting"),
        client_id: "spiffe://a/ns/emojivoto/sa/web".into(),
        server_id: "spiffe://a/ns/emojivoto/sa/voting".into(),
        secured: true,
        ..Edge::default()
    };
    let edges =
        EdgesResponse { edges: vec![edge], replicas_answered: 1, replicas_total: 3, ..EdgesResponse::default() };
    let replica = Replica::start(Answers { edges, ..Answers::default() });
    let flags = format!("--api-addr {}", replica.address());
    let (table, notes) = ok(&format!("{flags} -n emojivoto edges deploy")).await;
    let expected = "\
SRC   DST      SRC_NS      DST_NS      SECURED
web   voting   emojivoto   emojivoto   √
";
    assert_eq!(table, expected);
    assert_eq!(notes, "note: 1 of 3 controllers answered: the figures are partial\n");
    let (json, _) = ok(&format!("{flags} edges deploy -A -o json")).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["edges"][0]["server_id"], "spiffe://a/ns/emojivoto/sa/voting");
    let (nothing, notes) = ok(&format!("{flags} -n elsewhere edges deploy")).await;
    assert!(nothing.is_empty() && notes.starts_with("No edges found.\n"), "{notes}");
}

#[tokio::test]
async fn partial_figures_are_noted() {
    let stat = StatResponse { replicas_answered: 2, ..emojivoto() };
    let replica = Replica::start(Answers { stat, ..Answers::default() });
    let (_, notes) = ok(&format!("--api-addr {} -n emojivoto stat deploy", replica.address())).await;
    assert_eq!(notes, "note: 2 of 3 controllers answered: the figures are partial\n");
    let stat = StatResponse { covered_ms: 20_000, window_ms: 58_000, truncated: true, ..emojivoto() };
    let replica = Replica::start(Answers { stat, ..Answers::default() });
    let (json, notes) = ok(&format!("--api-addr {} -n emojivoto stat deploy -o json", replica.address())).await;
    assert!(notes.contains("no more than 20s is known") && notes.contains("least traffic is left out"), "{notes}");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["partial"], true);
}

#[tokio::test]
async fn replicas_that_do_not_answer_are_skipped() {
    let directory = TempDir::with_prefix("conduit-cli-").unwrap();
    // What a killed process leaves behind, and one that hangs up on everybody.
    let dead = directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let rude = directory.path().join("rude.sock");
    let listener = UnixListener::bind(&rude).unwrap();
    let hang_up = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            drop(connection);
        }
    });
    let replica = Replica::start(Answers { stat: emojivoto(), ..Answers::default() });
    let (dead, rude) = (format!("unix:{}", dead.display()), format!("unix:{}", rude.display()));
    let (table, _) = ok(&format!("--api-addr {dead},{rude},{} -n emojivoto stat deploy", replica.address())).await;
    assert!(table.contains("85.00%"), "{table}");

    let error = fails(&format!("--api-addr {dead},{rude} stat deploy")).await;
    assert!(error.contains("none of 2 replicas of the control plane answers"), "{error}");
    hang_up.abort();
}

fn event(stream: u64) -> TapEvent {
    let address: std::net::SocketAddr = "10.244.1.2:8080".parse().unwrap();
    let peer = Peer { address: Some(SocketAddress::from(address)), ..Peer::default() };
    TapEvent {
        id: Some(Id { base: 1, stream }),
        source: Some(peer.clone()),
        destination: Some(peer),
        kind: Some(Kind::ResponseInit(ResponseInit {
            http_status: 200,
            since_request_init_us: 478,
            ..ResponseInit::default()
        })),
        ..TapEvent::default()
    }
}

#[tokio::test]
async fn tap_writes_each_line_at_once_goes_on_with_another_replica_and_ends_with_its_reader() {
    let answers = Answers::default();
    let (first, second) = (answers.tap(), answers.tap());
    let replica = Replica::start(answers);
    let mut tap = conduit(&format!("--api-addr {} tap deploy emojivoto/voting", replica.address()));
    let mut tap = tap.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tap.stdout.take().unwrap()).lines();
    for stream in 0..2 {
        first.send(Ok(event(stream))).await.unwrap();
        // Read before the next one is sent: nothing may wait in a buffer.
        let expected = format!("rsp id=1:{stream} src=10.244.1.2:8080 dst=10.244.1.2:8080 :status=200 latency=478µs");
        assert_eq!(lines.next_line().await.unwrap(), Some(expected));
    }
    first.send(Err(Status::unavailable("the replica stops"))).await.unwrap();
    second.send(Ok(event(7))).await.unwrap();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("rsp id=1:7 "));

    // `| head`: the reader leaves, and the next line finds nobody. Or one of the next: a process that another test starts
    // at this moment holds the pipe until it has become another program.
    drop(lines);
    let events = async { while second.send(Ok(event(8))).await.is_ok() {} };
    let (output, ()) = timeout(PATIENCE, async { tokio::join!(tap.wait_with_output(), events) }).await.unwrap();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "note: the controller went away; going on with another\n");
}

#[tokio::test]
async fn what_a_control_plane_that_knows_no_addresses_tells_besides_is_not_shown() {
    let answers = Answers::default();
    let events = answers.tap();
    let replica = Replica::start(answers);
    for (stream, port) in [(1, 80), (2, 8080)] {
        let address = "10.244.1.2:0".parse::<std::net::SocketAddr>().unwrap();
        let address = Some(SocketAddress { port, ..SocketAddress::from(address) });
        let destination = Some(Peer { address, ..Peer::default() });
        events.send(Ok(TapEvent { destination, ..event(stream) })).await.unwrap();
    }
    events.send(Err(Status::internal("enough"))).await.unwrap();
    let output =
        run(&format!("--api-addr {} tap deploy/web --to-port 80 --from-ip 10.244.1.2", replica.address())).await;
    let expected = "rsp id=1:1 src=10.244.1.2:8080 dst=10.244.1.2:80 :status=200 latency=478µs\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[tokio::test]
async fn tap_of_nothing_says_so() {
    let replica = Replica::start(Answers::default());
    let error = fails(&format!("--api-addr {} -n emojivoto tap deploy nothing", replica.address())).await;
    assert_eq!(error, "error: no pods found for deployment/nothing\n");
}

#[tokio::test]
async fn tap_in_json_is_one_object_on_a_line() {
    let answers = Answers::default();
    let events = answers.tap();
    let replica = Replica::start(answers);
    events.send(Ok(event(3))).await.unwrap();
    events.send(Err(Status::internal("enough"))).await.unwrap();
    let output = run(&format!("--api-addr {} tap deploy/web -o json", replica.address())).await;
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(out.lines().count(), 1);
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["responseInitEvent"]["id"]["stream"], 3);
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(1), "error: enough\n".into()));
}

#[tokio::test]
async fn tap_is_a_line_for_each_request_or_what_is_asked_for_of_its_events() {
    let init = RequestInit { method: "GET".into(), authority: "web".into(), path: "/a".into(), ..Default::default() };
    let end = ResponseEnd { since_request_init_us: 500, ..ResponseEnd::default() };
    let kinds = [Kind::RequestInit(init), event(0).kind.unwrap(), Kind::ResponseEnd(end)];
    let shown = async |output: &str| {
        let answers = Answers::default();
        let events = answers.tap();
        let replica = Replica::start(answers);
        for kind in kinds.clone() {
            events.send(Ok(TapEvent { kind: Some(kind), ..event(3) })).await.unwrap();
        }
        events.send(Err(Status::internal("enough"))).await.unwrap();
        let output = run(&format!("--api-addr {} tap deploy/web -o {output}", replica.address())).await;
        String::from_utf8(output.stdout).unwrap()
    };
    let short = shown("short").await;
    let (time, line) = short.trim_end().split_once(' ').unwrap();
    assert_eq!((time.len(), time.matches(':').count()), ("12:34:56.789".len(), 2), "{short}");
    assert_eq!(line, "??? GET web/a 200 500µs 10.244.1.2:8080 -> 10.244.1.2:8080");
    let path = "jsonpath={.requestInitEvent.method}{.requestInitEvent.path}{.responseInitEvent.httpStatus}";
    assert_eq!(shown(path).await, "GET/a\n200\n");
}

#[tokio::test]
async fn top_into_a_pipe_sums_requests_up_over_replicas() {
    let answers = Answers::default();
    let (first, second) = (answers.tap(), answers.tap());
    let replica = Replica::start(answers);
    let mut top = conduit(&format!("--api-addr {} top deploy/voting --hide-sources", replica.address()));
    let mut top = top.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let of_kind = |stream, kind| TapEvent { kind: Some(kind), ..event(stream) };
    for (events, stream) in [(&first, 1), (&second, 2)] {
        let request = RequestInit { method: "GET".into(), path: "/a?b".into(), ..RequestInit::default() };
        let end = ResponseEnd { since_request_init_us: 500 * stream, ..ResponseEnd::default() };
        for event in
            [of_kind(stream, Kind::RequestInit(request)), event(stream), of_kind(stream, Kind::ResponseEnd(end))]
        {
            events.send(Ok(event)).await.unwrap();
        }
        if stream == 1 {
            events.send(Err(Status::unavailable("the replica stops"))).await.unwrap();
        }
    }
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let both = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "10.244.1.2    GET      /a         2   500µs   1.0ms   1.0ms   100.00%" {
                return;
            }
            assert!(line.is_empty() || line.starts_with("DESTINATION") || line.contains("   1   500µs"), "{line}");
        }
        panic!("it ended");
    };
    timeout(PATIENCE, both).await.unwrap();
    drop(lines);
    let output = timeout(PATIENCE, top.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "note: the controller went away; going on with another\n");
}

#[tokio::test]
async fn check_tells_what_is_wrong_and_how_it_ended() {
    let result = |description: &str, status: check_result::Status, message: &str| CheckResult {
        subsystem: "conduit-api[raft]".into(),
        description: description.into(),
        status: status.into(),
        message: message.into(),
    };
    let mut results = vec![result("a leader is known", check_result::Status::Ok, "")];
    let answers = |results: &[CheckResult]| Answers {
        version: "v0.1.0".into(),
        checks: SelfCheckResponse { results: results.to_vec() },
        ..Answers::default()
    };
    let well = Replica::start(answers(&results));
    let expected = "\
conduit-api: can query the Conduit API.....................................[ok]
conduit-api[raft]: a leader is known.......................................[ok]
conduit-version: cli is up-to-date.........................................[ok]
conduit-version: control plane is up-to-date...............................[ok]

Status check results are [ok]
";
    assert_eq!(ok(&format!("--api-addr {} check", well.address())).await.0, expected);

    results.push(result("a quorum is reachable", check_result::Status::Fail, "1 of 3 are reachable"));
    let unwell = Replica::start(answers(&results));
    let output = run(&format!("--api-addr {} check --expected-version v0.1.1", unwell.address())).await;
    let expected = "\
conduit-api: can query the Conduit API.....................................[ok]
conduit-api[raft]: a leader is known.......................................[ok]
conduit-api[raft]: a quorum is reachable...................................[FAIL]  -- 1 of 3 are reachable
conduit-version: cli is up-to-date.........................................[FAIL]  -- is running version v0.1.0 but the latest version is v0.1.1
conduit-version: control plane is up-to-date...............................[FAIL]  -- is running version v0.1.0 but the latest version is v0.1.1

Status check results are [FAIL]
";
    assert_eq!((String::from_utf8(output.stdout).unwrap().as_str(), output.status.code()), (expected, Some(2)));

    let output = run("check -o json").await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["success"]), (Some(2), &Value::Bool(false)));
    assert!(json["categories"][0]["checks"][0]["error"].as_str().unwrap().contains("conduit local up"), "{json}");
}

#[tokio::test]
async fn raft_status_and_pods() {
    let member = RaftMember {
        name: "controller-0".into(),
        id: "00000000000000aa".into(),
        role: "leader".into(),
        address: "10.244.0.10:8300".into(),
        term: 1,
        applied_index: 12,
        lag: Some(0),
        pid: Some(4100),
        voter: true,
    };
    let raft = RaftStatusResponse {
        leader_id: member.id.clone(),
        term: 1,
        members: vec![member],
        ..RaftStatusResponse::default()
    };
    let pod = |namespace: &str| Pod { namespace: namespace.into(), name: "web-0".into(), ..Pod::default() };
    let replica = Replica::start(Answers { raft, pods: vec![pod("books"), pod("emojivoto")], ..Answers::default() });
    let flags = format!("--api-addr {}", replica.address());

    let (table, _) = ok(&format!("{flags} raft status")).await;
    assert!(
        table.contains("\ncontroller-0   00000000000000aa   leader      1        12     0   10.244.0.10:8300\n"),
        "{table}"
    );
    let json: Value = serde_json::from_str(&ok(&format!("{flags} raft status -o json")).await.0).unwrap();
    assert_eq!((&json["leader_id"], &json["members"][0]["pid"]), (&"00000000000000aa".into(), &4100.into()));

    assert_eq!(ok(&format!("{flags} raft transfer controller-0")).await.0, "controller-0 leads\n");
    let removed = ok(&format!("{flags} raft members remove controller-0")).await.0;
    assert_eq!(removed, "controller-0 is no member any more\n");
    assert!(fails(&format!("{flags} raft members remove controller-9")).await.contains("controller-9"));
    assert!(fails(&format!("{flags} raft members add")).await.contains("join by themselves"));

    assert_eq!(ok(&format!("{flags} -n emojivoto get pods")).await.0, "emojivoto/web-0\n");
    assert_eq!(ok(&format!("{flags} pods -A")).await.0, "books/web-0\nemojivoto/web-0\n");
    assert_eq!(ok(&format!("{flags} get pods")).await, (String::new(), "No resources found.\n".to_owned()));
}

#[tokio::test]
async fn changes_are_waited_for_and_remembered() {
    let change = |index, summary: &str| Change {
        index,
        time_ms: 1_525_000_000_000,
        proposer: "platform".into(),
        summary: summary.into(),
    };
    let history = vec![change(12, "pod/emojivoto/web-0 ready"), change(9, "service/emojivoto/web-svc")];
    let replica = Replica::start(Answers { history, ..Answers::default() });
    let flags = format!("--api-addr {}", replica.address());

    let (table, _) = ok(&format!("{flags} history")).await;
    let rows = [
        "REVISION   TIME                   WHO        WHAT",
        "12         2018-04-29T11:06:40Z   platform   pod/emojivoto/web-0 ready",
        "9          2018-04-29T11:06:40Z   platform   service/emojivoto/web-svc",
    ];
    assert!(table.lines().map(str::trim_end).eq(rows), "{table}");
    let json: Value = serde_json::from_str(&ok(&format!("{flags} history --limit 1 -o json")).await.0).unwrap();
    assert_eq!((json.as_array().unwrap().len(), &json[0]["revision"]), (1, &12.into()));

    assert_eq!(ok(&format!("{flags} wait --revision 7")).await.0, "revision 7 is in force in 2 proxies\n");
    let late = fails(&format!("{flags} wait --revision 8 --for applied --timeout 0s")).await;
    assert!(late.contains("revision 8 is not in force in 1 of 2 replicas: controller-0"), "{late}");
    assert!(fails("wait --api-addr unix:/no/such.sock --timeout 0s").await.contains("does not answer"));
}

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80, weight: 9}, {name: next, port: 80}]}]
";

#[tokio::test]
async fn routes_are_applied_compared_and_taken_back() {
    let replica = Replica::start(Answers::default());
    let flags = format!("--api-addr {} -n shop", replica.address());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("canary.yml");
    std::fs::write(&file, ROUTE).unwrap();
    let apply = format!("{flags} apply -f {}", file.display());
    assert_eq!(ok(&apply).await.0, "httproute/canary created\nrevision 7\n");
    let waited = ok(&format!("{apply} --wait --timeout 5s")).await.0;
    assert_eq!(waited, "httproute/canary unchanged\nrevision 7 is in force in 2 proxies\n");

    let rows = "NAMESPACE   NAME     PARENTS   RULES\nshop        canary   web       1\n";
    let table = ok(&format!("{flags} get httproutes")).await.0;
    assert!(table.lines().map(str::trim_end).eq(rows.lines()), "{table}");
    assert_eq!(ok(&format!("{flags} get httproute -n other")).await.1, "No resources found.\n");
    assert!(fails(&format!("{flags} get httproute nothing")).await.contains("no httproute nothing"));
    let yaml = ok(&format!("{flags} get httproute canary -o yaml")).await.0;
    assert!(yaml.contains("  namespace: shop\n") && yaml.contains("      weight: 9\n"), "{yaml}");
    std::fs::write(&file, &yaml).unwrap();
    assert!(ok(&apply).await.0.starts_with("httproute/canary unchanged\n"), "what is written can be read");

    let diff = ok(&format!("{flags} diff 1")).await.0;
    assert!(diff.starts_with("--- httproute/shop/canary@1\n+++ httproute/shop/canary@7\n"), "{diff}");
    assert!(diff.contains("\n+      weight: 9\n"), "{diff}");
    assert_eq!(ok(&format!("{flags} diff 7")).await.0, "");
    assert_eq!(ok(&format!("{flags} rollback 1")).await.0, "rolled back to revision 1\nrevision 7\n");
    assert!(fails(&format!("{flags} rollback 2")).await.contains("not remembered any more"));

    assert_eq!(ok(&format!("{flags} delete httproute canary")).await.0, "httproute/canary deleted\nrevision 7\n");
    let again = run(&format!("{flags} delete -f {}", file.display())).await;
    assert_eq!((again.status.code(), &*again.stderr), (Some(1), &b"error: there is no httproute shop/canary\n"[..]));

    std::fs::write(&file, ROUTE.replace("weight: 9", "wait: 9")).unwrap();
    let wrong = fails(&apply).await;
    assert!(wrong.contains("canary.yml:6: ") && wrong.contains("unknown field `wait`"), "{wrong}");
    assert!(fails(&format!("{flags} apply -f /no/such.yml")).await.contains("cannot read /no/such.yml"));
}

#[tokio::test]
async fn the_state_is_kept_in_a_file_and_brought_back() {
    let replica = Replica::start(Answers::default());
    let flags = format!("--api-addr {}", replica.address());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mesh.snapshot");
    let saved = ok(&format!("{flags} raft snapshot save {}", file.display())).await.0;
    assert!(saved.starts_with("7 bytes saved to "), "{saved}");
    assert_eq!(std::fs::read(&file).unwrap(), b"CONDUIT");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");

    let unasked = fails(&format!("{flags} raft snapshot restore {}", file.display())).await;
    assert!(unasked.contains("trust root included") && unasked.contains("--yes"), "{unasked}");
    let restored = ok(&format!("{flags} raft snapshot restore --yes {}", file.display())).await.0;
    assert_eq!(restored, "restored 2 services and 3 pods of revision 7; they are revision 9 from now on\n");
    std::fs::write(&file, "CON").unwrap();
    assert!(fails(&format!("{flags} raft snapshot restore --yes {}", file.display())).await.contains("damaged"));
    let missing = directory.path().join("no/such");
    for way in ["save", "restore --yes"] {
        assert!(fails(&format!("{flags} raft snapshot {way} {}", missing.display())).await.contains("no/such"));
    }
}

#[tokio::test]
async fn whom_the_mesh_trusts_is_shown_and_changed() {
    let mut answers = Answers::default();
    answers.ca.trust_domain = "cluster.local".to_owned();
    answers.ca.roots = vec![TrustRoot { id: "ab".repeat(20), state: "active".to_owned(), ..TrustRoot::default() }; 1];
    answers.raft.members = vec![RaftMember { name: "controller-0".to_owned(), ..RaftMember::default() }];
    let replica = Replica::start(answers);
    let flags = format!("--api-addr {}", replica.address());
    let (status, _) = ok(&format!("{flags} ca status")).await;
    assert!(
        status.starts_with("trust domain cluster.local\n") && status.contains("abababababababab   active"),
        "{status}"
    );
    let json: serde_json::Value = serde_json::from_str(&ok(&format!("{flags} ca status -o json")).await.0).unwrap();
    assert_eq!(json["roots"][0]["id"], "ab".repeat(20));

    let rotated = ok(&format!("{flags} ca rotate --wait")).await.0;
    assert!(rotated.starts_with("root abababababababab is the only one that is trusted, after "), "{rotated}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.pem");
    std::fs::write(&file, "a certificate").unwrap();
    let own = format!("{flags} ca rotate --issuer-certificate-file {0} --issuer-key-file {0}", file.display());
    assert_eq!(fails(&own).await, "error: the issuer's certificate has expired on Monday\n");
    let half = format!("{flags} ca rotate --issuer-certificate-file {}", file.display());
    assert!(fails(&half).await.contains("--issuer-key-file"));

    let denied = ok(&format!("{flags} ca deny -n emojivoto web")).await.0;
    assert_eq!(denied, "spiffe://cluster.local/ns/emojivoto/sa/web denied at revision 7\n");
    let again = ok(&format!("{flags} ca deny spiffe://cluster.local/ns/a/sa/b")).await.0;
    assert_eq!(again, "spiffe://cluster.local/ns/a/sa/b denied (unchanged) at revision 7\n");
    assert!(ok(&format!("{flags} ca revoke controller-0")).await.0.contains("not believed any more"));
    assert!(fails(&format!("{flags} ca revoke controller-9")).await.contains("controller-9"));
    assert!(fails(&format!("{flags} identity -n emojivoto web-7")).await.contains("no such pod"));
}

#[tokio::test]
async fn diagnostics_are_what_is_said() {
    let pod = |name: &str, workload: &str, meshed| Pod {
        namespace: "emojivoto".into(),
        name: name.into(),
        workload: Some(ResourceRef { kind: "deployment".into(), namespace: "emojivoto".into(), name: workload.into() }),
        meshed,
        ..Pod::default()
    };
    let pods = vec![
        pod("web-0", "web", true),
        pod("web-1", "web", true),
        pod("vote-0", "vote", true),
        pod("plain-0", "plain", false),
    ];
    let replica = Replica::start(Answers { pods, ..Answers::default() });
    let command = format!("--api-addr {} -n emojivoto diagnostics", replica.address());

    let (table, _) = ok(&format!("{command} endpoints web.shop:80 web")).await;
    expect![[r#"
        NAMESPACE   IP         PORT   POD     SERVICE
        shop        10.0.0.1   8080   web-0   web.shop
        emojivoto   10.0.0.1   8080   web-0   web.emojivoto
    "#]]
    .assert_eq(&table);
    let (json, _) = ok(&format!("{command} endpoints web:90 -o json")).await;
    assert!(json.contains(r#""service_port": 90"#) && json.contains(r#""identity": null"#), "{json}");
    assert_eq!(ok(&format!("{command} endpoints none")).await, (String::new(), "No endpoints found.\n".to_owned()));
    assert!(fails(&format!("{command} endpoints www.example.org")).await.contains("write NAME.NAMESPACE:PORT"));

    let (metrics, _) = ok(&format!("{command} proxy-metrics deploy/vote")).await;
    expect![[r#"
        #
        # POD vote-0 (1 of 1)
        #
        # TYPE request_total counter
        request_total{direction="inbound",pod="vote-0"} 1
    "#]]
    .assert_eq(&metrics);
    let Output { stdout, stderr, .. } = run(&format!("{command} proxy-metrics deploy/web --obfuscate")).await;
    let [shows, notes] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(shows.contains("# ERROR ") && !shows.contains("web-") && !shows.contains("emojivoto"), "{shows}");
    assert!(notes.contains("web-1: the proxy beside emojivoto/web-1 does not answer"), "{notes}");
    let (obfuscated, _) = ok(&format!("{command} proxy-metrics po/vote-0 --obfuscate")).await;
    assert!(obfuscated.contains(r#"direction="inbound""#) && !obfuscated.contains("vote-0"), "{obfuscated}");
    for (args, says) in [
        ("proxy-metrics deploy/plain", "no pod of deploy/plain has a proxy"),
        ("proxy-metrics svc/web", "name a pod, a namespace, or what makes pods"),
    ] {
        let error = fails(&format!("{command} {args}")).await;
        assert!(error.contains(says), "{args}: {error}");
    }
    // What the others have said is shown.
    for (args, shown, says) in [
        ("proxy-metrics deploy/web", "pod=\"web-0\"", "1 of 2 proxies could not be asked"),
        ("controller-metrics", "conduit_controller_raft_term 3", "controller-1 did not answer"),
    ] {
        let Output { status, stdout, stderr } = run(&format!("{command} {args}")).await;
        let [shows, error] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(status.code() == Some(1) && error.contains(says), "{args}: {error}");
        assert!(shows.contains(shown) && shows.contains("# ERROR "), "{args}: {shows}");
    }
}

#[tokio::test]
async fn routes_are_made_of_what_is_described_and_of_what_is_asked() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let definition =
        file("voting.proto", "syntax = \"proto3\"; package a.v1; service Voting { rpc Vote (A) returns (A); }");
    let (routes, notes) = ok(&format!("profile voting.shop:8080 --proto {definition}")).await;
    assert_eq!((routes.matches("kind: HTTPRoute").count(), notes.as_str()), (2, ""), "{routes}");
    assert!(routes.contains("value: /a.v1.Voting/Vote\n") && routes.contains("name: voting-8080-other\n"), "{routes}");
    assert!(routes.contains("group: ''\n    kind: Service\n    name: voting\n"), "it is for kubectl as well: {routes}");
    let described = file("books.yaml", "paths: {/books: {get: {}}, '/books/{id}': {get: {}, put: {}}}");
    let (routes, notes) = ok(&format!("-n shop profile books:80 --open-api {described}")).await;
    assert_eq!(routes.matches("kind: HTTPRoute").count(), 4, "{routes}");
    assert!(notes.starts_with("note: 2 routes take everything below a path"), "{notes}");

    let answers = Answers::default();
    let events = answers.tap();
    let replica = Replica::start(answers);
    for (stream, path) in [(1, "/books/17"), (2, "/books/18"), (3, "/health"), (4, "/more")] {
        let request = RequestInit { method: "GET".into(), path: path.into(), ..RequestInit::default() };
        let inbound = Direction::Inbound.into();
        let event = TapEvent { kind: Some(Kind::RequestInit(request)), direction: inbound, ..event(stream) };
        events.send(Ok(event)).await.unwrap();
    }
    let flags = format!("--api-addr {} -n shop profile web:80 --tap deploy/web", replica.address());
    let (routes, notes) = ok(&format!("{flags} --tap-duration 3s --tap-route-limit 2")).await;
    let names = ["web-80-get-books\n", "web-80-get-health\n", "web-80-other\n"];
    assert!(
        names.iter().all(|name| routes.contains(&format!("  name: {name}"))) && !routes.contains("more"),
        "{routes}"
    );
    assert!(notes.contains("more than 2 calls") && notes.contains("1 routes take everything"), "{notes}");

    for (args, says) in [
        ("profile voting --template", "say which port requests go to, as in voting:80"),
        ("profile voting:80 --proto /nonexistent/a.proto", "cannot read /nonexistent/a.proto"),
        (&format!("profile voting:80 --open-api {definition}"), "voting.proto: this is no OpenAPI document"),
        (flags.as_str(), "no pods found for deployment/web"),
    ] {
        let error = fails(args).await;
        assert!(error.contains(says), "{args}: {error}");
    }
    assert_eq!(run("profile voting:80").await.status.code(), Some(1), "something has to be said of its calls");
    drop(events);
}

#[tokio::test]
async fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (script, _) = ok(&format!("completion {shell}")).await;
        assert!(script.contains("conduit") && script.contains("stat") && script.contains("tap"), "{shell}");
    }
}

#[tokio::test]
async fn explain_shows_each_decision_and_why() {
    let replica = Replica::start(Answers::default());
    let args = format!("--api-addr {} -n shop explain deploy/web --to cart:80 --path /x", replica.address());
    let (out, _) = ok(&args).await;
    expect_test::expect![[r"
        pod/shop/web-0 to 10.96.0.1:80 (cart.shop:80), at revision 42

                      DECISION                             WHY
        destination   service/shop/cart:80                 10.96.0.1 is its address
        route         404, conduit-proxy-error: no-route   none accepts GET /x

        Revision 42 is not yet in force in 1 of 2 proxies that send: shop/web-1.
    "]]
    .assert_eq(&out);
    let (out, _) = ok(&format!("{args} -o json")).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["revision"], &json["steps"][1]["about"]), (&42.into(), &"route".into()));
}

#[tokio::test]
async fn the_dashboard_is_served_over_a_replica_that_answers() {
    let replica = Replica::start(Answers { version: "v0.1.0".into(), ..Answers::default() });
    let address = format!("unix:/nonexistent/api.sock,{}", replica.address());
    let mut command = conduit(&format!("dashboard --show url --api-addr {address}"));
    let mut serving = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    while said.len() < 4 {
        said.push(timeout(PATIENCE, lines.next_line()).await.expect("it says where").unwrap().unwrap());
    }
    let url = said[1].strip_suffix("/api/v1/namespaces/conduit/services/web:http/proxy/").expect("a URL as ever");
    let expected = format!(
        "Conduit dashboard available at:\n{}\nGrafana dashboard available at:\n\
         {url}/api/v1/namespaces/conduit/services/grafana:http/proxy/",
        said[1]
    );
    assert_eq!(said.join("\n"), expected);

    let server = url.strip_prefix("http://").unwrap();
    for path in said[1..=3].iter().step_by(2).map(|url| url.split_at("http://".len() + server.len()).1).chain(["/"]) {
        let page = http(server, &format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n")).await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<!doctype html>"), "{path}: {page}");
    }
    let ask = "POST /api/v1/Version HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n";
    let answer = http(server, &format!("{ask}Host: {server}\r\n")).await;
    assert!(answer.ends_with(r#"{"version":"v0.1.0"}"#), "{answer}");
    let rebound = http(server, &format!("{ask}Host: rebound.example\r\n")).await;
    assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");

    let port = server.rsplit(':').next().unwrap();
    let taken = fails(&format!("dashboard --show url --api-addr {address} -p {port}")).await;
    assert!(taken.contains(&format!("cannot serve the dashboard at {server}: choose another port")), "{taken}");
}

/// What a server answers to a request whose body, if it has one, is `{}`.
async fn http(server: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let body = if head.starts_with("POST") { "{}" } else { "" };
    stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it answers").unwrap();
    answer
}

#[tokio::test]
async fn without_a_control_plane_the_dashboard_says_how_to_install_one() {
    let output = run("dashboard -c mesh").await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let says = String::from_utf8(output.stderr).unwrap();
    let expected = "Conduit is not running in the \"mesh\" namespace\n\
                    Install with: conduit install --conduit-namespace mesh | kubectl apply -f -\n";
    assert!(says.starts_with(expected), "{says}");
    let wrong = fails("dashboard --show everything").await;
    assert!(wrong.contains("unknown value for 'show' param, was: everything, must be one of: conduit, grafana, url"));
    assert!(fails("dashboard -p -1").await.contains("port must be greater than or equal to zero, was -1"));
    assert!(fails("dashboard --api-addr unix:/nonexistent/api.sock").await.contains("does not answer"));
}

#[tokio::test]
async fn a_control_plane_that_was_named_is_asked_and_no_other() {
    for (args, says) in [("stat deploy", "no Conduit control plane found"), ("-c mesh stat deploy", "kubeconfig")] {
        let asked = conduit(args).env("KUBECONFIG", "/nonexistent/kubeconfig").output();
        let output = timeout(PATIENCE, asked).await.expect("the command ends").unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(says), "{args}: {error}");
    }
}

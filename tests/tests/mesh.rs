//! The whole mesh, black-box: real processes, driven by the commands that a person types.
//!
//! Each test starts a mesh of its own in a directory of its own, breaks it on purpose, and takes it down again, also when it
//! fails. They run one after the other: each has eleven processes on perhaps two cores.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh {
    pub mod alerts;
    pub mod attestation;
    pub mod harness;
    pub mod identity;
    pub mod payloads;
    pub mod taps;
    pub mod telemetry;
    pub mod traffic;
    pub mod workload_api;
}
mod programs;

use std::{process::Command, time::Duration};

use conduit_chaos::{history::Fate, run};
use mesh::{
    harness::{Mesh, eventually, run_as_nobody, turn, without_mesh},
    payloads, taps, telemetry,
    traffic::Traffic,
};
use serde_json::Value;

/// What the first counts need: a request, a report, a query.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_new_user_sees_the_demo() {
    let mesh = Mesh::up();

    let stat = eventually(SOON, "every service of the demo has traffic over TLS", || {
        let stat = mesh.ok("-n emojivoto stat deployment");
        let busy = |name: &str| row(&stat, name).is_some_and(|row| row.last().is_some_and(|tls| tls == "100%"));
        ["emoji", "voting", "web"].into_iter().all(busy).then_some(stat)
    });
    let header = stat.lines().next().unwrap();
    assert_eq!(header, "NAME       MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS");
    assert_eq!(row(&stat, "emoji").unwrap()[1..3], ["1/1", "100.00%"]);
    assert_eq!(row(&stat, "vote-bot").unwrap()[1..], ["1/1", "-", "-", "-", "-", "-", "-"]);

    let json: Value = serde_json::from_str(&mesh.ok("-n emojivoto stat deploy -o json")).unwrap();
    assert_eq!(json.to_string().matches("\"voting\"").count(), 1, "{json}");

    telemetry::assert_edges(&mesh);
    telemetry::assert_paths(&mesh);
    telemetry::assert_routes(&mesh);
    telemetry::assert_diagnostics(&mesh);

    let tap = mesh.first_lines("tap deploy emojivoto/voting", 30);
    let request = tap.iter().position(|line| line.starts_with("req id=")).expect("a request");
    let id = tap[request].split(' ').nth(1).unwrap();
    let of_this: Vec<_> = tap[request..].iter().filter(|line| line.split(' ').nth(1) == Some(id)).collect();
    assert!(
        of_this[0].contains(" :method=POST :authority=voting-svc.emojivoto:8080 :path=/emojivoto.v1.VotingService/")
    );
    assert!(of_this[1].starts_with("rsp ") && of_this[1].contains(" :status=200 latency="), "{of_this:?}");
    assert!(of_this[2].starts_with("end ") && of_this[2].contains(" grpc-status="), "{of_this:?}");
    assert!(of_this[2].contains(" duration=") && of_this[2].contains(" response-length="), "{of_this:?}");

    assert_eq!(mesh.ok("version"), "Client version: v0.1.0\nServer version: v0.1.0\n");
    let check = mesh.ok("check");
    assert!(check.ends_with("Status check results are [ok]\n"), "{check}");
    assert!(check.lines().filter(|line| line.ends_with("[ok]")).count() > 5, "{check}");

    let raft = mesh.raft();
    assert_eq!(raft.members.len(), 3);
    assert_eq!(raft.members.iter().filter(|member| member.role == "leader").count(), 1);
    let status = mesh.ok("local status");
    for process in ["controller-0", "controller-2", "web-0/proxy", "voting-0/app"] {
        assert!(status.contains(process), "{process} is missing:\n{status}");
    }
    mesh.down();
}

#[test]
fn payloads_are_shown_where_they_may_be_and_who_looked_is_known() {
    let mesh = Mesh::up();
    payloads::assert_shown(&mesh);
    payloads::assert_hidden(&mesh);
    payloads::assert_dropped(&mesh);
    mesh.down();
}

#[test]
fn taps_show_what_was_asked_for() {
    let mesh = Mesh::up();
    taps::assert_filtered_by_address(&mesh);
    taps::assert_piped(&mesh);
    taps::assert_resets(&mesh);
    taps::assert_headers(&mesh);
    mesh.down();
}

#[test]
fn figures_say_when_a_replica_has_lost_some() {
    let mesh = Mesh::up();
    telemetry::assert_never_silently_wrong(&mesh);
    mesh.down();
}

#[test]
fn a_killed_leader_is_not_noticed() {
    let mesh = Mesh::up();
    let traffic = Traffic::start(mesh.web_address());
    traffic.wait_for(50);
    let before = mesh.raft();
    mesh.kill9(before.leader().pid);
    std::thread::scope(|scope| {
        // At once: it has to wait for the election like everybody.
        let scaled = scope.spawn(|| mesh.ok("local scale -n emojivoto voting=3"));
        // Perhaps the same replica, if it is started again quickly; then by a new election.
        eventually(Duration::from_secs(2), "there is a leader of a new term", || {
            let after = mesh.try_raft()?;
            (after.term > before.term && !after.leader_id.is_empty()).then_some(())
        });
        scaled.join().unwrap();
    });
    eventually(SOON, "callers use all three instances", || {
        let stat = mesh.ok("-n emojivoto stat pods -t 15s");
        let busy = stat.lines().filter(|line| line.starts_with("voting-") && line.contains('%')).count();
        (busy == 3).then_some(())
    });
    eventually(SOON, "the killed replica is back", || {
        mesh.raft().members.iter().all(|member| member.role != "unreachable").then_some(())
    });
    let (answered, failed) = traffic.stop();
    assert!(answered > 50, "only {answered} requests were answered");
    assert_eq!(failed, Vec::<String>::new(), "of {answered}");
    mesh.down();
}

#[test]
fn traffic_goes_on_without_controllers_and_they_come_back_as_they_were() {
    let mesh = Mesh::up();
    let trust_root = mesh.trust_bundle();
    let before = mesh.raft();
    let traffic = Traffic::start(mesh.web_address());
    traffic.wait_for(20);
    for member in &before.members {
        mesh.kill9(member.pid);
    }
    traffic.wait_for(100);
    let after = eventually(SOON, "all replicas are back", || {
        let raft = mesh.try_raft()?;
        let back =
            raft.members.iter().all(|m| m.role != "unreachable" && before.members.iter().all(|b| b.pid != m.pid));
        (back && !raft.leader_id.is_empty()).then_some(raft)
    });
    let (_, failed) = traffic.stop();
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!(mesh.trust_bundle(), trust_root);
    assert!(after.revision >= before.revision, "{} went back to {}", before.revision, after.revision);
    assert!(after.members.iter().map(|m| &m.id).eq(before.members.iter().map(|m| &m.id)), "node ids are kept");
    let pods = |json: &str| serde_json::from_str::<Value>(json).unwrap();
    assert!(pods(&mesh.ok("-n emojivoto get pods -o json")).to_string().contains("voting-0"));
    mesh.ok("local scale -n emojivoto voting=2");
    let latest = mesh.raft().revision;
    assert!(latest > after.revision, "revisions go on");
    for by in ["applied", "ack"] {
        assert!(mesh.ok(&format!("wait --revision {latest} --for {by}")).contains("is in force"));
    }
    let never = latest + 1_000_000;
    let late = mesh.fails(&format!("wait --revision {never} --timeout 1s"));
    assert!(late.contains(&format!("revision {never} is not in force")), "{late}");
    let history = mesh.ok("history --limit 0");
    assert!(history.contains("first trust root") && history.contains("pod/emojivoto/voting-1 ready"), "{history}");
    mesh.down();
}

#[test]
fn killed_proxies_and_instances_are_restarted_and_avoided() {
    let mesh = Mesh::up();
    mesh.ok("local scale -n emojivoto emoji=2");
    for process in ["emoji-0/proxy", "emoji-1/app"] {
        let pid = mesh.process(process).pid;
        mesh.kill9(pid);
        let traffic = Traffic::start(mesh.web_address());
        traffic.wait_for(50);
        eventually(SOON, "it runs again", || {
            let restarted = mesh.process(process);
            let runs = restarted.pid != pid && restarted.state == "running" && restarted.restarts >= 1;
            // The next one is killed when this one is back: one of two is down at a time.
            (runs && !mesh.ok("-n emojivoto get pods -o json").contains("\"ready\": false")).then_some(())
        });
        let (answered, failed) = traffic.stop();
        // What was under way in the killed process is lost with it; nothing is sent to it afterwards.
        assert!(failed.len() <= 3, "{} of {answered} failed after {process} was killed: {failed:?}", failed.len());
    }
    mesh.down();
}

#[test]
fn certificates_are_renewed_under_traffic() {
    // Valid from a minute ago, for clocks that are behind: 70 % of that life is over ten seconds from now.
    let mesh = Mesh::up_with("--leaf-lifetime 40s");
    let traffic = Traffic::start(mesh.web_address());
    for pod in ["web-0", "voting-0", "emoji-0"] {
        eventually(Duration::from_secs(60), "its certificate was renewed", || {
            let certified = mesh.log(&format!("emojivoto.{pod}.proxy")).matches(" certified ").count();
            (certified >= 2).then_some(())
        });
    }
    traffic.wait_for(50);
    let (_, failed) = traffic.stop();
    assert_eq!(failed, Vec::<String>::new());
    mesh.down();
}

#[test]
fn the_control_plane_grows_and_shrinks_under_traffic() {
    let mesh = Mesh::up_with("--controllers 1");
    let traffic = Traffic::start(mesh.web_address());
    traffic.wait_for(20);
    let members = || {
        let members = mesh.raft().members;
        assert!(members.iter().all(|member| member.role != "unreachable"), "nobody is left over");
        members.len()
    };
    for count in 2..=5 {
        assert_eq!(mesh.ok("raft members add"), format!("controller-{} is a member\n", count - 1));
        assert_eq!(members(), count);
    }
    mesh.ok("raft transfer controller-4");
    // The leader itself, then others, until the first is alone again.
    for name in ["controller-4", "controller-1", "controller-3", "controller-2"] {
        mesh.ok(&format!("raft members remove {name}"));
    }
    assert_eq!(members(), 1);
    assert!(mesh.fails("raft members remove controller-0").contains("only voter"));
    assert!(mesh.fails("raft members remove controller-7").contains("controller-7"));
    traffic.wait_for(50);
    let (_, failed) = traffic.stop();
    assert_eq!(failed, Vec::<String>::new());

    // Who was there is there again, and nobody else.
    mesh.ok("raft members add");
    mesh.ok("local down");
    mesh.start("--controllers 1");
    assert_eq!(members(), 2);
    mesh.down();
}

#[test]
fn a_control_plane_that_has_lost_everything_but_its_seed_is_restored() {
    let mesh = Mesh::up();
    let (trust_root, before) = (mesh.trust_bundle(), mesh.raft());
    let snapshot = mesh.file("mesh.snapshot", "");
    mesh.ok(&format!("raft snapshot save {}", snapshot.display()));
    mesh.ok("local down");
    mesh.lose_disks();
    mesh.start("");
    assert_ne!(mesh.trust_bundle(), trust_root, "a fresh control plane has a root of its own");
    mesh.ok(&format!("raft snapshot restore --yes {}", snapshot.display()));
    eventually(SOON, "the trust root is what it was", || (mesh.trust_bundle() == trust_root).then_some(()));
    assert!(mesh.raft().revision > before.revision, "no proxy has seen this revision");
    // Everybody has a certificate under it.
    eventually(SOON, "there is traffic", || {
        let traffic = Traffic::start(mesh.web_address());
        traffic.wait_for(30);
        traffic.stop().1.is_empty().then_some(())
    });
    std::fs::write(&snapshot, "not a snapshot").unwrap();
    let error = mesh.fails(&format!("raft snapshot restore --yes {}", snapshot.display()));
    assert!(error.contains("not a snapshot of a Conduit control plane"), "{error}");
    mesh.down();
}

#[test]
fn a_control_plane_whose_majority_is_gone_for_good_goes_on_with_what_is_left() {
    let mesh = Mesh::up();
    let (trust_root, before) = (mesh.trust_bundle(), mesh.raft());
    let majority = mesh.fails("raft recover --yes");
    assert!(majority.contains("3 of 3 voting replicas answer"), "{majority}");
    let traffic = Traffic::start(mesh.web_address());
    // What a proxy has not asked for yet, nobody could tell it while all three are away.
    traffic.wait_for(20);
    for name in ["controller-1", "controller-2"] {
        mesh.lose_disk(name);
        mesh.kill9(mesh.process(name).pid);
    }
    // They are started again, and wait for a control plane that lets them in.
    let asked = mesh.fails("raft recover");
    assert!(asked.contains("controller-1, controller-2 do not answer") && asked.contains("is lost"), "{asked}");
    assert!(asked.contains("Say --yes"), "{asked}");
    let recovered = mesh.ok("raft recover --yes");
    assert!(recovered.starts_with("controller-0 goes on at revision "), "{recovered}");
    let after = eventually(SOON, "the others have joined anew", || {
        mesh.try_raft().filter(|raft| raft.members.iter().filter(|member| member.role == "follower").count() == 2)
    });
    assert!(after.revision >= before.revision);
    assert_eq!(mesh.trust_bundle(), trust_root);
    mesh.ok("-n emojivoto local scale voting=2");
    traffic.wait_for(20);
    assert_eq!(traffic.stop().1, Vec::<String>::new(), "requests failed meanwhile");
    mesh.down();
}

/// Through the API server of a cluster nobody chooses which replica is asked.
#[test]
fn whoever_is_asked_the_replica_that_has_the_most_goes_on() {
    let mesh = Mesh::up_with("--controllers 5");
    for name in ["controller-1", "controller-2", "controller-3"] {
        mesh.lose_disk(name);
        mesh.kill9(mesh.process(name).pid);
    }
    let socket = |name: &str| format!("--api-addr unix:{}", mesh.path().join(format!("run/{name}.sock")).display());
    let left = ["controller-0", "controller-4"];
    let [first, second] = left.map(|name| mesh.fails(&format!("raft recover {}", socket(name))));
    assert_eq!(first, second);
    let survivor = left.into_iter().find(|name| first.contains(&format!("{name} would go on with what it has")));
    let survivor = survivor.expect("one of them");
    let other = left.into_iter().find(|name| *name != survivor).unwrap();
    let recovered = mesh.ok(&format!("raft recover --yes {}", socket(other)));
    assert!(recovered.starts_with(&format!("{survivor} goes on at revision ")), "{recovered}");
    mesh.down();
}

/// Every replica in turn, the leader among them, is told to stop and started again, as an upgrade does.
#[test]
fn a_rolling_restart_under_load_loses_nothing_and_refuses_nothing() {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(run::rolling_restart(&programs::built(), 3, 2, |line| println!("{line}"))).unwrap();
    assert_eq!(outcome.verdict, Ok(()));
    let refused = outcome.history.writes.iter().filter(|write| write.fate == Fate::Unknown).count();
    assert_eq!(refused, 0, "of {} writes", outcome.history.writes.len());
    assert_eq!(outcome.ended, Vec::<String>::new(), "ended by themselves");
    assert!(outcome.acknowledged() >= 100);
}

/// A few faults of one seed, as often as this runs; `cargo run -p conduit-chaos -- control-plane` goes on for as long as you
/// like, with others.
#[test]
fn a_broken_control_plane_tells_one_history() {
    let _turn = turn();
    // A process of its own: it leaves the host's network.
    let mut chaos = Command::new(programs::built().join("conduit-chaos"));
    let output = chaos.args("control-plane --seed 29 --duration 25s".split(' ')).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    assert!(told.contains("verdict: every answer can be explained by one history"));
    assert!(told.contains("cut off") || told.contains("not reach"), "there were partitions");
}

#[test]
fn bad_input_gets_one_clear_line_and_leaves_nothing_behind() {
    let none = without_mesh();
    for (args, says) in [
        ("stat deployment", "conduit local up"),
        ("local down", "no local mesh"),
        ("local status", "no local mesh"),
        ("local up -f /no/such/file.yml", "/no/such/file.yml"),
        ("stat nonsense", "nonsense"),
        ("-n not_valid stat deploy", "not_valid"),
    ] {
        let error = none.fails(args);
        assert!(error.contains(says), "`conduit {args}` says {error:?}");
    }
    let wrong = none
        .file("wrong.yml", "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: many\n");
    let error = none.fails(&format!("local up -f {}", wrong.display()));
    assert!(error.contains("wrong.yml:6"), "{error:?}");
    none.is_empty();

    let mesh = Mesh::up();
    assert!(mesh.fails("local up --demo").contains("already running"));
    assert!(mesh.fails("-n emojivoto tap deploy nothing").contains("nothing"));
    assert!(mesh.fails("local scale -n emojivoto nothing=2").contains("nothing"));
    let port = mesh.web_address().rsplit_once(':').unwrap().1.to_owned();
    let error = without_mesh().fails(&format!("local up --demo --detach --web-port {port}"));
    assert!(error.contains(&port), "{error:?}");
    mesh.down();
}

#[test]
fn an_ordinary_user_can_run_it() {
    run_as_nobody(|mesh| {
        eventually(SOON, "there is traffic over TLS", || {
            let stat = mesh.ok("-n emojivoto stat deployment");
            row(&stat, "web").filter(|row| row.last().is_some_and(|tls| tls == "100%"))
        });
        mesh.down();
    });
}

/// The cells of the row that begins with `name`.
fn row(table: &str, name: &str) -> Option<Vec<String>> {
    let rows = table.lines().map(|line| line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>());
    rows.into_iter().find(|row| row.first().is_some_and(|first| first == name))
}

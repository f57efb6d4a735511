//! What is printed, byte for byte. `CONDUIT_WRITE_GOLDEN=1 cargo test -p conduit-deploy --test golden` writes the files anew; what changes
//! in them is reviewed like code.

use std::{env, fs, path::PathBuf};

use clap::Parser;
use conduit_deploy::Install;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    install: Install,
}

const PEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/issuer");

fn printed(flags: &str, namespace: &str) -> String {
    let flags = flags.replace("ISSUER", PEM);
    let line = Line::try_parse_from(["install"].into_iter().chain(flags.split_whitespace())).expect("the flags exist");
    line.install.print(namespace).expect("the flags are right")
}

#[test]
fn what_is_printed_is_what_was_reviewed() {
    for (name, flags, namespace) in [
        ("default.yaml", "", "conduit"),
        ("ha.yaml", "--ha --without-grafana", "conduit"),
        ("ha-5.json", "--ha=5 --without-grafana -o json", "conduit"),
        (
            "namespace.yaml",
            "--without-grafana --cluster-domain cluster.example --identity-trust-domain example.org",
            "mesh",
        ),
        ("emptydir.yaml", "--raft-storage emptydir --without-prometheus", "conduit"),
        (
            "flags.yaml",
            "--without-grafana -v v9.8.7 --registry localhost:5000/conduit --image-pull-policy Always --controller-log-level fatal \
             --proxy-log-level debug --proxy-uid 3000 --proxy-image example.org/proxy:1 --proxy-cpu-request 10m \
             --proxy-cpu-limit 1 --proxy-memory-request 10Mi --proxy-memory-limit 64Mi --tls optional \
             --set proxy.cni=true,controller.tolerations[0].operator=Exists --set-string proxy.opaquePorts=3306",
            "conduit",
        ),
        ("cni.yaml", "--cni --without-prometheus", "conduit"),
        (
            "issuer.yaml",
            "--without-grafana --identity-issuer-certificate-file ISSUER/issuer.crt --identity-issuer-key-file ISSUER/issuer.key \
             --identity-trust-anchors-file ISSUER/anchors.crt",
            "conduit",
        ),
    ] {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let printed = printed(flags, namespace);
        if env::var_os("CONDUIT_WRITE_GOLDEN").is_some() {
            fs::write(&file, &printed).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap();
        for (number, (printed, golden)) in (1..).zip(printed.lines().zip(golden.lines())) {
            assert_eq!(printed, golden, "{name}:{number}");
        }
        assert_eq!(printed, golden, "{name}");
    }
}

#[test]
fn the_same_is_printed_again() {
    assert_eq!(printed("--ha", "conduit"), printed("--ha", "conduit"));
}

#[test]
fn another_namespace_is_all_that_changes_with_it() {
    let default = printed("--ha", "conduit");
    assert!(!default.contains("mesh-2"));
    // Whatever names the namespace: labels, DNS names, cluster-scoped names.
    for (ours, other) in default.lines().zip(printed("--ha", "mesh-2").lines()) {
        let renamed = [
            ours.replacen(": conduit", ": mesh-2", 1),
            ours.replace(".conduit.svc.", ".mesh-2.svc."),
            ours.replace("conduit-conduit-", "conduit-mesh-2-"),
            ours.replace("injector-conduit", "injector-mesh-2"),
            ours.replace("validator-conduit", "validator-mesh-2"),
            ours.replace("- name: conduit.proxy-injector", "- name: mesh-2.proxy-injector"),
            ours.replace("- name: conduit.route-validator", "- name: mesh-2.route-validator"),
            ours.replace("- name: conduit.objective-validator", "- name: mesh-2.objective-validator"),
            ours.replace("kube-system, conduit]", "kube-system, mesh-2]"),
            ours.replace("[\"conduit\"]", "[\"mesh-2\"]"),
            ours.replace("control-plane-ns=conduit", "control-plane-ns=mesh-2"),
            ours.replace("conduit.api.conduit.io", "mesh-2.api.conduit.io"),
            ours.replace("|.+;conduit", "|.+;mesh-2"),
            ours.replace("/namespaces/conduit/", "/namespaces/mesh-2/"),
        ];
        assert!(ours == other || renamed.iter().any(|line| line == other), "{ours} became {other}");
    }
}

//! The chart, rendered by the real helm: the same objects for the same values, and the same values refused. `deploy/tests/helm` gets
//! helm and runs these.

use std::{
    collections::BTreeMap,
    env, fs,
    process::{Command, Output},
};

use conduit_deploy::{Values, render};
use serde::Deserialize as _;
use serde_json::Value;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/chart");

/// Values as files, and as assignments, in pairs of a flag and what follows it.
const CASES: [&[(&str, &str)]; 15] = [
    &[],
    &[("--values", "ha")],
    &[("--values", "ha"), ("--set", "controller.replicas=5,createNamespace=true")],
    &[("--set", "controller.storage=emptydir,controller.storageSize=2Gi")],
    &[("--set", "controller.storageClass=fast,clusterDomain=cluster.example,identity.trustDomain=example.org")],
    &[("--set", "prometheus.enabled=false,imagePullPolicy=Always,registry=localhost:5000/conduit,conduitVersion=v9")],
    &[("--set", r"controller.nodeSelector.kubernetes\.io/os=linux,controller.resources.limits=null")],
    &[(
        "--set",
        "controller.tolerations[0].key=node,controller.tolerations[0].operator=Exists,grafana.allowFrom[0].ipBlock.cidr=10.0.0.1/32",
    )],
    &[("--set", "proxy.uid=3000,proxy.resources.cpuLimit=1,proxy.skipInboundPorts=25\\,8000-8010,proxy.cni=true")],
    &[("--set", "grafana.enabled=false")],
    &[("--set", "cni.enabled=true,cni.namespace=net,cni.image=example.org/cni:1,cni.confDirectory=/etc/cni")],
    &[("--set", "alerts.webhookSecret=hook,alerts.window=1m")],
    &[("--set", "identity.externalIssuer=true")],
    &[("--set", "proxyInjector.repair=evict")],
    &[("--set-string", "proxy.resources.cpuLimit=1,proxy.logLevel=a\"b\\\\c")],
];

const REFUSED: [&str; 7] = [
    "registri=x",
    "registry=null",
    "proxy.resources.cpu=1",
    "controller.replicas=2",
    "imagePullPolicy=Sometimes",
    "proxy.uid=none",
    "identity.issuerKey=-----BEGIN PRIVATE KEY-----",
];

fn helm(arguments: &[(&str, &str)], namespace: &str) -> Output {
    let helm = env::var("CONDUIT_TEST_HELM").expect("run this by deploy/tests/helm");
    let mut command = Command::new(helm);
    command.args(["template", "conduit", CHART, "--namespace", namespace]);
    for (flag, argument) in arguments {
        command.arg(flag);
        match *flag {
            "--values" => command.arg(file(argument)),
            _ => command.arg(argument),
        };
    }
    command.output().expect("helm can be run")
}

fn file(name: &str) -> String {
    format!("{CHART}/values-{name}.yaml")
}

fn ours(arguments: &[(&str, &str)]) -> Values {
    let mut values = Values::defaults();
    for (flag, argument) in arguments {
        match *flag {
            "--values" => {
                let text = fs::read_to_string(file(argument)).expect("it is in the chart");
                values.merge(&text).expect("it is a map");
            }
            "--set" => values.assign(argument).expect("helm understands it as well"),
            _ => values.assign_text(argument).expect("helm understands it as well"),
        }
    }
    values
}

/// Objects by what they are called; helm has an order of its own.
fn by_name(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let mut named = BTreeMap::new();
    for mut object in objects {
        // helm and we quote text in another way: what is kept is compared as what it says.
        if let Some(Value::String(kept)) = object.pointer_mut("/data/values.yaml").map(Value::take) {
            object["data"]["values.yaml"] = serde_yaml_ng::from_str(&kept).expect("it is YAML");
        }
        let name = format!("{}/{}/{}", object["apiVersion"], object["kind"], object["metadata"]["name"]);
        assert!(named.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    named
}

#[test]
#[ignore = "needs helm: run deploy/tests/helm"]
fn helm_renders_the_same() {
    for arguments in CASES {
        for namespace in ["conduit", "mesh-2"] {
            let output = helm(arguments, namespace);
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            let objects =
                serde_yaml_ng::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap());
            let helms = by_name(objects.filter(|object| !object.is_null()));
            let values = ours(arguments);
            values.check().unwrap();
            let ours = by_name(render(&values, namespace).unwrap().objects().to_vec());
            assert!(ours.len() > 10);
            assert_eq!(helms.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>(), "{arguments:?}");
            for (name, object) in ours {
                assert_eq!(helms[&name], object, "{arguments:?}: {name}");
            }
        }
    }
}

#[test]
#[ignore = "needs helm: run deploy/tests/helm"]
fn helm_refuses_the_same() {
    for assignment in REFUSED {
        let arguments = [("--set", assignment)];
        let output = helm(&arguments, "conduit");
        assert!(!output.status.success(), "helm accepts {assignment}");
        assert!(ours(&arguments).check().is_err(), "{assignment} is accepted");
    }
}

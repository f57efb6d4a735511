//! `conduit get pods`: what runs in the mesh.

use std::io::Write;

use conduit_api::{
    access::about,
    proto::public::{FailingContainer, FailingPod, Pod, PodsRequest, PodsResponse},
};
use serde::Serialize;

use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{Output, write_json},
    printable::printable,
    table::{Align, Table},
};

/// Which pods, and how they are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Asks, and writes one line for each pod.
///
/// # Errors
/// When no control plane answers, or `out` cannot be written.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let scope = global.scope(args.all_namespaces)?;
    let request = PodsRequest { namespace: scope.namespace().unwrap_or_default().to_owned(), skip_connected: false };
    let answer = control_plane.ask(async |client| client.pods(about(request.clone())).await).await?;
    match args.output {
        Output::Json => write_json(out, &json(&answer))?,
        _ if answer.pods.is_empty() => writeln!(notes, "No resources found.")?,
        Output::Table => out.write_all(names(&answer).as_bytes())?,
        Output::Wide => out.write_all(table(&answer).to_string().as_bytes())?,
    }
    if args.output != Output::Json {
        note_failing(&answer, notes)?;
    }
    Ok(())
}

/// What does not run as it should, and why.
fn note_failing(answer: &PodsResponse, notes: &mut impl Write) -> std::io::Result<()> {
    for pod in &answer.failing {
        for FailingContainer { name, image, reason, message } in &pod.containers {
            let container = if name.is_empty() { String::new() } else { format!(" container {name} ({image}):") };
            let line = format!("note: {}/{} fails:{container} {reason}: {message}", pod.namespace, pod.name);
            writeln!(notes, "{}", printable(line.trim_end_matches(": ")))?;
        }
    }
    if answer.more_failing {
        writeln!(notes, "note: more pods fail than are told of")?;
    }
    Ok(())
}

fn names(answer: &PodsResponse) -> String {
    answer.pods.iter().map(|pod| printable(&format!("{}/{}", pod.namespace, pod.name)).into_owned() + "\n").collect()
}

fn table(answer: &PodsResponse) -> Table {
    let mut table = Table::new(&[
        ("NAMESPACE", Align::Left),
        ("NAME", Align::Left),
        ("IP", Align::Left),
        ("READY", Align::Left),
        ("MESHED", Align::Left),
        ("CONNECTED", Align::Left),
        ("REVISION", Align::Right),
    ]);
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for pod in &answer.pods {
        table.row([
            pod.namespace.clone(),
            pod.name.clone(),
            pod.ip.clone(),
            yes_no(pod.ready),
            yes_no(pod.meshed),
            yes_no(pod.connected),
            if pod.connected { pod.acked_revision.to_string() } else { "-".to_owned() },
        ]);
    }
    table
}

#[derive(Serialize)]
struct Json<'a> {
    pods: Vec<JsonPod<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failing: Vec<JsonFailing<'a>>,
    /// More pods fail than there are in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more_failing: bool,
}

/// A container that does not run as it should, or a pod that has no place to run.
#[derive(Serialize)]
struct JsonFailing<'a> {
    namespace: &'a str,
    pod: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    container: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    image: &'a str,
    reason: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct JsonPod<'a> {
    namespace: &'a str,
    name: &'a str,
    ip: &'a str,
    /// `kind/name`
    workload: Option<String>,
    ready: bool,
    meshed: bool,
    /// Its proxy is attached to some replica.
    connected: bool,
    /// The revision that its proxy holds.
    acked_revision: Option<u64>,
}

fn json(answer: &PodsResponse) -> Json<'_> {
    let failing = answer.failing.iter().flat_map(json_failing).collect();
    Json { pods: answer.pods.iter().map(json_pod).collect(), failing, more_failing: answer.more_failing }
}

fn json_failing(pod: &FailingPod) -> impl Iterator<Item = JsonFailing<'_>> {
    pod.containers.iter().map(|container| JsonFailing {
        namespace: &pod.namespace,
        pod: &pod.name,
        container: &container.name,
        image: &container.image,
        reason: &container.reason,
        message: &container.message,
    })
}

fn json_pod(pod: &Pod) -> JsonPod<'_> {
    JsonPod {
        namespace: &pod.namespace,
        name: &pod.name,
        ip: &pod.ip,
        workload: pod.workload.as_ref().map(|workload| format!("{}/{}", workload.kind, workload.name)),
        ready: pod.ready,
        meshed: pod.meshed,
        connected: pod.connected,
        acked_revision: pod.connected.then_some(pod.acked_revision),
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::common::ResourceRef;
    use expect_test::expect;

    use super::*;

    fn answer() -> PodsResponse {
        let pod = |name: &str, connected| Pod {
            namespace: "emojivoto".into(),
            name: name.into(),
            ip: "10.244.1.2".into(),
            workload: Some(ResourceRef {
                kind: "deployment".into(),
                namespace: "emojivoto".into(),
                name: "web".into(),
            }),
            ready: true,
            meshed: connected,
            connected,
            acked_revision: if connected { 42 } else { 0 },
        };
        PodsResponse {
            pods: vec![pod("web-0", true), pod("unmeshed-0", false)],
            revision: 7,
            ..PodsResponse::default()
        }
    }

    #[test]
    fn what_fails_is_noted() {
        let failing = |container: &str, image: &str, reason: &str, message: &str| FailingPod {
            namespace: "shop".into(),
            name: "web-0".into(),
            workload: None,
            containers: vec![FailingContainer {
                name: container.into(),
                image: image.into(),
                reason: reason.into(),
                message: message.into(),
            }],
        };
        let answer = PodsResponse {
            failing: vec![
                failing("conduit-proxy", "proxy:1", "CrashLoopBackOff", "back-off 5m0s\n\u{1b}[2J"),
                failing("", "", "Unschedulable", ""),
            ],
            more_failing: true,
            ..answer()
        };
        let mut notes = Vec::new();
        note_failing(&answer, &mut notes).unwrap();
        expect![[r"
            note: shop/web-0 fails: container conduit-proxy (proxy:1): CrashLoopBackOff: back-off 5m0s\n\u{1b}[2J
            note: shop/web-0 fails: Unschedulable
            note: more pods fail than are told of
        "]]
        .assert_eq(std::str::from_utf8(&notes).unwrap());
        let json = serde_json::to_value(json(&answer)).unwrap();
        assert_eq!(
            json["failing"][1],
            serde_json::json!({"namespace": "shop", "pod": "web-0", "reason": "Unschedulable", "message": ""})
        );
        assert_eq!(json["more_failing"], true);
    }

    #[test]
    fn for_people() {
        expect![[r"
            emojivoto/web-0
            emojivoto/unmeshed-0
        "]]
        .assert_eq(&names(&answer()));
        expect![[r#"
            NAMESPACE   NAME         IP           READY   MESHED   CONNECTED   REVISION
            emojivoto   web-0        10.244.1.2   yes     yes      yes               42
            emojivoto   unmeshed-0   10.244.1.2   yes     no       no                 -
        "#]]
        .assert_eq(&table(&answer()).to_string());
    }

    #[test]
    fn for_programs() {
        expect![[r#"{"pods":[{"namespace":"emojivoto","name":"web-0","ip":"10.244.1.2","workload":"deployment/web","ready":true,"meshed":true,"connected":true,"acked_revision":42},{"namespace":"emojivoto","name":"unmeshed-0","ip":"10.244.1.2","workload":"deployment/web","ready":true,"meshed":false,"connected":false,"acked_revision":null}]}"#]].assert_eq(&serde_json::to_string(&json(&answer())).unwrap());
    }
}

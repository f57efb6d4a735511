//! `conduit get pods`: what runs in the mesh.

use std::io::Write;

use conduit_api::{
    access::about,
    proto::public::{Pod, PodsRequest, PodsResponse},
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
    Json { pods: answer.pods.iter().map(json_pod).collect() }
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
        PodsResponse { pods: vec![pod("web-0", true), pod("unmeshed-0", false)], revision: 7 }
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

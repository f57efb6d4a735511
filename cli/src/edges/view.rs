//! An answer as a table and as JSON. Pure.

use conduit_api::proto::{
    common::ResourceRef,
    public::{Edge, EdgesResponse},
};
use serde::Serialize;

use crate::{
    stat::{Coverage, JsonCoverage, figures::Figures},
    table::{Align, Table},
};

#[derive(Serialize)]
pub(super) struct Json<'a> {
    edges: Vec<JsonEdge<'a>>,
    #[serde(flatten)]
    coverage: JsonCoverage,
}

/// What there is no figure for is null.
#[derive(Serialize)]
struct JsonEdge<'a> {
    src: &'a str,
    src_kind: &'a str,
    src_namespace: &'a str,
    dst: &'a str,
    dst_kind: &'a str,
    dst_namespace: &'a str,
    client_id: &'a str,
    server_id: &'a str,
    secured: bool,
    no_tls_reason: &'a str,
    success: Option<f64>,
    rps: Option<f64>,
    tcp_open_connections: u32,
    tcp_read_bytes: u64,
    tcp_write_bytes: u64,
}

/// Ends that are of another kind than `kind` are named with theirs.
pub(super) fn table(answer: &EdgesResponse, kind: &str, with_ids: bool) -> Table {
    let mut header = vec!["SRC", "DST", "SRC_NS", "DST_NS"];
    if with_ids {
        header.extend(["CLIENT_ID", "SERVER_ID"]);
    }
    header.push("SECURED");
    let mut table = Table::new(&header.into_iter().map(|name| (name, Align::Left)).collect::<Vec<_>>());
    for edge in &answer.edges {
        let (source, destination) = (end(edge.source.as_ref()), end(edge.destination.as_ref()));
        let name = |end: &ResourceRef| match end.kind == kind {
            true => end.name.clone(),
            false => format!("{}/{}", end.kind, end.name),
        };
        let mut cells =
            vec![name(&source), name(&destination), or_dash(&source.namespace), or_dash(&destination.namespace)];
        if with_ids {
            cells.extend([or_dash(&edge.client_id), or_dash(&edge.server_id)]);
        }
        cells.push(if edge.secured { "√".to_owned() } else { edge.no_tls_reason.clone() });
        table.row(cells);
    }
    table
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn end(end: Option<&ResourceRef>) -> ResourceRef {
    end.cloned().unwrap_or_default()
}

fn words(end: Option<&ResourceRef>) -> [&str; 3] {
    end.map_or([""; 3], |end| [end.name.as_str(), end.kind.as_str(), end.namespace.as_str()])
}

pub(super) fn json(answer: &EdgesResponse) -> Json<'_> {
    Json { edges: answer.edges.iter().map(json_edge).collect(), coverage: (&Coverage::of_edges(answer)).into() }
}

fn json_edge(edge: &Edge) -> JsonEdge<'_> {
    let [src, src_kind, src_namespace] = words(edge.source.as_ref());
    let [dst, dst_kind, dst_namespace] = words(edge.destination.as_ref());
    let figures = edge.stats.as_ref().and_then(Figures::new);
    JsonEdge {
        src,
        src_kind,
        src_namespace,
        dst,
        dst_kind,
        dst_namespace,
        client_id: &edge.client_id,
        server_id: &edge.server_id,
        secured: edge.secured,
        no_tls_reason: &edge.no_tls_reason,
        success: figures.map(|figures| figures.success),
        rps: figures.map(|figures| figures.rps),
        tcp_open_connections: edge.tcp_open,
        tcp_read_bytes: edge.read_bytes,
        tcp_write_bytes: edge.write_bytes,
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::public::BasicStats;
    use expect_test::expect;

    use super::*;

    fn answer() -> EdgesResponse {
        let end = |kind: &str, name: &str| {
            Some(ResourceRef { kind: kind.into(), namespace: "emojivoto".into(), name: name.into() })
        };
        let id = |name: &str| format!("spiffe://cluster.local/ns/emojivoto/sa/{name}");
        let secured = Edge {
            source: end("deployment", "web"),
            destination: end("deployment", "voting"),
            client_id: id("web"),
            server_id: id("voting"),
            secured: true,
            stats: Some(BasicStats {
                success_count: 45,
                failure_count: 15,
                window_ms: 60_000,
                ..BasicStats::default()
            }),
            read_bytes: 1_000,
            write_bytes: 2_000,
            tcp_open: 2,
            ..Edge::default()
        };
        let plain = Edge {
            source: end("deployment", "web"),
            destination: end("statefulset", "legacy"),
            no_tls_reason: "no identity provided by remote".into(),
            ..Edge::default()
        };
        EdgesResponse {
            edges: vec![secured, plain],
            replicas_answered: 2,
            replicas_total: 3,
            ..EdgesResponse::default()
        }
    }

    #[test]
    fn as_a_table() {
        expect![[r"
            SRC   DST                  SRC_NS      DST_NS      SECURED
            web   voting               emojivoto   emojivoto   √
            web   statefulset/legacy   emojivoto   emojivoto   no identity provided by remote
        "]]
        .assert_eq(&table(&answer(), "deployment", false).to_string());
        expect![[r"
            SRC   DST                  SRC_NS      DST_NS      CLIENT_ID                                    SERVER_ID                                       SECURED
            web   voting               emojivoto   emojivoto   spiffe://cluster.local/ns/emojivoto/sa/web   spiffe://cluster.local/ns/emojivoto/sa/voting   √
            web   statefulset/legacy   emojivoto   emojivoto   -                                            -                                               no identity provided by remote
        "]]
        .assert_eq(&table(&answer(), "deployment", true).to_string());
    }

    #[test]
    fn as_json() {
        let json = serde_json::to_value(json(&answer())).unwrap();
        let edge = &json["edges"][0];
        assert_eq!(
            (&edge["src"], &edge["dst"], &edge["dst_kind"]),
            (&"web".into(), &"voting".into(), &"deployment".into())
        );
        assert_eq!((&edge["success"], &edge["rps"]), (&0.75.into(), &1.0.into()));
        assert_eq!((&edge["tcp_open_connections"], &edge["tcp_write_bytes"]), (&2.into(), &2_000.into()));
        assert_eq!(json["edges"][1]["no_tls_reason"], "no identity provided by remote");
        assert_eq!((&json["edges"][1]["rps"], &json["partial"]), (&serde_json::Value::Null, &true.into()));
    }
}

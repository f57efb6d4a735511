//! What the control plane says of requests to a service: also of those that nobody got, and by the route that accepted them.

use std::{collections::BTreeMap, convert::Infallible};

use conduit_api::proto::public::{
    ResourceSelection, StatRequest,
    stat_request::{By, Other},
};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::harness::{Mesh, identity, text};
use crate::{Sender, body, rule};

/// Successes and failures by name, service and route.
type Counted = BTreeMap<String, (u64, u64)>;

async fn counted(mesh: &Mesh, kind: &str, to: Option<&str>, by: &[By]) -> Counted {
    let selection = |kind: &str| ResourceSelection { kind: kind.into(), namespace: "test".into(), name: String::new() };
    let request = StatRequest {
        selector: Some(selection(kind)),
        window_ms: 300_000,
        other: to.map(|kind| Other::To(selection(kind))),
        by: by.iter().map(|by| i32::from(*by)).collect(),
    };
    let answer = mesh.api().await.unwrap().stat(request).await.unwrap().into_inner();
    let rows = answer.rows.into_iter().map(|row| {
        let (name, group) = (row.resource.unwrap().name, row.group.unwrap_or_default());
        let key = [name, group.service, group.route].join(" ").trim_end().to_owned();
        (key, row.stats.map_or((0, 0), |stats| (stats.success_count, stats.failure_count)))
    });
    rows.collect()
}

fn expected(rows: &[(&str, u64, u64)]) -> Counted {
    rows.iter().map(|(key, success, failure)| ((*key).to_owned(), (*success, *failure))).collect()
}

async fn requests_are_counted_by_service_and_route(is_http2: bool) {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server
        .app(move |stream: TcpStream| async move {
            let (stream, answer) = (TokioIo::new(stream), service_fn(async |_| Ok::<_, Infallible>(text("here"))));
            // A client that goes away is not this test's matter.
            if is_http2 {
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await;
            } else {
                let _ = http1::Builder::new().serve_connection(stream, answer).await;
            }
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    mesh.service(1, &[]).await;
    let mut sender = Sender::new(web.towards(0), is_http2).await;
    let mut ask = async |path: &str, status: StatusCode| {
        let uri = if is_http2 { format!("http://service-0.test{path}") } else { path.to_owned() };
        let request = Request::get(uri).header(header::HOST, "service-0.test");
        let response = sender.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(response.status(), status, "{path}");
        body(response).await;
    };
    ask("/before", StatusCode::OK).await;
    mesh.route(vec![rule(Some("/here"), &[(0, 1)]), rule(Some("/nobody"), &[(1, 1)]), rule(Some("/nowhere"), &[])])
        .await;
    for (path, status, times) in [
        ("/here", StatusCode::OK, 3),
        ("/nobody", StatusCode::SERVICE_UNAVAILABLE, 2),
        ("/nowhere", StatusCode::INTERNAL_SERVER_ERROR, 4),
        ("/other", StatusCode::NOT_FOUND, 1),
    ] {
        for _ in 0..times {
            ask(path, status).await;
        }
    }
    let services = expected(&[("service-0", 5, 4), ("service-1", 0, 2)]);
    mesh.wait("all of them are counted", async || counted(&mesh, "service", None, &[]).await == services).await;
    let by = [By::Service, By::Route];
    assert_eq!(
        counted(&mesh, "service", None, &by).await,
        expected(&[
            ("service-0 test/service-0:80 route", 3, 6),
            ("service-0 test/service-0:80", 2, 0),
            ("service-1 test/service-1:80", 0, 0),
        ])
    );
    // What came by a route, and what was sent by one.
    assert_eq!(
        counted(&mesh, "deployment", None, &by).await,
        expected(&[("server test/service-0:80 route", 3, 0), ("server test/service-0:80", 1, 0)])
    );
    assert_eq!(
        counted(&mesh, "pod", Some("service"), &by).await,
        expected(&[("web-0 test/service-0:80 route", 3, 6), ("web-0 test/service-0:80", 2, 0)])
    );
    let labels = ["parent_name=\"service-0\"", "route_name=\"route\"", "dst_service=\"service-1\""];
    assert_eq!(web.metric("response_total", &labels).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_requests_are_counted_by_service_and_route() {
    requests_are_counted_by_service_and_route(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_are_counted_by_service_and_route() {
    requests_are_counted_by_service_and_route(true).await;
}

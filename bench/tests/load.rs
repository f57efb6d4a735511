//! The load and the server together: every request that is due is sent, timed and reported.

#![allow(clippy::unwrap_used, reason = "what fails in a test shall fail the test")]

use std::time::Duration;

use conduit_bench::{load, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

fn plan(url: String) -> load::Plan {
    load::Plan {
        url,
        name: "test".into(),
        rate: 2000.0,
        duration: Duration::from_millis(200),
        warmup: Duration::from_millis(50),
        connections: 4,
        http2: false,
        streams: 1,
    }
}

#[tokio::test]
async fn every_request_that_is_due_is_timed() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(serve::serve(listener, 1024));
    let report = load::run(&plan(url)).await.unwrap();
    assert_eq!((report.requests, report.errors), (400, 0), "{report:?}");
    assert!(report.latency_us.p50 > 0.0 && report.latency_us.p50 <= report.latency_us.max);
    assert!(report.achieved > 0.0 && report.achieved <= report.rate * 1.01, "{report:?}");
    server.abort();
}

#[tokio::test]
async fn streams_share_connections() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(serve::serve(listener, 1024));
    let plan = load::Plan { http2: true, streams: 4, connections: 2, ..plan(url) };
    let report = load::run(&plan).await.unwrap();
    assert_eq!((report.requests, report.errors), (400, 0), "{report:?}");
    server.abort();
}

#[tokio::test]
async fn what_is_not_http_is_counted() {
    let (listener, _) = listen().await;
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve::serve(listener, 1024));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0xff; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read_u64().await.unwrap(), 100_000);
    server.abort();
}

#[tokio::test]
async fn requests_that_fail_are_counted_apart() {
    let (listener, url) = listen().await;
    let hang_up = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            // The load's first connections stand, and break at their first request.
            tokio::spawn(async move { connection.read_u8().await });
        }
    });
    let report = load::run(&plan(url)).await.unwrap();
    assert_eq!((report.requests, report.errors), (0, 400));
    hang_up.abort();
}

#[tokio::test]
async fn plans_that_make_no_sense_are_refused() {
    let sensible = plan("http://127.0.0.1:1/".into());
    for (senseless, says) in [
        (load::Plan { rate: 0.0, ..sensible.clone() }, "rate"),
        (load::Plan { rate: f64::NAN, ..sensible.clone() }, "rate"),
        (load::Plan { connections: 0, ..sensible.clone() }, "connections"),
        (load::Plan { url: "127.0.0.1:1".into(), ..sensible.clone() }, "http://"),
    ] {
        let error = load::run(&senseless).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

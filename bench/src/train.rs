//! All of a proxy's work once, so that a program which writes a profile of itself has something to write.
//!
//! What is not done here is laid out as what is never done: whoever adds work to the proxy adds it here. No figure comes of it.

mod uploads;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    load,
    proxy::{
        bytes,
        connection::Connection,
        mesh::{METRICS_PORT, Mesh},
        program,
        running::{ORDINARY, Place, Running},
        subject::{Protocol, Proxy, Shape},
        tap::Tap,
    },
    serve::ask,
};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// The `conduit-proxy` to put to work; the one beside this program if it is not said
    #[arg(long)]
    program: Option<PathBuf>,
    /// How long each kind of work is done
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

/// Requests a second: what a program that counts everything can carry.
const RATE: f64 = 1_500.0;
const WARMUP: Duration = Duration::from_millis(500);
/// Of answers, and of what is sent up: one that fits into a buffer, and one that does not.
const BODIES: [usize; 2] = [1024, 65_536];
/// Connections that are made, used once, and closed.
const SHORT_CONNECTIONS: usize = 200;
/// Connections that wait for an answer at the same time, so that as many are made from proxy to proxy.
const BUSY_CONNECTIONS: usize = 64;
const BUSY: Duration = Duration::from_millis(300);
/// Endpoints that a service has, one number after the other.
const ENDPOINTS: [u16; 3] = [10, 200, 20];
/// So long nothing happens but what a proxy does by itself: reports, looks for what is idle.
const REST: Duration = Duration::from_secs(3);
const PROXY: Proxy = Proxy::Conduit;

/// Puts proxies to work, and ends them.
///
/// # Errors
/// When a proxy does not do its work, or does not end.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let place = Place {
        work: directory.path().to_owned(),
        program: program(plan.program.as_deref().unwrap_or(&programs.join("conduit-proxy")))?,
        other: None,
        configurations: PathBuf::new(),
        mesh: Mesh::start(programs).await?,
    };
    let _server = place.start_server()?;
    for shape in [Shape::Hop, Shape::Pair] {
        let mut running = place.start(PROXY, shape, ORDINARY)?;
        running.ready(PROXY, shape).await?;
        requests(shape, plan.duration).await?;
        connections(shape).await?;
        bytes::send(PROXY.entrance(shape, Protocol::Tcp), plan.duration).await?;
        watched(&place.mesh, shape, plan.duration).await?;
        sleep(REST).await;
        ended(shape, running).await?;
    }
    let mut many = place.start_with_many(PROXY)?;
    many.listens(PROXY.entrance(Shape::Hop, Protocol::Tcp)).await?;
    let held = Connection::open(PROXY.entrance(Shape::Hop, Protocol::Tcp)).await?;
    for endpoints in ENDPOINTS {
        place.mesh.describe(endpoints)?;
        sleep(BUSY).await;
    }
    // As long as an application has connections, its proxy waits for it.
    drop(held);
    many.end().await?;
    Ok(())
}

async fn requests(shape: Shape, duration: Duration) -> anyhow::Result<()> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let entrance = PROXY.entrance(shape, protocol);
        for body_bytes in BODIES {
            let http2 = protocol == Protocol::Http2;
            let (connections, streams) = if http2 { (4, 8) } else { (16, 1) };
            let url = format!("http://{entrance}/{body_bytes}");
            let name = protocol.to_string();
            let rate = if body_bytes == BODIES[0] { RATE } else { RATE / 10.0 };
            let work = load::Plan { url, name, rate, duration, warmup: WARMUP, connections, http2, streams };
            let report = load::run(&work).await?;
            anyhow::ensure!(report.errors == 0, "{shape}, {protocol}: {} requests were not answered", report.errors);
            uploads::send(entrance, http2, body_bytes).await?;
        }
    }
    Ok(())
}

async fn connections(shape: Shape) -> anyhow::Result<()> {
    let entrance = PROXY.entrance(shape, Protocol::Http1);
    for _ in 0..SHORT_CONNECTIONS {
        Connection::answered(entrance).await?;
    }
    let busy = (0..BUSY_CONNECTIONS).map(|_| async {
        let mut connection = Connection::open(entrance).await?;
        connection.get_after(BUSY).await
    });
    futures::future::try_join_all(busy).await?;
    Ok(())
}

/// Requests while somebody watches, and while metrics are read.
async fn watched(mesh: &Mesh, shape: Shape, duration: Duration) -> anyhow::Result<()> {
    let tap = Tap::start(mesh).await?;
    requests(shape, duration / 4).await?;
    anyhow::ensure!(tap.events() > 0, "{shape}: nobody was seen by the one who watches");
    drop(tap);
    for part in shape.parts() {
        for path in ["/metrics", "/ready", "/identity"] {
            let answer = ask((PROXY.ip(*part), METRICS_PORT).into(), path).await?;
            anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{part}{path}: {answer}");
        }
    }
    Ok(())
}

/// It ends as a pod does; what it wrote on its way says nothing bad.
async fn ended(shape: Shape, running: Running) -> anyhow::Result<()> {
    let said = running.end().await?;
    anyhow::ensure!(!said.iter().any(|said| said.contains("panicked")), "{shape}: {said:?}");
    Ok(())
}

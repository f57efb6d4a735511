//! What a proxy holds in memory: idle, with connections that wait, and with connections that all have a request on its way.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use super::{
    connection::Connection,
    running::{Launch, ORDINARY, Place, Running},
    subject::{Protocol, Proxy, Shape},
};

/// Whatever is freed soon is freed by then.
const SETTLE: Duration = Duration::from_secs(1);
/// Until a proxy knows what a service with many endpoints is.
const LEARN: Duration = Duration::from_secs(3);
/// From one request to the next one's, on another connection: no less than a handshake takes both proxies of a pair.
const EACH: Duration = Duration::from_millis(2);
/// Between two looks while they are on their way.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// File descriptors that are no connections.
const OTHER_FILES: u64 = 1_000;

/// With no connection.
///
/// # Errors
/// When it does not start.
pub async fn idle(place: &Place, proxy: Proxy, shape: Shape) -> anyhow::Result<u64> {
    let running = started(place, proxy, shape, ORDINARY).await?;
    sleep(SETTLE).await;
    running.resident()
}

/// With so many connections, each of which has carried a request.
///
/// # Errors
/// When it takes fewer.
pub async fn waiting(place: &Place, proxy: Proxy, shape: Shape, connections: usize) -> anyhow::Result<u64> {
    let running = started(place, proxy, shape, room_for(connections)).await?;
    let _held = open(proxy.entrance(shape, Protocol::Http1), connections).await?;
    sleep(SETTLE).await;
    running.resident()
}

/// The most while so many connections have requests on their way.
///
/// # Errors
/// When a request is not answered; it says what the proxy said.
pub async fn busy(place: &Place, proxy: Proxy, shape: Shape, connections: usize) -> anyhow::Result<u64> {
    let mut running = started(place, proxy, shape, room_for(connections)).await?;
    let most = most_while_busy(&running, proxy.entrance(shape, Protocol::Http1), connections).await;
    most.map_err(|error| error.context(running.said()))
}

async fn most_while_busy(running: &Running, entrance: SocketAddr, connections: usize) -> anyhow::Result<u64> {
    let connections = open(entrance, connections).await?;
    let all = EACH * u32::try_from(connections.len())?;
    let (mut requests, mut turn) = (JoinSet::new(), Duration::ZERO);
    for mut connection in connections {
        // One after the other, so that no queue is too short for all of them.
        turn += EACH;
        requests.spawn(async move {
            sleep(turn).await;
            connection.get_after(all + SETTLE - turn).await?;
            std::io::Result::Ok(connection)
        });
    }
    let (mut most, mut held) = (0, Vec::new());
    let mut looks = interval(LOOK_AGAIN);
    loop {
        tokio::select! {
            done = requests.join_next() => match done {
                Some(done) => held.push(done??),
                None => return Ok(most),
            },
            _ = looks.tick() => most = most.max(running.resident()?),
        }
    }
}

/// Ours, when it knows a service with so many endpoints.
///
/// # Errors
/// When it does not start.
pub async fn endpoints(place: &Place, proxy: Proxy, endpoints: u16) -> anyhow::Result<u64> {
    place.mesh.describe(endpoints)?;
    let mut running = place.start_with_many(proxy)?;
    let entrance = proxy.entrance(Shape::Hop, Protocol::Tcp);
    running.listens(entrance).await?;
    // Whoever connects makes it ask what is there.
    let _held = Connection::open(entrance).await?;
    sleep(LEARN).await;
    running.resident()
}

/// How many connections can be busy at once, of `connections`: each is two file descriptors of a proxy.
///
/// # Errors
/// When the system does not say.
pub fn busy_at_most(connections: usize) -> anyhow::Result<usize> {
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(connections.min(usize::try_from(files.saturating_sub(OTHER_FILES) / 2)?))
}

fn room_for(connections: usize) -> Launch {
    Launch { connections: ORDINARY.connections.max(3 * connections + 500), ..ORDINARY }
}

async fn started(place: &Place, proxy: Proxy, shape: Shape, launch: Launch) -> anyhow::Result<Running> {
    let mut running = place.start(proxy, shape, launch)?;
    running.ready(proxy, shape).await?;
    Ok(running)
}

/// Connections, each of which has carried a request: one that is silent at first may be taken for anything.
async fn open(address: SocketAddr, connections: usize) -> anyhow::Result<Vec<Connection>> {
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let connection = async {
            let mut connection = Connection::open(address).await?;
            connection.get().await?;
            std::io::Result::Ok(connection)
        };
        held.push(connection.await.with_context(|| format!("on connection {}", held.len() + 1))?);
    }
    Ok(held)
}

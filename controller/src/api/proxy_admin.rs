//! What a pod's proxy says of itself, on its port for metrics.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use conduit_api::PodName;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::Status;

use crate::peer::server::Own;

/// Where proxies answer.
const PORT: u16 = 4191;
/// A proxy that has not begun to answer by then cannot be asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// One that has begun to answer.
pub struct Answer {
    /// Beside which pod it is.
    pub pod: PodName,
    address: SocketAddr,
    /// What it says.
    pub body: Incoming,
}

/// Asks the proxy beside a pod for what is at `path`.
///
/// # Errors
/// As the API describes them.
pub async fn get(own: &Own, namespace: &str, pod: &str, path: &str) -> Result<Answer, Status> {
    let name = PodName::new(namespace, pod).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let state = own.cluster.state().borrow().clone();
    let pod = state.pods().get(&name).ok_or_else(|| Status::not_found(format!("there is no pod {name}")))?;
    if !pod.value.meshed {
        return Err(Status::failed_precondition(format!("there is no proxy beside pod {name}")));
    }
    let address = SocketAddr::new(pod.value.ip, PORT);
    match timeout(ANSWER_TIMEOUT, ask(address, path)).await {
        Ok(Ok(body)) => Ok(Answer { pod: name, address, body }),
        Ok(Err(error)) => Err(unavailable(&name, address, error)),
        Err(_) => Err(unavailable(&name, address, "no answer")),
    }
}

impl Answer {
    /// What to say of one that ends like this.
    pub fn unavailable(&self, why: impl fmt::Display) -> Status {
        unavailable(&self.pod, self.address, why)
    }
}

fn unavailable(pod: &PodName, address: SocketAddr, why: impl fmt::Display) -> Status {
    Status::unavailable(format!("the proxy beside {pod} does not answer at {address}: {why}"))
}

async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<Incoming> {
    let stream = TcpStream::connect(address).await?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let response = client.send_request(request).await?;
    anyhow::ensure!(response.status() == StatusCode::OK, "it says {}", response.status());
    Ok(response.into_body())
}

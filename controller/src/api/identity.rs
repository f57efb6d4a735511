//! The certificate that a pod's proxy presents: it says so itself, on its port for metrics.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use conduit_api::{
    PodName,
    proto::public::{IdentityRequest, IdentityResponse},
};
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{net::TcpStream, time::timeout};
use tonic::Status;

use crate::peer::server::Own;

/// Where proxies answer.
const PROXY_ADMIN_PORT: u16 = 4191;
/// A proxy that has not answered by then cannot be asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A chain is two to four certificates of some hundred bytes.
const PEM_BYTES_MAX: usize = 64 * 1024;

/// Asks the proxy.
///
/// # Errors
/// As the API describes them.
pub async fn identity(own: &Own, request: IdentityRequest) -> Result<IdentityResponse, Status> {
    let IdentityRequest { namespace, pod } = request;
    let name = PodName::new(&namespace, &pod).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let state = own.cluster.state().borrow().clone();
    let pod = state.pods().get(&name).ok_or_else(|| Status::not_found(format!("there is no pod {name}")))?;
    if !pod.value.meshed {
        return Err(Status::failed_precondition(format!(
            "there is no proxy beside pod {name}, and so it has no certificate"
        )));
    }
    let address = SocketAddr::new(pod.value.ip, PROXY_ADMIN_PORT);
    let asked = timeout(ANSWER_TIMEOUT, ask(address)).await;
    let unavailable =
        |why: String| Status::unavailable(format!("the proxy beside {name} does not answer at {address}: {why}"));
    let pem =
        asked.map_err(|_| unavailable("no answer".to_owned()))?.map_err(|error| unavailable(error.to_string()))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unavailable(error.to_string()))?;
    if chain.is_empty() {
        return Err(Status::unavailable(format!("the proxy beside {name} has no certificate yet; see its log")));
    }
    Ok(IdentityResponse { chain: chain.iter().map(|certificate| certificate.to_vec()).collect() })
}

async fn ask(address: SocketAddr) -> anyhow::Result<Bytes> {
    let stream = TcpStream::connect(address).await?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/identity").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let body = client.send_request(request).await?.into_body();
    let collected = Limited::new(body, PEM_BYTES_MAX).collect().await;
    Ok(collected.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes())
}

//! The certificate that a pod's proxy presents.

use std::time::Duration;

use conduit_api::proto::public::{IdentityRequest, IdentityResponse};
use http_body_util::{BodyExt as _, Limited};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time::timeout;
use tonic::Status;

use super::proxy_admin;
use crate::peer::server::Own;

/// For the rest of an answer that has begun.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// A chain is two to four certificates of some hundred bytes.
const PEM_BYTES_MAX: usize = 64 * 1024;

/// Asks the proxy.
///
/// # Errors
/// As the API describes them.
pub async fn identity(own: &Own, request: IdentityRequest) -> Result<IdentityResponse, Status> {
    let mut answer = proxy_admin::get(own, &request.namespace, &request.pod, "/identity").await?;
    let collected = timeout(BODY_TIMEOUT, Limited::new(&mut answer.body, PEM_BYTES_MAX).collect()).await;
    let collected = collected.map_err(|_| answer.unavailable("no answer"))?;
    let pem = collected.map_err(|error| answer.unavailable(error))?.to_bytes();
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| answer.unavailable(error))?;
    if chain.is_empty() {
        let message = format!("the proxy beside {} has no certificate yet; see its log", answer.pod);
        return Err(Status::unavailable(message));
    }
    Ok(IdentityResponse { chain: chain.iter().map(|certificate| certificate.to_vec()).collect() })
}

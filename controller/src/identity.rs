//! Certificates for workloads: attest, then sign. Any replica can, without leader and without quorum.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_api::{
    SpiffeId, TrustDomain,
    proto::identity::{CertifyRequest, CertifyResponse, identity_server},
};
use conduit_ca::{IssueError, LaunchToken, Seed};
use conduit_consensus::MeshState;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::{authority::actor::SharedIssuer, discovery::bundle_of, propose::unix_ms};

/// The service, over this replica's issuer.
pub struct IdentityServer {
    /// Checks launch tokens.
    pub seed: Arc<Seed>,
    /// Whose identities are issued.
    pub trust_domain: TrustDomain,
    /// This replica's issuer, once there is one.
    pub issuer: SharedIssuer,
    /// For the trust bundle.
    pub state: watch::Receiver<Arc<MeshState>>,
    /// Of the certificates it signs.
    pub leaf_lifetime: Duration,
}

#[tonic::async_trait]
impl identity_server::Identity for IdentityServer {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let CertifyRequest { csr, token } = request.into_inner();
        let now = SystemTime::now();
        let attested = LaunchToken::verify(&token, &self.seed, now).map_err(|error| {
            warn!(%error, "refused to certify");
            Status::unauthenticated(error.to_string())
        })?;
        let id = SpiffeId::new(&self.trust_domain, &attested.namespace, &attested.service_account)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        let issuer = self.issuer.load_full();
        let issuer = issuer.ok_or_else(|| Status::unavailable("this replica has no issuing certificate yet"))?;
        let issued = issuer.issue(&csr, &id, now, self.leaf_lifetime).map_err(|error| refuse(&id, &error))?;
        info!(spiffe_id = %id, pod = %attested.pod, "certified");
        let bundle = bundle_of(&self.state.borrow());
        Ok(Response::new(CertifyResponse {
            chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            not_after_ms: unix_ms(issued.not_after),
            bundle,
            server_time_ms: unix_ms(now),
        }))
    }
}

fn refuse(id: &SpiffeId, error: &IssueError) -> Status {
    warn!(spiffe_id = %id, %error, "refused to certify");
    match error {
        // Ours to mend: the proxy tries again, perhaps elsewhere.
        IssueError::Expired | IssueError::Crypto(_) => Status::unavailable(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

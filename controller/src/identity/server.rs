//! The identity service.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_api::{
    SpiffeId, TrustDomain,
    proto::identity::{CertifyRequest, CertifyResponse, IssueJwtRequest, IssueJwtResponse, identity_server},
};
use conduit_ca::{IssueError, JwtIssuer, WorkloadTls, jwt::SignError};
use conduit_consensus::MeshState;
use tokio::{sync::watch, time::Instant};
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

use super::{
    attest::{AttestError, Attestor},
    limits::{Limited, Limits},
    metrics::Signed,
};
use crate::{
    authority::actor::controller_id, discovery::bundle_of, peer::server::Own, propose::unix_ms, serve::peer_in_force,
};

/// The service, over this replica's issuer.
pub struct IdentityServer {
    /// Says who asks.
    pub attestor: Box<dyn Attestor>,
    /// Whose identities are issued.
    pub trust_domain: TrustDomain,
    /// This replica's issuer, its clock, and the state that says what is trusted.
    pub own: Own,
    /// What proxies meet, once there is a certificate for it, and whom it lets in.
    pub serving: watch::Receiver<Option<WorkloadTls>>,
    /// Of the certificates it signs.
    pub leaf_lifetime: Duration,
    /// How many of them.
    pub limits: Limits,
}

/// Why nothing was signed. Its text is for the one who asked; whether asking again is of use, its code says.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Attest(#[from] AttestError),
    #[error(transparent)]
    Name(#[from] conduit_api::spiffe::ParseSpiffeError),
    #[error("`{0}` is denied; see `conduit ca status`")]
    Denied(SpiffeId),
    #[error("`{0}` is the control plane's own identity, and nobody else's; use another service account")]
    ControlPlane(SpiffeId),
    #[error(transparent)]
    Limited(#[from] Limited),
    #[error("this replica's clock is {}s off; ask another one", .0.as_secs())]
    Clock(Duration),
    #[error("this replica has no issuing certificate yet")]
    NoIssuer,
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("this replica has no key for tokens yet that everybody knows; ask again")]
    NoTokenKey,
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl Refusal {
    /// As the API describes them, and for counting.
    fn kind(&self) -> (Code, &'static str) {
        match self {
            Self::Attest(error) => error.kind(),
            Self::Name(_) => (Code::PermissionDenied, "name"),
            Self::Denied(_) => (Code::PermissionDenied, "denied"),
            Self::ControlPlane(_) => (Code::PermissionDenied, "control_plane"),
            Self::Limited(Limited::Identity) => (Code::ResourceExhausted, "identity_rate"),
            Self::Limited(Limited::All) => (Code::ResourceExhausted, "rate"),
            Self::Clock(_) => (Code::Unavailable, "clock"),
            Self::NoIssuer => (Code::Unavailable, "no_issuer"),
            Self::Issue(IssueError::Expired) => (Code::Unavailable, "issuer_expired"),
            Self::Issue(IssueError::Crypto(_)) => (Code::Unavailable, "crypto"),
            Self::Issue(_) => (Code::InvalidArgument, "request"),
            Self::NoTokenKey => (Code::Unavailable, "no_token_key"),
            Self::Sign(SignError::Audience) => (Code::InvalidArgument, "audience"),
            Self::Sign(SignError::Crypto(_)) => (Code::Unavailable, "crypto"),
        }
    }
}

#[tonic::async_trait]
impl identity_server::Identity for IdentityServer {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let started = Instant::now();
        let certified = self.certify(&request.into_inner(), self.own.clock.now()).await;
        self.noted(Signed::Certificate, started, certified)
    }

    async fn issue_jwt(&self, request: Request<IssueJwtRequest>) -> Result<Response<IssueJwtResponse>, Status> {
        let serving = self.serving.borrow().clone();
        let serving = serving.ok_or_else(|| Status::unavailable("this replica has no certificate yet"))?;
        let (started, peer) = (Instant::now(), peer_in_force(&request, &serving)?);
        let issued = self.issue_jwt(peer.id(), &request.into_inner().audience, self.own.clock.now());
        self.noted(Signed::Token, started, issued)
    }
}

impl IdentityServer {
    fn noted<T>(&self, what: Signed, started: Instant, signed: Result<T, Refusal>) -> Result<Response<T>, Status> {
        match &signed {
            Ok(_) => self.own.identity_metrics.issued(what, started.elapsed()),
            Err(refusal) => {
                let (code, reason) = refusal.kind();
                self.own.identity_metrics.refused(what, reason);
                // What passes by itself is nobody's to look at.
                match code {
                    Code::Unavailable => debug!(reason, error = %refusal, "cannot sign a {what} yet"),
                    _ => warn!(reason, error = %refusal, "refused to sign a {what}"),
                }
            }
        }
        signed.map(Response::new).map_err(|refusal| Status::new(refusal.kind().0, refusal.to_string()))
    }

    /// What holds for everything that is signed for `id`.
    fn admit(&self, id: &SpiffeId, state: &MeshState) -> Result<(), Refusal> {
        if state.ca().is_some_and(|ca| ca.denied.contains_key(id)) {
            return Err(Refusal::Denied(id.clone()));
        }
        self.limits.admit(id)?;
        self.own.clock.mistrusted().map_or(Ok(()), |offset| Err(Refusal::Clock(offset)))
    }

    fn issue_jwt(&self, id: &SpiffeId, audience: &[String], now: SystemTime) -> Result<IssueJwtResponse, Refusal> {
        let state = self.own.cluster.state().borrow().clone();
        self.admit(id, &state)?;
        let issuer = self.own.jwt_issuer.load_full();
        // One that was revoked is not used while the next one is on its way.
        let is_known = |issuer: &Arc<JwtIssuer>| state.ca().is_some_and(|ca| ca.jwt_keys.contains_key(issuer.id()));
        let issued = issuer.filter(is_known).ok_or(Refusal::NoTokenKey)?.issue(id, audience, now)?;
        Ok(IssueJwtResponse { token: issued.token, not_after_ms: unix_ms(issued.not_after) })
    }

    async fn certify(&self, request: &CertifyRequest, now: SystemTime) -> Result<CertifyResponse, Refusal> {
        let attested = self.attestor.attest(&request.token, now).await?;
        let id = SpiffeId::new(&self.trust_domain, &attested.namespace, &attested.service_account)?;
        // Whoever may make a namespace of that name would be believed to be the control plane.
        if controller_id(&self.trust_domain).is_ok_and(|controller| controller == id) {
            return Err(Refusal::ControlPlane(id));
        }
        let state = self.own.cluster.state().borrow().clone();
        self.admit(&id, &state)?;
        let issuer = self.own.issuer.load_full().ok_or(Refusal::NoIssuer)?;
        let issued = issuer.issue(&request.csr, &id, now, self.leaf_lifetime)?;
        info!(spiffe_id = %id, pod = %attested.pod, "certified");
        Ok(CertifyResponse {
            chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            not_after_ms: unix_ms(issued.not_after),
            bundle: bundle_of(&state),
            server_time_ms: unix_ms(now),
        })
    }
}

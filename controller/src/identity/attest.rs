//! Who asks for a certificate: what its platform vouches for.

use std::time::SystemTime;

use conduit_ca::LaunchToken;
use tonic::Code;

use crate::seed::SharedSeed;

/// An instance of a workload, as its platform has started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The pod's namespace.
    pub namespace: String,
    /// What it runs as: the last part of its identity.
    pub service_account: String,
    /// The pod's name.
    pub pod: String,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Made by this mesh's supervisor, or not.
    #[error(transparent)]
    Launch(#[from] conduit_ca::AttestError),
    /// A ServiceAccount token that proves nothing, now or ever; why, in a word and in a sentence.
    #[error("the ServiceAccount token is refused: {1}")]
    Refused(&'static str, String),
    /// Nobody can say at the moment.
    #[error("the ServiceAccount token cannot be reviewed now: {0}")]
    Unavailable(String),
    /// Too many ask.
    #[error("as many ServiceAccount tokens are being reviewed as this replica may ask for; ask another one, or later")]
    Busy,
}

impl AttestError {
    /// Whether asking again is of use, and for counting.
    pub fn kind(&self) -> (Code, &'static str) {
        match self {
            Self::Launch(conduit_ca::AttestError::Malformed) => (Code::Unauthenticated, "token_malformed"),
            Self::Launch(conduit_ca::AttestError::Forged) => (Code::Unauthenticated, "token_forged"),
            Self::Launch(conduit_ca::AttestError::Expired(_)) => (Code::Unauthenticated, "token_expired"),
            Self::Refused(reason, _) => (Code::Unauthenticated, reason),
            Self::Unavailable(_) => (Code::Unavailable, "token_review"),
            Self::Busy => (Code::ResourceExhausted, "token_review_rate"),
        }
    }
}

/// What a platform gives its workloads to prove themselves by.
#[tonic::async_trait]
pub trait Attestor: Send + Sync {
    /// Who holds `token`.
    ///
    /// # Errors
    /// When it proves nothing at `now`.
    async fn attest(&self, token: &str, now: SystemTime) -> Result<Attested, AttestError>;
}

/// In a local mesh: tokens that the supervisor mints, and every replica checks alone.
pub struct LaunchTokens {
    /// What they are minted under.
    pub seed: SharedSeed,
}

#[tonic::async_trait]
impl Attestor for LaunchTokens {
    async fn attest(&self, token: &str, now: SystemTime) -> Result<Attested, AttestError> {
        let seed = self.seed.borrow().clone();
        let LaunchToken { namespace, service_account, pod } = LaunchToken::verify(token, &seed, now)?;
        Ok(Attested { namespace, service_account, pod })
    }
}

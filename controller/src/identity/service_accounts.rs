//! In Kubernetes: projected ServiceAccount tokens, which the API server reviews. While it cannot be asked, what it has said before is enough: the
//! keys that it signs tokens with are in the log, and so are the pods that there are.
//!
//! ```text
//!   token ──► TokenReview ──(no answer)──► keys in the log, pod in the log with the token's uid ──► attested
//! ```
//!
//! A review also says no when the pod that the token is bound to was deleted. By its keys alone nobody can see that (kubernetes/website#43764):
//! hence the second look, at the pods.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use conduit_api::PodName;
use conduit_ca::jwt::{self, JwtError, keys_of_set};
use conduit_consensus::{Command, Fence, MeshState, Outcome, ServiceAccountKeys};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use serde_json::{Map, Value};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::attest::{AttestError, Attested, Attestor};
use crate::{peer::server::Own, platform::kubernetes::client_config, propose};

/// A review that has not come by then is not waited for: the proxy that asks waits five seconds.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(2);
/// Reviews at once: enough for thousands a second of an API server that answers, and no burden to one that is slow.
const REVIEWS_MAX: usize = 64;
/// What an API server says that has too much to do (RFC 6585 section 4).
const TOO_MANY_REQUESTS: u16 = 429;
/// Between two looks at the keys: the API server's are replaced with warning of many hours, by whoever runs it.
const KEYS_POLL: Duration = Duration::from_secs(300);
/// As long as it has not answered.
const KEYS_RETRY: Duration = Duration::from_secs(2);
/// Keys of one API server; it has two while one follows another.
const KEYS_MAX: usize = 32;
/// How the API server calls ServiceAccounts.
const USER_PREFIX: &str = "system:serviceaccount:";
/// Where a review says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Tokens of one audience.
pub struct ServiceAccountTokens {
    client: Client,
    audience: String,
    own: Own,
    reviews: Semaphore,
}

/// What a token says, whoever has verified it.
#[derive(Debug, PartialEq, Eq)]
struct Claimed {
    attested: Attested,
    pod_uid: String,
}

impl ServiceAccountTokens {
    /// Reviewed by the API server that `kubeconfig` tells of, or else by that of the cluster that this runs in.
    ///
    /// # Errors
    /// When neither says where that is.
    pub async fn new(audience: &str, kubeconfig: Option<&Path>, own: Own) -> anyhow::Result<Self> {
        let mut config = client_config(kubeconfig).await.context("--service-account-audience needs an API server")?;
        (config.connect_timeout, config.read_timeout) = (Some(REVIEW_TIMEOUT), Some(REVIEW_TIMEOUT));
        config.reset_reader_on_write = true;
        // While it is tried again, a proxy waits for what the log could say at once.
        config.default_retry = false;
        let reviews = Semaphore::new(REVIEWS_MAX);
        Ok(Self { client: Client::try_from(config)?, audience: audience.to_owned(), own, reviews })
    }

    /// Keeps the API server's keys in the log, as long as this replica leads; until the process ends.
    pub async fn keep_keys(client: Client, own: Own) {
        let mut leadership = own.cluster.leadership();
        loop {
            let fence = leadership.borrow_and_update().clone();
            let pause = match fence {
                None => Duration::MAX,
                Some(fence) => match keys(&client).await {
                    Ok(keys) => propose_keys(&own, keys, fence).await,
                    Err(error) => {
                        warn!(error = %format_args!("{error:#}"), "the API server does not tell its keys for ServiceAccount tokens");
                        KEYS_RETRY
                    }
                },
            };
            tokio::select! {
                () = sleep(pause) => {}
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    }

    /// For [`ServiceAccountTokens::keep_keys`].
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// What the API server says, or why it says nothing: that it is away, or too busy, is no answer; that it refuses to be asked is one.
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, NoAnswer> {
        let Ok(_permit) = self.reviews.try_acquire() else { return Err(NoAnswer::Busy) };
        let spec = TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        match timeout(REVIEW_TIMEOUT, reviews.create(&params, &review)).await {
            Err(_) => Err(NoAnswer::Away("no answer in time".to_owned())),
            Ok(Ok(review)) => review.status.ok_or_else(|| NoAnswer::Refused("an answer without a status".to_owned())),
            Ok(Err(kube::Error::Api(status)))
                if (400..500).contains(&status.code) && status.code != TOO_MANY_REQUESTS =>
            {
                Err(NoAnswer::Refused(status.to_string()))
            }
            Ok(Err(error)) => Err(NoAnswer::Away(error.to_string())),
        }
    }
}

/// Why there is no review.
enum NoAnswer {
    /// The API server cannot be asked now.
    Away(String),
    /// It will not review this, or nothing that this replica asks.
    Refused(String),
    /// As many are under way as there may be.
    Busy,
}

#[tonic::async_trait]
impl Attestor for ServiceAccountTokens {
    async fn attest(&self, token: &str, now: SystemTime) -> Result<Attested, AttestError> {
        let token = token.trim();
        let state = self.own.cluster.state().borrow().clone();
        let looked_at = plausible(token, &self.audience, &state, now)?;
        match self.review(token).await {
            Ok(status) => reviewed(&status, &self.audience),
            Err(NoAnswer::Busy) => Err(AttestError::Busy),
            Err(NoAnswer::Refused(why)) => {
                warn!(why, "the API server refuses to review a token; may this controller create tokenreviews?");
                Err(AttestError::Unavailable(why))
            }
            Err(NoAnswer::Away(why)) => {
                debug!(why, "the API server does not review tokens; its keys in the log do");
                verified(looked_at, &state).map_err(|error| match error {
                    AttestError::Unavailable(also) => AttestError::Unavailable(format!("{why}; {also}")),
                    refused => refused,
                })
            }
        }
    }
}

/// Has these keys in the log; when to look again.
async fn propose_keys(own: &Own, keys: ServiceAccountKeys, fence: Fence) -> Duration {
    let known = own.cluster.state().borrow().ca().and_then(|ca| ca.service_accounts.clone());
    if known.as_ref() == Some(&keys) {
        return KEYS_POLL;
    }
    match propose::fenced(&own.cluster, "kubernetes", Command::SetServiceAccountKeys(keys), Some(fence)).await {
        Ok(applied) if applied.outcome == Outcome::Done => {
            info!("the API server's keys for ServiceAccount tokens are in the log");
            KEYS_POLL
        }
        // Refused before there is a root.
        Ok(_) => KEYS_RETRY,
        Err(error) => {
            debug!(%error, "the API server's keys are not in the log yet");
            KEYS_RETRY
        }
    }
}

/// The keys that it signs tokens with now.
async fn keys(client: &Client) -> anyhow::Result<ServiceAccountKeys> {
    let get = async |path: &str| {
        let request = http::Request::get(path).body(Vec::new())?;
        anyhow::Ok(client.request_text(request).await?)
    };
    let discovery: Value = serde_json::from_str(&get("/.well-known/openid-configuration").await?)?;
    let issuer = discovery.get("issuer").and_then(Value::as_str).context("it does not say who issues tokens")?;
    let keys = keys_of_set(&get("/openid/v1/jwks").await?)?;
    anyhow::ensure!((1..=KEYS_MAX).contains(&keys.len()), "it has {} keys that could be used", keys.len());
    Ok(ServiceAccountKeys { issuer: issuer.to_owned(), keys })
}

/// What the API server says of a token.
fn reviewed(status: &TokenReviewStatus, audience: &str) -> Result<Attested, AttestError> {
    if status.authenticated != Some(true) {
        let why = status.error.clone().unwrap_or_else(|| "it is not valid".to_owned());
        return Err(AttestError::Refused("token_refused", why));
    }
    // An API server that does not know of audiences leaves them out, and has looked at none.
    if !status.audiences.iter().flatten().any(|known| known == audience) {
        return Err(AttestError::Refused("token_audience", format!("it is not for the audience `{audience}`")));
    }
    let user = status.user.clone().unwrap_or_default();
    let (namespace, service_account) = user.username.as_deref().and_then(of_user).ok_or_else(|| {
        AttestError::Refused("token_user", format!("it is that of `{}`", user.username.clone().unwrap_or_default()))
    })?;
    let extra = |name| user.extra.as_ref().and_then(|extra| extra.get(name)?.first().cloned());
    match (extra(POD_NAME), extra(POD_UID)) {
        (Some(pod), Some(_)) => Ok(Attested { namespace, service_account, pod }),
        _ => Err(unbound()),
    }
}

/// What a token says that the API server is worth asking about: anybody may send anything, and it has others to serve. And whether it
/// is signed by a key in the log.
fn plausible(
    token: &str,
    audience: &str,
    state: &MeshState,
    now: SystemTime,
) -> Result<(Map<String, Value>, bool), AttestError> {
    let signed = match state.ca().and_then(|ca| ca.service_accounts.as_ref()) {
        Some(known) => jwt::signed_by_one_of(&known.keys, token).map_err(refused)?,
        None => None,
    };
    let is_signed = signed.is_some();
    // By a key that is not known here: it may have another one since it was last asked.
    let claims = signed.map_or_else(|| jwt::unverified(token), Ok).map_err(refused)?;
    jwt::in_force(&claims, audience, now).map_err(refused)?;
    claimed(&claims).ok_or_else(unbound)?;
    Ok((claims, is_signed))
}

fn refused(error: JwtError) -> AttestError {
    AttestError::Refused("token_refused", error.to_string())
}

/// Whom a [`plausible`] token proves, if the keys and the pods in the log agree with what it says.
fn verified((claims, is_signed): (Map<String, Value>, bool), state: &MeshState) -> Result<Attested, AttestError> {
    let known = state.ca().and_then(|ca| ca.service_accounts.as_ref());
    let known = known.ok_or_else(|| AttestError::Unavailable("its keys are not known yet".to_owned()))?;
    if !is_signed {
        // It may have another key since it was last asked.
        return Err(AttestError::Unavailable("the token is by a key that is not known".to_owned()));
    }
    if claims.get("iss").and_then(Value::as_str) != Some(&*known.issuer) {
        return Err(AttestError::Refused("token_refused", "it was issued by somebody else".to_owned()));
    }
    let Claimed { attested, pod_uid } = claimed(&claims).ok_or_else(unbound)?;
    let name = PodName::new(&attested.namespace, &attested.pod).map_err(|_| unbound())?;
    match state.pods().get(&name) {
        Some(pod)
            if pod.value.uid.as_ref() == Some(&pod_uid) && pod.value.service_account == attested.service_account =>
        {
            Ok(attested)
        }
        Some(_) => Err(AttestError::Refused("token_pod", format!("it is bound to another pod than {name}"))),
        None => Err(AttestError::Unavailable(format!("pod {name} is not known"))),
    }
}

/// Claims of a token that is bound to a pod.
fn claimed(claims: &Map<String, Value>) -> Option<Claimed> {
    let kubernetes = claims.get("kubernetes.io")?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let (namespace, service_account) = of_user(claims.get("sub")?.as_str()?)?;
    let pod = kubernetes.get("pod")?;
    let attested = Attested { namespace, service_account, pod: text(pod.get("name"))? };
    Some(Claimed { attested, pod_uid: text(pod.get("uid"))? })
}

fn of_user(user: &str) -> Option<(String, String)> {
    let (namespace, service_account) = user.strip_prefix(USER_PREFIX)?.split_once(':')?;
    Some((namespace.to_owned(), service_account.to_owned()))
}

fn unbound() -> AttestError {
    AttestError::Refused("token_unbound", "it is not bound to a pod; mount it as a projected volume".to_owned())
}

//! This proxy's certificate: made with a key of its own, and renewed long before it expires.

use std::{
    fs,
    path::PathBuf,
    rc::Rc,
    time::{Duration, SystemTime},
};

use conduit_api::proto::identity::{CertifyRequest, CertifyResponse, identity_client::IdentityClient};
use conduit_ca::{KeyPair, Standing, TrustBundle, WorkloadTls, renew_at};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, transport::Channel};
use tracing::{info, warn};

use crate::{
    cache::Cache,
    control::{Controllers, NotConnected, backoff},
};

/// A replica that has not signed by then is not asked any longer.
const CERTIFY_TIMEOUT: Duration = Duration::from_secs(5);
/// The trust bundle is in it: of as many other trust domains as there may be, with as much as each may have.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Between two certificates, however short-lived they are: the control plane must not be asked in a loop.
const RENEWAL_PAUSE_MIN: Duration = Duration::from_millis(200);
/// Before asking again what was refused for good.
const FINAL_PAUSE: Duration = Duration::from_secs(10);
/// A clock that is further off than this will get its certificates refused.
const SKEW_MAX: Duration = Duration::from_secs(10);

/// Gets certificates, for ever.
pub struct Certifier {
    /// Who signs.
    pub controllers: Controllers,
    /// What proves who we are; read again for every request.
    pub token: PathBuf,
    /// Whom to trust at first, and when nothing else is of use.
    pub anchors: PathBuf,
    /// Where certificate and trust bundle go.
    pub tls: WorkloadTls,
    /// Keeps both.
    pub cache: Rc<Cache>,
}

impl Certifier {
    /// Runs until the proxy ends. A failure costs nothing as long as the present certificate is valid, and is retried.
    pub async fn run(self) {
        let mut failures = 0;
        loop {
            match self.certify().await {
                Ok(renewal) => {
                    failures = 0;
                    self.controllers.renewed();
                    let pause = renewal.duration_since(SystemTime::now()).unwrap_or_default();
                    let certified = Instant::now();
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.outdated() => {}
                    }
                    sleep_until(certified + RENEWAL_PAUSE_MIN).await;
                }
                Err(error) => {
                    let mut pause = backoff(failures, rand::random());
                    if is_final(&error) {
                        pause += FINAL_PAUSE;
                    }
                    failures += 1;
                    warn!(error = %format_args!("{error:#}"), retry_in = ?pause, "no certificate yet");
                    sleep(pause).await;
                }
            }
        }
    }

    /// Resolves when the certificate is to be replaced before its time.
    async fn outdated(&self) {
        loop {
            match self.tls.standing() {
                Standing::Good => tokio::select! {
                    () = self.controllers.until_bundle_changed() => {}
                    () = self.controllers.until_refused() => {
                        warn!("a replica refused this proxy's certificate, or showed one that it does not know; another one is asked for");
                        break;
                    }
                },
                Standing::Superseded => {
                    info!("the trust root is being replaced; a certificate under the new one is asked for");
                    break;
                }
                Standing::Worthless => {
                    warn!("this proxy's certificate is not accepted any more; another one is asked for");
                    break;
                }
            }
        }
        sleep(self.tls.bundle().policy.renew_within.mul_f64(rand::random())).await;
    }

    /// To a replica that what this proxy trusts vouches for; or, if it was away while all of that was replaced, what its platform
    /// says now.
    ///
    /// Whether it had to be that.
    async fn connect(&self) -> anyhow::Result<(Channel, bool)> {
        let refused = match timeout(CERTIFY_TIMEOUT, self.controllers.connect_as_nobody()).await? {
            Ok(channel) => return Ok((channel, false)),
            // A connection that broke says nothing of whom to trust.
            Err(NotConnected::Failed(error)) => return Err(error.into()),
            Err(NotConnected::Refused(error)) => error,
        };
        let anchors = fs::read_to_string(&self.anchors).ok().and_then(|pem| TrustBundle::from_pem(&pem).ok());
        let known = self.tls.bundle();
        match anchors.filter(|anchors| anchors.roots().iter().any(|anchor| !known.roots().contains(anchor))) {
            Some(anchors) => {
                warn!("no replica is known any more; the one that this proxy's platform vouches for is asked");
                Ok((timeout(CERTIFY_TIMEOUT, self.controllers.connect_trusting(anchors)).await??, true))
            }
            None => Err(refused.into()),
        }
    }

    /// One certificate; when the next one is due.
    async fn certify(&self) -> anyhow::Result<SystemTime> {
        let token = fs::read_to_string(&self.token)
            .map_err(|error| anyhow::anyhow!("cannot read the identity token {}: {error}", self.token.display()))?;
        let key = KeyPair::generate()?;
        let request = CertifyRequest { csr: key.csr()?, token: token.trim().to_owned() };
        let (channel, began_anew) = self.connect().await?;
        let mut client = IdentityClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = timeout(CERTIFY_TIMEOUT, client.certify(request)).await??;
        let CertifyResponse { chain, bundle, server_time_ms, .. } = answer.into_inner();
        warn_of_skew(server_time_ms);
        match bundle.map(TrustBundle::try_from).transpose()? {
            // Nobody is left whom this proxy knew, and its platform vouches for this one.
            Some(bundle) if began_anew => self.tls.replace_bundle(bundle),
            Some(bundle) => self.tls.set_bundle(bundle),
            None => {}
        }
        self.cache.trusts(&(&*self.tls.bundle()).into());
        self.tls.renew_identity(&key, chain.iter().cloned().map(CertificateDer::from).collect())?;
        self.cache.certified(&key, &chain);
        let identity = self.tls.identity().ok_or_else(|| anyhow::anyhow!("the certificate was not taken over"))?;
        info!(spiffe_id = %identity.id, "certified");
        Ok(renew_at(identity.not_before, identity.not_after, rand::random()))
    }
}

/// Whether asking again will get the same answer until a person has done something.
fn is_final(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    matches!(code, Some(Code::PermissionDenied | Code::InvalidArgument))
}

fn warn_of_skew(server_time_ms: u64) {
    let server = SystemTime::UNIX_EPOCH + Duration::from_millis(server_time_ms);
    let now = SystemTime::now();
    let skew = now.duration_since(server).or_else(|_| server.duration_since(now)).unwrap_or_default();
    if skew > SKEW_MAX {
        warn!(?skew, "this machine's clock is not the control plane's; certificates may be refused");
    }
}

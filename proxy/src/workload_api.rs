//! The SPIFFE Workload API, for an application that wants its identity itself: in TLS of its own, or in tokens.
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md>
//!
//! What it hands out is what this proxy presents and trusts, the moment it does so; so a rotation of the root that waits for the
//! proxies has waited for their applications. Who may connect, the socket's directory says: it is the pod's.

pub mod authority;
pub mod tokens;

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_api::{
    SpiffeId,
    proto::workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
};
use conduit_ca::{Authorities, JwtError, Standing, TrustBundle, WorkloadTls, federation::jwt_key_set, jwt};
use futures::{Stream, stream};
use hyper::{rt::Executor, server::conn::http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prost::Message;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::join,
    net::UnixListener,
    sync::{Semaphore, watch},
    task::spawn_local,
    time::{sleep, timeout},
};
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use zeroize::Zeroizing;

use self::{authority::WithAuthority, tokens::Tokens};

/// Runs futures where they are made: nothing of a connection ever leaves its thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Every call says that it is meant: a browser that was talked into connecting cannot (section 6.2.1 of SPIFFE Workload Endpoint).
const HEADER: &str = "workload.spiffe.io";
/// One application's processes; each needs one.
const CONNECTIONS_MAX: usize = 64;
/// Calls of one connection at once.
const CALLS_MAX: u32 = 64;
/// A new key for tokens has reached every proxy by then: a token that came sooner is looked at again.
const KEYS_PATIENCE: Duration = Duration::from_secs(2);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The service. Clones are the same.
#[derive(Clone)]
pub struct WorkloadApi {
    /// What is handed out.
    pub tls: WorkloadTls,
    /// Whenever that may have changed.
    pub changes: watch::Receiver<()>,
    /// Fetches tokens.
    pub tokens: Tokens,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WorkloadApi {
    /// Serves on a unix socket at `path` until the proxy ends. One that was left there by an earlier process is replaced.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve(self, path: &Path) -> io::Result<()> {
        // Anything else that is there is somebody's, and in the way.
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        // The application need not be this proxy's user.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        spawn_local(async move {
            // Never closed.
            while let Ok(permit) = connections.clone().acquire_owned().await {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        warn!(%error, "cannot accept a connection of the application");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let service = TowerToHyperService::new(SpiffeWorkloadApiServer::new(self.clone()));
                spawn_local(async move {
                    let mut http = http2::Builder::new(LocalExecutor);
                    http.timer(TokioTimer::new()).max_concurrent_streams(CALLS_MAX);
                    let (read, write) = stream.into_split();
                    let stream = join(WithAuthority::new(read), write);
                    // The client went away.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                    drop(permit);
                });
            }
        });
        info!(path = %path.display(), "serving the SPIFFE Workload API");
        Ok(())
    }

    /// What `look` sees, now and whenever it is something else.
    fn follow<T: Message + 'static>(&self, look: fn(&WorkloadTls) -> Result<Option<T>, Status>) -> Streamed<T> {
        let state = (self.tls.clone(), self.changes.clone(), None);
        Box::pin(stream::try_unfold(state, move |(tls, mut changes, last)| async move {
            loop {
                changes.mark_unchanged();
                let seen = look(&tls)?;
                let now = seen.as_ref().map(digest);
                if now.is_some() && now != last {
                    return Ok(seen.map(|seen| (seen, (tls, changes, now))));
                }
                if changes.changed().await.is_err() {
                    return Ok(None);
                }
            }
        }))
    }

    /// Whose token it is, by what is trusted now.
    fn verify(&self, request: &ValidateJwtsvidRequest) -> Result<jwt::Verified, JwtError> {
        let bundle = self.tls.bundle();
        let (own, audience) = (self.tls.trust_domain(), &request.audience);
        jwt::verify(&request.svid, audience, SystemTime::now(), |domain| match domain == own {
            true => Some(&bundle.own().jwt),
            false => bundle.federated.get(domain).map(|foreign| &foreign.jwt),
        })
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Streamed<X509svidResponse>;
    type FetchX509BundlesStream = Streamed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Streamed<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        meant(&request)?;
        Ok(Response::new(self.follow(x509_svid)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        meant(&request)?;
        Ok(Response::new(
            self.follow(|tls| Ok(Some(X509BundlesResponse { crl: Vec::new(), bundles: roots_by_trust_domain(tls) }))),
        ))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        meant(&request)?;
        let JwtsvidRequest { mut audience, spiffe_id } = request.into_inner();
        let id =
            self.tls.identity().ok_or_else(|| Status::unavailable("this proxy has no certificate yet"))?.id.clone();
        allowed(&id, &self.tls.bundle())?;
        if !spiffe_id.is_empty() && spiffe_id != id.to_string() {
            return Err(Status::permission_denied(format!("this workload is `{id}`, not `{spiffe_id}`")));
        }
        audience.sort_unstable();
        audience.dedup();
        let svid = self.tokens.fetch(audience).await?;
        Ok(Response::new(JwtsvidResponse {
            svids: vec![Jwtsvid { spiffe_id: id.to_string(), svid, hint: String::new() }],
        }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        meant(&request)?;
        Ok(Response::new(self.follow(|tls| {
            let bundles = by_trust_domain(tls, |Authorities { jwt, .. }| match jwt.is_empty() {
                true => None,
                false => Some(jwt_key_set(jwt).into_bytes()),
            });
            // Before a replica signs tokens, there is nothing to verify them with.
            Ok(Some(JwtBundlesResponse { bundles }).filter(|known| !known.bundles.is_empty()))
        })))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        meant(&request)?;
        let (request, mut changes) = (request.into_inner(), self.changes.clone());
        let verified = timeout(KEYS_PATIENCE, async {
            loop {
                changes.mark_unchanged();
                match self.verify(&request) {
                    Err(JwtError::Key(_)) if changes.changed().await.is_ok() => {}
                    other => return other,
                }
            }
        });
        let verified = verified.await.unwrap_or_else(|_| self.verify(&request));
        let verified = verified.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Ok(id) = verified.subject.parse() {
            allowed(&id, &self.tls.bundle()).map_err(|denied| Status::invalid_argument(denied.message()))?;
        }
        let claims = Some(tokens::claims(verified.claims));
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id: verified.subject, claims }))
    }
}

/// Tells a message from the one before: a stream is open for days, and a key is not to be kept in it.
fn digest(message: &impl Message) -> u64 {
    let encoded = Zeroizing::new(message.encode_to_vec());
    let mut hasher = DefaultHasher::new();
    encoded.hash(&mut hasher);
    hasher.finish()
}

fn meant<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get(HEADER) {
        Some(value) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(format!("the metadata `{HEADER}: true` is missing"))),
    }
}

fn allowed(id: &SpiffeId, bundle: &TrustBundle) -> Result<(), Status> {
    match bundle.policy.denied.contains_key(id) {
        true => Err(Status::permission_denied(format!("`{id}` is denied; see `conduit ca status`"))),
        false => Ok(()),
    }
}

/// None while there is none that anybody would accept: another one is on its way.
fn x509_svid(tls: &WorkloadTls) -> Result<Option<X509svidResponse>, Status> {
    let Some(svid) = tls.svid() else { return Ok(None) };
    let bundle = tls.bundle();
    allowed(&svid.id, &bundle)?;
    if tls.standing() == Standing::Worthless {
        return Ok(None);
    }
    let mut federated_bundles = roots_by_trust_domain(tls);
    federated_bundles.remove(&format!("spiffe://{}", tls.trust_domain()));
    Ok(Some(X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: concatenated(&svid.chain),
            x509_svid_key: svid.key.to_vec(),
            bundle: concatenated(bundle.roots()),
            hint: String::new(),
        }],
        crl: Vec::new(),
        federated_bundles,
    }))
}

fn roots_by_trust_domain(tls: &WorkloadTls) -> BTreeMap<String, Vec<u8>> {
    by_trust_domain(tls, |authorities| Some(concatenated(authorities.roots())).filter(|roots| !roots.is_empty()))
}

/// Our own trust domain's and all others', under the names that the API gives them; those that have none are left out, since clients
/// take nothing for a mistake.
fn by_trust_domain(tls: &WorkloadTls, of: impl Fn(&Authorities) -> Option<Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let bundle = tls.bundle();
    let all = bundle.federated.iter().chain([(tls.trust_domain(), bundle.own())]);
    all.filter_map(|(domain, authorities)| Some((format!("spiffe://{domain}"), of(authorities)?))).collect()
}

fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

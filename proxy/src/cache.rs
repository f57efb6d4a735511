//! What is known, on a disk: a proxy that starts while no replica of the control plane answers goes on from there.
//!
//! Only then: whenever a replica answers within [`GRACE`], what it says is taken and nothing else.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use conduit_api::{
    Revision,
    proto::{cache::Cache as Content, discovery::WatchRequest, identity},
    route::PROXY_LEVEL,
};
use conduit_ca::{KeyPair, Standing, TrustBundle, WorkloadTls, cache};
use prost::Message as _;
use rustls::pki_types::CertificateDer;
use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::discovery::Directory;

/// A control plane that answers at all has answered by then.
pub const GRACE: Duration = Duration::from_secs(2);
/// Between two writes, however much changes.
const WRITE_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks whether the token was renewed, under which it is sealed.
const TOKEN_POLL: Duration = Duration::from_secs(30);
/// What ten thousand targets take is a few megabytes; what is larger was not written by this proxy.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The file, and what is to be in it.
pub struct Cache {
    /// None when nothing is to be kept.
    path: Option<PathBuf>,
    token: PathBuf,
    identity: RefCell<Option<Kept>>,
    bundle: RefCell<Option<identity::TrustBundle>>,
    changed: Notify,
    sealed_under: RefCell<Zeroizing<String>>,
    complained: Cell<bool>,
}

/// A certificate's chain, and the key that it is for.
#[derive(Clone)]
struct Kept {
    key: Zeroizing<Vec<u8>>,
    chain: Vec<Vec<u8>>,
}

impl Cache {
    /// At `path`, sealed under what is in the file `token`.
    pub fn new(path: Option<PathBuf>, token: PathBuf) -> Rc<Self> {
        Rc::new(Self {
            path,
            token,
            identity: RefCell::default(),
            bundle: RefCell::default(),
            changed: Notify::new(),
            sealed_under: RefCell::default(),
            complained: Cell::default(),
        })
    }

    /// There is a new certificate.
    pub fn certified(&self, key: &KeyPair, chain: &[Vec<u8>]) {
        if let (Some(_), Ok(key)) = (&self.path, key.to_pkcs8()) {
            self.identity.replace(Some(Kept { key, chain: chain.to_vec() }));
            self.changed.notify_one();
        }
    }

    /// There are other roots to trust.
    pub fn trusts(&self, bundle: &identity::TrustBundle) {
        self.bundle.replace(Some(bundle.clone()));
        self.changed.notify_one();
    }

    /// The directory has changed.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    /// Writes whenever something has changed, until the proxy ends.
    pub async fn keep(self: Rc<Self>, directory: Rc<RefCell<Directory>>) {
        let Some(path) = self.path.clone() else { return };
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(TOKEN_POLL) => {
                    if fs::read_to_string(&self.token).is_ok_and(|token| token == **self.sealed_under.borrow()) {
                        continue;
                    }
                }
            }
            let written = self.write(&path, &directory.borrow());
            if let Err(error) = written {
                // Once: nothing depends on it until nobody answers.
                if !self.complained.replace(true) {
                    warn!(path = %path.display(), error = %format_args!("{error:#}"), "cannot keep what is known for a restart");
                }
                sleep(TOKEN_POLL).await;
                self.changed.notify_one();
            }
            sleep(WRITE_PAUSE).await;
        }
    }

    fn write(&self, path: &Path, directory: &Directory) -> anyhow::Result<()> {
        // Before anything is known there is nothing to keep, and something to lose: what was kept before.
        let kept = self.identity.borrow().clone().filter(|_| directory.revision() > Revision::default());
        let Some(Kept { key, chain }) = kept else { return Ok(()) };
        let content = Content {
            revision: directory.revision().as_u64(),
            targets: directory.to_updates(),
            bundle: self.bundle.borrow().clone(),
            key: key.to_vec(),
            chain,
            level: PROXY_LEVEL,
        };
        let plain = Zeroizing::new(content.encode_to_vec());
        drop(Zeroizing::new(content.key));
        let token = Zeroizing::new(fs::read_to_string(&self.token).context("cannot read the identity token")?);
        replace(path, &cache::seal(&token, &plain)?)?;
        self.sealed_under.replace(token);
        Ok(())
    }

    /// Puts what was kept in force, if it is of any use: then what is to be sent over a stream that has begun.
    pub fn restore(&self, directory: &mut Directory, tls: &WorkloadTls) -> Option<Vec<WatchRequest>> {
        let path = self.path.as_ref()?;
        match self.read(path, directory, tls) {
            Ok(requests) => {
                let revision = directory.revision();
                info!(%revision, "no replica of the control plane answers; what was known when this proxy last ran is in force");
                Some(requests)
            }
            Err(error) => {
                info!(path = %path.display(), error = %format_args!("{error:#}"), "there is nothing kept that could be used");
                None
            }
        }
    }

    fn read(&self, path: &Path, directory: &mut Directory, tls: &WorkloadTls) -> anyhow::Result<Vec<WatchRequest>> {
        if fs::metadata(path)?.len() > BYTES_MAX {
            bail!("it is larger than {BYTES_MAX} bytes");
        }
        let sealed = fs::read(path)?;
        let token = Zeroizing::new(fs::read_to_string(&self.token).context("cannot read the identity token")?);
        let plain = cache::open(&token, &sealed).context("it was sealed under another token, or is damaged")?;
        let Content { revision, mut targets, bundle, key, chain, level } = Content::decode(plain.as_slice())?;
        if level != PROXY_LEVEL {
            // It is asked for anew as soon as anybody can be asked.
            targets.iter_mut().for_each(|target| target.version = 0);
        }
        // A certificate of this run is newer.
        if tls.identity().is_some() {
            return Ok(directory.restore(revision.into(), &targets)?);
        }
        let key = KeyPair::from_pkcs8(&Zeroizing::new(key))?;
        let bundle = bundle.context("it has no trust bundle")?;
        // Tried beside what is in force, so that half of it never is.
        let tried = WorkloadTls::new(tls.trust_domain().clone(), TrustBundle::try_from(bundle.clone())?);
        let certificates = || chain.iter().cloned().map(CertificateDer::from).collect();
        tried.set_identity(&key, certificates())?;
        if tried.standing() == Standing::Worthless {
            let expired = tried.identity().filter(|identity| identity.not_after < SystemTime::now());
            bail!("its certificate {}", if expired.is_some() { "has expired" } else { "is not trusted any more" });
        }
        let requests = directory.restore(revision.into(), &targets)?;
        tls.set_bundle(TrustBundle::try_from(bundle.clone())?);
        tls.set_identity(&key, certificates())?;
        self.certified(&key, &chain);
        self.trusts(&bundle);
        Ok(requests)
    }
}

/// The old file, or the whole new one; nobody else reads it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    fs::rename(new, path)
}

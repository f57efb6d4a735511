//! Making roots, opening them, and keeping them where the disks of all replicas may be lost.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use conduit_api::{Revision, TrustDomain};
use conduit_ca::{ImportError, OwnIssuer, Root, RootError, SealedRoot, Seed, TrustBundle};
use conduit_consensus::{CaState, Command, Link, RootRecord};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::info;

use crate::{platform::Platform, seed::SharedSeed};

/// A user's own issuer, as files in PEM.
#[derive(Clone, Debug)]
pub struct OwnFiles {
    /// Its certificate, and those that lead from it to a trust anchor.
    pub certificates: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// What is to be trusted.
    pub anchors: Option<PathBuf>,
}

/// What roots are made of, and where they are kept.
pub struct Roots {
    /// Opens and seals them.
    pub seed: SharedSeed,
    /// Whose identities are issued.
    pub trust_domain: TrustDomain,
    /// Of those that are made.
    pub lifetime: Duration,
    /// Instead of the first that would be made.
    pub own: Option<OwnFiles>,
    /// Keeps them, sealed: with the seed, it brings them back when all disks are gone. And tells proxies what to trust at their start.
    pub platform: Arc<dyn Platform>,
    /// What comes later is kept later.
    pub keeping: Mutex<()>,
}

/// What is in the backup.
#[derive(Serialize, Deserialize)]
struct Backup {
    /// For people.
    trust_domain: TrustDomain,
    /// The one to begin with.
    root: SealedRoot,
    /// That proxies may hold is not below this.
    revision: Revision,
}

impl Roots {
    /// The first root: the one that was kept, the user's own, or a new one.
    ///
    /// # Errors
    /// When it cannot be had. Another one is not made then: whoever holds certificates under it would be a stranger.
    pub async fn first(&self, now: SystemTime) -> anyhow::Result<Command> {
        if let Some(Backup { root, revision, .. }) = self.kept().await? {
            info!(root = %root.id, "the trust root is the one that was kept");
            return Ok(Command::CaInit { root: Box::new(root), after: Some(revision) });
        }
        let root = match &self.own {
            Some(files) => {
                let read =
                    |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
                let anchors = files.anchors.as_deref().map(read).transpose()?;
                let (certificates, key) = (read(&files.certificates)?, zeroize::Zeroizing::new(read(&files.key)?));
                let own = OwnIssuer { certificates: &certificates, key: &key, anchors: anchors.as_deref() };
                Root::import(own, &self.trust_domain, now)?
            }
            None => Root::generate(&self.trust_domain, now, self.lifetime)?,
        };
        Ok(Command::CaInit { root: Box::new(root.seal(&self.seed())?), after: None })
    }

    /// Proposes a root that is to follow the active one: the user's `own`, or a new one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(&self, ca: &CaState, own: Option<OwnIssuer<'_>>, now: SystemTime) -> Result<Command, PrepareError> {
        let active = ca.active().ok_or(PrepareError::NoRoot)?;
        let next = match own {
            Some(own) => Root::import(own, &self.trust_domain, now)?,
            None if active.root.imported => return Err(PrepareError::Imported),
            None => Root::generate(&self.trust_domain, now, self.lifetime)?,
        };
        let active = self.open(active)?;
        let link = active.cross_sign(&next, now)?;
        let link = link.map(|link| Link { by: active.id().clone(), certificate: link.to_vec() });
        Ok(Command::PrepareRoot { root: Box::new(next.seal(&self.seed())?), link })
    }

    /// A root with its key.
    ///
    /// # Errors
    /// When it was sealed under another seed.
    pub fn open(&self, record: &RootRecord) -> Result<Root, RootError> {
        record.root.open(&self.seed(), &self.trust_domain)
    }

    /// Gives the platform what it is to keep.
    ///
    /// A root is kept before proxies can learn to trust it: what nobody could bring back, nobody depends on.
    ///
    /// # Errors
    /// When it is not kept; what comes later is not kept then.
    pub async fn keep(&self, ca: &CaState) -> anyhow::Result<()> {
        let _in_order = self.keeping.lock().await;
        if let Some(active) = ca.active() {
            let (trust_domain, root) = (self.trust_domain.clone(), active.root.clone());
            let backup = Backup { trust_domain, root, revision: ca.revision };
            self.platform.keep_root(&serde_json::to_vec(&backup)?, ca.revision).await?;
        }
        self.platform.publish_trust_bundle(&TrustBundle::new(anchors(ca))?.to_pem(), ca.revision).await
    }

    /// The current one.
    pub fn seed(&self) -> Arc<Seed> {
        self.seed.borrow().clone()
    }

    async fn kept(&self) -> anyhow::Result<Option<Backup>> {
        let Some(sealed) = self.platform.kept_root().await? else { return Ok(None) };
        let because =
            "the trust root that the platform keeps cannot be used; if its mesh is gone for good, move it away";
        let backup: Backup = serde_json::from_slice(&sealed).context(because)?;
        let root = backup.root.open(&self.seed(), &self.trust_domain).context(because)?;
        if root.not_after() < SystemTime::now() {
            bail!("{because}: it has expired");
        }
        Ok(Some(backup))
    }
}

/// Why no root was prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is nothing to follow.
    #[error("there is no trust root yet")]
    NoRoot,
    /// Only its user can.
    #[error(
        "the trust root is your own; give the one that is to follow it, with --issuer-certificate-file and --issuer-key-file"
    )]
    Imported,
    /// The user's own is of no use.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The active one does not open.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Our own side.
    #[error(transparent)]
    Crypto(#[from] conduit_ca::CryptoError),
}

/// What is to be trusted, each once: intermediates of one root have the same.
pub fn anchors(ca: &CaState) -> Vec<CertificateDer<'static>> {
    let mut anchors: Vec<CertificateDer<'static>> = Vec::new();
    for record in &ca.roots {
        let anchor = CertificateDer::from(record.root.anchor.clone());
        if !anchors.contains(&anchor) {
            anchors.push(anchor);
        }
    }
    anchors
}

#[cfg(test)]
mod tests {
    use conduit_consensus::{MeshState, Proposal};
    use tokio::sync::watch;

    use super::*;
    use crate::platform::local::LocalFiles;

    fn roots(directory: &Path, seed: &Arc<Seed>) -> Roots {
        Roots {
            seed: watch::channel(seed.clone()).1,
            trust_domain: "cluster.local".parse().unwrap(),
            lifetime: conduit_ca::ROOT_LIFETIME,
            own: None,
            platform: Arc::new(LocalFiles {
                inventory: directory.join("platform.json"),
                seed: directory.join("seed"),
                gate: directory.join("gate"),
                root: Some(directory.join("root")),
                trust_bundle: Some(directory.join("bundle.pem")),
            }),
            keeping: Mutex::default(),
        }
    }

    fn state(root: SealedRoot) -> MeshState {
        let mut state = MeshState::default();
        state.apply(1, Proposal::new("test", 0, Command::CaInit { root: Box::new(root), after: None }));
        state
    }

    #[tokio::test]
    async fn the_seed_and_what_was_kept_bring_the_root_back() {
        let (directory, seed) = (tempfile::tempdir().unwrap(), Arc::new(Seed::generate()));
        let roots = roots(directory.path(), &seed);
        let root = |command: Command| match command {
            Command::CaInit { root, after } => (*root, after),
            other => panic!("{other}"),
        };
        let (first, after) = root(roots.first(SystemTime::now()).await.unwrap());
        assert_eq!(after, None);
        assert_ne!(root(roots.first(SystemTime::now()).await.unwrap()).0.id, first.id, "nothing was kept yet");
        roots.keep(state(first.clone()).ca().unwrap()).await.unwrap();
        assert_eq!(root(roots.first(SystemTime::now()).await.unwrap()), (first, Some(1.into())));
        let other = self::roots(directory.path(), &Arc::new(Seed::generate()));
        let refused = format!("{:#}", other.first(SystemTime::now()).await.unwrap_err());
        assert!(refused.contains("cannot be used") && refused.contains("does not open with this seed"), "{refused}");
        fs::write(directory.path().join("root"), "junk").unwrap();
        assert!(roots.first(SystemTime::now()).await.is_err(), "and no other one is made");
    }

    #[tokio::test]
    async fn the_next_one_is_linked_to_the_active_one() {
        let (directory, seed) = (tempfile::tempdir().unwrap(), Arc::new(Seed::generate()));
        let roots = roots(directory.path(), &seed);
        let mut state = MeshState::default();
        state.apply(1, Proposal::new("test", 0, roots.first(SystemTime::now()).await.unwrap()));
        let prepare = roots.prepare(state.ca().unwrap(), None, SystemTime::now()).unwrap();
        state.apply(2, Proposal::new("test", 0, prepare));
        let ca = state.ca().unwrap();
        let (active, next) = (ca.active().unwrap(), ca.prepared().unwrap());
        assert_eq!(next.link.as_ref().unwrap().by, active.root.id);
        assert_eq!(anchors(ca).len(), 2);
        assert_eq!(roots.open(next).unwrap().id(), &next.root.id);
    }
}

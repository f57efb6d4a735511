//! The certificate authority, as far as replicas must agree on it.
//!
//! ```text
//!   prepared ──► active ──► retired ──► (dropped)      trusted in all three; issued under in one
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use conduit_api::{NodeId, Revision, SpiffeId, TrustDomain};
use conduit_ca::{JwtKeys, KeyId, SealedKey, SealedRoot};
use serde::{Deserialize, Serialize};

use crate::command::{Link, Outcome};

/// Roots at once: every one of them is in every proxy, and tried at its handshakes. Two are enough for one to follow the other.
const ROOTS_MAX: usize = 4;
/// Identities that are refused.
pub const DENIED_MAX: usize = 1000;
/// Keys of one replica that are remembered, to be revoked: it makes one at every start and every few days.
const ISSUERS_PER_NODE_MAX: usize = 64;
/// Replicas whose keys are remembered; beyond it, those that were removed are forgotten.
const ISSUING_NODES_MAX: usize = 100;
/// Keys of one replica that tokens are verified with: it makes one at every start and every few days, and the oldest is forgotten,
/// which a replica that starts so often has hardly used.
const JWT_KEYS_PER_NODE_MAX: usize = 8;
/// Of all replicas, those that were removed included; every proxy has all of them.
const JWT_KEYS_MAX: usize = 256;
/// Other trust domains: every proxy has what they are believed by.
pub const FEDERATED_MAX: usize = 64;
/// Issuers that are not believed any more; the oldest is forgotten, which is of use for a week at most.
const REVOKED_MAX: usize = 1000;

/// Roots, issuers, and exceptions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaState {
    /// Oldest first. One of them is active.
    pub roots: Vec<RootRecord>,
    /// Each replica's issuing certificate.
    pub issuers: BTreeMap<NodeId, IssuerRecord>,
    /// The keys of those that it has had, the present one included, oldest first; also of replicas that were removed.
    pub issued_by: BTreeMap<NodeId, Vec<KeyId>>,
    /// Identities that are refused.
    pub denied: BTreeMap<SpiffeId, Denial>,
    /// Issuers that are not believed any more, oldest first.
    pub revoked: Vec<KeyId>,
    /// When that of it last changed which proxies are told.
    pub revision: Revision,
    /// What tokens are verified with, by the keys' ids.
    #[serde(default)]
    pub jwt_keys: BTreeMap<String, JwtKeyRecord>,
    /// What other trust domains are believed by.
    #[serde(default)]
    pub federated: BTreeMap<TrustDomain, FederatedRecord>,
    /// What ServiceAccount tokens are verified with while the Kubernetes API server cannot be asked; none before it was.
    #[serde(default)]
    pub service_accounts: Option<ServiceAccountKeys>,
}

/// As the API server publishes them (OpenID Connect Discovery).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountKeys {
    /// Who has issued the tokens that these keys are for.
    pub issuer: String,
    /// JSON Web Keys, by their ids.
    pub keys: JwtKeys,
}

/// A key that a replica signs tokens with, or has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwtKeyRecord {
    /// Whose.
    pub node: NodeId,
    /// A JSON Web Key.
    pub jwk: String,
    /// When no token by it can be valid any more, in milliseconds since the Unix epoch.
    pub not_after_ms: u64,
}

/// What another trust domain is believed by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederatedRecord {
    /// Certificates in DER.
    pub roots: Vec<Vec<u8>>,
    /// What its tokens are verified with.
    pub jwt: JwtKeys,
}

/// A trust root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Its certificates, and its key, which only the seed opens.
    pub root: SealedRoot,
    /// Its certificate by the one that it followed, as long as that is trusted.
    pub link: Option<Link>,
    /// What it is good for.
    pub state: RootState,
    /// Since when, as a revision: a proxy that holds it knows.
    pub since: Revision,
    /// The same by the proposer's clock, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// Where a root is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootState {
    /// Trusted, so that nobody meets it as a stranger later.
    Prepared,
    /// Certificates are issued under it.
    Active,
    /// Trusted for the sake of certificates that were issued under it.
    Retired,
}

impl fmt::Display for RootState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retired => "retired",
        })
    }
}

/// A replica's issuing certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRecord {
    /// Of its key.
    pub id: KeyId,
    /// In DER.
    pub certificate: Vec<u8>,
}

/// How an identity is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The connections that it has are closed as well.
    pub drop_connections: bool,
    /// By the proposer's clock, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// When something is changed: at which revision, and at which time of the proposer's.
#[derive(Clone, Copy)]
pub struct When {
    /// What it leads to.
    pub at: Revision,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
}

impl CaState {
    /// With a first root, which is active.
    pub(super) fn new(root: SealedRoot, when: When) -> Self {
        let record = RootRecord { root, link: None, state: RootState::Active, since: when.at, since_ms: when.time_ms };
        Self {
            roots: vec![record],
            issuers: BTreeMap::new(),
            issued_by: BTreeMap::new(),
            denied: BTreeMap::new(),
            revoked: Vec::new(),
            revision: when.at,
            jwt_keys: BTreeMap::new(),
            federated: BTreeMap::new(),
            service_accounts: None,
        }
    }

    /// The same where all revisions are new.
    pub(super) fn renewed(&self, at: Revision) -> Self {
        let mut renewed = Self { revision: at, ..self.clone() };
        renewed.roots.iter_mut().for_each(|root| root.since = at);
        renewed
    }

    /// The root that certificates are issued under.
    pub fn active(&self) -> Option<&RootRecord> {
        self.in_state(RootState::Active)
    }

    /// The root that is to follow it.
    pub fn prepared(&self) -> Option<&RootRecord> {
        self.in_state(RootState::Prepared)
    }

    /// The one that is trusted longest for the sake of what it has signed.
    pub fn retired(&self) -> Option<&RootRecord> {
        self.in_state(RootState::Retired)
    }

    /// Whether anything that this replica has signed may be believed.
    pub fn has_issued(&self, node: NodeId) -> bool {
        self.issued_by.contains_key(&node) || self.jwt_keys.values().any(|key| key.node == node)
    }

    fn in_state(&self, state: RootState) -> Option<&RootRecord> {
        self.roots.iter().find(|root| root.state == state)
    }

    pub(super) fn prepare(&mut self, root: SealedRoot, link: Option<Link>, when: When) -> Outcome {
        if let Some(known) = self.roots.iter().find(|known| known.root.id == root.id) {
            return match known.root == root {
                true => Outcome::Unchanged,
                false => Outcome::Rejected(format!("there is another root {} already", root.id)),
            };
        }
        if let Some(prepared) = self.prepared() {
            return Outcome::Rejected(format!("root {} is about to follow the active one already", prepared.root.id));
        }
        if self.roots.len() >= ROOTS_MAX {
            return Outcome::Rejected(format!(
                "{ROOTS_MAX} roots are trusted already; wait until old ones are dropped"
            ));
        }
        let When { at, time_ms } = when;
        self.roots.push(RootRecord { root, link, state: RootState::Prepared, since: at, since_ms: time_ms });
        Outcome::Done
    }

    pub(super) fn activate(&mut self, id: &KeyId, When { at, time_ms }: When) -> Outcome {
        match self.roots.iter().find(|root| root.root.id == *id).map(|root| root.state) {
            Some(RootState::Active) => return Outcome::Unchanged,
            Some(RootState::Prepared) => {}
            Some(RootState::Retired) => return Outcome::Rejected(format!("root {id} has retired already")),
            None => return Outcome::Rejected(format!("there is no root {id}")),
        }
        for record in &mut self.roots {
            let next = match record.state {
                _ if record.root.id == *id => RootState::Active,
                RootState::Active => RootState::Retired,
                RootState::Prepared | RootState::Retired => continue,
            };
            (record.state, record.since, record.since_ms) = (next, at, time_ms);
        }
        Outcome::Done
    }

    pub(super) fn drop_root(&mut self, id: &KeyId) -> Outcome {
        let Some(position) = self.roots.iter().position(|root| root.root.id == *id) else { return Outcome::Unchanged };
        if self.roots[position].state == RootState::Active {
            return Outcome::Rejected(format!("certificates are issued under root {id}; rotate to another one first"));
        }
        let dropped = self.roots.remove(position);
        // An intermediate of the user's own, whose anchor is that of another one: it would be believed for ever.
        if self.roots.iter().any(|root| root.root.anchor == dropped.root.anchor) {
            self.revoke(dropped.root.id);
        }
        // What it says of others is worth nothing any more.
        for record in &mut self.roots {
            record.link.take_if(|link| link.by == *id);
        }
        Outcome::Done
    }

    pub(super) fn add_issuer(&mut self, node: NodeId, issuer: IssuerRecord) -> Outcome {
        if self.revoked.contains(&issuer.id) {
            return Outcome::Rejected(format!("the issuing certificate {} was revoked", issuer.id));
        }
        if self.issuers.get(&node) == Some(&issuer) {
            return Outcome::Unchanged;
        }
        if !self.issued_by.contains_key(&node) && self.issued_by.len() >= ISSUING_NODES_MAX {
            self.issued_by.retain(|node, _| self.issuers.contains_key(node));
        }
        let had = self.issued_by.entry(node).or_default();
        if had.len() >= ISSUERS_PER_NODE_MAX {
            had.remove(0);
        }
        had.push(issuer.id.clone());
        self.issuers.insert(node, issuer);
        Outcome::Done
    }

    pub(super) fn remove_issuer(&mut self, node: NodeId) -> Option<IssuerRecord> {
        self.issuers.remove(&node)
    }

    pub(super) fn revoke_issuer(&mut self, node: NodeId) -> Outcome {
        // Whoever has its key now may have had those before: they are valid as long.
        let had = self.issued_by.remove(&node);
        let keys = self.jwt_keys.len();
        self.jwt_keys.retain(|_, key| key.node != node);
        if had.is_none() && self.jwt_keys.len() == keys {
            return Outcome::Unchanged;
        }
        self.remove_issuer(node);
        had.into_iter().flatten().for_each(|id| self.revoke(id));
        Outcome::Done
    }

    fn revoke(&mut self, id: KeyId) {
        self.issuers.retain(|_, known| known.id != id);
        if self.revoked.contains(&id) {
            return;
        }
        if self.revoked.len() >= REVOKED_MAX {
            self.revoked.remove(0);
        }
        self.revoked.push(id);
    }

    pub(super) fn deny(&mut self, id: SpiffeId, denial: Denial) -> Outcome {
        let known = self.denied.get(&id);
        if known.is_some_and(|known| known.drop_connections == denial.drop_connections) {
            return Outcome::Unchanged;
        }
        if known.is_none() && self.denied.len() >= DENIED_MAX {
            return Outcome::Rejected(format!(
                "{DENIED_MAX} identities are denied already; allow some, or rotate the root"
            ));
        }
        self.denied.insert(id, denial);
        Outcome::Done
    }

    pub(super) fn allow(&mut self, id: &SpiffeId) -> Outcome {
        match self.denied.remove(id) {
            Some(_) => Outcome::Done,
            None => Outcome::Unchanged,
        }
    }

    /// What has expired is forgotten of replicas that were `retired`, which make no other keys: whose clock is off takes no key from the rest.
    pub(super) fn add_jwt_key(
        &mut self,
        id: String,
        key: JwtKeyRecord,
        now_ms: u64,
        retired: &BTreeSet<NodeId>,
    ) -> Outcome {
        if self.jwt_keys.contains_key(&id) {
            return Outcome::Unchanged;
        }
        self.jwt_keys.retain(|_, known| known.not_after_ms > now_ms || !retired.contains(&known.node));
        let oldest = |keys: &BTreeMap<String, JwtKeyRecord>, of: Option<NodeId>| {
            let keys = keys.iter().filter(|(_, key)| of.is_none_or(|node| key.node == node));
            keys.min_by_key(|(_, key)| key.not_after_ms).map(|(id, _)| id.clone())
        };
        let of_node = self.jwt_keys.values().filter(|known| known.node == key.node).count();
        let crowded = match self.jwt_keys.len() >= JWT_KEYS_MAX {
            _ if of_node >= JWT_KEYS_PER_NODE_MAX => oldest(&self.jwt_keys, Some(key.node)),
            true => oldest(&self.jwt_keys, None),
            false => None,
        };
        crowded.and_then(|id| self.jwt_keys.remove(&id));
        self.jwt_keys.insert(id, key);
        Outcome::Done
    }

    pub(super) fn federate(&mut self, trust_domain: TrustDomain, authorities: FederatedRecord) -> Outcome {
        if self.federated.get(&trust_domain) == Some(&authorities) {
            return Outcome::Unchanged;
        }
        if !self.federated.contains_key(&trust_domain) && self.federated.len() >= FEDERATED_MAX {
            return Outcome::Rejected(format!("{FEDERATED_MAX} trust domains are trusted already; remove one of them"));
        }
        self.federated.insert(trust_domain, authorities);
        Outcome::Done
    }

    pub(super) fn defederate(&mut self, trust_domain: &TrustDomain) -> Outcome {
        match self.federated.remove(trust_domain) {
            Some(_) => Outcome::Done,
            None => Outcome::Unchanged,
        }
    }

    pub(super) fn reseal(&mut self, root: &KeyId, key: SealedKey) -> Outcome {
        let Some(record) = self.roots.iter_mut().find(|record| record.root.id == *root) else {
            return Outcome::Rejected(format!("there is no root {root}"));
        };
        record.root.key = key;
        Outcome::Done
    }

    pub(super) fn set_service_accounts(&mut self, keys: ServiceAccountKeys) -> Outcome {
        if self.service_accounts.as_ref() == Some(&keys) {
            return Outcome::Unchanged;
        }
        self.service_accounts = Some(keys);
        Outcome::Done
    }
}

//! The replicated state, and the one way in which it changes. Pure: no clock, no randomness, no I/O, ordered maps only, so
//! that the same log makes the same state on every replica and at every replay.

mod index;
mod routes;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use conduit_api::{HttpRoute, NodeId, Pod, PodName, Revision, RouteName, RouteTable, Service, ServiceName};
use conduit_ca::SealedKey;
use serde::{Deserialize, Serialize};

use self::{index::Index, routes::Routes, sessions::Sessions};
use crate::command::{Applied, Change, Command, Outcome, Proposal};

/// How many changes the audit remembers: a few hundred kilobytes, and days of ordinary work.
pub const AUDIT_MAX: usize = 1000;

/// More than a replica that is asked to go on alone can be behind: it would have been given a snapshot long before.
const RECOVERY_MARGIN: u64 = 1 << 32;

/// Removed replicas that are remembered. Nobody replaces a thousand while one of them waits to come back.
const RETIRED_MAX: usize = 1000;

/// A value, and the revision that last changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// When it became what it is.
    pub version: Revision,
    /// What it is.
    pub value: T,
}

/// A section of the state. Copying the state copies no section, and a change copies only pointers to what it leaves alone.
type Section<K, V> = Arc<BTreeMap<K, Arc<Versioned<V>>>>;

/// Everything that the replicas agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct MeshState {
    revision: Revision,
    /// Added to a log index it makes the revision: a restored state goes on from revisions of another log.
    base: u64,
    services: Section<ServiceName, Service>,
    pods: Section<PodName, Pod>,
    routes: Routes,
    ca: Option<Arc<CaState>>,
    retired: Arc<BTreeSet<NodeId>>,
    audit: Arc<VecDeque<Arc<AuditRecord>>>,
    sessions: Sessions,
    /// Derived from the sections above, and built again when a snapshot is read.
    #[serde(skip)]
    index: Index,
}

/// The certificate authority, as far as replicas must agree on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaState {
    /// Oldest first; certificates are issued under the last.
    pub roots: Vec<RootRecord>,
    /// Each replica's issuing certificate, in DER.
    pub issuers: BTreeMap<NodeId, Vec<u8>>,
}

/// A trust root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Self-signed, in DER.
    pub certificate: Vec<u8>,
    /// Its key; only the seed opens it.
    pub sealed_key: SealedKey,
}

/// Who changed what, when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The revision that the change led to, if it changed what proxies are told.
    pub index: u64,
    /// The proposer's clock, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Who.
    pub proposer: String,
    /// What, in a few words.
    pub summary: String,
}

/// The part of the state that is stored.
#[derive(Deserialize)]
struct Stored {
    revision: Revision,
    base: u64,
    services: Section<ServiceName, Service>,
    pods: Section<PodName, Pod>,
    /// Not in what a release wrote that had no routes.
    #[serde(default)]
    routes: Routes,
    ca: Option<Arc<CaState>>,
    retired: Arc<BTreeSet<NodeId>>,
    audit: Arc<VecDeque<Arc<AuditRecord>>>,
    sessions: Sessions,
}

impl From<Stored> for MeshState {
    fn from(Stored { revision, base, services, pods, routes, ca, retired, audit, sessions }: Stored) -> Self {
        let index = Index::build(services.values(), pods.values(), &routes);
        Self { revision, base, services, pods, routes, ca, retired, audit, sessions, index }
    }
}

impl MeshState {
    /// Applies the entry at log index `index`. Never fails: what the state does not allow is an outcome like any other.
    pub fn apply(&mut self, index: u64, proposal: Proposal) -> Applied {
        let Proposal { id, proposer, time_ms, command } = proposal;
        if !self.sessions.is_new(id) {
            return Applied { revision: self.revision, outcome: Outcome::Repeated };
        }
        let summary = command.to_string();
        let at = self.revision_at(index);
        let outcome = match command {
            Command::Batch(changes) => {
                let changed =
                    changes.into_iter().map(|change| self.change(at, change)).filter(|changed| *changed).count();
                self.discovery_changed(at, changed > 0)
            }
            Command::CaInit { certificate, sealed_key } => self.init_ca(at, RootRecord { certificate, sealed_key }),
            Command::AddIssuer { node, certificate } => self.add_issuer(node, certificate),
            Command::RemoveIssuer { node } => self.remove_issuer(node),
            Command::Restore(backup) => self.restore(index, *backup),
            Command::Retire { node } => self.retire(node),
            Command::Rollback { to } => self.rollback(at, to),
        };
        if outcome == Outcome::Done {
            let audit = Arc::make_mut(&mut self.audit);
            if audit.len() == AUDIT_MAX {
                audit.pop_front();
            }
            let index = self.base + index;
            audit.push_back(Arc::new(AuditRecord { index, time_ms, proposer, summary }));
        }
        Applied { revision: self.revision, outcome }
    }

    /// The log index that last changed what proxies are told: services, pods, or the trust bundle.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision that a change at log index `index` leads to.
    pub fn revision_at(&self, index: u64) -> Revision {
        Revision::from(self.base + index)
    }

    /// All services.
    pub fn services(&self) -> &BTreeMap<ServiceName, Arc<Versioned<Service>>> {
        &self.services
    }

    /// All pods.
    pub fn pods(&self) -> &BTreeMap<PodName, Arc<Versioned<Pod>>> {
        &self.pods
    }

    /// The service that `ip` stands for.
    pub fn service_by_cluster_ip(&self, ip: IpAddr) -> Option<&Arc<Versioned<Service>>> {
        self.services.get(self.index.service_of_cluster_ip(ip)?)
    }

    /// The pod at `ip`.
    pub fn pod_by_ip(&self, ip: IpAddr) -> Option<&Arc<Versioned<Pod>>> {
        self.pods.get(self.index.pod_of_ip(ip)?)
    }

    /// The headless services, by name and port, that `address` is an endpoint of.
    pub fn headless_services_of(&self, address: SocketAddr) -> Vec<(ServiceName, u16)> {
        self.index.headless_services_of(address)
    }

    /// All routes.
    pub fn routes(&self) -> &BTreeMap<RouteName, Arc<Versioned<HttpRoute>>> {
        self.routes.current()
    }

    /// All routes as they were at `revision`; `None` when it is not remembered any more, or not reached yet.
    pub fn routes_at(&self, revision: Revision) -> Option<BTreeMap<RouteName, HttpRoute>> {
        (revision <= self.revision).then(|| self.routes.at(revision))?
    }

    /// What holds for the requests of `service`; `None` when no route is about them. When it changes, so does the version of the
    /// service.
    pub fn routes_of(&self, service: &ServiceName) -> Option<&Arc<RouteTable>> {
        self.index.routes_of(service)
    }

    /// The certificate authority; none until there is a root.
    pub fn ca(&self) -> Option<&CaState> {
        self.ca.as_deref()
    }

    /// Whether this replica was removed, and must not become a member again.
    pub fn is_retired(&self, node: NodeId) -> bool {
        self.retired.contains(&node)
    }

    /// The last changes, oldest first.
    pub fn audit(&self) -> impl DoubleEndedIterator<Item = &AuditRecord> {
        self.audit.iter().map(Arc::as_ref)
    }

    /// Whether anything is different afterwards.
    fn change(&mut self, at: Revision, change: Change) -> bool {
        match change {
            Change::UpsertService(service) => {
                let before = self.services.get(&service.name).cloned();
                if before.as_ref().is_some_and(|before| before.value == service) {
                    return false;
                }
                let after = Arc::new(Versioned { version: at, value: service });
                self.index.replace_service(before.as_deref(), Some(&after));
                Arc::make_mut(&mut self.services).insert(after.value.name.clone(), after);
                true
            }
            Change::RemoveService(name) if self.services.contains_key(&name) => {
                let before = Arc::make_mut(&mut self.services).remove(&name);
                self.index.replace_service(before.as_deref(), None);
                true
            }
            Change::UpsertPod(pod) => {
                let before = self.pods.get(&pod.name).cloned();
                if before.as_ref().is_some_and(|before| before.value == pod) {
                    return false;
                }
                let after = Arc::new(Versioned { version: at, value: pod });
                self.index.replace_pod(before.as_deref(), Some(&after));
                Arc::make_mut(&mut self.pods).insert(after.value.name.clone(), after);
                true
            }
            Change::RemovePod(name) if self.pods.contains_key(&name) => {
                let before = Arc::make_mut(&mut self.pods).remove(&name);
                self.index.replace_pod(before.as_deref(), None);
                true
            }
            Change::RemoveService(_) | Change::RemovePod(_) => false,
            Change::UpsertRoute(route) => self.set_route(at, route.name.clone(), Some(route)),
            Change::RemoveRoute(name) => self.set_route(at, name, None),
        }
    }

    /// Whoever follows a service holds its routes as well: they change under one version.
    fn set_route(&mut self, at: Revision, name: RouteName, route: Option<HttpRoute>) -> bool {
        let Some(concerned) = self.routes.set(at, name, route) else { return false };
        for service in concerned {
            self.index.replace_routes(service.clone(), self.routes.table(&service));
            if let Some(known) = Arc::make_mut(&mut self.services).get_mut(&service) {
                *known = Arc::new(Versioned { version: at, value: known.value.clone() });
            }
        }
        true
    }

    fn rollback(&mut self, at: Revision, to: Revision) -> Outcome {
        let Some(wanted) = self.routes_at(to) else {
            return Outcome::Rejected(format!("what was configured at revision {to} is not remembered"));
        };
        let gone = self.routes().keys().filter(|name| !wanted.contains_key(name)).cloned();
        let changes: Vec<_> = gone.map(|name| (name, None)).collect();
        let changes = changes.into_iter().chain(wanted.into_iter().map(|(name, route)| (name, Some(route))));
        let changed = changes.filter_map(|(name, route)| self.set_route(at, name, route).then_some(())).count();
        self.discovery_changed(at, changed > 0)
    }

    fn discovery_changed(&mut self, at: Revision, changed: bool) -> Outcome {
        if !changed {
            return Outcome::Unchanged;
        }
        self.revision = at;
        Outcome::Done
    }

    fn init_ca(&mut self, at: Revision, root: RootRecord) -> Outcome {
        match &self.ca {
            Some(ca) if ca.roots.contains(&root) => Outcome::Unchanged,
            Some(_) => Outcome::Rejected("there is a trust root already".to_owned()),
            None => {
                self.ca = Some(Arc::new(CaState { roots: vec![root], issuers: BTreeMap::new() }));
                self.discovery_changed(at, true)
            }
        }
    }

    fn add_issuer(&mut self, node: NodeId, certificate: Vec<u8>) -> Outcome {
        let Some(ca) = &mut self.ca else {
            return Outcome::Rejected("there is no trust root that could have signed it".to_owned());
        };
        if ca.issuers.get(&node) == Some(&certificate) {
            return Outcome::Unchanged;
        }
        Arc::make_mut(ca).issuers.insert(node, certificate);
        Outcome::Done
    }

    fn remove_issuer(&mut self, node: NodeId) -> Outcome {
        match &mut self.ca {
            Some(ca) if ca.issuers.contains_key(&node) => {
                Arc::make_mut(ca).issuers.remove(&node);
                Outcome::Done
            }
            _ => Outcome::Unchanged,
        }
    }

    /// Whoever holds a revision of either past gets a higher one, and everything anew: what is the same version in both need not
    /// be the same.
    fn restore(&mut self, index: u64, backup: Self) -> Outcome {
        let newest = self.revision.max(backup.revision).as_u64();
        self.base = self.base.max((newest + 1).saturating_sub(index));
        let at = self.revision_at(index);
        let services = backup.services.values().map(|service| service.value.clone());
        let pods = backup.pods.values().map(|pod| pod.value.clone());
        self.services = section(at, services, |service| service.name.clone());
        self.pods = section(at, pods, |pod| pod.name.clone());
        self.routes = Routes::restored(at, &backup.routes);
        self.index = Index::build(self.services.values(), self.pods.values(), &self.routes);
        // Issuers are of replicas that were; those that are make theirs under the restored root.
        let ca = |ca: &CaState| CaState { roots: ca.roots.clone(), issuers: BTreeMap::new() };
        self.ca = backup.ca.as_deref().map(ca).map(Arc::new);
        self.audit = backup.audit;
        self.discovery_changed(at, true)
    }

    /// This replica alone goes on, and others had perhaps committed what it never saw: proxies may hold revisions that it has not
    /// reached, and versions that mean something else there. All that it has gets a revision above those, at log index `index`.
    pub(crate) fn go_on_alone(&mut self, index: u64) {
        self.base += RECOVERY_MARGIN;
        let at = self.revision_at(index);
        let services = self.services.values().map(|service| service.value.clone());
        let pods = self.pods.values().map(|pod| pod.value.clone());
        self.services = section(at, services, |service| service.name.clone());
        self.pods = section(at, pods, |pod| pod.name.clone());
        self.routes = Routes::restored(at, &self.routes);
        self.index = Index::build(self.services.values(), self.pods.values(), &self.routes);
        self.revision = at;
    }

    fn retire(&mut self, node: NodeId) -> Outcome {
        if self.retired.contains(&node) {
            return Outcome::Unchanged;
        }
        let retired = Arc::make_mut(&mut self.retired);
        if retired.len() >= RETIRED_MAX {
            retired.pop_first();
        }
        retired.insert(node);
        self.remove_issuer(node);
        Outcome::Done
    }
}

fn section<K: Ord, V>(at: Revision, values: impl Iterator<Item = V>, key: impl Fn(&V) -> K) -> Section<K, V> {
    Arc::new(values.map(|value| (key(&value), Arc::new(Versioned { version: at, value }))).collect())
}

#[cfg(test)]
mod tests;

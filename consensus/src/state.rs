//! The replicated state, and the one way in which it changes. Pure: no clock, no randomness, no I/O, ordered maps only, so
//! that the same log makes the same state on every replica and at every replay.

pub mod ca;
mod index;
pub mod learned;
pub mod objectives;
mod routes;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use conduit_api::{
    HttpRoute, Indicator, NodeId, Objective, Pod, PodName, ProtocolHint, ResourceName, Revision, RouteName, RouteTable,
    Service, ServiceName, mesh::ObjectiveName,
};
use conduit_ca::SealedRoot;
use serde::{Deserialize, Serialize};

use self::{
    ca::{CaState, Denial, IssuerRecord, JwtKeyRecord, When},
    index::Index,
    learned::{Learned, Lesson, Taught},
    objectives::{AlertEvent, At, Firing, Objectives},
    routes::Routes,
    sessions::Sessions,
};
use crate::command::{Applied, Change, Command, Outcome, Proposal};

/// Who looks at the same messages again within this, in milliseconds, is in the audit once.
const FOLDED_MS: u64 = 10 * 60 * 1000;
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
    learned: Learned,
    objectives: Objectives,
    ca: Option<Arc<CaState>>,
    retired: Arc<BTreeSet<NodeId>>,
    audit: Arc<VecDeque<Arc<AuditRecord>>>,
    sessions: Sessions,
    /// Derived from the sections above, and built again when a snapshot is read.
    #[serde(skip)]
    index: Index,
}

/// What one change of a batch has led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    /// It was so already.
    Nothing,
    /// Something that only the control plane knows.
    Kept,
    /// What proxies are told.
    Told,
}

impl Changed {
    fn told(is_otherwise: bool) -> Self {
        if is_otherwise { Self::Told } else { Self::Nothing }
    }

    fn kept(is_otherwise: bool) -> Self {
        if is_otherwise { Self::Kept } else { Self::Nothing }
    }
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

/// The newest layout of snapshots and backups. A release refuses one that is newer than it understands, rather than to forget what it does not
/// know: its replicas would not be as the others are. 2 has objectives, 3 which of them objects have declared.
pub(crate) const LAYOUT: u8 = 3;

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
    /// Nor this, of one that did not learn.
    #[serde(default)]
    learned: Learned,
    /// Nor this, of one without objectives.
    #[serde(default)]
    objectives: Objectives,
    ca: Option<Arc<CaState>>,
    retired: Arc<BTreeSet<NodeId>>,
    audit: Arc<VecDeque<Arc<AuditRecord>>>,
    sessions: Sessions,
}

impl From<Stored> for MeshState {
    fn from(stored: Stored) -> Self {
        let Stored { revision, base, services, pods, routes, learned, objectives, ca, retired, audit, sessions } =
            stored;
        let index = Index::build(services.values(), pods.values(), &routes);
        Self { revision, base, services, pods, routes, learned, objectives, ca, retired, audit, sessions, index }
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
        // That something is believed for longer is nothing that anybody did; and alerts are told of elsewhere.
        let is_learning = matches!(command, Command::Learn { .. } | Command::Forget(_));
        let is_alert = matches!(command, Command::RecordAlert(_) | Command::AlertTold { .. });
        let at = self.revision_at(index);
        let when = At { revision: at, time_ms };
        let outcome = match command {
            Command::Batch(changes) => {
                let outcomes: Vec<_> = changes.into_iter().map(|change| self.change(when, change)).collect();
                let is_any = |what: Changed| outcomes.contains(&what);
                let told = self.discovery_changed(at, is_any(Changed::Told));
                if is_any(Changed::Kept) { Outcome::Done } else { told }
            }
            Command::CaInit { root, after } => self.init_ca(index, *root, after, time_ms),
            // It is not what proxies are told.
            Command::AddIssuer { node, id, certificate } => {
                self.change_ca(|ca| ca.add_issuer(node, IssuerRecord { id, certificate }))
            }
            Command::RevokeIssuer { node } => self.change_trust(at, |ca| ca.revoke_issuer(node)),
            Command::PrepareRoot { root, link } => {
                self.change_trust(at, |ca| ca.prepare(*root, link, When { at, time_ms }))
            }
            Command::ActivateRoot { root } => self.change_trust(at, |ca| ca.activate(&root, When { at, time_ms })),
            Command::DropRoot { root } => self.change_trust(at, |ca| ca.drop_root(&root)),
            Command::DenyIdentity { id, drop_connections } => {
                self.change_trust(at, |ca| ca.deny(id, Denial { drop_connections, since_ms: time_ms }))
            }
            Command::AllowIdentity { id } => self.change_trust(at, |ca| ca.allow(&id)),
            Command::AddJwtKey { node, id, jwk, not_after_ms } => {
                let (key, retired) = (JwtKeyRecord { node, jwk, not_after_ms }, self.retired.clone());
                self.change_trust(at, |ca| ca.add_jwt_key(id, key, time_ms, &retired))
            }
            Command::Federate { trust_domain, authorities } => {
                self.change_trust(at, |ca| ca.federate(trust_domain, authorities))
            }
            Command::Defederate { trust_domain } => self.change_trust(at, |ca| ca.defederate(&trust_domain)),
            // What proxies are told of it is the same.
            Command::SetServiceAccountKeys(keys) => self.change_ca(|ca| ca.set_service_accounts(keys)),
            Command::ResealRoot { root, key } => self.change_ca(|ca| ca.reseal(&root, key)),
            Command::Restore(backup) => self.restore(index, time_ms, *backup),
            Command::Retire { node } => self.retire(node),
            Command::Rollback { to } => self.rollback(at, to),
            Command::Learn { service, port, lesson } => self.learn(at, service, port, lesson),
            Command::Forget(ports) => self.forget(at, &ports),
            Command::SetObjective { resource, objective } => self.objectives.set(when, resource, objective),
            Command::RemoveObjective { resource } => self.objectives.remove(when, &resource),
            Command::RecordAlert(transition) => self.objectives.record(when, &transition),
            Command::AlertTold { id, indicator, delivery } => self.objectives.told(id, indicator, delivery),
            // It is the audit that is changed, and others' records must not be pushed out of it by who looks again and again.
            Command::TapPayloads { .. } if self.is_in_audit(&proposer, &summary, time_ms) => Outcome::Unchanged,
            Command::TapPayloads { .. } => Outcome::Done,
        };
        if outcome == Outcome::Done && !is_alert && (!is_learning || self.revision == at) {
            let index = self.revision_at(index).as_u64();
            let audit = Arc::make_mut(&mut self.audit);
            if audit.len() == AUDIT_MAX {
                audit.pop_front();
            }
            audit.push_back(Arc::new(AuditRecord { index, time_ms, proposer, summary }));
        }
        Applied { revision: self.revision, outcome }
    }

    /// Whether it has just been written that `proposer` did this.
    fn is_in_audit(&self, proposer: &str, summary: &str, now_ms: u64) -> bool {
        let is_recent = |time_ms: u64| now_ms.abs_diff(time_ms) < FOLDED_MS;
        self.audit()
            .rev()
            .any(|record| record.proposer == proposer && record.summary == summary && is_recent(record.time_ms))
    }

    /// The log index that last changed what proxies are told: services, pods, or the trust bundle.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision that a change at log index `index` leads to.
    pub fn revision_at(&self, index: u64) -> Revision {
        Revision::from(self.base.saturating_add(index))
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

    /// What to expect of connections to a port of `service`. When it changes, so does the version of the service.
    pub fn hint_of(&self, service: &Service, port: u16) -> ProtocolHint {
        match service.ports.get(&port) {
            Some(port) if port.opaque => ProtocolHint::Opaque,
            Some(_) => self.learned.hint(&service.name, port),
            None => ProtocolHint::None,
        }
    }

    /// What was seen of a port.
    pub fn lesson_of(&self, service: &ServiceName, port: u16) -> Option<Lesson> {
        self.learned.get(service, port)
    }

    /// Whether members of feature level 4 know all that is in it of what runs.
    pub fn is_plain(&self) -> bool {
        self.lessons().next().is_none()
            && self.services.values().all(|service| service.value.is_plain())
            && self.pods.values().all(|pod| pod.value.is_plain())
    }

    /// Whether members of feature level 8 do not know all that is in it of pods.
    pub(crate) fn has_ended_applications(&self) -> bool {
        self.pods.values().any(|pod| pod.value.application_ended)
    }

    /// Whether members of feature level 5 know all that is in it of routes, of those that were as well: they may be brought back.
    pub(crate) fn has_plain_routes(&self) -> bool {
        self.routes.all().all(HttpRoute::is_plain)
    }

    /// All that was seen of ports.
    pub fn lessons(&self) -> impl Iterator<Item = (&ServiceName, u16, Lesson)> {
        self.learned.all()
    }

    /// What is promised, by whom.
    pub fn objectives(&self) -> &BTreeMap<ResourceName, Arc<Versioned<Objective>>> {
        self.objectives.all()
    }

    /// Those of it that objects of the platform have declared, and which.
    pub fn declarations(&self) -> &BTreeMap<ResourceName, ObjectiveName> {
        self.objectives.declarations()
    }

    /// What of it is not kept.
    pub fn firing(&self) -> &BTreeMap<ResourceName, BTreeMap<Indicator, Firing>> {
        self.objectives.firing()
    }

    /// The last beginnings and ends of alerts, oldest first.
    pub fn alert_events(&self) -> impl DoubleEndedIterator<Item = &AlertEvent> + Clone {
        self.objectives.events()
    }

    /// How many of them were to be told, and had to go for the room of others.
    pub fn alert_events_dropped(&self) -> u64 {
        self.objectives.dropped()
    }

    /// Whether members of feature level 6 know all that is in it of objectives.
    pub(crate) fn has_no_objectives(&self) -> bool {
        self.objectives.is_empty()
    }

    /// The oldest layout that says all of it, but for alerts that are long over.
    pub(crate) fn layout(&self) -> u8 {
        match (self.objectives().is_empty() && self.firing().is_empty(), self.declarations().is_empty()) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => LAYOUT,
        }
    }

    /// The certificate authority; none until there is a root. The same pointer is the same content.
    pub fn ca(&self) -> Option<&Arc<CaState>> {
        self.ca.as_ref()
    }

    /// Whether this replica was removed, and must not become a member again.
    pub fn is_retired(&self, node: NodeId) -> bool {
        self.retired.contains(&node)
    }

    /// The last changes, oldest first.
    pub fn audit(&self) -> impl DoubleEndedIterator<Item = &AuditRecord> {
        self.audit.iter().map(Arc::as_ref)
    }

    fn change(&mut self, when: At, change: Change) -> Changed {
        let at = when.revision;
        match change {
            Change::UpsertService(service) => Changed::told(self.upsert_service(at, service)),
            Change::RemoveService(name) => Changed::told(self.remove_service(&name)),
            Change::UpsertPod(pod) => Changed::told(self.upsert_pod(at, pod)),
            Change::RemovePod(name) => Changed::told(self.remove_pod(&name)),
            Change::UpsertRoute(route) => Changed::told(self.set_route(at, route.name.clone(), Some(route))),
            Change::RemoveRoute(name) => Changed::told(self.set_route(at, name, None)),
            Change::DeclareObjective(declared) => Changed::kept(self.objectives.declare(when, declared)),
            Change::WithdrawObjective(resource) => Changed::kept(self.objectives.withdraw(when, &resource)),
        }
    }

    fn upsert_service(&mut self, at: Revision, service: Service) -> bool {
        let before = self.services.get(&service.name).cloned();
        if before.as_ref().is_some_and(|before| before.value == service) {
            return false;
        }
        let after = Arc::new(Versioned { version: at, value: service });
        self.index.replace_service(before.as_deref(), Some(&after));
        self.learned.retain(&after.value.name, Some(&after.value));
        Arc::make_mut(&mut self.services).insert(after.value.name.clone(), after);
        true
    }

    fn remove_service(&mut self, name: &ServiceName) -> bool {
        if !self.services.contains_key(name) {
            return false;
        }
        let before = Arc::make_mut(&mut self.services).remove(name);
        self.index.replace_service(before.as_deref(), None);
        self.learned.retain(name, None);
        true
    }

    fn upsert_pod(&mut self, at: Revision, pod: Pod) -> bool {
        let before = self.pods.get(&pod.name).cloned();
        if before.as_ref().is_some_and(|before| before.value == pod) {
            return false;
        }
        let after = Arc::new(Versioned { version: at, value: pod });
        self.index.replace_pod(before.as_deref(), Some(&after));
        Arc::make_mut(&mut self.pods).insert(after.value.name.clone(), after);
        true
    }

    fn remove_pod(&mut self, name: &PodName) -> bool {
        if !self.pods.contains_key(name) {
            return false;
        }
        let before = Arc::make_mut(&mut self.pods).remove(name);
        self.index.replace_pod(before.as_deref(), None);
        true
    }

    /// Whoever follows a service holds its routes as well: they change under one version.
    fn set_route(&mut self, at: Revision, name: RouteName, route: Option<HttpRoute>) -> bool {
        let Some(concerned) = self.routes.set(at, name, route) else { return false };
        for service in concerned {
            self.index.replace_routes(service.clone(), self.routes.table(&service));
            self.renew_service(at, &service);
        }
        true
    }

    fn renew_service(&mut self, at: Revision, name: &ServiceName) {
        if let Some(known) = Arc::make_mut(&mut self.services).get_mut(name) {
            *known = Arc::new(Versioned { version: at, value: known.value.clone() });
        }
    }

    fn learn(&mut self, at: Revision, service: ServiceName, port: u16, lesson: Lesson) -> Outcome {
        if !self.services.get(&service).is_some_and(|known| known.value.ports.contains_key(&port)) {
            return Outcome::Rejected(format!("there is no port {port} of service/{service}"));
        }
        let Taught { outcome, is_news } = self.learned.learn(service.clone(), port, lesson);
        if is_news {
            self.revision = at;
            self.renew_service(at, &service);
        }
        outcome
    }

    fn forget(&mut self, at: Revision, ports: &[(ServiceName, u16, u64)]) -> Outcome {
        let mut all = Outcome::Unchanged;
        for (service, port, until_ms) in ports {
            let Taught { outcome, is_news } = self.learned.forget(service, *port, *until_ms);
            if is_news {
                self.revision = at;
                self.renew_service(at, service);
            }
            if outcome == Outcome::Done {
                all = outcome;
            }
        }
        all
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

    fn init_ca(&mut self, index: u64, root: SealedRoot, after: Option<Revision>, time_ms: u64) -> Outcome {
        match &self.ca {
            Some(ca) if ca.roots.iter().any(|known| known.root == root) => Outcome::Unchanged,
            Some(_) => Outcome::Rejected("there is a trust root already".to_owned()),
            None => {
                if let Some(after) = after {
                    // As when one replica goes on alone: nothing that a proxy holds is newer, or means something else.
                    self.base = self.base.max(after.as_u64().saturating_add(RECOVERY_MARGIN));
                    let was = self.clone();
                    self.renew(self.revision_at(index), &was);
                }
                let at = self.revision_at(index);
                self.ca = Some(Arc::new(CaState::new(root, When { at, time_ms })));
                self.discovery_changed(at, true)
            }
        }
    }

    fn change_ca(&mut self, change: impl FnOnce(&mut CaState) -> Outcome) -> Outcome {
        let Some(ca) = &self.ca else { return Outcome::Rejected("there is no trust root yet".to_owned()) };
        // Changed beside what is there: who is told of it compares pointers.
        let mut changed = CaState::clone(ca);
        let outcome = change(&mut changed);
        if outcome == Outcome::Done {
            self.ca = Some(Arc::new(changed));
        }
        outcome
    }

    /// The same for what proxies are told of.
    fn change_trust(&mut self, at: Revision, change: impl FnOnce(&mut CaState) -> Outcome) -> Outcome {
        let outcome = self.change_ca(|ca| {
            let outcome = change(ca);
            if outcome == Outcome::Done {
                ca.revision = at;
            }
            outcome
        });
        if outcome == Outcome::Done {
            self.revision = at;
        }
        outcome
    }

    /// Whoever holds a revision of either past gets a higher one, and everything anew: what is the same version in both need not
    /// be the same.
    fn restore(&mut self, index: u64, time_ms: u64, backup: Self) -> Outcome {
        let newest = self.revision.max(backup.revision).as_u64();
        self.base = self.base.max(newest.saturating_add(1).saturating_sub(index));
        let at = self.revision_at(index);
        let objectives = backup.objectives.restored(At { revision: at, time_ms }, &self.objectives);
        self.renew(at, &backup);
        self.objectives = objectives;
        if let Some(ca) = &mut self.ca {
            // They are of replicas that were; those that are note theirs again.
            let ca = Arc::make_mut(ca);
            ca.issuers.clear();
            ca.issued_by.clear();
            ca.jwt_keys.clear();
        }
        self.audit = backup.audit;
        self.discovery_changed(at, true)
    }

    /// This replica alone goes on, and others had perhaps committed what it never saw: proxies may hold revisions that it has not
    /// reached, and versions that mean something else there. All that it has gets a revision above those, at log index `index`.
    pub(crate) fn go_on_alone(&mut self, index: u64) {
        self.base = self.base.saturating_add(RECOVERY_MARGIN);
        let at = self.revision_at(index);
        let was = self.clone();
        self.renew(at, &was);
        self.revision = at;
    }

    /// What proxies are told is what it was in `was`, and all of it is new.
    fn renew(&mut self, at: Revision, was: &Self) {
        let services = was.services.values().map(|service| service.value.clone());
        let pods = was.pods.values().map(|pod| pod.value.clone());
        self.services = section(at, services, |service| service.name.clone());
        self.pods = section(at, pods, |pod| pod.name.clone());
        self.routes = Routes::restored(at, &was.routes);
        self.learned = was.learned.clone();
        self.objectives = was.objectives.clone();
        self.ca = was.ca.as_deref().map(|ca| Arc::new(ca.renewed(at)));
        self.index = Index::build(self.services.values(), self.pods.values(), &self.routes);
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
        if let Some(ca) = &mut self.ca {
            // What it has issued is believed until it expires: a disk that was lost is no reason to renew half of all certificates.
            Arc::make_mut(ca).remove_issuer(node);
        }
        Outcome::Done
    }
}

fn section<K: Ord, V>(at: Revision, values: impl Iterator<Item = V>, key: impl Fn(&V) -> K) -> Section<K, V> {
    Arc::new(values.map(|value| (key(&value), Arc::new(Versioned { version: at, value }))).collect())
}

#[cfg(test)]
mod tests;

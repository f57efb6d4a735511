//! What can be asked of the replicated state.

use std::{fmt, io};

use conduit_api::{
    HttpRoute, Indicator, NodeId, Objective, Pod, PodName, ResourceName, Revision, RouteName, Service, ServiceName,
    SpiffeId, TrustDomain, mesh::LEVEL_OF_ENDS, objective::Declared,
};
use conduit_ca::{KeyId, SealedKey, SealedRoot};
use serde::{Deserialize, Serialize};

use crate::state::{
    MeshState,
    ca::{FederatedRecord, ServiceAccountKeys},
    learned::{Belief, Lesson},
    objectives::{Delivery, Transition},
};

/// The kinds of commands that this release understands. A release that adds a kind raises it, and gives it to the new kind in
/// [`Command::feature_level`]: such a command is not proposed before every member understands it.
pub const FEATURE_LEVEL: u32 = DECLARATIONS_LEVEL;

/// The first that has objectives: before every member is of it, nobody is told of alerts, since it could not be written down that they were.
pub const OBJECTIVES_LEVEL: u32 = 7;

/// The first that knows which objectives objects of the platform have declared.
pub const DECLARATIONS_LEVEL: u32 = 10;

/// One entry of the log: a command, and who gave it when.
///
/// Time comes with the entry, because applying it must be the same on every replica and at every replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// One and the same in all attempts to get it committed: it is applied once.
    pub id: ProposalId,
    /// Who wants it: a component, or a person.
    pub proposer: String,
    /// The proposer's clock, milliseconds since the Unix epoch; for the audit, never compared.
    pub time_ms: u64,
    /// What.
    pub command: Command,
}

impl Proposal {
    /// `command`, on behalf of `proposer`, at `time_ms` since the Unix epoch. It gets its id when it is proposed.
    pub fn new(proposer: &str, time_ms: u64, command: Command) -> Self {
        Self { id: ProposalId::default(), proposer: proposer.to_owned(), time_ms, command }
    }
}

/// Tells a proposal from all others: a replica's process, and a number that it gives out once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalId {
    /// Drawn at random when the process started.
    pub session: u64,
    /// Counts from 1; 0 is not remembered.
    pub number: u64,
}

/// Changes the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Discovery changes that become visible together.
    Batch(Vec<Change>),
    /// The first trust root. Refused when there is one: of two that are proposed, the first wins.
    CaInit {
        /// It.
        root: Box<SealedRoot>,
        /// It was that of a control plane which is gone, and was at least here: proxies may hold revisions of it.
        after: Option<Revision>,
    },
    /// A replica's own issuing certificate; replaces its earlier one.
    AddIssuer {
        /// Whose.
        node: NodeId,
        /// Of its key.
        id: KeyId,
        /// In DER.
        certificate: Vec<u8>,
    },
    /// What a replica has issued so far is not believed any more; it makes itself another issuing certificate.
    RevokeIssuer {
        /// Whose.
        node: NodeId,
    },
    /// A root that is to follow the active one: trusted from now on, and not issued under yet. Refused while another one is about to.
    PrepareRoot {
        /// The new one.
        root: Box<SealedRoot>,
        /// Its certificate by the active one.
        link: Option<Link>,
    },
    /// Certificates are issued under a prepared root from now on; the active one retires.
    ActivateRoot {
        /// Of the prepared one.
        root: KeyId,
    },
    /// A root that has retired, or is only prepared, is not trusted any more.
    DropRoot {
        /// Which.
        root: KeyId,
    },
    /// An identity is refused, whatever certificate it has, and gets none.
    DenyIdentity {
        /// Whose.
        id: SpiffeId,
        /// Close the connections that it has as well.
        drop_connections: bool,
    },
    /// The reverse.
    AllowIdentity {
        /// Whose.
        id: SpiffeId,
    },
    /// A key that a replica signs tokens with; replaces none of its earlier ones.
    AddJwtKey {
        /// Whose.
        node: NodeId,
        /// Of the key.
        id: String,
        /// Its public half, a JSON Web Key.
        jwk: String,
        /// When no token by it can be valid any more, in milliseconds since the Unix epoch.
        not_after_ms: u64,
    },
    /// Another trust domain's identities are believed by these authorities, instead of those that were said before.
    Federate {
        /// Whose.
        trust_domain: TrustDomain,
        /// By whom.
        authorities: FederatedRecord,
    },
    /// The reverse.
    Defederate {
        /// Whose.
        trust_domain: TrustDomain,
    },
    /// What ServiceAccount tokens are verified with while the Kubernetes API server cannot be asked.
    SetServiceAccountKeys(ServiceAccountKeys),
    /// A root's key, sealed anew: under the seed that follows the one before.
    ResealRoot {
        /// Which.
        root: KeyId,
        /// Its key.
        key: SealedKey,
    },
    /// Everything is as it was in a backup, the trust root included; revisions go on from the higher of the two.
    Restore(Box<MeshState>),
    /// A replica that is removed never comes back with the same data; nor does its issuing certificate stay.
    Retire {
        /// Which.
        node: NodeId,
    },
    /// What people have configured is as it was at a revision. Refused when that is not remembered.
    Rollback {
        /// Which.
        to: Revision,
    },
    /// What connections to a port were seen to carry. Refused when there is no such port.
    Learn {
        /// Whose.
        service: ServiceName,
        /// Which.
        port: u16,
        /// What, and for how long.
        lesson: Lesson,
    },
    /// What was learned of these ports until then is not believed any more.
    Forget(Vec<(ServiceName, u16, u64)>),
    /// Something is promised of a resource, instead of what was before. Refused when there are too many of them.
    SetObjective {
        /// Of which.
        resource: ResourceName,
        /// What.
        objective: Objective,
    },
    /// The reverse.
    RemoveObjective {
        /// Of which.
        resource: ResourceName,
    },
    /// A promise is not kept, or is kept again. Refused when it is another promise than was judged.
    RecordAlert(Transition),
    /// What became of telling somebody of that.
    AlertTold {
        /// Of which event, as it is there.
        id: Revision,
        /// And of which of those that an entry of the log has led to.
        indicator: Indicator,
        /// What.
        delivery: Delivery,
    },
    /// Somebody is about to see what is in the messages of these workloads. Changes nothing but the audit.
    TapPayloads {
        /// Of which, in a few words.
        target: String,
    },
}

impl Command {
    /// What a member must understand before this is proposed.
    pub fn feature_level(&self) -> u32 {
        match self {
            Self::Batch(changes) => changes.iter().map(Change::feature_level).max().unwrap_or(1),
            Self::CaInit { .. } | Self::AddIssuer { .. } | Self::Retire { .. } => 1,
            Self::RevokeIssuer { .. }
            | Self::PrepareRoot { .. }
            | Self::ActivateRoot { .. }
            | Self::DropRoot { .. }
            | Self::DenyIdentity { .. }
            | Self::AllowIdentity { .. } => 3,
            Self::AddJwtKey { .. }
            | Self::Federate { .. }
            | Self::Defederate { .. }
            | Self::SetServiceAccountKeys(_)
            | Self::ResealRoot { .. } => 4,
            Self::Learn { .. } | Self::Forget(_) => 5,
            Self::SetObjective { .. }
            | Self::RemoveObjective { .. }
            | Self::RecordAlert(_)
            | Self::AlertTold { .. } => OBJECTIVES_LEVEL,
            Self::TapPayloads { .. } => 8,
            Self::Restore(backup) if !backup.declarations().is_empty() => DECLARATIONS_LEVEL,
            Self::Restore(backup) if backup.has_ended_applications() => LEVEL_OF_ENDS,
            Self::Restore(backup) if !backup.has_no_objectives() => OBJECTIVES_LEVEL,
            Self::Restore(backup) if !backup.has_plain_routes() => 6,
            Self::Restore(backup) if !backup.is_plain() => 5,
            Self::Restore(backup) if backup.routes().is_empty() => 1,
            Self::Restore(_) | Self::Rollback { .. } => 2,
        }
    }
}

/// A root's certificate by the one that it follows, for those who have not heard of it yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Who has signed it.
    pub by: KeyId,
    /// In DER.
    pub certificate: Vec<u8>,
}

/// A change of the discovery state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A service as it is from now on, with all its endpoints.
    UpsertService(Service),
    /// There is no such service any more.
    RemoveService(ServiceName),
    /// A pod as it is from now on.
    UpsertPod(Pod),
    /// There is no such pod any more.
    RemovePod(PodName),
    /// A route as it is from now on.
    UpsertRoute(HttpRoute),
    /// There is no such route any more.
    RemoveRoute(RouteName),
    /// What an object declares is promised from now on, whatever was promised of that resource before.
    DeclareObjective(Declared),
    /// No object declares anything of that resource any more.
    WithdrawObjective(ResourceName),
}

/// Counts what is written to it.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Change {
    /// In bytes, as the log has it.
    pub fn size(&self) -> usize {
        let mut counted = Counted(0);
        rmp_serde::encode::write_named(&mut counted, self).expect("every change can be written to the log");
        counted.0
    }

    fn feature_level(&self) -> u32 {
        match self {
            Self::UpsertService(service) if !service.is_plain() => 5,
            Self::UpsertPod(pod) if pod.application_ended => LEVEL_OF_ENDS,
            Self::UpsertPod(pod) if !pod.is_plain() => 5,
            Self::UpsertService(_) | Self::RemoveService(_) | Self::UpsertPod(_) | Self::RemovePod(_) => 1,
            Self::UpsertRoute(route) if !route.is_plain() => 6,
            Self::UpsertRoute(_) | Self::RemoveRoute(_) => 2,
            Self::DeclareObjective(_) | Self::WithdrawObjective(_) => DECLARATIONS_LEVEL,
        }
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The discovery state's revision after the command.
    pub revision: Revision,
    /// Whether it did anything.
    pub outcome: Outcome,
}

/// Whether a command did anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The state changed.
    Done,
    /// The state was so already.
    Unchanged,
    /// The state does not allow it.
    Rejected(String),
    /// It was applied at an earlier attempt. What became of it then is not known any more.
    Repeated,
}

/// Changes of one batch that the audit names.
const SUMMARY_MAX: usize = 3;

/// For the audit: what was changed, not how.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(changes) => {
                for (i, change) in changes.iter().take(SUMMARY_MAX).enumerate() {
                    write!(f, "{}{change}", if i == 0 { "" } else { ", " })?;
                }
                match changes.len().checked_sub(SUMMARY_MAX) {
                    None | Some(0) => Ok(()),
                    Some(more) => write!(f, " and {more} more"),
                }
            }
            Self::CaInit { root, after: None } => write!(f, "first trust root, {}", root.id),
            Self::CaInit { root, after: Some(_) } => write!(f, "first trust root, {}, as it was kept", root.id),
            Self::AddIssuer { node, .. } => write!(f, "issuing certificate of {node}"),
            Self::RevokeIssuer { node } => write!(f, "revoked the issuing certificate of {node}"),
            Self::PrepareRoot { root, .. } => write!(f, "trust root {} prepared", root.id),
            Self::ActivateRoot { root } => write!(f, "trust root {root} active"),
            Self::DropRoot { root } => write!(f, "trust root {root} dropped"),
            Self::DenyIdentity { id, drop_connections: false } => write!(f, "denied {id}"),
            Self::DenyIdentity { id, drop_connections: true } => write!(f, "denied {id} and its connections"),
            Self::AllowIdentity { id } => write!(f, "allowed {id}"),
            Self::AddJwtKey { node, id, .. } => write!(f, "token key {id} of {node}"),
            Self::Federate { trust_domain, .. } => write!(f, "trusted the trust domain {trust_domain}"),
            Self::Defederate { trust_domain } => write!(f, "trusted the trust domain {trust_domain} no longer"),
            Self::SetServiceAccountKeys(keys) => write!(f, "{} keys for tokens of {}", keys.keys.len(), keys.issuer),
            Self::ResealRoot { root, .. } => write!(f, "trust root {root} sealed under another seed"),
            Self::Restore(backup) => write!(f, "restored from a snapshot of revision {}", backup.revision()),
            Self::Retire { node } => write!(f, "retired replica {node}"),
            Self::Rollback { to } => write!(f, "rolled back to revision {to}"),
            Self::Learn { service, port, lesson: Lesson { belief: Belief::ServerFirst, .. } } => {
                write!(f, "servers of service/{service}:{port} speak first")
            }
            Self::Learn { service, port, lesson: Lesson { belief: Belief::Mixed, .. } } => {
                write!(f, "servers of service/{service}:{port} do not always speak first")
            }
            Self::Forget(ports) => write!(f, "forgot what {} ports were seen to carry", ports.len()),
            Self::SetObjective { resource, objective } => write!(f, "objective of {resource}: {objective}"),
            Self::RemoveObjective { resource } => write!(f, "objective of {resource} removed"),
            Self::RecordAlert(Transition { resource, indicator, severity: Some(severity), .. }) => {
                write!(f, "{} alert for the {indicator} of {resource}", severity.as_str())
            }
            Self::RecordAlert(Transition { resource, indicator, severity: None, .. }) => {
                write!(f, "alert for the {indicator} of {resource} is over")
            }
            Self::AlertTold { id, delivery, .. } => write!(f, "alert {id}: {}", delivery.as_str()),
            Self::TapPayloads { target } => write!(f, "tapped the payloads of {target}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpsertService(service) => write!(f, "service/{}", service.name),
            Self::RemoveService(name) => write!(f, "service/{name} removed"),
            Self::UpsertPod(pod) => write!(f, "pod/{} {}", pod.name, if pod.ready { "ready" } else { "not ready" }),
            Self::RemovePod(name) => write!(f, "pod/{name} removed"),
            Self::UpsertRoute(route) => write!(f, "httproute/{}", route.name),
            Self::RemoveRoute(name) => write!(f, "httproute/{name} removed"),
            Self::DeclareObjective(Declared { by, resource, objective }) => {
                write!(f, "objective of {resource} by objective/{by}: {objective}")
            }
            Self::WithdrawObjective(resource) => write!(f, "objective of {resource} withdrawn"),
        }
    }
}

/// How openraft shows an entry in its logs.
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.command, self.proposer)
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at revision {}", self.outcome, self.revision)
    }
}

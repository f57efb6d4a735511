//! Whom the mesh trusts, and who is denied.

use std::{collections::BTreeMap, sync::Arc};

use conduit_api::{
    NodeId, SpiffeId,
    proto::{
        peer::StatusResponse,
        public::{
            CaDenyRequest, CaDenyResponse, CaRotateRequest, CaRotateResponse, CaStatusResponse, DeniedIdentity, Issuer,
            Rotation, TrustRoot,
        },
    },
};
use conduit_ca::{KeyId, OwnIssuer, lifetime};
use conduit_consensus::{CaState, Command, MeshState, Outcome, RootRecord, RootState};
use tonic::Status;
use zeroize::Zeroize as _;

use super::{
    federation::federated,
    members::{Answers, ask_all, connected, find},
    routes::propose,
};
use crate::{
    authority::{
        actor::controller_id,
        reach,
        roots::{PrepareError, Roots},
        rotation::{self, Step},
    },
    clock,
    peer::server::Own,
    propose::unix_ms,
};

/// Of those that hold up a rotation, so many are named.
const EXAMPLES_MAX: usize = 10;

/// All of it.
///
/// # Errors
/// NOT_FOUND before there is a root.
pub async fn status(own: &Own, roots: &Roots) -> Result<CaStatusResponse, Status> {
    let state = own.cluster.state().borrow().clone();
    let ca =
        state.ca().ok_or_else(|| Status::not_found("there is no trust root yet; it is made by the first leader"))?;
    let answers = ask_all(own, true).await;
    let offsets = clock::offsets(&clock::times(&answers));
    let expiries = connected(&answers);
    let expiries: Vec<_> = expiries.values().filter_map(|proxy| Some(proxy.certified.as_ref()?.not_after_ms)).collect();
    let rotation = match rotation::pending(ca) {
        Some(pending) => {
            let mut missing = reach::missing(own, &pending, &answers);
            let waiting_for = u32::try_from(missing.len()).unwrap_or(u32::MAX);
            missing.truncate(EXAMPLES_MAX);
            let (step, root) = match &pending.step {
                Step::Drop(root) => ("drop", root),
                Step::Activate(root) => ("activate", root),
                Step::Prepare => ("prepare", &pending.root.root.id),
            };
            Some(Rotation { step: step.to_owned(), root: root.to_string(), waiting_for, examples: missing })
        }
        None => None,
    };
    let denied = ca.denied.iter().map(|(id, denial)| DeniedIdentity {
        spiffe_id: id.to_string(),
        drop_connections: denial.drop_connections,
        since_ms: denial.since_ms,
    });
    Ok(CaStatusResponse {
        trust_domain: roots.trust_domain.to_string(),
        roots: ca.roots.iter().map(|record| root(record, roots)).collect(),
        issuers: issuers(own, &answers, &offsets),
        rotation,
        denied: denied.collect(),
        federated: federated(ca),
        revoked: u32::try_from(ca.revoked.len()).unwrap_or(u32::MAX),
        rotates_at_ms: rotation::rotate_at(ca).map(unix_ms).unwrap_or_default(),
        clock_skew_ms: offsets.values().map(|offset| offset.unsigned_abs()).max().unwrap_or_default(),
        proxies: u32::try_from(expiries.len()).unwrap_or(u32::MAX),
        first_proxy_expires_ms: expiries.into_iter().min().unwrap_or_default(),
    })
}

fn root(record: &RootRecord, roots: &Roots) -> TrustRoot {
    let seed = roots.seed();
    let sealed_under = match record.root.open(&seed.alone(), &roots.trust_domain) {
        Ok(_) => seed.id(),
        Err(_) => seed.other().filter(|_| roots.open(record).is_ok()).map(|(_, id)| id).unwrap_or_default(),
    };
    let until = |der: &[u8]| lifetime(der).map(|(_, not_after)| unix_ms(not_after)).unwrap_or_default();
    TrustRoot {
        id: record.root.id.to_string(),
        state: record.state.to_string(),
        since_ms: record.since_ms,
        not_after_ms: until(&record.root.anchor),
        imported: record.root.imported,
        anchor: record.root.anchor.clone(),
        issues_until_ms: until(&record.root.certificate),
        sealed_under,
    }
}

/// As each says of itself.
fn issuers(own: &Own, answers: &Answers, offsets: &BTreeMap<NodeId, i64>) -> Vec<Issuer> {
    let members = own.cluster.status().borrow().members.clone();
    let issuers = members.iter().map(|(node, member)| {
        let answer = answers.get(node).and_then(Option::as_ref);
        let hex = |of: fn(&StatusResponse) -> &Vec<u8>| answer.map(|answer| KeyId::from_bytes(of(answer)).to_string());
        Issuer {
            replica: member.name.clone(),
            id: hex(|answer| &answer.issuer).unwrap_or_default(),
            root: hex(|answer| &answer.issuing_root).unwrap_or_default(),
            not_after_ms: answer.map_or(0, |answer| answer.issuer_not_after_ms),
            reachable: answer.is_some(),
            clock_offset_ms: offsets.get(node).copied().unwrap_or_default(),
            seed: answer.map(|answer| answer.seed.clone()).unwrap_or_default(),
            other_seed: answer.map(|answer| answer.other_seed.clone()).unwrap_or_default(),
        }
    });
    let mut issuers: Vec<_> = issuers.collect();
    issuers.sort_by(|a, b| a.replica.cmp(&b.replica));
    issuers
}

/// Begins a rotation, or, with force, ends one.
///
/// # Errors
/// As the API describes them.
pub async fn rotate(
    own: &Own,
    roots: &Roots,
    who: &str,
    mut request: CaRotateRequest,
) -> Result<CaRotateResponse, Status> {
    let rotated = begin(own, roots, who, &request).await;
    if let Some(own) = &mut request.own {
        own.key.zeroize();
    }
    rotated
}

async fn begin(own: &Own, roots: &Roots, who: &str, request: &CaRotateRequest) -> Result<CaRotateResponse, Status> {
    if let Some(offset) = own.clock.mistrusted() {
        let offset = offset.as_secs();
        return Err(Status::unavailable(format!(
            "this replica's clock is {offset}s off: it makes no root that others could use"
        )));
    }
    let ca = current(own)?;
    let in_progress = ca.prepared().map(|prepared| prepared.root.id.clone());
    let root = match in_progress {
        Some(root) if request.force && request.own.is_none() => root,
        // Only the drop is left: it is not a new root that is wanted.
        None if request.force && request.own.is_none() && ca.retired().is_some() => {
            ca.active().map(|active| active.root.id.clone()).unwrap_or_default()
        }
        _ => {
            let own_issuer = request.own.as_ref().map(|own| OwnIssuer {
                certificates: &own.certificates,
                key: &own.key,
                anchors: Some(own.anchors.as_str()).filter(|anchors| !anchors.is_empty()),
            });
            let prepare = roots.prepare(&ca, own_issuer, own.clock.now()).map_err(not_prepared)?;
            let Command::PrepareRoot { root, .. } = &prepare else { return Err(Status::internal("not a root")) };
            let id = root.id.clone();
            propose(own, who, prepare).await?;
            id
        }
    };
    if request.force {
        propose(own, who, Command::ActivateRoot { root: root.clone() }).await?;
        let retired =
            current(own)?.roots.iter().filter(|known| known.state == RootState::Retired).cloned().collect::<Vec<_>>();
        for record in retired {
            propose(own, who, Command::DropRoot { root: record.root.id }).await?;
        }
    }
    Ok(CaRotateResponse { root: root.to_string() })
}

fn not_prepared(error: PrepareError) -> Status {
    match &error {
        PrepareError::Import(_) => Status::invalid_argument(error.to_string()),
        PrepareError::NoRoot | PrepareError::Imported | PrepareError::Root(_) => {
            Status::failed_precondition(error.to_string())
        }
        PrepareError::Crypto(_) => Status::unavailable(error.to_string()),
    }
}

/// Denies an identity, or allows it again.
///
/// # Errors
/// As the API describes them.
pub async fn deny(own: &Own, roots: &Roots, who: &str, request: CaDenyRequest) -> Result<CaDenyResponse, Status> {
    let id: SpiffeId = request
        .spiffe_id
        .parse()
        .map_err(|error: conduit_api::spiffe::ParseSpiffeError| Status::invalid_argument(error.to_string()))?;
    let ours = &roots.trust_domain;
    if id.trust_domain() != ours && !request.allow && !current(own)?.federated.contains_key(id.trust_domain()) {
        return Err(Status::invalid_argument(format!(
            "`{id}` is neither of this mesh's trust domain, `{ours}`, nor of one that it believes"
        )));
    }
    if controller_id(&roots.trust_domain).is_ok_and(|own| own == id) {
        return Err(Status::invalid_argument("that is the control plane's own identity; without it nothing works"));
    }
    let command = match request.allow {
        true => Command::AllowIdentity { id },
        false => Command::DenyIdentity { id, drop_connections: request.drop_connections },
    };
    let applied = propose(own, who, command).await?;
    Ok(CaDenyResponse { revision: applied.revision.as_u64(), changed: applied.outcome != Outcome::Unchanged })
}

/// Believes no longer what a replica, by name or id, has issued.
///
/// # Errors
/// As the API describes them.
pub async fn revoke(own: &Own, who: &str, member: &str) -> Result<(), Status> {
    // One that was removed has no name any more.
    let ca = current(own)?;
    let removed = member.parse().ok().filter(|node: &NodeId| ca.has_issued(*node));
    let node = removed.map_or_else(|| find(own, member), Ok)?;
    if !ca.has_issued(node) {
        return Err(Status::failed_precondition(format!("{member} has issued nothing that could be revoked")));
    }
    propose(own, who, Command::RevokeIssuer { node }).await.map(drop)
}

fn current(own: &Own) -> Result<Arc<CaState>, Status> {
    let state: Arc<MeshState> = own.cluster.state().borrow().clone();
    state.ca().cloned().ok_or_else(|| Status::failed_precondition("there is no trust root yet"))
}

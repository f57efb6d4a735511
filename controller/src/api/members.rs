//! Who the replicas are and how they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use conduit_api::{
    NodeId, PodName, Revision,
    proto::{
        peer::{ConnectedProxy, StatusRequest, StatusResponse},
        public::{RaftMember, RaftStatusResponse},
    },
};

use conduit_consensus::ProposeError;
use tonic::Status;

use crate::{
    peer::{ask_others, server::Own},
    propose::unix_ms,
};

/// What every replica says of itself; `None` of one that cannot be asked.
async fn ask_all(own: &Own) -> BTreeMap<NodeId, Option<StatusResponse>> {
    let others = ask_others(&own.cluster, |mut peer| async move {
        peer.status(StatusRequest {}).await.map(tonic::Response::into_inner)
    });
    let mut answers: BTreeMap<_, _> = others.await.into_iter().map(|other| (other.node, other.answer)).collect();
    answers.insert(own.cluster.id(), Some(own.status()));
    answers
}

/// The members, as each says of itself.
pub async fn status(own: &Own) -> RaftStatusResponse {
    let answers = ask_all(own).await;
    let status = own.cluster.status().borrow().clone();
    let leader_log =
        status.leader.and_then(|leader| answers.get(&leader)?.as_ref()).map(|leader| leader.last_log_index);
    let mut members: Vec<RaftMember> = status
        .members
        .iter()
        .map(|(node, member)| {
            let answer = answers.get(node).and_then(Option::as_ref);
            RaftMember {
                name: member.name.clone(),
                id: node.to_string(),
                role: answer.map_or("unreachable", |answer| answer.role.as_str()).to_owned(),
                address: member.address.clone(),
                term: answer.map_or(0, |answer| answer.term),
                applied_index: answer.map_or(0, |answer| answer.applied_index),
                lag: answer.zip(leader_log).map(|(answer, log)| log.saturating_sub(answer.applied_index)),
                pid: answer.map(|answer| answer.pid),
                voter: member.voter,
            }
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    RaftStatusResponse {
        leader_id: status.leader.map(|leader| leader.to_string()).unwrap_or_default(),
        term: status.term,
        revision: own.cluster.state().borrow().revision().as_u64(),
        members,
        answered_by: own.cluster.id().to_string(),
    }
}

/// Removes a member, by name or id, for good.
///
/// # Errors
/// As the API describes them.
pub async fn remove(own: &Own, member: &str) -> Result<(), Status> {
    let node = find(own, member)?;
    own.cluster.remove(node, "api", unix_ms(SystemTime::now())).await.map_err(refused)
}

/// Makes a member, by name or id, the leader.
///
/// # Errors
/// As the API describes them.
pub async fn transfer(own: &Own, member: &str) -> Result<(), Status> {
    let node = find(own, member)?;
    own.cluster.hand_over_to(node).await.map_err(refused)
}

fn find(own: &Own, member: &str) -> Result<NodeId, Status> {
    let status = own.cluster.status().borrow().clone();
    let found = status.members.iter().find(|(id, known)| known.name == member || id.to_string() == member);
    found.map(|(id, _)| *id).ok_or_else(|| {
        let names: BTreeSet<_> = status.members.values().map(|known| known.name.as_str()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        Status::not_found(format!("`{member}` is no replica of this control plane; there are {names}"))
    })
}

/// As callers of the API are told.
fn refused(error: ProposeError) -> Status {
    match error {
        ProposeError::Refused(why) => Status::failed_precondition(why),
        ProposeError::NotLeading | ProposeError::NoQuorum { .. } | ProposeError::Fatal(_) => {
            Status::unavailable(error.to_string())
        }
    }
}

/// The proxies that are connected to some replica, with the revision that each holds.
pub async fn connected_proxies(own: &Own) -> BTreeMap<PodName, Revision> {
    let mut connected = BTreeMap::new();
    for ConnectedProxy { namespace, pod, acked_revision } in
        ask_all(own).await.into_values().flatten().flat_map(|answer| answer.proxies)
    {
        if let Ok(pod) = PodName::new(&namespace, &pod) {
            let acked = Revision::from(acked_revision);
            let known = connected.entry(pod).or_insert(acked);
            *known = acked.max(*known);
        }
    }
    connected
}

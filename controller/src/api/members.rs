//! Who the replicas are and how they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use conduit_api::{
    NodeId, Pod, PodName, SpiffeId,
    proto::{
        peer::{ConnectedProxy, StatusRequest, StatusResponse},
        public::{Change, FailingPod, HistoryResponse, RaftMember, RaftStatusResponse, WaitRequest, WaitResponse},
    },
};
use conduit_ca::KeyId;
use conduit_consensus::{MeshState, ProposeError};
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::{
    discovery::registry::{Certified, Connected, merge},
    peer::{ask_others, server::Own},
    propose::unix_ms,
};

/// One answer to a wait; whoever wants more asks again.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two looks.
const WAIT_POLL: Duration = Duration::from_millis(25);
/// Of those that are behind, so many are named.
const EXAMPLES_MAX: usize = 10;

/// What every replica says of itself; `None` of one that cannot be asked.
pub type Answers = BTreeMap<NodeId, Option<StatusResponse>>;

/// Asks all of them, this one included.
pub async fn ask_all(own: &Own, with_proxies: bool) -> Answers {
    let request = StatusRequest { with_proxies };
    let others =
        ask_others(&own.cluster, |mut peer| async move { peer.status(request).await.map(tonic::Response::into_inner) });
    let mut answers: BTreeMap<_, _> = others.await.into_iter().map(|other| (other.node, other.answer)).collect();
    answers.insert(own.cluster.id(), Some(own.status(request)));
    answers
}

/// The members, as each says of itself.
pub async fn status(own: &Own) -> RaftStatusResponse {
    let answers = ask_all(own, false).await;
    let status = own.cluster.status().borrow().clone();
    // A leader that nobody hears is none, whatever this replica last knew.
    let leader = status.leader.filter(|_| own.cluster.has_quorum());
    let leader_log = leader.and_then(|leader| answers.get(&leader)?.as_ref()).map(|leader| leader.last_log_index);
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
        leader_id: leader.map(|leader| leader.to_string()).unwrap_or_default(),
        term: status.term,
        revision: own.cluster.state().borrow().revision().as_u64(),
        members,
        answered_by: own.cluster.id().to_string(),
    }
}

/// How far `request` is, as soon as it is done or [`WAIT_MAX`] is over.
pub async fn wait(own: &Own, request: WaitRequest) -> WaitResponse {
    let applied = own.cluster.state().borrow().revision().as_u64();
    let revision = if request.revision == 0 { applied } else { request.revision };
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let reached = match request.acknowledged {
            true => proxies_reached(own).await,
            false => replicas_reached(own).await,
        };
        let behind: Vec<_> = reached.iter().filter(|(_, at)| *at < revision).map(|(name, _)| name.clone()).collect();
        // Nobody is behind a revision that does not exist yet.
        let done = behind.is_empty() && own.status(StatusRequest::default()).applied_revision >= revision;
        if done || Instant::now() >= deadline {
            let (total, count) = (reached.len() as u32, behind.len() as u32);
            let examples = behind.into_iter().take(EXAMPLES_MAX).collect();
            return WaitResponse { revision, done, total, behind: count, examples };
        }
        sleep(WAIT_POLL).await;
    }
}

/// The connected ones; and those of pods that are ready, and should be: what they hold is not known, and a replica that does not
/// answer may have them. They look for another one within seconds.
async fn proxies_reached(own: &Own) -> Vec<(String, u64)> {
    let connected = connected_proxies(own).await;
    let state = own.cluster.state().borrow().clone();
    let missing = expected(&state).filter(|pod| !connected.contains_key(&pod.name));
    let missing = missing.map(|pod| (format!("{} (not connected)", pod.name), 0));
    let reached = connected.iter().map(|(pod, has)| (pod.to_string(), has.revision.as_u64()));
    reached.chain(missing).collect()
}

/// The pods whose proxies are to be connected.
pub fn expected(state: &MeshState) -> impl Iterator<Item = &Pod> {
    let ready = state.pods().values().map(|pod| &pod.value).filter(|pod| pod.meshed && pod.ready);
    ready.filter(|pod| !is_denied(state, pod))
}

/// Nobody waits for a proxy that nobody speaks with.
pub fn is_denied(state: &MeshState, pod: &Pod) -> bool {
    let of_pod = |id: &SpiffeId| id.namespace() == pod.name.namespace() && id.service_account() == pod.service_account;
    state.ca().is_some_and(|ca| ca.denied.keys().any(of_pod))
}

/// Those that can be asked: one that is down serves nothing old, and catches up before it serves again.
async fn replicas_reached(own: &Own) -> Vec<(String, u64)> {
    let answers = ask_all(own, false).await;
    let members = own.cluster.status().borrow().members.clone();
    let answered = answers.into_iter().filter_map(|(node, answer)| Some((node, answer?.applied_revision)));
    answered.filter_map(|(node, applied)| Some((members.get(&node)?.name.clone(), applied))).collect()
}

/// The last changes, newest first.
pub fn history(own: &Own, limit: u32) -> HistoryResponse {
    let limit = if limit == 0 { usize::MAX } else { limit as usize };
    let state = own.cluster.state().borrow().clone();
    let changes = state.audit().rev().take(limit).map(|record| Change {
        index: record.index,
        time_ms: record.time_ms,
        proposer: record.proposer.clone(),
        summary: record.summary.clone(),
    });
    HistoryResponse { changes: changes.collect() }
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

/// A member, by name or id.
///
/// # Errors
/// NOT_FOUND when there is none.
pub fn find(own: &Own, member: &str) -> Result<NodeId, Status> {
    let status = own.cluster.status().borrow().clone();
    let found = status.members.iter().find(|(id, known)| known.name == member || id.to_string() == member);
    found.map(|(id, _)| *id).ok_or_else(|| {
        let names: BTreeSet<_> = status.members.values().map(|known| known.name.as_str()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        Status::not_found(format!("`{member}` is no replica of this control plane; there are {names}"))
    })
}

/// As callers of the API are told.
pub fn refused(error: ProposeError) -> Status {
    match error {
        ProposeError::Refused(why) => Status::failed_precondition(why),
        ProposeError::NotLeading | ProposeError::NoQuorum { .. } | ProposeError::Fatal(_) => {
            Status::unavailable(error.to_string())
        }
    }
}

/// The proxies that are connected to some replica, with what each has.
pub async fn connected_proxies(own: &Own) -> BTreeMap<PodName, Connected> {
    connected(&ask_all(own, true).await)
}

/// Pods that do not run as they should, and whether there are more: the one that leads knows.
pub fn failing(answers: &Answers) -> (Vec<FailingPod>, bool) {
    let told = answers.values().flatten().max_by_key(|answer| answer.failing.len());
    told.map(|answer| (answer.failing.clone(), answer.more_failing)).unwrap_or_default()
}

/// The same, of replicas that have answered already.
pub fn connected(answers: &Answers) -> BTreeMap<PodName, Connected> {
    let mut connected = BTreeMap::new();
    for ConnectedProxy { namespace, pod, acked_revision, root, not_after_ms } in
        answers.values().flatten().flat_map(|answer| &answer.proxies)
    {
        if let Ok(pod) = PodName::new(namespace, pod) {
            let not_after_ms = *not_after_ms;
            let certified = (!root.is_empty()).then(|| Certified { root: KeyId::from_bytes(root), not_after_ms });
            merge(&mut connected, pod, Connected { revision: (*acked_revision).into(), certified });
        }
    }
    connected
}

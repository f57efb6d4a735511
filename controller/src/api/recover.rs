//! For the day on which a majority of the replicas is gone for good.

use std::{collections::BTreeSet, time::Duration};

use conduit_api::{
    NodeId,
    proto::{
        peer::{PeerRecoverRequest, StatusResponse, peer_client::PeerClient},
        public::RecoverResponse,
    },
};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::members::ask_all;
use crate::{peer::server::Own, propose::unix_ms};

/// For a replica that asks all others itself, and writes to its disk. Whoever has asked this one waits some seconds more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What would be done; and does it, if `confirmed`. Whoever asks may have come to any replica: the one that has the most is asked by this
/// one.
///
/// # Errors
/// FAILED_PRECONDITION while there is a majority, UNAVAILABLE when the replica that has the most cannot be asked.
pub async fn recover(own: &Own, who: &str, confirmed: bool) -> Result<RecoverResponse, Status> {
    match decide(own, who, confirmed).await? {
        Recovery::Here(response) => Ok(response),
        Recovery::At(node, name) => {
            let unreachable = |why: &str| Status::unavailable(format!("{name} has more, and cannot be asked: {why}"));
            let channel = own.cluster.channel(node).ok_or_else(|| unreachable("it is not known where it is"))?;
            let request = PeerRecoverRequest { confirmed, proposer: who.to_owned() };
            let answer = timeout(ANSWER_TIMEOUT, PeerClient::new(channel).recover(request)).await;
            match answer.map_err(|_| unreachable("it does not answer"))? {
                Ok(answer) => Ok(answer.into_inner()),
                // What it says for itself, whoever asks it.
                Err(status) if status.code() == Code::FailedPrecondition => {
                    Err(Status::failed_precondition(status.message()))
                }
                Err(status) => Err(unreachable(status.message())),
            }
        }
    }
}

/// The same, asked by another replica: nothing is handed on twice.
///
/// # Errors
/// FAILED_PRECONDITION while there is a majority, UNAVAILABLE when another replica that can be reached has more.
pub async fn recover_here(own: &Own, who: &str, confirmed: bool) -> Result<RecoverResponse, Status> {
    match decide(own, who, confirmed).await? {
        Recovery::Here(response) => Ok(response),
        Recovery::At(_, name) => Err(Status::unavailable(format!("{name} has more, and is to be asked"))),
    }
}

/// Who is to go on.
enum Recovery {
    /// This replica, and how.
    Here(RecoverResponse),
    /// Another one, and its name.
    At(NodeId, String),
}

async fn decide(own: &Own, who: &str, confirmed: bool) -> Result<Recovery, Status> {
    let answers = ask_all(own, false).await;
    let members = own.cluster.status().borrow().members.clone();
    let name = |node: &NodeId| members.get(node).map_or_else(|| node.to_string(), |member| member.name.clone());
    let voters: BTreeSet<_> = members.iter().filter(|(_, member)| member.voter).map(|(node, _)| *node).collect();
    let reached: Vec<_> = voters.iter().filter_map(|node| Some((*node, answers.get(node)?.as_ref()?))).collect();
    let gone: BTreeSet<_> =
        members.keys().filter(|node| answers.get(node).is_none_or(Option::is_none)).copied().collect();
    if reached.len() > voters.len() / 2 {
        let (count, of) = (reached.len(), voters.len());
        return Err(Status::failed_precondition(format!(
            "{count} of {of} voting replicas answer: that is a majority, which goes on by itself"
        )));
    }
    // Raft's own measure of who has more (section 5.4.1).
    let log = |status: &StatusResponse| (status.last_log_term, status.last_log_index);
    let best = reached.iter().max_by_key(|(node, status)| (log(status), *node));
    match best {
        Some((node, _)) if *node == own.cluster.id() => {}
        Some((node, _)) => return Ok(Recovery::At(*node, name(node))),
        None => {
            return Err(Status::failed_precondition("this replica has no vote: it may not have what was committed"));
        }
    }
    let names = |nodes: &mut dyn Iterator<Item = NodeId>| {
        let names: BTreeSet<_> = nodes.map(|node| name(&node)).collect();
        names.into_iter().collect()
    };
    let response = RecoverResponse {
        survivor: name(&own.cluster.id()),
        revision: own.cluster.state().borrow().revision().as_u64(),
        last_log_index: own.cluster.last_log().1,
        gone: names(&mut gone.iter().copied()),
        left: names(&mut reached.iter().map(|(node, _)| *node).filter(|node| *node != own.cluster.id())),
    };
    if confirmed {
        let done = own.cluster.recover_alone(gone, who, unix_ms(std::time::SystemTime::now()));
        done.map_err(|error| Status::internal(format!("cannot write into the data directory: {error}")))?;
    }
    Ok(Recovery::Here(response))
}

//! For the day on which a majority of the replicas is gone for good.

use std::collections::BTreeSet;

use conduit_api::{
    NodeId,
    proto::{peer::StatusResponse, public::RecoverResponse},
};
use tonic::Status;

use super::members::ask_all;
use crate::{peer::server::Own, propose::unix_ms};

/// What would be done; and does it, if `confirmed`.
///
/// # Errors
/// FAILED_PRECONDITION while there is a majority, UNAVAILABLE when another replica that can be reached has more and is to be asked
/// instead.
pub async fn recover(own: &Own, who: &str, confirmed: bool) -> Result<RecoverResponse, Status> {
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
        Some((node, _)) => return Err(Status::unavailable(format!("{} has more, and is to be asked", name(node)))),
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
    Ok(response)
}

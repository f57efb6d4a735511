//! Who has not taken over yet what a rotation waits for.

use conduit_api::PodName;
use conduit_consensus::CaState;

use super::rotation::{Pending, Reached, pending};
use crate::{
    api::members::{Answers, ask_all, connected, expected, is_denied},
    discovery::registry::Connected,
    peer::server::Own,
};

/// What `ca` waits for; `None` when it is in the middle of nothing.
pub async fn reached(own: &Own, ca: &CaState) -> Option<Reached> {
    let pending = pending(ca)?;
    let missing = missing(own, &pending, &ask_all(own, true).await).len();
    Some(Reached { step: pending.step, missing })
}

/// Proxies and replicas that hold up the step, by name, as `answers` say, the ones with proxies.
///
/// A proxy that is not connected but beside a pod that is ready is one of them: it may be connected to a replica that does not answer.
/// A replica that does not answer holds up only what would make its certificates worthless.
pub fn missing(own: &Own, pending: &Pending<'_>, answers: &Answers) -> Vec<String> {
    let members = own.cluster.status().borrow().members.clone();
    let replicas = members.iter().filter(|(node, _)| match answers.get(node).and_then(Option::as_ref) {
        Some(answer) if pending.certified => answer.issuing_root != pending.root.root.id.as_bytes(),
        Some(answer) => answer.applied_revision < pending.root.since.as_u64(),
        None => pending.certified,
    });
    let replicas: Vec<_> = replicas.map(|(_, member)| member.name.clone()).collect();

    let connected = connected(answers);
    let is_there = |proxy: &Connected| match pending.certified {
        true => proxy.certified.as_ref().is_some_and(|held| held.root == pending.root.root.id),
        false => proxy.revision >= pending.root.since,
    };
    let state = own.cluster.state().borrow().clone();
    let away = expected(&state).filter(|pod| !connected.contains_key(&pod.name));
    let away = away.map(|pod| format!("{} (not connected)", pod.name));
    let is_denied = |pod: &PodName| state.pods().get(pod).is_some_and(|pod| is_denied(&state, &pod.value));
    let behind = connected.iter().filter(|(pod, proxy)| !is_there(proxy) && !is_denied(pod));
    let behind = behind.map(|(pod, _)| pod.to_string());
    replicas.into_iter().chain(behind).chain(away).collect()
}

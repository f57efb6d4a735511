//! A control plane of which every disk is lost begins anew: one of its replicas may start it again, though another one has started it before.
//!
//! Two that did so would be two control planes, so one alone may ask, the first by its name, and it is sure of three things: that all
//! configured replicas answer, that none of them has any data, and that the one which has passed the gate is none of them, for that one
//! is about to start. The gate is looked at first: whoever passes it meanwhile makes it another one.

use std::{collections::BTreeSet, time::Duration};

use conduit_api::proto::peer::{StatusRequest, StatusResponse, peer_client::PeerClient};
use conduit_consensus::Cluster;
use futures::future::join_all;
use tokio::time::timeout;

use crate::{config::Config, platform::Platform};

/// A replica that has not answered by then may have anything.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether this replica, which is empty, is to start the control plane again.
///
/// # Errors
/// When the platform does not say who has started it.
pub async fn begins(config: &Config, platform: &dyn Platform, cluster: &Cluster) -> anyhow::Result<bool> {
    let peers = config.other_addresses();
    if !is_first(&config.name, config.peer_names()) {
        return Ok(false);
    }
    let Some(passed) = platform.passed_gate().await? else { return Ok(false) };
    let answers = join_all(peers.iter().map(|address| ask(cluster, address))).await;
    let own = StatusResponse { node_id: cluster.id().as_u64(), empty: cluster.is_empty().await, ..Default::default() };
    let answers: Vec<_> = answers.into_iter().chain([Some(own)]).collect();
    if !is_nothing_left(&passed.node, &answers) {
        return Ok(false);
    }
    platform.pass_gate_after(passed, &cluster.id().to_string()).await
}

async fn ask(cluster: &Cluster, address: &str) -> Option<StatusResponse> {
    let mut client = PeerClient::new(cluster.channel_to(address));
    let answer = timeout(ANSWER_TIMEOUT, client.status(StatusRequest { with_proxies: false })).await;
    Some(answer.ok()?.ok()?.into_inner())
}

fn is_first<'a>(own: &str, mut others: impl Iterator<Item = &'a str>) -> bool {
    others.all(|other| own <= other)
}

/// What all configured replicas say; nothing of one that does not answer.
fn is_nothing_left(passed: &str, answers: &[Option<StatusResponse>]) -> bool {
    let answered: Vec<_> = answers.iter().flatten().collect();
    let ids: BTreeSet<_> = answered.iter().map(|answer| answer.node_id).collect();
    let has_passed = |answer: &&StatusResponse| conduit_api::NodeId::new(answer.node_id).to_string() == passed;
    // Two names that lead to one replica say nothing of the one that is missing.
    ids.len() == answers.len() && answered.iter().all(|answer| answer.empty) && !answered.iter().any(has_passed)
}

#[cfg(test)]
mod tests {
    use conduit_api::NodeId;

    use super::*;

    fn answer(node_id: u64, empty: bool) -> Option<StatusResponse> {
        Some(StatusResponse { node_id, empty, ..StatusResponse::default() })
    }

    #[test]
    fn nothing_is_left_when_all_say_so() {
        let lost = NodeId::new(9).to_string();
        assert!(is_nothing_left(&lost, &[answer(1, true), answer(2, true), answer(3, true)]));
        assert!(is_nothing_left(&lost, &[answer(1, true)]), "there is only one");
        for (answers, why) in [
            ([answer(1, true), answer(2, true), None], "one does not answer"),
            (
                [answer(1, true), answer(2, true), answer(3, false)],
                "one has data, or is of a release that does not say",
            ),
            ([answer(1, true), answer(2, true), answer(2, true)], "one was asked twice"),
            ([answer(1, true), answer(2, true), answer(9, true)], "the one that has passed is about to start"),
        ] {
            assert!(!is_nothing_left(&lost, &answers), "{why}");
        }
    }

    #[test]
    fn one_of_all_asks() {
        let names = ["controller-0", "controller-1", "controller-2"];
        let first: Vec<_> = names.iter().filter(|own| is_first(own, names.iter().copied())).collect();
        assert_eq!(first, [&"controller-0"]);
    }
}

//! Questions whose answer is spread over the replicas: asked of all at once, this one included, and never waited for long.

pub mod server;

use std::{future::Future, time::Duration};

use conduit_api::NodeId;
use conduit_consensus::Cluster;
use futures::future::join_all;
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

use conduit_api::proto::peer::peer_client::PeerClient;

use crate::telemetry::bounds::ANSWER_BYTES_MAX;

/// A replica that has not answered by then is counted as missing, and the person is told.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// The same of one that has hours of thousands of proxies to add up.
pub const SUMS_TIMEOUT: Duration = Duration::from_secs(3);

/// One replica's answer, or `None` when it could not be asked.
pub struct Answer<T> {
    /// Who.
    pub node: NodeId,
    /// What.
    pub answer: Option<T>,
}

/// Asks every member but this replica.
pub async fn ask_others<T, F, Fut>(cluster: &Cluster, question: F) -> Vec<Answer<T>>
where
    F: Fn(PeerClient<Channel>) -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    ask_others_within(ANSWER_TIMEOUT, cluster, question).await
}

/// The same, with more or less patience.
pub async fn ask_others_within<T, F, Fut>(patience: Duration, cluster: &Cluster, question: F) -> Vec<Answer<T>>
where
    F: Fn(PeerClient<Channel>) -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    let members: Vec<NodeId> = cluster.status().borrow().members.keys().copied().collect();
    let others = members.into_iter().filter(|node| *node != cluster.id());
    join_all(others.map(|node| {
        let asked = cluster
            .channel(node)
            .map(|channel| question(PeerClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)));
        async move {
            let answer = match asked {
                Some(asked) => timeout(patience, asked).await.ok().and_then(Result::ok),
                None => None,
            };
            Answer { node, answer }
        }
    }))
    .await
}

//! Proposing from outside, as whoever holds the seed may: for tools that measure and break control planes.

use conduit_api::{NodeId, proto::peer::RaftMessage};
use conduit_ca::ReplicaTls;
use tonic::{Status, transport::Channel};

use crate::{
    command::{Applied, Proposal},
    network::client,
    peers::Peers,
    store::{decode, encode},
};

/// A channel to one replica.
#[derive(Clone)]
pub struct Proposer {
    channel: Channel,
}

impl Proposer {
    /// To the replica at `address` (`host:port` of its peer port). It connects when it is first used.
    pub fn new(tls: ReplicaTls, address: &str) -> Self {
        Self { channel: Peers::new(tls).stranger(address) }
    }

    /// Proposes at this replica, which must be `leader` and lead. The proposal's id is the caller's affair.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when it is somebody else or does not lead, ABORTED when it refuses for good; after anything else the
    /// proposal may have been committed, or still may be.
    pub async fn propose(&self, leader: NodeId, proposal: &Proposal) -> Result<Applied, Status> {
        let payload = encode(proposal).map_err(|error| Status::aborted(error.to_string()))?;
        let message = RaftMessage { target: leader.as_u64(), payload };
        let answer = client(self.channel.clone()).propose(message).await?.into_inner();
        decode(&answer.payload).map_err(|error| Status::unknown(error.to_string()))
    }
}

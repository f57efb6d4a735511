//! The server side of Raft, and what replicas ask the leader for.

use std::time::Duration;

use conduit_api::{
    NodeId,
    proto::peer::{JoinRequest, JoinResponse, MemberRequest, MemberResponse, RaftMessage, SnapshotChunk, raft_server},
};
use openraft::{
    ChangeMembers,
    errors::{ClientWriteError, RaftError},
    raft::AppendEntriesResponse,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::{
    cluster::Cluster,
    command::Proposal,
    raft::{Member, Snapshot, SnapshotMeta, TypeConfig, Vote},
    store::{decode, encode},
};

/// The largest snapshot that is taken: a hundred thousand endpoints are a tenth of it.
const SNAPSHOT_BYTES_MAX: usize = 512 * 1024 * 1024;
/// A joining replica that has not caught up by then asks again, and goes on where it was.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a refusal to admit: who could.
pub(crate) const LEADER_ADDRESS: &str = "leader-address";

/// The service of one replica.
#[derive(Clone)]
pub struct RaftService {
    pub(crate) cluster: Cluster,
}

type Answer = Result<Response<RaftMessage>, Status>;

impl RaftService {
    /// An address may lead to another replica than it did when the caller learned it.
    fn for_us(&self, target: u64) -> Result<(), Status> {
        let own = self.cluster.id();
        if target == own.as_u64() {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("this is node {own}, not {}", NodeId::new(target))))
    }

    fn message<T: DeserializeOwned>(&self, request: Request<RaftMessage>) -> Result<T, Status> {
        let message = request.into_inner();
        self.for_us(message.target)?;
        decode(&message.payload).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn answer<T: Serialize>(&self, answer: &T) -> Answer {
        let payload = encode(answer).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(RaftMessage { target: 0, payload }))
    }

    /// What a caller must do who meets a replica that does not lead.
    fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Status {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
                Status::failed_precondition("this replica does not lead")
            }
            RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)) => {
                Status::unavailable(error.to_string())
            }
            RaftError::APIError(error) => Status::aborted(error.to_string()),
            RaftError::Fatal(fatal) => Status::unavailable(fatal.to_string()),
        }
    }

    /// With where the leader is, if this replica knows of one: who has moved may not.
    fn naming_the_leader(&self, mut refused: Status) -> Status {
        let status = self.cluster.status().borrow().clone();
        let leader = status.leader.filter(|leader| *leader != self.cluster.id());
        let address = leader.and_then(|leader| status.members.get(&leader)?.address.parse().ok());
        if let Some(address) = address {
            refused.metadata_mut().insert(LEADER_ADDRESS, address);
        }
        refused
    }

    /// Learner first, so that it has everything before it counts; then voter, in place of an earlier replica of its name,
    /// whose disk is gone.
    async fn admit(&self, node: NodeId, member: Member) -> Result<(), Status> {
        let _one_at_a_time = self.cluster.joining().await;
        let status = self.cluster.status().borrow().clone();
        if self.cluster.state().borrow().is_retired(node) {
            return Err(Status::permission_denied(
                "this replica was removed; it can join anew with an empty data directory",
            ));
        }
        let raft = self.cluster.raft();
        if let Some(known) = status.members.get(&node).filter(|known| known.voter) {
            if known.address != member.address || known.feature_level != member.feature_level {
                let change = ChangeMembers::SetNodes([(node, member.clone())].into());
                raft.change_membership(change, true).await.map_err(Self::refused)?;
                info!(%node, name = %member.name, address = %member.address, "a replica is not what it was");
            }
            return Ok(());
        }
        let replaced = status.members.iter().filter(|(id, known)| **id != node && known.name == member.name);
        let replaced: Vec<NodeId> = replaced.map(|(id, _)| *id).collect();
        info!(%node, name = %member.name, address = %member.address, "admitting a replica");
        raft.add_learner(node, member, true).await.map_err(Self::refused)?;
        let mut changes = vec![ChangeMembers::AddVoterIds([node].into())];
        if !replaced.is_empty() {
            changes.push(ChangeMembers::RemoveVoters(replaced.into_iter().collect()));
        }
        let change = ChangeMembers::Batch(changes);
        raft.change_membership(change, false).await.map_err(Self::refused)?;
        Ok(())
    }

    /// It is retired already, so that it is not admitted again, whenever it asks.
    async fn remove_member(&self, node: NodeId) -> Result<(), Status> {
        let _one_at_a_time = self.cluster.joining().await;
        let status = self.cluster.status().borrow().clone();
        // An earlier attempt has done it.
        let Some(member) = status.members.get(&node) else { return Ok(()) };
        if node == self.cluster.id() {
            // Whoever leads then is asked again.
            let successor = self.cluster.successor();
            let handed_over = match successor {
                Some(successor) => self.cluster.hand_over(successor).await,
                None => false,
            };
            let outcome = if handed_over { "this replica has handed over" } else { "no voter took over in time" };
            return Err(Status::unavailable(outcome));
        }
        info!(%node, name = %member.name, "removing a replica");
        let raft = self.cluster.raft();
        let nodes = [node].into();
        let change = if member.voter { ChangeMembers::RemoveVoters(nodes) } else { ChangeMembers::RemoveNodes(nodes) };
        raft.change_membership(change, false).await.map_err(Self::refused)?;
        Ok(())
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Answer {
        let message = request.into_inner();
        self.for_us(message.target)?;
        let rpc = decode(&message.payload).map_err(|error| {
            // The peer proved that it has the seed, and its message came whole: it is of another release.
            self.cluster.cannot_read(&error);
            Status::invalid_argument(error.to_string())
        })?;
        let answer = self.cluster.raft().append_entries(rpc).await.map_err(ended)?;
        if matches!(answer, AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) {
            self.cluster.heard_leader();
        }
        self.answer(&answer)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Answer {
        let rpc = self.message(request)?;
        self.answer(&self.cluster.raft().vote(rpc).await.map_err(ended)?)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Answer {
        let rpc = self.message(request)?;
        self.answer(&self.cluster.raft().pre_vote(rpc).await.map_err(ended)?)
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Answer {
        let rpc = self.message(request)?;
        let answer = self.cluster.raft().handle_transfer_leader(rpc).await;
        self.answer(&answer.map_err(|error| Status::unavailable(error.to_string()))?)
    }

    async fn install_snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Answer {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        self.for_us(first.target)?;
        let (vote, meta): (Vote, SnapshotMeta) =
            decode(&first.header).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut snapshot = first.data;
        while let Some(chunk) = chunks.message().await? {
            if snapshot.len() + chunk.data.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted(format!("a snapshot of more than {SNAPSHOT_BYTES_MAX} bytes")));
            }
            snapshot.extend(chunk.data);
        }
        let installed = self.cluster.raft().install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        self.answer(&installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?)
    }

    async fn propose(&self, request: Request<RaftMessage>) -> Answer {
        let proposal: Proposal = self.message(request)?;
        self.cluster.understood_by_all(&proposal).map_err(Status::aborted)?;
        let written = self.cluster.raft().client_write(proposal).await.map_err(Self::refused)?;
        self.answer(&written.data)
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let JoinRequest { node_id, name, address, feature_level } = request.into_inner();
        let (node, member) = (NodeId::new(node_id), Member { name, address, feature_level });
        self.cluster.has_moved(node, &member.address);
        let joined = timeout(JOIN_TIMEOUT, self.admit(node, member)).await;
        match joined.unwrap_or_else(|_| Err(Status::deadline_exceeded("the replica is not up to date yet"))) {
            Ok(()) => Ok(Response::new(JoinResponse {})),
            Err(refused) => Err(self.naming_the_leader(refused)),
        }
    }

    async fn remove(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        let MemberRequest { target, node_id } = request.into_inner();
        self.for_us(target)?;
        self.remove_member(NodeId::new(node_id)).await?;
        Ok(Response::new(MemberResponse {}))
    }

    async fn hand_over(&self, request: Request<MemberRequest>) -> Result<Response<MemberResponse>, Status> {
        let MemberRequest { target, node_id } = request.into_inner();
        self.for_us(target)?;
        let (own, node) = (self.cluster.id(), NodeId::new(node_id));
        let status = self.cluster.status().borrow().clone();
        if status.leader != Some(own) {
            return Err(Status::failed_precondition("this replica does not lead"));
        }
        if !status.members.get(&node).is_some_and(|member| member.voter) {
            return Err(Status::aborted(format!("{node} is not a voter")));
        }
        if node == own || self.cluster.hand_over(node).await {
            return Ok(Response::new(MemberResponse {}));
        }
        Err(Status::aborted(format!("{node} did not take over in time; {own} goes on leading")))
    }
}

fn ended(error: RaftError<TypeConfig>) -> Status {
    Status::unavailable(error.to_string())
}

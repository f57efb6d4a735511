//! The client side of Raft: openraft's messages over gRPC.

use std::{error::Error as _, future::Future, io};

use conduit_api::{
    NodeId,
    proto::peer::{RaftMessage, SnapshotChunk, raft_client::RaftClient},
};
use futures::stream;
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{
    peers::{MESSAGE_BYTES_MAX, Peers, Purpose},
    raft::{Member, Snapshot, TypeConfig, Vote},
    store::{decode, encode},
};

/// A snapshot travels in pieces of this size, each well below a stream's window.
const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Makes a [`Peer`] for each member.
pub(crate) struct Network {
    pub(crate) peers: Peers,
}

/// One member, as Raft talks to it: for as long as it is one, wherever it moves.
pub(crate) struct Peer {
    target: NodeId,
    /// Where it was first.
    address: String,
    purpose: Purpose,
    peers: Peers,
}

impl Network {
    fn peer(&self, target: NodeId, member: &Member, purpose: Purpose) -> Peer {
        Peer { target, address: member.address.clone(), purpose, peers: self.peers.clone() }
    }
}

/// A client that takes messages as large as Raft's.
pub(crate) fn client(channel: Channel) -> RaftClient<Channel> {
    RaftClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer {
        self.peer(target, node, Purpose::Messages)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Member) -> Peer {
        self.peer(target, node, Purpose::Snapshots)
    }
}

impl Peer {
    fn client(&self) -> RaftClient<Channel> {
        client(self.peers.channel(self.target, &self.address, self.purpose))
    }

    fn request<T: Serialize>(&self, message: &T, option: &RPCOption) -> Rpc<Request<RaftMessage>> {
        let payload = encode(message).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let mut request = Request::new(RaftMessage { target: self.target.as_u64(), payload });
        // Every call ends: one that does not would freeze the core (openraft#1810).
        request.set_timeout(option.hard_ttl());
        Ok(request)
    }
}

fn answer<T: DeserializeOwned>(answer: Result<Response<RaftMessage>, Status>) -> Rpc<T> {
    let message = answer.map_err(failed)?.into_inner();
    decode(&message.payload).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

/// What could not be delivered is worth a pause before the next attempt; what was lost on the way is not.
fn failed(status: Status) -> RPCError<TypeConfig> {
    let not_connected = status.code() == Code::Unavailable
        && status.source().is_some_and(|source| source.downcast_ref::<tonic::transport::Error>().is_some());
    let not_ours = matches!(status.code(), Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied);
    if not_connected || not_ours {
        RPCError::Unreachable(Unreachable::new(&status))
    } else {
        RPCError::Network(NetworkError::new(&status))
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let request = self.request(&rpc, &option)?;
        answer(self.client().append_entries(request).await)
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let request = self.request(&rpc, &option)?;
        answer(self.client().vote(request).await)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let request = self.request(&rpc, &option)?;
        answer(self.client().pre_vote(request).await)
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = self.request(&rpc, &option)?;
        answer(self.client().transfer_leader(request).await)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let broken = |error: io::Error| StreamingError::Network(NetworkError::new(&error));
        let header = encode(&(vote, snapshot.meta)).map_err(broken)?;
        let mut request = Request::new(stream::iter(chunks(self.target, header, snapshot.snapshot)));
        request.set_timeout(option.hard_ttl());
        let mut client = self.client();
        tokio::select! {
            sent = client.install_snapshot(request) => answer(sent).map_err(StreamingError::from),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}

/// At least one, which carries the header.
fn chunks(target: NodeId, header: Vec<u8>, data: Vec<u8>) -> impl Iterator<Item = SnapshotChunk> + Send {
    let target = target.as_u64();
    let first = SnapshotChunk { target, header, data: Vec::new() };
    let count = data.len().div_ceil(SNAPSHOT_CHUNK_BYTES);
    let rest = (0..count).map(move |i| {
        let end = data.len().min((i + 1) * SNAPSHOT_CHUNK_BYTES);
        SnapshotChunk { target, header: Vec::new(), data: data[i * SNAPSHOT_CHUNK_BYTES..end].to_vec() }
    });
    [first].into_iter().chain(rest)
}

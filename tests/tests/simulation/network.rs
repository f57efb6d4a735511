//! What replicas speak through in the simulation: connections without TLS, and a service that some messages reach twice.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use conduit_api::{
    NodeId,
    proto::peer::{
        JoinRequest, JoinResponse, MemberRequest, MemberResponse, RaftMessage, SnapshotChunk, raft_server::Raft,
    },
};
use conduit_consensus::{
    peers::{Dial, Dialing, Io},
    service::RaftService,
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};
use turmoil::net::TcpStream;

/// One message in so many arrives once more, after it was answered.
const TWICE_IN: u32 = 20;

/// Connections without TLS: what is simulated is the network.
pub struct SimulatedNetwork;

impl Dial for SimulatedNetwork {
    fn dial(&self, address: String, _: Option<NodeId>) -> Dialing {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Io>) })
    }
}

/// A replica's service, on a network that repeats itself.
pub struct Repeating {
    pub service: RaftService,
    pub random: Arc<Mutex<StdRng>>,
}

impl Repeating {
    fn repeats(&self) -> bool {
        self.random.lock().unwrap().random_range(0..TWICE_IN) == 0
    }
}

macro_rules! repeated {
    ($($name:ident: $request:ty => $response:ty),* $(,)?) => {
        #[tonic::async_trait]
        impl Raft for Repeating {
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let message = request.into_inner();
                let answer = Raft::$name(&self.service, Request::new(message.clone())).await;
                if self.repeats() {
                    // Whoever sent it has its answer already.
                    let _ = Raft::$name(&self.service, Request::new(message)).await;
                }
                answer
            })*

            async fn install_snapshot(
                &self,
                request: Request<Streaming<SnapshotChunk>>,
            ) -> Result<Response<RaftMessage>, Status> {
                Raft::install_snapshot(&self.service, request).await
            }
        }
    };
}

repeated! {
    append_entries: RaftMessage => RaftMessage,
    vote: RaftMessage => RaftMessage,
    pre_vote: RaftMessage => RaftMessage,
    transfer_leader: RaftMessage => RaftMessage,
    propose: RaftMessage => RaftMessage,
    join: JoinRequest => JoinResponse,
    remove: MemberRequest => MemberResponse,
    hand_over: MemberRequest => MemberResponse,
}

/// Tells tonic nothing of the connection.
pub struct Connection(pub TcpStream);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

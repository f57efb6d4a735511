//! The gRPC service that knows what can be voted for.

use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    catalog::{self, Entry},
    proto::{
        self, FindByShortcodeRequest, FindByShortcodeResponse, ListAllRequest, ListAllResponse,
        emoji_service_server::{EmojiService, EmojiServiceServer},
    },
    reflection,
    shutdown::Shutdown,
};

struct Emoji;

#[tonic::async_trait]
impl EmojiService for Emoji {
    async fn list_all(&self, _: Request<ListAllRequest>) -> Result<Response<ListAllResponse>, Status> {
        Ok(Response::new(ListAllResponse { list: catalog::ALL.iter().map(proto::Emoji::from).collect() }))
    }

    async fn find_by_shortcode(
        &self,
        request: Request<FindByShortcodeRequest>,
    ) -> Result<Response<FindByShortcodeResponse>, Status> {
        let found = catalog::find(&request.get_ref().shortcode);
        Ok(Response::new(FindByShortcodeResponse { emoji: found.map(proto::Emoji::from) }))
    }
}

impl From<&Entry> for proto::Emoji {
    fn from(entry: &Entry) -> Self {
        Self { unicode: entry.unicode.to_owned(), shortcode: entry.shortcode.to_owned() }
    }
}

/// Serves until the shutdown, and what is under way then.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    Server::builder()
        .add_service(EmojiServiceServer::new(Emoji))
        .add_service(reflection::service())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown.started())
        .await?;
    Ok(())
}

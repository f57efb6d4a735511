//! What `conduit local` can ask of the supervisor: a thin service that hands everything to the supervisor's own thread.

use std::pin::Pin;

use conduit_api::proto::local::{
    AddControllerRequest, AddControllerResponse, DownRequest, DownResponse, Progress, RemoveControllerRequest,
    RemoveControllerResponse, ScaleRequest, ScaleResponse, StatusRequest, StatusResponse, WatchRequest, local_server,
};
use futures::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// An order to the supervisor, with where the answer goes.
pub enum Order {
    /// How is everything?
    Status(oneshot::Sender<StatusResponse>),
    /// Another number of instances.
    Scale(ScaleRequest, oneshot::Sender<anyhow::Result<u32>>),
    /// One more replica; its name.
    AddController(oneshot::Sender<anyhow::Result<String>>),
    /// One replica fewer.
    RemoveController(String, oneshot::Sender<anyhow::Result<()>>),
    /// The end.
    Down(oneshot::Sender<()>),
}

/// The service.
pub struct LocalServer {
    /// To the supervisor.
    pub orders: mpsc::Sender<Order>,
    /// From it.
    pub progress: watch::Receiver<Progress>,
}

impl LocalServer {
    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        let ending = |_| Status::unavailable("the local mesh is being taken down");
        self.orders.send(order(sender)).await.map_err(|_| ending(()))?;
        answer.await.map_err(|_| ending(()))
    }
}

fn refused(error: anyhow::Error) -> Status {
    Status::failed_precondition(format!("{error:#}"))
}

#[tonic::async_trait]
impl local_server::Local for LocalServer {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Progress, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        use futures::StreamExt as _;
        Ok(Response::new(Box::pin(WatchStream::new(self.progress.clone()).map(Ok))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.order(Order::Status).await.map(Response::new)
    }

    async fn scale(&self, request: Request<ScaleRequest>) -> Result<Response<ScaleResponse>, Status> {
        let request = request.into_inner();
        let scaled = self.order(|answer| Order::Scale(request, answer)).await?;
        let ready = scaled.map_err(refused)?;
        Ok(Response::new(ScaleResponse { ready }))
    }

    async fn add_controller(
        &self,
        _: Request<AddControllerRequest>,
    ) -> Result<Response<AddControllerResponse>, Status> {
        let name = self.order(Order::AddController).await?.map_err(refused)?;
        Ok(Response::new(AddControllerResponse { name }))
    }

    async fn remove_controller(
        &self,
        request: Request<RemoveControllerRequest>,
    ) -> Result<Response<RemoveControllerResponse>, Status> {
        let member = request.into_inner().member;
        self.order(|answer| Order::RemoveController(member, answer)).await?.map_err(refused)?;
        Ok(Response::new(RemoveControllerResponse {}))
    }

    async fn down(&self, _: Request<DownRequest>) -> Result<Response<DownResponse>, Status> {
        self.order(Order::Down).await?;
        Ok(Response::new(DownResponse {}))
    }
}

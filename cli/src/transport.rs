//! How a call gets to the control plane: straight to a replica, or through the API server of a cluster, which knows who calls and what they may
//! ([`conduit_api::access`]).

use std::{
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use conduit_api::access::{Access, Method, NO_SUCH_RESOURCE, said_namespace};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::client::Body as KubeBody;
use tonic::{Status, body::Body, transport::Channel};
use tonic_web::{GrpcWebCall, GrpcWebClientService};
use tower::{BoxError, Service};

/// What is asked is written at once: the state of a large mesh, to be restored, has some megabytes.
const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Of what is wrong, as the API server says it.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// One of the two.
#[derive(Clone)]
pub enum Transport {
    /// gRPC to a replica.
    Replica(Channel),
    /// gRPC-Web to an API server.
    ApiServer(GrpcWebClientService<ApiServer>),
}

/// The API server of a cluster, and whom to ask there.
#[derive(Clone)]
pub struct ApiServer {
    client: kube::Client,
    /// Of the control plane.
    namespace: String,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl Transport {
    /// Through the API server that `client` knows, to the control plane in `namespace`.
    pub fn through(client: kube::Client, namespace: &str) -> Self {
        let api_server = ApiServer { client, namespace: namespace.to_owned() };
        Self::ApiServer(GrpcWebClientService::new(api_server))
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Answer<BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Replica(channel) => channel.poll_ready(cx).map_err(Into::into),
            // It is connected to when there is something to ask.
            Self::ApiServer(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Replica(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            Self::ApiServer(api_server) => {
                let answer = api_server.call(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
        }
    }
}

impl Service<Request<GrpcWebCall<Body>>> for ApiServer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Answer<BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GrpcWebCall<Body>>) -> Self::Future {
        let Some(method) = Method::of_grpc(request.uri().path()) else {
            return Box::pin(ready(Err(Status::unimplemented("this is no method of the public API").into())));
        };
        let namespace = said_namespace(request.extensions()).filter(|_| method.namespaced);
        let path = Access { method, namespace }.to_path(&self.namespace);
        let (client, control_plane) = (self.client.clone(), self.namespace.clone());
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            head.uri = Uri::try_from(path)?;
            // What it says is relevant to a connection of its own.
            head.headers.remove("te");
            let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map_err(too_long)?.to_bytes();
            let request = Request::from_parts(head, KubeBody::from(body));
            let response = client.send(request).await.map_err(unreachable)?;
            match response.status() {
                StatusCode::OK => Ok(response.map(Body::new)),
                status => Err(refused(status, response.into_body(), &control_plane).await.into()),
            }
        })
    }
}

fn too_long(error: BoxError) -> BoxError {
    match error.downcast::<LengthLimitError>() {
        Ok(_) => Status::resource_exhausted(format!("no more than {REQUEST_BYTES_MAX} bytes can be sent")).into(),
        Err(error) => error,
    }
}

fn unreachable(error: kube::Error) -> Status {
    let error = anyhow::Error::from(error);
    Status::unavailable(format!("the API server of the cluster cannot be asked: {}", error.root_cause()))
}

/// What the API server says instead of an answer of ours.
async fn refused(status: StatusCode, body: KubeBody, control_plane: &str) -> Status {
    let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    explain(status, said["message"].as_str().unwrap_or(&text).trim(), control_plane)
}

fn explain(status: StatusCode, said: &str, control_plane: &str) -> Status {
    match status {
        StatusCode::NOT_FOUND if said == NO_SUCH_RESOURCE => {
            Status::unimplemented("the control plane is of an older release than this command, and does not know it")
        }
        StatusCode::NOT_FOUND => Status::not_found(format!(
            "Conduit is not running in the \"{control_plane}\" namespace; install with: \
             conduit install --conduit-namespace {control_plane} | kubectl apply -f -; the same, if it runs and was installed without \
             its APIService"
        )),
        StatusCode::FORBIDDEN => Status::permission_denied(format!("the cluster does not let you: {said}")),
        StatusCode::UNAUTHORIZED => {
            Status::unauthenticated(format!("the cluster does not know you: {said}; sign in to it as for kubectl"))
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            Status::unavailable(format!(
                "no replica of the control plane in the \"{control_plane}\" namespace can be asked: {said}; look at them with: \
                 kubectl -n {control_plane} get pods"
            ))
        }
        _ => Status::unknown(format!("the API server of the cluster says {status}: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use conduit_api::{
        access::about,
        proto::public::{PodsRequest, VersionRequest, api_client::ApiClient},
    };
    use http_body_util::Full;
    use tonic::Code;
    use tower::service_fn;

    use super::*;

    /// A client of an API server that gives this answer, and the paths that it is asked.
    fn api_server(status: u16, body: &'static [u8]) -> (ApiClient<Transport>, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let paths = asked.clone();
        let service = service_fn(move |request: Request<KubeBody>| {
            paths.lock().unwrap().push(request.uri().path().to_owned());
            let answer = Response::builder().status(status).header("content-type", "application/grpc-web+proto");
            async move { Ok::<_, BoxError>(answer.body(Full::new(Bytes::from_static(body)))?) }
        });
        let client = kube::Client::new(service, "default");
        (ApiClient::new(Transport::through(client, "conduit")), asked)
    }

    #[tokio::test]
    async fn a_call_goes_where_the_rules_of_the_cluster_are_asked() {
        // A message of two bytes and its payload, and trailers, as gRPC-Web frames them.
        let (mut client, asked) = api_server(200, b"\0\0\0\0\x04\x0a\x02v7\x80\0\0\0\x10grpc-status: 0\r\n");
        let version = client.version(VersionRequest {}).await;
        let namespaced = PodsRequest { namespace: "shop".to_owned(), skip_connected: true };
        let _ = client.pods(about(namespaced)).await;
        let _ = client.pods(about(PodsRequest::default())).await;
        assert_eq!(version.map(|version| version.into_inner().version).unwrap(), "v7");
        let base = "/apis/conduit.api.conduit.io/v1alpha1/watch";
        let expected = ["version", "namespaces/shop/pods", "pods"].map(|path| format!("{base}/{path}"));
        assert_eq!(*asked.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn what_the_cluster_refuses_is_said_as_it_says_it() {
        let body = br#"{"kind": "Status", "message": "jane cannot watch resource \"version\""}"#;
        for (status, code, says) in [
            (403, Code::PermissionDenied, "the cluster does not let you: jane cannot watch"),
            (404, Code::NotFound, "Conduit is not running in the \"conduit\" namespace; install with: conduit install"),
            (503, Code::Unavailable, "kubectl -n conduit get pods"),
            (418, Code::Unknown, "418"),
        ] {
            let refused = api_server(status, body).0.version(VersionRequest {}).await.unwrap_err();
            assert_eq!(refused.code(), code);
            assert!(refused.message().contains(says), "{refused}");
        }
    }
}

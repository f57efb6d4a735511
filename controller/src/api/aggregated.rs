//! The public API as an extension of the cluster's own (see [`conduit_api::access`]): the API server says who calls, and has looked whether they
//! may.
//!
//! ```text
//!   conduit ──► API server ── who? may they? ──► this ── gRPC-Web, back to gRPC ──► ApiServer
//! ```

mod bounded;
mod front_proxy;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use conduit_api::access::{self, AboutNamespace, Access};
use http::{HeaderMap, Method, StatusCode, header::CONTENT_TYPE};
use serde_json::json;
use tonic::{Request, Status, body::Body};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service};

use self::bounded::Bounded;
pub use self::front_proxy::follow;

/// As API servers call it, unless told otherwise; what they are told, they publish, and it is the same everywhere.
const USER: &str = "x-remote-user";

/// Of a user's name, which goes into the audit: longer than anybody's, shorter than what somebody may make up.
const USER_CHARS_MAX: usize = 256;

/// Who calls, as the API server says.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user's name.
    pub user: String,
    /// The namespace that this call may be about; any if there is none.
    namespace: Option<String>,
}

/// Whether it is about what the caller may see: the API server was asked about a namespace, and only we read what the question is about.
///
/// # Errors
/// PERMISSION_DENIED when it is not.
pub fn admit<T: AboutNamespace>(request: &Request<T>) -> Result<(), Status> {
    let Some(Caller { namespace: Some(namespace), .. }) = request.extensions().get() else { return Ok(()) };
    let about = request.get_ref().namespace();
    if about == namespace {
        return Ok(());
    }
    let about = if about.is_empty() { "all namespaces" } else { about };
    Err(Status::permission_denied(format!(
        "this asks about {about}, and was let in by rights in the namespace {namespace}"
    )))
}

/// Wraps the API's services. The connections must be those of the API server, and of nobody else.
#[derive(Clone)]
pub struct Aggregation {
    /// The control plane's namespace.
    pub namespace: Arc<str>,
}

/// See [`Aggregation`].
#[derive(Clone)]
pub struct Aggregated<S> {
    namespace: Arc<str>,
    grpc_web: GrpcWebService<Bounded<S>>,
}

impl<S> Layer<S> for Aggregation {
    type Service = Aggregated<S>;

    fn layer(&self, grpc: S) -> Self::Service {
        Aggregated { namespace: self.namespace.clone(), grpc_web: GrpcWebLayer::new().layer(Bounded(grpc)) }
    }
}

impl<S> Service<http::Request<Body>> for Aggregated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        <GrpcWebService<Bounded<S>> as Service<http::Request<Body>>>::poll_ready(&mut self.grpc_web, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if request.method() == Method::GET && path == base(&self.namespace) {
            let answer = json(StatusCode::OK, &resources(&self.namespace));
            return Box::pin(async move { Ok(answer) });
        }
        let access = Access::of_path(path, &self.namespace).filter(|_| request.method() == Method::POST);
        let Some(access) = access else {
            let answer = json(StatusCode::NOT_FOUND, &failure(404, "NotFound", access::NO_SUCH_RESOURCE));
            return Box::pin(async move { Ok(answer) });
        };
        let Some(user) = user(request.headers()) else {
            let answer = json(StatusCode::UNAUTHORIZED, &failure(401, "Unauthorized", "nobody says who asks"));
            return Box::pin(async move { Ok(answer) });
        };
        *request.uri_mut() = http::Uri::from_maybe_shared(access.method.to_grpc()).expect("a path of letters");
        request.extensions_mut().insert(Caller { user, namespace: access.namespace });
        Box::pin(self.grpc_web.call(request))
    }
}

fn user(headers: &HeaderMap) -> Option<String> {
    // API servers send it as it is, in whatever letters.
    let user = String::from_utf8_lossy(headers.get(USER)?.as_bytes());
    (!user.is_empty()).then(|| user.chars().take(USER_CHARS_MAX).collect())
}

fn base(namespace: &str) -> String {
    format!("/apis/{}/{}", access::group(namespace), access::API_VERSION)
}

/// What `kubectl api-resources` shows, and what API servers look at to see whether somebody is here.
fn resources(namespace: &str) -> serde_json::Value {
    let resource = |method: &access::Method| {
        json!({
            "name": method.resource(),
            "singularName": "",
            "namespaced": method.namespaced,
            "kind": method.name,
            "verbs": [method.verb()],
        })
    };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{}/{}", access::group(namespace), access::API_VERSION),
        "resources": access::METHODS.iter().map(resource).collect::<Vec<_>>(),
    })
}

fn failure(code: u16, reason: &str, message: &str) -> serde_json::Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": message,
    })
}

fn json(status: StatusCode, value: &serde_json::Value) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(http_body_util::Full::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use conduit_api::{
        access::about,
        proto::public::{PodsRequest, ResourceSelection, StatRequest},
    };
    use http_body_util::BodyExt as _;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    /// What the services behind are asked, or what is answered instead.
    async fn ask(method: Method, path: &str, user: Option<&str>) -> Result<(String, Caller), StatusCode> {
        let seen = Arc::new(parking_lot::Mutex::new(None));
        let behind = {
            let seen = seen.clone();
            service_fn(move |request: http::Request<Body>| {
                let caller = request.extensions().get::<Caller>().cloned();
                *seen.lock() = caller.map(|caller| (request.uri().path().to_owned(), caller));
                async { Ok::<_, Infallible>(http::Response::new(Body::empty())) }
            })
        };
        let mut request = http::Request::builder().method(method).uri(path);
        request = request.header(CONTENT_TYPE, "application/grpc-web+proto");
        if let Some(user) = user {
            request = request.header(USER, user);
        }
        let aggregated = Aggregation { namespace: "conduit".into() }.layer(behind);
        let answer = aggregated.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        seen.lock().take().ok_or(answer.status())
    }

    #[tokio::test]
    async fn the_api_server_says_who_calls() {
        let base = "/apis/conduit.api.conduit.io/v1alpha1";
        let stat = format!("{base}/watch/namespaces/shop/stat");
        let (path, caller) = ask(Method::POST, &stat, Some("jane")).await.unwrap();
        assert_eq!((path.as_str(), caller.user.as_str()), ("/conduit.public.v1.Api/Stat", "jane"));
        assert_eq!(caller.namespace.as_deref(), Some("shop"));
        let (path, caller) = ask(Method::POST, &format!("{base}/carotate"), Some("root")).await.unwrap();
        assert_eq!((path.as_str(), caller.namespace), ("/conduit.public.v1.Api/CaRotate", None));
        let (_, caller) = ask(Method::POST, &stat, Some("jörg")).await.unwrap();
        assert_eq!(caller.user, "jörg");
        for user in [None, Some("")] {
            assert_eq!(ask(Method::POST, &stat, user).await.unwrap_err(), StatusCode::UNAUTHORIZED);
        }
        for (method, path, user) in [
            (Method::GET, stat.as_str(), Some("jane")),
            // Nobody was asked whether she may.
            (Method::POST, "/conduit.public.v1.Api/Stat", Some("jane")),
            (Method::POST, "/apis/another.api.conduit.io/v1alpha1/carotate", Some("jane")),
        ] {
            assert_eq!(ask(method, path, user).await.unwrap_err(), StatusCode::NOT_FOUND, "{path} {user:?}");
        }
        assert_eq!(ask(Method::GET, base, None).await.unwrap_err(), StatusCode::OK);
    }

    #[test]
    fn rights_in_a_namespace_are_rights_in_no_other() {
        let stat = |namespace: &str| {
            let selector = ResourceSelection { kind: "pod".into(), namespace: namespace.into(), ..Default::default() };
            about(StatRequest { selector: Some(selector), ..StatRequest::default() })
        };
        for (namespace, about, admitted) in [
            (None, "shop", true),
            (None, "", true),
            (Some("shop"), "shop", true),
            (Some("shop"), "bank", false),
            (Some("shop"), "", false),
        ] {
            let mut request = stat(about);
            let namespace = namespace.map(ToOwned::to_owned);
            request.extensions_mut().insert(Caller { user: "jane".to_owned(), namespace: namespace.clone() });
            assert_eq!(admit(&request).is_ok(), admitted, "{namespace:?} {about}");
        }
        assert!(admit(&Request::new(PodsRequest::default())).is_ok(), "on a socket, others decide");
    }

    #[tokio::test]
    async fn all_resources_are_listed() {
        let listed = resources("conduit");
        let body = json(StatusCode::OK, &listed).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), listed);
        let tap = listed["resources"].as_array().unwrap().iter().find(|resource| resource["kind"] == "Tap").unwrap();
        assert_eq!(
            tap,
            &json!({"name": "tap", "singularName": "", "namespaced": true, "kind": "Tap", "verbs": ["watch"]})
        );
    }
}

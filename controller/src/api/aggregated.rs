//! The public API as an extension of the cluster's own (see [`conduit_api::access`]): the API server says who calls, and has looked whether they
//! may.
//!
//! ```text
//!   conduit ──► API server ── who? may they? ──► this ── gRPC-Web, back to gRPC ──────► ApiServer
//!   a page, by kubectl proxy ──► API server ──► this ── JSON, by way of the dashboard ─► ApiServer
//! ```

mod bounded;
mod front_proxy;
mod json;

use std::{
    convert::Infallible,
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

pub use self::front_proxy::follow;
use self::{bounded::Bounded, json::Json};

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

/// Services of gRPC.
pub trait Grpc:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Grpc for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// See [`Aggregation`].
#[derive(Clone)]
pub struct Aggregated<S> {
    namespace: Arc<str>,
    grpc_web: GrpcWebService<Bounded<S>>,
    json: Json<Bounded<S>>,
}

impl<S: Grpc> Layer<S> for Aggregation {
    type Service = Aggregated<S>;

    fn layer(&self, grpc: S) -> Self::Service {
        let json = Json::over(Bounded(grpc.clone()));
        Aggregated { namespace: self.namespace.clone(), grpc_web: GrpcWebLayer::new().layer(Bounded(grpc)), json }
    }
}

impl<S: Grpc> Service<http::Request<Body>> for Aggregated<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        <GrpcWebService<Bounded<S>> as Service<http::Request<Body>>>::poll_ready(&mut self.grpc_web, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if request.method() == Method::GET && path == access::base(&self.namespace) {
            return answer(StatusCode::OK, &resources(&self.namespace));
        }
        let asked = Asked::read(&request, &self.namespace);
        let Some(asked) = asked else {
            return answer(StatusCode::NOT_FOUND, &failure(404, "NotFound", access::NO_SUCH_RESOURCE));
        };
        let Some(user) = user(request.headers()) else {
            return answer(StatusCode::UNAUTHORIZED, &failure(401, "Unauthorized", "nobody says who asks"));
        };
        let access = match asked {
            // The one thing that a page of somebody else can ask for without permission; it could not read it, and would only take a place.
            Asked::Page(_) if is_foreign(request.headers()) => {
                return answer(
                    StatusCode::FORBIDDEN,
                    &failure(403, "Forbidden", "only the dashboard's own pages may ask this"),
                );
            }
            Asked::Page(namespace) => {
                let page = self.json.live(request, Caller { user, namespace });
                return page.unwrap_or_else(|| {
                    let says =
                        "as many pages are open already as one person may have: close some, and load this one again";
                    answer(StatusCode::TOO_MANY_REQUESTS, &failure(429, "TooManyRequests", says))
                });
            }
            Asked::One(access) => access,
        };
        let caller = Caller { user, namespace: access.namespace };
        match Kind::of(request.headers()) {
            Some(Kind::GrpcWeb) => {}
            Some(Kind::Json) => return self.json.ask(request, &format!("/{}", access.method.name), caller),
            None => {
                return answer(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    &failure(415, "UnsupportedMediaType", "a question is JSON: send `content-type: application/json`"),
                );
            }
        }
        *request.uri_mut() = http::Uri::from_maybe_shared(access.method.to_grpc()).expect("a path of letters");
        request.extensions_mut().insert(caller);
        Box::pin(self.grpc_web.call(request))
    }
}

/// What there is to ask for.
enum Asked {
    /// All that a page of the dashboard shows, of one namespace or of all, again and again.
    Page(Option<String>),
    One(Access),
}

impl Asked {
    fn read(request: &http::Request<Body>, namespace: &str) -> Option<Self> {
        let path = request.uri().path();
        match *request.method() {
            Method::GET => access::is_live(path, namespace).map(Self::Page),
            Method::POST => Access::of_path(path, namespace).map(Self::One),
            _ => None,
        }
    }
}

/// What a question is written in. There is no default: another page that somebody has open beside `kubectl proxy` can send what has
/// none, and cannot send these without being asked for permission first.
enum Kind {
    GrpcWeb,
    Json,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/json" => Some(Self::Json),
            kind => kind.starts_with("application/grpc-web").then_some(Self::GrpcWeb),
        }
    }
}

/// Browsers say whose page asks.
fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

fn user(headers: &HeaderMap) -> Option<String> {
    // API servers send it as it is, in whatever letters.
    let user = String::from_utf8_lossy(headers.get(USER)?.as_bytes());
    (!user.is_empty()).then(|| user.chars().take(USER_CHARS_MAX).collect())
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
    let page =
        json!({ "name": access::LIVE, "singularName": "", "namespaced": true, "kind": "Live", "verbs": ["watch"] });
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{}/{}", access::group(namespace), access::API_VERSION),
        "resources": access::METHODS.iter().map(resource).chain([page]).collect::<Vec<_>>(),
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

fn answer(status: StatusCode, value: &serde_json::Value) -> Answering {
    let mut response = http::Response::new(Body::new(http_body_util::Full::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Box::pin(async move { Ok(response) })
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

    /// What the services behind are asked in gRPC-Web, or what is answered instead.
    async fn ask(method: Method, path: &str, user: Option<&str>) -> Result<(String, Caller), StatusCode> {
        ask_in("application/grpc-web+proto", method, path, user).await
    }

    async fn ask_in(
        kind: &str,
        method: Method,
        path: &str,
        user: Option<&str>,
    ) -> Result<(String, Caller), StatusCode> {
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
        request = request.header(CONTENT_TYPE, kind);
        if let Some(user) = user {
            request = request.header(USER, user);
        }
        let aggregated = Aggregation { namespace: "conduit".into() }.layer(behind);
        let mut answer = aggregated.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        // A page's stream asks when somebody reads it.
        let _ = answer.body_mut().frame().await;
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

    #[tokio::test]
    async fn what_is_asked_in_json_is_asked_by_the_same_rights() {
        let base = "/apis/conduit.api.conduit.io/v1alpha1";
        let json =
            async |method, path: &str, user| ask_in("application/json", method, &format!("{base}{path}"), user).await;
        let (path, caller) = json(Method::POST, "/watch/namespaces/shop/stat", Some("jane")).await.unwrap();
        assert_eq!((path.as_str(), caller.user.as_str()), ("/conduit.public.v1.Api/Stat", "jane"));
        assert_eq!(caller.namespace.as_deref(), Some("shop"));
        let (path, _) = json(Method::POST, "/carotate", Some("root")).await.unwrap();
        assert_eq!(path, "/conduit.public.v1.Api/CaRotate");
        let (path, caller) = json(Method::GET, "/watch/live?view=table&kind=authority", Some("jane")).await.unwrap();
        assert_eq!((path.as_str(), caller.user.as_str()), ("/conduit.public.v1.Api/Stat", "jane"));
        // Of one namespace there are pages as well, and what is of the whole mesh is not asked there.
        let path = "/watch/namespaces/shop/live?view=control";
        let (path, caller) = json(Method::GET, path, Some("jane")).await.unwrap();
        assert_eq!((path.as_str(), caller.namespace.as_deref()), ("/conduit.public.v1.Api/Pods", Some("shop")));
        for (method, path, user, status) in [
            (Method::GET, "/watch/live?view=routes", None, StatusCode::UNAUTHORIZED),
            (Method::GET, "/watch/live?view=nothing", Some("jane"), StatusCode::BAD_REQUEST),
            // The rules were asked about something else.
            (Method::POST, "/watch/live?view=routes", Some("jane"), StatusCode::NOT_FOUND),
            (Method::GET, "/live?view=routes", Some("jane"), StatusCode::NOT_FOUND),
            (Method::GET, "/watch/stat", Some("jane"), StatusCode::NOT_FOUND),
            (Method::POST, "/watch/carotate", Some("jane"), StatusCode::NOT_FOUND),
            // For the command line alone.
            (Method::POST, "/proxy/namespaces/shop/tappayload", Some("jane"), StatusCode::NOT_FOUND),
            (Method::POST, "/recover", Some("jane"), StatusCode::NOT_FOUND),
        ] {
            assert_eq!(json(method, path, user).await.unwrap_err(), status, "{path} {user:?}");
        }
    }

    #[tokio::test]
    async fn nobody_has_all_the_pages_that_there_may_be() {
        let service =
            service_fn(async |_: http::Request<Body>| Ok::<_, Infallible>(http::Response::new(Body::empty())));
        let aggregated = Aggregation { namespace: "conduit".into() }.layer(service);
        let open = async |user: &str, site: &str| {
            let path = "/apis/conduit.api.conduit.io/v1alpha1/watch/live?view=routes";
            let request = http::Request::get(path).header(USER, user).header("sec-fetch-site", site);
            aggregated.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
        };
        let mut pages = Vec::new();
        for _ in 0..8 {
            pages.push(open("jane", "same-origin").await);
        }
        assert!(pages.iter().all(|page| page.status() == StatusCode::OK));
        assert_eq!(open("jane", "same-origin").await.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(open("joe", "same-origin").await.status(), StatusCode::OK);
        pages.pop();
        assert_eq!(open("jane", "none").await.status(), StatusCode::OK, "she has closed one");
        assert_eq!(open("joe", "cross-site").await.status(), StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn pages_of_others_cannot_ask() {
        let path = "/apis/conduit.api.conduit.io/v1alpha1/carotate";
        for kind in ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
        {
            let refused = ask_in(kind, Method::POST, path, Some("root")).await.unwrap_err();
            assert_eq!(refused, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
        }
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
        let answer = answer(StatusCode::OK, &listed).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), listed);
        let tap = listed["resources"].as_array().unwrap().iter().find(|resource| resource["kind"] == "Tap").unwrap();
        assert_eq!(
            tap,
            &json!({"name": "tap", "singularName": "", "namespaced": true, "kind": "Tap", "verbs": ["watch"]})
        );
    }
}

//! The dashboard: a web application, and the public API as JSON for it and for tools.
//!
//! ```text
//! browser ── GET /            ─► files      what `npm run build` made, embedded
//!         ── POST api/v1/Stat ─► call     ─┐
//!         ── GET api/v1/live  ─► live     ─┴► transcode ─► upstream ─► any replica of the control plane
//!         ── GET api/v1/openapi.json ─► openapi   what of it there is
//!            all of it through guard: whom a page is for, and what it may load
//! ```
//!
//! [`router`] puts it together. Whoever serves it says by [`Connect`] how a replica is found; it acts with the rights of that
//! connection, so that it is for the person who has them and nobody else. Where somebody else knows who asks, an API server,
//! there is either half: [`pages`], which have no rights and tell nothing, and [`json_api`], each of whose requests comes with an upstream of its own.

mod call;
mod codec;
mod failure;
mod files;
mod guard;
mod live;
mod methods;
mod openapi;
mod transcode;
mod upstream;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    middleware,
    response::{Html, Redirect},
    routing::{any, get, post},
};
use bytes::Bytes;
use tonic::Status;

use self::failure::Failure;
pub use self::{
    guard::Hosts,
    upstream::{Channel, Connect, Upstream},
};

/// The largest question that people and pages ask, a few rules of routes, is far below it.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Where it is served, to whom, and what they may do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Paths in front of all of it, beside none at all: begins with `/`, and does not end with one.
    pub prefixes: Vec<String>,
    /// What a browser may call this server.
    pub hosts: Hosts,
    /// Methods that change something are served as well.
    pub writes: bool,
    /// Other pages, by their paths.
    pub pages: Vec<(String, &'static str)>,
}

/// What handlers share.
#[derive(Clone)]
struct Shared {
    methods: Arc<methods::Methods>,
    live: live::Places,
    /// What `openapi.json` is, from the first time on that somebody asks for it.
    document: Arc<OnceLock<Bytes>>,
}

/// Serves the application and the API over what `upstream` finds.
pub fn router(upstream: Upstream, options: &Options) -> Router {
    let mut all = routes("");
    for prefix in &options.prefixes {
        // Without the slash everything that is relative would be looked for beside it.
        let target = format!("{prefix}/");
        all = all.merge(routes(prefix)).route(prefix, get(async move || Redirect::permanent(&target)));
    }
    for (path, page) in &options.pages {
        let page = *page;
        all = all.route(path, get(async move || Html(page)));
    }
    let guard = middleware::from_fn_with_state(options.hosts, guard::guard);
    let all = all.fallback(files::not_found).method_not_allowed_fallback(call::not_allowed);
    let all = all.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(Extension(Arc::new(upstream))).layer(guard);
    all.with_state(Shared::new(options.writes, live::Places::of_one()))
}

/// The application alone. It asks its questions at `api`, a path as seen from the page, of [`json_api`] by the names of Kubernetes' resources; what
/// is asked here instead is answered with `advice`.
pub fn pages(api: &str, advice: &'static str) -> Router {
    let elsewhere = async move || Failure::from(Status::not_found(advice));
    let page = files::index_asking(api);
    Router::new()
        .route("/", get(async move || page.respond()))
        .merge(beside(""))
        .route("/api/{*path}", any(elsewhere))
        .route("/apis/{*path}", any(elsewhere))
        .fallback(files::not_found)
        .method_not_allowed_fallback(call::not_allowed)
        .layer(middleware::map_response(guard::restrict))
}

/// Methods at `/METHOD` and pages' streams at [`LIVE`], for whoever is let in: each request has an `Extension<Arc<Upstream>>`, by whose rights it is
/// answered. Those of [`Options::writes`] are among them.
pub fn json_api() -> Router {
    let methods = methods("").method_not_allowed_fallback(call::not_allowed);
    methods.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(Shared::new(true, live::Places::of_all()))
}

/// Where a page's stream is, in [`json_api`].
pub const LIVE: &str = "/live";

impl Shared {
    fn new(writes: bool, live: live::Places) -> Self {
        let methods = Arc::new(methods::Methods::new(writes));
        Self { methods, live, document: Arc::default() }
    }
}

fn routes(prefix: &str) -> Router<Shared> {
    beside(prefix)
        .route(&format!("{prefix}/"), get(files::index))
        .route(&format!("{prefix}/api/v1/openapi.json"), get(openapi::serve))
        .merge(methods(&format!("{prefix}/api/v1")))
}

/// What a page names.
fn beside<S: Clone + Send + Sync + 'static>(prefix: &str) -> Router<S> {
    Router::new()
        .route(&format!("{prefix}/{{file}}"), get(files::file))
        .route(&format!("{prefix}/assets/{{file}}"), get(files::asset))
}

fn methods(base: &str) -> Router<Shared> {
    Router::new()
        .route(&format!("{base}{LIVE}"), get(live::serve))
        .route(&format!("{base}/{{method}}"), post(call::call))
}

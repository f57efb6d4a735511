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
//! connection, so that it is for the person who has them and nobody else.

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
    Router,
    extract::DefaultBodyLimit,
    middleware,
    response::{Html, Redirect},
    routing::{get, post},
};
use bytes::Bytes;

pub use self::{
    guard::Hosts,
    upstream::{Connect, Upstream},
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
    upstream: Arc<Upstream>,
    methods: Arc<methods::Methods>,
    live: live::Places,
    /// What `openapi.json` is, from the first time on that somebody asks for it.
    document: Arc<OnceLock<Bytes>>,
}

/// Serves the application and the API over what `upstream` finds.
pub fn router(upstream: Upstream, options: &Options) -> Router {
    let shared = Shared {
        upstream: Arc::new(upstream),
        methods: Arc::new(methods::Methods::new(options.writes)),
        live: live::Places::default(),
        document: Arc::default(),
    };
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
    all.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(guard).with_state(shared)
}

fn routes(prefix: &str) -> Router<Shared> {
    Router::new()
        .route(&format!("{prefix}/"), get(files::index))
        .route(&format!("{prefix}/{{file}}"), get(files::file))
        .route(&format!("{prefix}/assets/{{file}}"), get(files::asset))
        .route(&format!("{prefix}/api/v1/live"), get(live::serve))
        .route(&format!("{prefix}/api/v1/openapi.json"), get(openapi::serve))
        .route(&format!("{prefix}/api/v1/{{method}}"), post(call::call))
}

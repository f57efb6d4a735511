//! The shell of [`routes`](super::routes) and [`status`](super::status): watches HTTPRoutes, if the cluster has that kind, and writes
//! what is said of them.

use std::time::Duration;

use conduit_api::gateway::{GROUP, KIND, VERSION};
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    kinds,
    objects::Observed,
    status::Statement,
    watch::{NOT_TOLD, config},
};

/// Between two looks whether the cluster has the kind by now, which somebody has to install.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// For the list of all kinds. Who says nothing by then has not said that one is missing.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Routes whose status is written at once: a Service that is deleted may be that of many.
const AT_ONCE: usize = 8;
/// Between two rounds of writing: the API server has told of the last one's by then.
const PAUSE: Duration = Duration::from_millis(200);
/// Until what was not taken is tried again.
const RETRY: Duration = Duration::from_secs(10);

fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, KIND), "httproutes")
}

struct Watch {
    client: Client,
    routes: Api<DynamicObject>,
    /// Nothing while the cluster has no such kind.
    events: Option<BoxStream<'static, watcher::Result<Event<DynamicObject>>>>,
    /// It has been logged.
    is_missed: bool,
}

/// What happens to routes; and that there are none to be had, at each look.
pub fn observe(client: &Client) -> impl Stream<Item = Observed> + Send + 'static {
    let routes = Api::all_with(client.clone(), &resource());
    let first = Watch { client: client.clone(), events: Some(events(&routes)), routes, is_missed: false };
    stream::unfold(first, |mut watch| async {
        loop {
            let Some(following) = &mut watch.events else {
                sleep(LOOK_AGAIN).await;
                watch.events = Some(events(&watch.routes));
                continue;
            };
            match following.next().await? {
                Ok(event) => {
                    // That a list is asked for is no answer.
                    watch.is_missed &= matches!(event, Event::Init);
                    return Some((Observed::Route(event), watch));
                }
                // Whoever stands in between can say that there is no such path.
                Err(error) if is_missing(&error) && is_absent(&watch.client).await => {
                    watch.events = None;
                    if !std::mem::replace(&mut watch.is_missed, true) {
                        info!(
                            "the cluster has no HTTPRoutes: install the Gateway API to have them; they are looked for every minute"
                        );
                    }
                    return Some((Observed::NoRouteKind, watch));
                }
                Err(error) => {
                    warn!(what = "httproutes", %error, "{NOT_TOLD}");
                    return Some((Observed::RoutesUntold, watch));
                }
            }
        }
    })
}

fn events(routes: &Api<DynamicObject>) -> BoxStream<'static, watcher::Result<Event<DynamicObject>>> {
    watcher(routes.clone(), config()).default_backoff().boxed()
}

/// By its code alone: a path that is not served is answered with a text. An API server that has just started says something else until it
/// knows all its kinds: 503 (since Kubernetes 1.23).
fn is_missing(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Whether the cluster says, in all that it says of itself, that it has no such kind.
async fn is_absent(client: &Client) -> bool {
    let asked = async {
        let groups = client.list_api_groups().await?;
        if kinds::has_version(&groups, GROUP, VERSION) != Some(true) {
            return Ok(kinds::has_version(&groups, GROUP, VERSION) == Some(false));
        }
        let resources = client.list_api_group_resources(&format!("{GROUP}/{VERSION}")).await?;
        Ok::<_, kube::Error>(!kinds::has_kind(&resources, KIND))
    };
    match timeout(DISCOVERY_TIMEOUT, asked).await {
        Ok(Ok(is_absent)) => is_absent,
        Ok(Err(error)) => {
            warn!(%error, "the API server does not say which kinds it has");
            false
        }
        Err(_) => false,
    }
}

/// Writes what is to be said, until nobody has anything to say any more.
pub async fn say(client: Client, mut statements: watch::Receiver<Vec<Statement>>) {
    loop {
        let wanted = statements.borrow_and_update().clone();
        let each = stream::iter(wanted).map(|statement| write(client.clone(), statement)).buffer_unordered(AT_ONCE);
        let all_taken = each.fold(true, |all, taken| std::future::ready(all && taken)).await;
        sleep(PAUSE).await;
        tokio::select! {
            changed = statements.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if !all_taken => {}
        }
    }
}

/// Whether there is nothing left to do.
async fn write(client: Client, statement: Statement) -> bool {
    let routes = Api::<DynamicObject>::namespaced_with(client, &statement.namespace, &resource());
    let patch = Patch::Merge(statement.patch(&Time(Timestamp::now())));
    match routes.patch_status(&statement.name, &PatchParams::default(), &patch).await {
        Ok(_) => true,
        // Somebody else has changed the route, or deleted it: that is told, and decided about anew.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => true,
        Err(error) => {
            let route = format!("{}/{}", statement.namespace, statement.name);
            warn!(route, %error, "the status of an HTTPRoute is not what it should be; it is tried again");
            false
        }
    }
}

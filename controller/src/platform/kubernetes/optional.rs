//! Watches kinds that a cluster may lack: what people install beside Conduit, and what an earlier release of it has not installed.

use std::time::Duration;

use conduit_api::{gateway, objective};
use conduit_consensus::DECLARATIONS_LEVEL;
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    kinds,
    objects::Observed,
    watch::{NOT_TOLD, config},
};

/// Between two looks whether the cluster has the kind by now, which somebody has to install.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// For the list of all kinds. Who says nothing by then has not said that one is missing.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional {
    /// Which requests go where.
    HttpRoute,
    /// What is promised.
    Objective,
}

impl Optional {
    /// As the API server calls them, in a log.
    pub fn plural(self) -> &'static str {
        match self {
            Self::HttpRoute => "httproutes",
            Self::Objective => "objectives",
        }
    }

    /// Where they are.
    pub fn resource(self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&self.kind(), self.plural())
    }

    /// The feature level at which replicas know of them.
    pub fn level(self) -> u32 {
        match self {
            Self::HttpRoute => 0,
            Self::Objective => DECLARATIONS_LEVEL,
        }
    }

    fn kind(self) -> GroupVersionKind {
        match self {
            Self::HttpRoute => GroupVersionKind::gvk(gateway::GROUP, gateway::VERSION, gateway::KIND),
            Self::Objective => GroupVersionKind::gvk(objective::GROUP, objective::VERSION, objective::KIND),
        }
    }

    fn observed(self, event: Event<DynamicObject>) -> Observed {
        match self {
            Self::HttpRoute => Observed::Route(event),
            Self::Objective => Observed::Objective(event),
        }
    }

    /// How a cluster gets it.
    fn advice(self) -> &'static str {
        match self {
            Self::HttpRoute => "install the Gateway API to have them",
            Self::Objective => "apply what `conduit install` prints again to have them",
        }
    }
}

struct Watch {
    kind: Optional,
    client: Client,
    objects: Api<DynamicObject>,
    /// Nothing while the cluster has no such kind.
    events: Option<BoxStream<'static, watcher::Result<Event<DynamicObject>>>>,
    /// It has been logged.
    is_missed: bool,
}

/// What happens to objects of that kind; and that there are none to be had, at each look.
pub fn observe(client: &Client, kind: Optional) -> impl Stream<Item = Observed> + Send + 'static {
    let objects = Api::all_with(client.clone(), &kind.resource());
    let first = Watch { kind, client: client.clone(), events: Some(events(&objects)), objects, is_missed: false };
    stream::unfold(first, |mut watch| async {
        loop {
            let Some(following) = &mut watch.events else {
                sleep(LOOK_AGAIN).await;
                watch.events = Some(events(&watch.objects));
                continue;
            };
            match following.next().await? {
                Ok(event) => {
                    // That a list is asked for is no answer.
                    watch.is_missed &= matches!(event, Event::Init);
                    return Some((watch.kind.observed(event), watch));
                }
                // Whoever stands in between can say that there is no such path.
                Err(error) if is_missing(&error) && is_absent(&watch.client, &watch.kind.kind()).await => {
                    watch.events = None;
                    if !std::mem::replace(&mut watch.is_missed, true) {
                        info!(
                            "the cluster has no {}s: {}; they are looked for every minute",
                            watch.kind.kind().kind,
                            watch.kind.advice()
                        );
                    }
                    return Some((Observed::Missing(watch.kind), watch));
                }
                Err(error) => {
                    warn!(what = watch.kind.plural(), %error, "{NOT_TOLD}");
                    return Some((Observed::Untold(watch.kind), watch));
                }
            }
        }
    })
}

fn events(objects: &Api<DynamicObject>) -> BoxStream<'static, watcher::Result<Event<DynamicObject>>> {
    watcher(objects.clone(), config()).default_backoff().boxed()
}

/// By its code alone: a path that is not served is answered with a text. An API server that has just started says something else until it
/// knows all its kinds: 503 (since Kubernetes 1.23).
fn is_missing(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Whether the cluster says, in all that it says of itself, that it has no such kind.
async fn is_absent(client: &Client, GroupVersionKind { group, version, kind }: &GroupVersionKind) -> bool {
    let asked = async {
        let groups = client.list_api_groups().await?;
        if kinds::has_version(&groups, group, version) != Some(true) {
            return Ok(kinds::has_version(&groups, group, version) == Some(false));
        }
        let resources = client.list_api_group_resources(&format!("{group}/{version}")).await?;
        Ok::<_, kube::Error>(!kinds::has_kind(&resources, kind))
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

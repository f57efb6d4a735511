//! The shell of [`Objects`]: watches the cluster, as long as somebody wants to know.

use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _, stream, stream::BoxStream};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Config, Event, watcher},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;

use super::{
    super::{failing, told::Told},
    excerpts::{EndpointSlice, Pod, Service},
    objects::{Objects, Observed},
    optional::{self, Optional},
    status::Statement,
};

/// Objects in one answer to a list: their JSON is some megabytes.
const PAGE: u32 = 500;
/// After which a watch is made again, so that one that has silently died is noticed.
const WATCH_SECONDS: u32 = 45;
/// Between two times that something is told: while everything changes at once, one of them is enough for many changes. What is gone waits no longer than this.
const PAUSE: Duration = Duration::from_millis(20);

/// What is told of a watch that fails.
pub const NOT_TOLD: &str = "the API server does not tell; what it told last stays in force";

/// What runs in the cluster, all of it at first, and whenever it has changed; `statements` gets what is to be said of it, `failing` what does not
/// run as it should, and `meanwhile` is done, as long as somebody wants to know.
pub fn told(
    client: &Client,
    mut objects: Objects,
    statements: watch::Sender<Vec<Statement>>,
    failing: failing::Told,
    meanwhile: impl Future<Output = ()> + Send + 'static,
) -> BoxStream<'static, Told> {
    let mut observed = observe(client);
    // One waits to be heard: what has changed since is in the next.
    let (sender, receiver) = mpsc::channel(1);
    let nobody_listens = sender.clone();
    // Not on the actors' thread: a great cluster takes milliseconds.
    tokio::spawn(async move {
        let follow = async {
            let mut is_new = false;
            while let Some(next) = observed.next().await {
                is_new |= objects.observe(next);
                while let Some(Some(next)) = observed.next().now_or_never() {
                    is_new |= objects.observe(next);
                }
                if is_new && objects.is_complete() {
                    is_new = false;
                    let Ok(place) = sender.reserve().await else { return };
                    let (told, said) = objects.tell();
                    place.send(told);
                    failing.say(objects.failures());
                    statements.send_if_modified(|known| {
                        *known != said && {
                            *known = said;
                            true
                        }
                    });
                    sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(follow, meanwhile) } => {}
            () = nobody_listens.closed() => {}
        }
    });
    ReceiverStream::new(receiver).boxed()
}

fn observe(client: &Client) -> BoxStream<'static, Observed> {
    let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), config());
    let nodes = watcher(Api::<PartialObjectMeta<Node>>::all(client.clone()), config());
    let services = watcher(Api::<Service>::all(client.clone()), config());
    let slices = watcher(Api::<EndpointSlice>::all(client.clone()), config());
    let pods = watcher(Api::<Pod>::all(client.clone()), config());
    let all = [
        events("namespaces", namespaces).map(Observed::Namespace).boxed(),
        events("nodes", nodes).map(Observed::Node).boxed(),
        events("services", services).map(Observed::Service).boxed(),
        events("endpointslices", slices).map(Observed::EndpointSlice).boxed(),
        events("pods", pods).map(Observed::Pod).boxed(),
        optional::observe(client, Optional::HttpRoute).boxed(),
        optional::observe(client, Optional::Objective).boxed(),
    ];
    stream::select_all(all).boxed()
}

/// How each kind is watched.
pub fn config() -> Config {
    Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

/// What has happened, without what went wrong: it is tried again, and nothing is gone until a list has said so.
fn events<K: Send + 'static>(
    what: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> impl Stream<Item = Event<K>> + Send + 'static {
    events.default_backoff().filter_map(move |event| {
        let event = event.map_err(|error| warn!(what, %error, "{NOT_TOLD}"));
        std::future::ready(event.ok())
    })
}

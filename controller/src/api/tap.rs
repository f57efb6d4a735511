//! `conduit tap`: one stream out of every replica's.

use std::{future::ready, pin::Pin, time::Duration};

use conduit_api::{
    proto::{
        common::Direction,
        peer::{PeerTapRequest, peer_client::PeerClient},
        public::{ResourceSelection, TapRequest},
        tap::{Match, TapEvent},
    },
    tap::Ends,
};
use conduit_consensus::Command;
use futures::{Stream, StreamExt as _, stream};
use tokio::time::timeout;
use tonic::Status;
use tracing::warn;

use super::routes::propose;
use crate::{peer::server::Own, tap::concerns};

/// A DNS subdomain's.
const NAME_CHARS_MAX: usize = 253;

/// After so long without any event comes one that says nothing. Who hears none for several times as long is connected to nobody any more.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// As Conduit has had it since 2018.
const DEFAULT_RPS: f32 = 100.0;

/// The events of all proxies that `request` concerns, until the stream is dropped. With `audited`, payloads as well, once it is committed that this
/// person asked for them.
///
/// # Errors
/// NOT_FOUND when it concerns no pod; INVALID_ARGUMENT when it names nothing, or what is no address.
pub async fn tap(
    own: &Own,
    request: TapRequest,
    audited: Option<&str>,
) -> Result<Pin<Box<dyn Stream<Item = Result<TapEvent, Status>> + Send>>, Status> {
    let target = request.target.clone().ok_or_else(|| Status::invalid_argument("tap without a target"))?;
    let state = own.cluster.state().borrow().clone();
    let pods = state.pods().keys().filter(|pod| concerns(&target, pod, &state)).count();
    if pods == 0 {
        let name = if target.name.is_empty() { "*" } else { &target.name };
        let message = format!("no pods found for {}/{name} in namespace `{}`", target.kind, target.namespace);
        return Err(Status::not_found(message));
    }
    let about = in_words(&target);
    let payloads = audited.is_some();
    let total = if request.max_rps > 0.0 { request.max_rps } else { DEFAULT_RPS };
    let mut matches = request.r#match.unwrap_or_default();
    only_what_the_proxy_can_tell(&mut matches);
    let ends = Ends::try_from(&matches).map_err(|error| Status::invalid_argument(error.to_string()))?;
    // Every proxy may use its share: together they keep to what was asked for, without asking each other.
    // By the same right, and written down as well.
    let (max_rps, headers) = (total / pods as f32, request.headers && payloads);
    let tap = TapRequest { target: Some(target), r#match: Some(matches), max_rps, headers };

    let mut streams = vec![own.taps.watch(tap.clone(), payloads)?.boxed()];
    // When it is sure that there is room, and before anything is told.
    if let Some(who) = audited {
        propose(own, who, Command::TapPayloads { target: about }).await?;
    }
    let members: Vec<_> = own.cluster.status().borrow().members.keys().copied().collect();
    for node in members.into_iter().filter(|node| *node != own.cluster.id()) {
        let Some(channel) = own.cluster.channel(node) else { continue };
        let request = PeerTapRequest { tap: Some(tap.clone()), payloads };
        let remote = async move {
            match PeerClient::new(channel).tap(request).await {
                // A replica that dies takes its part of the tap with it; its proxies attach to another, which knows the tap.
                Ok(events) => events.into_inner().filter_map(|event| async { event.ok().map(Ok) }).boxed(),
                Err(error) => {
                    warn!(%node, %error, "a replica does not take part in a tap");
                    stream::empty().boxed()
                }
            }
        };
        streams.push(stream::once(remote).flatten().boxed());
    }
    Ok(Box::pin(with_heartbeat(only(ends, stream::select_all(streams)).boxed())))
}

/// For the audit. What people send is cut: a name of Kubernetes is no longer. Namespaces are in none, whatever else is asked for.
fn in_words(target: &ResourceSelection) -> String {
    let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect::<String>();
    let name = if target.name.is_empty() { "*" } else { &target.name };
    let place = match target.namespace.as_str() {
        "" => String::new(),
        _ if target.kind == "namespace" => String::new(),
        namespace => format!(" in {}", cut(namespace)),
    };
    format!("{}/{}{place}", cut(&target.kind), cut(name))
}

/// A proxy, or a replica, of a release that knows nothing of addresses tells of every request.
fn only(
    ends: Ends,
    events: impl Stream<Item = Result<TapEvent, Status>> + Send,
) -> impl Stream<Item = Result<TapEvent, Status>> + Send {
    events.filter_map(move |event| ready(event.map(|event| ends.keep(event)).transpose()))
}

/// Ends when `events` do.
fn with_heartbeat(
    events: impl Stream<Item = Result<TapEvent, Status>> + Send + Unpin,
) -> impl Stream<Item = Result<TapEvent, Status>> + Send {
    stream::unfold(events, |mut events| async move {
        let event = timeout(HEARTBEAT, events.next()).await.unwrap_or(Some(Ok(TapEvent::default())))?;
        Some((event, events))
    })
}

/// Only the sender's proxy knows which workload a request goes to.
fn only_what_the_proxy_can_tell(matches: &mut Match) {
    if matches.to.is_some() {
        matches.set_direction(Direction::Outbound);
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::{
        common::SocketAddress,
        tap::tap_event::{Kind, Peer, ResponseInit},
    };
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn what_is_written_down_is_what_is_looked_at() {
        let selection = |kind: &str, namespace: &str, name: &str| {
            in_words(&ResourceSelection { kind: kind.into(), namespace: namespace.into(), name: name.into() })
        };
        assert_eq!(selection("deployment", "shop", "web"), "deployment/web in shop");
        assert_eq!(selection("pod", "shop", ""), "pod/* in shop");
        assert_eq!(selection("deployment", "", "web"), "deployment/web");
        assert_eq!(selection("namespace", "shop; approved by ann", "shop"), "namespace/shop");
        assert_eq!(selection("pod", "a\nb", &"x".repeat(300)), format!("pod/{} in ab", "x".repeat(NAME_CHARS_MAX)));
    }

    #[tokio::test]
    async fn a_proxy_that_knows_no_addresses_does_not_answer_for_all_of_them() {
        let event = |port, dropped| {
            let address = Some(SocketAddress { ip: vec![10, 0, 0, 1], port });
            let destination = Some(Peer { address, ..Peer::default() });
            let kind = Some(Kind::ResponseInit(ResponseInit::default()));
            TapEvent { destination, kind, dropped, ..TapEvent::default() }
        };
        let to_address = Some(SocketAddress { ip: Vec::new(), port: 80 });
        let ends = Ends::try_from(&Match { to_address, ..Match::default() }).unwrap();
        let events = stream::iter([event(80, 0), event(8080, 0), event(8080, 3), event(80, 1)]).map(Ok);
        let told: Vec<_> = only(ends, events).map(Result::unwrap).collect().await;
        assert_eq!(told, [event(80, 0), TapEvent { dropped: 3, ..TapEvent::default() }, event(80, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tap_that_has_nothing_to_say_says_so() {
        let event = TapEvent { direction: 1, ..TapEvent::default() };
        let late = stream::once(async {
            tokio::time::sleep(HEARTBEAT * 2 + HEARTBEAT / 2).await;
            Ok(TapEvent { direction: 1, ..TapEvent::default() })
        });
        let start = Instant::now();
        let told: Vec<_> = with_heartbeat(late.boxed()).map(Result::unwrap).collect().await;
        assert_eq!(told, [TapEvent::default(), TapEvent::default(), event]);
        assert_eq!(start.elapsed(), HEARTBEAT * 2 + HEARTBEAT / 2);
    }
}

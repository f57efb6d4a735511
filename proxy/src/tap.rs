//! Requests that somebody watches, as they pass.
//!
//! Without a tap a request costs one relaxed load. With one, a data thread matches its requests against the taps, and gives
//! what it saw to the control thread, if that can take it: what cannot be taken is counted, and never waited for.

pub mod client;
pub mod headers;
pub mod payload;
pub mod reflection;
mod schemas;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use conduit_api::{
    proto::{
        common::{self, ResourceRef},
        tap::{AttachRequest, Match, Observed, Start, TapEvent, attach_request, tap_event},
    },
    tap::Ends,
};
use tokio::{sync::mpsc, time::Instant};

use self::payload::Payloads;

/// Events between the data threads and the control plane.
const EVENTS_MAX: usize = 1024;
/// Of messages and headers in these events: what watching may cost the proxy's memory.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Of messages that are not whole yet, of all requests.
const PARTIAL_BYTES_MAX: usize = 1024 * 1024;

/// The running taps, and where what they see goes. Clones are the same.
#[derive(Clone)]
pub struct Taps {
    /// Whether there are any: what a request looks at.
    any: Arc<AtomicBool>,
    running: Arc<ArcSwap<Vec<Arc<Tap>>>>,
    events: mpsc::Sender<AttachRequest>,
    /// Of messages that wait there.
    payload_bytes: Arc<AtomicUsize>,
    partial_bytes: Arc<AtomicUsize>,
    payloads: Payloads,
    started: Instant,
}

/// One of them.
pub struct Tap {
    id: u64,
    matches: Match,
    /// None if they cannot be read: then no request has them.
    ends: Option<Ends>,
    max_rps: f32,
    /// It sees messages as well.
    payloads: bool,
    /// It sees what heads say.
    headers: bool,
    /// The second that is being counted, since the proxy's start, in the upper half; requests in it in the lower.
    second: AtomicU64,
    dropped: AtomicU64,
    /// Nobody asks for it any more. Requests that it watched may still be under way.
    ended: AtomicBool,
}

/// What a tap may look at when a request begins.
pub struct Request<'a> {
    /// Inbound or outbound.
    pub direction: common::Direction,
    /// e.g. `GET`
    pub method: &'a str,
    /// e.g. `http`
    pub scheme: &'a str,
    /// Host and port, as the request names them.
    pub authority: &'a str,
    /// With the query.
    pub path: &'a str,
    /// Who asks.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Where it goes, if that is known.
    pub workload: Option<&'a ResourceRef>,
    /// Where it goes, if that is known.
    pub pod: Option<&'a ResourceRef>,
}

impl Taps {
    /// None running; what they see can be received. They see of messages what `payloads` allows.
    pub fn new(payloads: Payloads) -> (Self, mpsc::Receiver<AttachRequest>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let taps = Self {
            any: Arc::default(),
            running: Arc::default(),
            events,
            payload_bytes: Arc::default(),
            partial_bytes: Arc::default(),
            payloads,
            started: Instant::now(),
        };
        (taps, receiver)
    }

    /// What is allowed to be seen of messages.
    pub fn payloads(&self) -> &Payloads {
        &self.payloads
    }

    /// Nobody watches anything.
    pub fn is_idle(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// Starts a tap, in place of an earlier one of its number.
    pub fn start(&self, start: Start) {
        let matches = start.r#match.unwrap_or_default();
        let tap = Tap {
            id: start.tap,
            ends: Ends::try_from(&matches).ok(),
            matches,
            max_rps: start.max_rps,
            payloads: start.payloads && self.payloads.is_enabled(),
            headers: start.headers,
            second: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        };
        self.change(|taps| {
            end(taps, |known| known.id == tap.id);
            taps.push(Arc::new(tap));
        });
    }

    /// Ends a tap.
    pub fn stop(&self, id: u64) {
        self.change(|taps| end(taps, |tap| tap.id == id));
    }

    /// Ends them all: whoever asked for them is out of reach.
    pub fn stop_all(&self) {
        self.change(|taps| end(taps, |_| true));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Tap>>)) {
        let mut taps = (**self.running.load()).clone();
        change(&mut taps);
        let any = !taps.is_empty();
        self.running.store(Arc::new(taps));
        self.any.store(any, Ordering::Relaxed);
    }

    /// The taps that watch `request`.
    pub fn watching(&self, request: &Request<'_>) -> Vec<Arc<Tap>> {
        if self.is_idle() {
            return Vec::new();
        }
        let second = self.started.elapsed().as_secs();
        let running = self.running.load();
        running.iter().filter(|tap| tap.matches(request) && tap.admits(second)).cloned().collect()
    }

    /// Tells the ones who watch; of messages and headers only those who see them.
    pub fn observe(&self, taps: &[Arc<Tap>], event: &TapEvent) {
        let bare = headers::without(event);
        let is_message = matches!(event.kind, Some(tap_event::Kind::Message(_)));
        for tap in taps.iter().filter(|tap| !tap.has_ended() && (!is_message || tap.payloads)) {
            let event = bare.as_ref().filter(|_| !tap.headers).unwrap_or(event);
            let bytes = payload_bytes(event);
            if !self.reserve(bytes) {
                tap.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let dropped = tap.dropped.swap(0, Ordering::Relaxed);
            let observed = Observed { tap: tap.id, event: Some(event.clone()), dropped };
            let request = AttachRequest { kind: Some(attach_request::Kind::Event(observed)) };
            if self.events.try_send(request).is_err() {
                tap.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
                self.payload_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }

    fn reserve(&self, bytes: usize) -> bool {
        let more = |waiting: usize| Some(waiting + bytes).filter(|waiting| *waiting <= PAYLOAD_BYTES_MAX);
        bytes == 0 || self.payload_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// What was lost of which no event has told yet: there may be none for long.
    pub fn lost(&self) -> Vec<AttachRequest> {
        let running = self.running.load();
        let lost = running.iter().map(|tap| (tap.id, tap.dropped.swap(0, Ordering::Relaxed)));
        let observed =
            lost.filter(|(_, dropped)| *dropped > 0).map(|(tap, dropped)| Observed { tap, event: None, dropped });
        observed.map(|observed| AttachRequest { kind: Some(attach_request::Kind::Event(observed)) }).collect()
    }

    /// For the messages of one request that are not whole yet.
    pub fn partial(&self) -> Partial {
        Partial { bytes: 0, all: self.partial_bytes.clone() }
    }

    /// Messages of a request that `taps` watch are not copied any more.
    pub fn lost_messages(&self, taps: &[Arc<Tap>]) {
        for tap in taps.iter().filter(|tap| tap.sees_payloads()) {
            tap.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `request` was received: there is room for other messages.
    pub fn taken(&self, request: &AttachRequest) {
        if let Some(attach_request::Kind::Event(Observed { event: Some(event), .. })) = &request.kind {
            self.payload_bytes.fetch_sub(payload_bytes(event), Ordering::Relaxed);
        }
    }
}

/// What a request holds of messages that are not whole yet; freed with it.
pub struct Partial {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Partial {
    /// So much it is now: whether there is room for that.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let (before, max) = (self.bytes, PARTIAL_BYTES_MAX);
        // What becomes less has room always.
        let change = |all: usize| Some(all - before + bytes).filter(|all| bytes <= before || *all <= max);
        let has_room = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok();
        if has_room {
            self.bytes = bytes;
        }
        has_room
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn end(taps: &mut Vec<Arc<Tap>>, is_over: impl Fn(&Tap) -> bool) {
    taps.retain(|tap| {
        let is_over = is_over(tap);
        tap.ended.fetch_or(is_over, Ordering::Relaxed);
        !is_over
    });
}

fn payload_bytes(event: &TapEvent) -> usize {
    match &event.kind {
        Some(tap_event::Kind::Message(message)) => message.bytes.len(),
        Some(tap_event::Kind::RequestInit(init)) => headers::bytes(&init.headers),
        Some(tap_event::Kind::ResponseInit(init)) => headers::bytes(&init.headers),
        _ => 0,
    }
}

impl Tap {
    /// Whether messages are copied for it.
    pub fn sees_payloads(&self) -> bool {
        self.payloads && !self.has_ended()
    }

    /// Whether it is shown what heads say.
    pub fn sees_headers(&self) -> bool {
        self.headers && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// All that is asked for holds.
    fn matches(&self, request: &Request<'_>) -> bool {
        let wanted = &self.matches;
        let direction = wanted.direction();
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted.eq_ignore_ascii_case(found);
        let to = wanted.to.as_ref().is_none_or(|to| {
            let same = |found: Option<&ResourceRef>| {
                found.is_some_and(|found| {
                    is(&to.kind, &found.kind) && is(&to.namespace, &found.namespace) && is(&to.name, &found.name)
                })
            };
            same(request.workload)
                || same(request.pod)
                || (to.kind == "namespace" && request.pod.is_some_and(|pod| is(&to.name, &pod.namespace)))
        });
        (direction == common::Direction::Unspecified || direction == request.direction)
            && self.ends.is_some_and(|ends| ends.hold(request.source, request.destination))
            && is(&wanted.method, request.method)
            && is(&wanted.scheme, request.scheme)
            && (wanted.authority.is_empty() || wanted.authority == request.authority)
            && request.path.starts_with(&wanted.path_prefix)
            && to
    }

    /// Whether the rate allows one more in this second. A rate below one allows one request in so many seconds.
    fn admits(&self, second: u64) -> bool {
        let (window, limit) = if self.max_rps >= 1.0 {
            (second, self.max_rps as u64)
        } else {
            ((second as f64 * f64::from(self.max_rps.max(0.001))) as u64, 1)
        };
        // The window after the one that is stored begins with nothing; zero is stored before the first.
        let window = window + 1;
        let admit = |packed: u64| match (packed >> 32, packed & u64::from(u32::MAX)) {
            (known, count) if known == window => (count < limit).then_some(packed + 1),
            _ => Some((window << 32) | 1),
        };
        let admitted = self.second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).is_ok();
        if !admitted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }
}

#[cfg(test)]
mod tests;

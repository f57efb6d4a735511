//! What is written down of requests one by one: lines of the access log, and spans of traces.
//!
//! ```text
//!   request ─► Entry ─► (its end) Record ─┬─► bounded queue ─► writer    a thread: standard output may block
//!                                         └─► bounded queue ─► exporter  the control thread: batches, back-off
//! ```
//!
//! Without a journal a request costs a look at an `Option`. With one it never waits: what the queues have no room for is counted,
//! and gone.

pub mod access_log;
pub mod context;
pub mod exporter;
pub mod otlp;
pub mod writer;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    num::NonZeroU128,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use conduit_api::process::Measure;
use conduit_api::{
    SpiffeId,
    journal::{AccessLog, Sampling},
    text::cut,
};
use http::Response;
use tokio::{sync::mpsc, time::Instant};

use self::context::{Decision, Edit, Trace};
use crate::{
    http::{Client, Failure, RequestView, exchange::Hop},
    telemetry::{Direction, End, Meant, paths::Pattern},
};

/// Requests between the data threads and whoever writes them down, for each of the two: at [`TEXT_BYTES_MAX`] this is 4 MB if somebody
/// makes all of them as long as can be, and mostly some hundred kilobytes. A writer that is behind by more has stopped.
pub const QUEUE_MAX: usize = 1024;
/// Of what a client says of a request, of each thing: the rest says nothing more.
const TEXT_BYTES_MAX: usize = 2048;
/// Requests of clients without an identity that are traced because they want it, within a second: more would be theirs to fill the
/// collector with. An ingress outside the mesh that traces one in ten has five thousand requests a second for that.
const STRANGERS_PER_SECOND_MAX: u32 = 500;

/// Why a request got no response, or not all of one.
const CANCELLED: &str = "cancelled";
const RESET: &str = "reset";

/// What writes down the requests of a proxy.
pub struct Journal {
    /// Of requests to the application.
    lines: Option<mpsc::Sender<Arc<Record>>>,
    /// Of requests both ways.
    spans: Option<(Sampling, mpsc::Sender<Arc<Record>>)>,
    counts: Arc<Counts>,
    /// Seconds are counted from here.
    epoch: Instant,
    strangers: PerSecond,
}

/// What became of records.
#[derive(Debug, Default)]
pub struct Counts {
    /// Lines that were not written.
    pub lines_dropped: AtomicU64,
    /// Spans that the collector has.
    pub spans_exported: AtomicU64,
    /// Spans that it never got, or did not want.
    pub spans_dropped: AtomicU64,
}

/// The receiving ends of a journal.
#[derive(Default)]
pub struct Readers {
    /// Lines of the access log.
    pub lines: Option<mpsc::Receiver<Arc<Record>>>,
    /// Spans.
    pub spans: Option<mpsc::Receiver<Arc<Record>>>,
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// To the application, or from it.
    pub direction: Direction,
    /// Who has asked.
    pub source: SocketAddr,
    /// Who that has proved to be, of a request to the application.
    pub client: Option<SpiffeId>,
    /// e.g. `GET`
    pub method: Box<str>,
    /// As requests name their destination; without what comes before an `@`, which could be a password.
    pub authority: Box<str>,
    /// With the query.
    pub path: Box<str>,
    /// e.g. `HTTP/1.1`
    pub version: &'static str,
    /// What the client says of itself.
    pub user_agent: Box<str>,
    /// Whether its status is one of gRPC's.
    pub is_grpc: bool,
    /// When it came.
    pub started: SystemTime,
    /// From then until the head of the response.
    pub to_head: Option<Duration>,
    /// From then until the end of the response.
    pub duration: Duration,
    /// None if nothing was answered.
    pub status: Option<u16>,
    /// If one was said.
    pub grpc_status: Option<u32>,
    /// Of the request's body.
    pub request_bytes: u64,
    /// Of the response's body.
    pub response_bytes: u64,
    /// What such requests ask for, of those to the application.
    pub route: Option<Arc<Pattern>>,
    /// Why this proxy answered itself, or the response did not end.
    pub error: Option<&'static str>,
    /// Where it went.
    pub endpoint: Option<Destination>,
    /// Of the trace that it is part of, whether this proxy records that or not.
    pub trace_id: Option<NonZeroU128>,
    /// What this proxy records.
    pub trace: Option<Trace>,
    /// What the client's service and the HTTPRoute are that its request was for, of those that go out.
    pub meant: Option<Meant>,
    /// What happened to it on its way, in that order; no more than there may be attempts.
    pub events: Vec<Happened>,
}

/// Something that happened to a request, besides that it came and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Since it came.
    pub after: Duration,
    /// What.
    pub what: What,
}

/// See [`Happened`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was sent again, elsewhere than here.
    Resent {
        /// Where it had gone before.
        from: SocketAddr,
    },
    /// This proxy has answered it itself, for this reason.
    Failed(&'static str),
}

/// Where a request went.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its address.
    pub address: SocketAddr,
    /// Who had to be there.
    pub server: Option<SpiffeId>,
    /// `namespace/name`, where that is known.
    pub pod: Option<String>,
    /// The service that it was chosen for.
    pub service: Option<String>,
}

impl Journal {
    /// One that writes lines in some format, and spans of some share of requests; none if nothing is to be written.
    pub fn new(log: AccessLog, sampling: Option<Sampling>, counts: &Arc<Counts>) -> (Option<Arc<Self>>, Readers) {
        let (lines, read_lines) = (log != AccessLog::None).then(|| mpsc::channel(QUEUE_MAX)).unzip();
        let (spans, read_spans) = sampling.map(|_| mpsc::channel(QUEUE_MAX)).unzip();
        let readers = Readers { lines: read_lines, spans: read_spans };
        let spans = sampling.zip(spans);
        let is_needed = lines.is_some() || spans.is_some();
        let (counts, epoch, strangers) = (counts.clone(), Instant::now(), PerSecond::default());
        (is_needed.then(|| Arc::new(Self { lines, spans, counts, epoch, strangers })), readers)
    }

    /// A request begins. If anything is to be written down of it, that is done when the last of what is returned is dropped; and its
    /// fields are to be changed.
    pub fn begin(
        self: &Arc<Self>,
        client: &Client,
        request: &RequestView<'_>,
        version: &'static str,
    ) -> (Option<Rc<Entry>>, Edit) {
        let is_logged = self.lines.is_some() && client.direction == Direction::Inbound;
        if !is_logged && self.spans.is_none() {
            return (None, Edit::default());
        }
        let (mut reader, mut user_agent) = (context::Reader::default(), &[][..]);
        request.headers.for_each(|name, value| {
            reader.field(name, value);
            if name.eq_ignore_ascii_case(b"user-agent") {
                user_agent = value;
            }
        });
        let context = reader.finish();
        let (trace, edit) = match self.draw(client, context.decision) {
            Draw::Record => {
                let trace = context.trace(rand::random);
                let edit = context.edit(Some(&trace));
                (Some(trace), edit)
            }
            Draw::Decline => (None, context.edit(Some(&context.declined(rand::random)))),
            Draw::Leave if self.spans.is_some() => (None, context.edit(None)),
            Draw::Leave => (None, Edit::default()),
        };
        if !is_logged && trace.is_none() {
            return (None, edit);
        }
        let trace_id = trace.as_ref().map(|trace| trace.trace_id).or(context.parent.map(|parent| parent.trace_id));
        let record = Record {
            direction: client.direction,
            source: client.source,
            client: client.identity.clone(),
            method: text(request.method),
            authority: text(request.authority.rsplit('@').next().unwrap_or_default()),
            path: text(request.path),
            version,
            user_agent: text(&String::from_utf8_lossy(user_agent)),
            is_grpc: request.is_grpc,
            started: SystemTime::now(),
            to_head: None,
            duration: Duration::ZERO,
            status: None,
            grpc_status: None,
            request_bytes: 0,
            response_bytes: 0,
            route: None,
            error: Some(CANCELLED),
            endpoint: None,
            trace_id,
            trace,
            meant: None,
            events: Vec::new(),
        };
        (Some(Rc::new(Entry::new(self.clone(), is_logged, record))), edit)
    }

    fn draw(&self, client: &Client, decision: Option<Decision>) -> Draw {
        let Some((sampling, _)) = &self.spans else { return Draw::Leave };
        match decision {
            Some(Decision::Drop) => Draw::Leave,
            // The application, and those whom the mesh knows, are trusted to be sparing. The next proxies would trust this one.
            Some(_) if client.direction == Direction::Inbound && client.identity.is_none() => {
                let second = self.epoch.elapsed().as_secs() as u32;
                if self.strangers.take(second) { Draw::Record } else { Draw::Decline }
            }
            Some(_) => Draw::Record,
            // Nothing is drawn: applications are free to begin traces of their own.
            None if sampling.share() == 0.0 => Draw::Leave,
            None if rand::random::<f64>() < sampling.share() => Draw::Record,
            None => Draw::Decline,
        }
    }

    fn write(&self, record: Record, is_logged: bool) {
        let record = Arc::new(record);
        if let Some(lines) = self.lines.as_ref().filter(|_| is_logged)
            && lines.try_send(record.clone()).is_err()
        {
            self.counts.lines_dropped.fetch_add(1, Ordering::Relaxed);
        }
        if let Some((_, spans)) = self.spans.as_ref().filter(|_| record.trace.is_some())
            && spans.try_send(record).is_err()
        {
            self.counts.spans_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether a request is traced.
enum Draw {
    /// It is.
    Record,
    /// It is not, and everybody who comes after is told.
    Decline,
    /// It is not, and goes on as it came.
    Leave,
}

/// How often something was granted within a second.
#[derive(Default)]
struct PerSecond(AtomicU64);

impl PerSecond {
    /// Whether it is granted once more in `second`, up to [`STRANGERS_PER_SECOND_MAX`].
    fn take(&self, second: u32) -> bool {
        let (now, max) = (u64::from(second) << 32, u64::from(STRANGERS_PER_SECOND_MAX));
        let next = |state: u64| match state {
            state if state >> 32 != u64::from(second) => Some(now | 1),
            state => (state & u64::from(u32::MAX) < max).then_some(state + 1),
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// As much of `value` as is written down.
fn text(value: &str) -> Box<str> {
    cut(value, TEXT_BYTES_MAX).into()
}

impl Counts {
    /// For metrics.
    pub fn measures(&self) -> [Measure; 3] {
        let counter = |name, help, value: &AtomicU64| Measure {
            name,
            is_counter: true,
            help,
            value: value.load(Ordering::Relaxed) as f64,
        };
        [
            counter(
                "conduit_proxy_access_log_dropped_total",
                "Lines of the access log that were not written, because nobody took them.",
                &self.lines_dropped,
            ),
            counter("conduit_proxy_spans_exported_total", "Spans that the trace collector has.", &self.spans_exported),
            counter(
                "conduit_proxy_spans_dropped_total",
                "Spans that the trace collector did not take in time, or refused.",
                &self.spans_dropped,
            ),
        ]
    }
}

/// A request that is under way, and to be written down. It has ended, for whatever reason, when it is dropped.
pub struct Entry {
    journal: Arc<Journal>,
    is_logged: bool,
    begun: Instant,
    ended: Cell<Option<Instant>>,
    record: RefCell<Option<Record>>,
}

impl Entry {
    fn new(journal: Arc<Journal>, is_logged: bool, record: Record) -> Self {
        let record = RefCell::new(Some(record));
        Self { journal, is_logged, begun: Instant::now(), ended: Cell::new(None), record }
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.record.borrow_mut().as_mut() {
            change(record);
        }
    }

    /// It is for a service, and one of that one's routes has accepted it.
    pub fn is_for(&self, meant: Option<&Meant>) {
        self.change(|record| record.meant = meant.cloned());
    }

    /// It goes to `hop`; before that it may have gone elsewhere.
    pub fn attempt(&self, hop: &Hop, route: Option<&Arc<Pattern>>) {
        let upstream = &hop.upstream;
        self.change(|record| {
            if let Some(before) = &record.endpoint {
                let what = What::Resent { from: before.address };
                record.events.push(Happened { after: self.begun.elapsed(), what });
            }
            record.endpoint = Some(Destination {
                address: upstream.endpoint.address,
                server: upstream.peer().cloned(),
                pod: upstream.endpoint.pod.as_ref().map(ToString::to_string),
                service: upstream.service.as_ref().map(ToString::to_string),
            });
            record.route = route.cloned();
        });
    }

    /// The head of the response is here.
    pub fn head(&self, status: u16, grpc_status: Option<u32>) {
        let to_head = self.begun.elapsed();
        self.change(|record| {
            (record.status, record.grpc_status) = (Some(status), grpc_status);
            record.to_head.get_or_insert(to_head);
        });
    }

    /// The response has ended, of whose body so many bytes have passed.
    pub fn end(&self, end: End, bytes: u64) {
        self.ended.set(Some(Instant::now()));
        self.change(|record| {
            record.response_bytes = bytes;
            match end {
                End::Grpc(code) => (record.grpc_status, record.error) = (Some(code), None),
                End::Http(_) => record.error = None,
                End::Reset => {}
            }
        });
    }

    /// It broke, whoever did that.
    pub fn reset(&self) {
        self.change(|record| record.error = Some(RESET));
    }

    /// This proxy answers itself.
    pub fn fail(&self, failure: Failure) {
        let now = Instant::now();
        self.ended.set(Some(now));
        self.change(|record| {
            let (is_grpc, is_head) = (record.is_grpc, &*record.method == "HEAD");
            let response = failure.response(is_grpc);
            record.status = Some(response.status().as_u16());
            record.grpc_status = is_grpc.then(|| failure.grpc_status().into());
            record.error = Some(failure.reason());
            record.events.push(Happened {
                after: now.saturating_duration_since(self.begun),
                what: What::Failed(failure.reason()),
            });
            record.response_bytes = if is_head { 0 } else { response.body().len() as u64 };
        });
    }

    /// This proxy answers itself, as the route says.
    pub fn answer(&self, response: &Response<Bytes>) {
        self.ended.set(Some(Instant::now()));
        self.change(|record| {
            record.status = Some(response.status().as_u16());
            record.response_bytes = if &*record.method == "HEAD" { 0 } else { response.body().len() as u64 };
        });
    }

    /// More of the request's body has come.
    pub fn received(&self, bytes: usize) {
        self.change(|record| record.request_bytes += bytes as u64);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            let ended = self.ended.get().unwrap_or_else(Instant::now);
            record.duration = ended.saturating_duration_since(self.begun);
            self.journal.write(record, self.is_logged);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroU64;

    use super::*;

    /// A request that went well.
    pub(super) fn record() -> Record {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_250);
        let pattern = Pattern { path: "/books/*".into(), method: "GET".into(), mutual: true };
        let client: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let mut trace = context::Reader::default().finish().trace(|| 0xbeef);
        trace.parent = NonZeroU64::new(7);
        Record {
            direction: Direction::Inbound,
            source: "10.244.1.7:40000".parse().unwrap(),
            client: Some(client),
            method: "GET".into(),
            authority: "books.shop".into(),
            path: "/books/42?page=2".into(),
            version: "HTTP/1.1",
            user_agent: "curl/8.5".into(),
            is_grpc: false,
            started,
            to_head: Some(Duration::from_micros(2_500)),
            duration: Duration::from_micros(12_500),
            status: Some(200),
            grpc_status: None,
            request_bytes: 3,
            response_bytes: 512,
            route: Some(Arc::new(pattern)),
            error: None,
            endpoint: Some(Destination {
                address: "10.244.1.8:8080".parse().unwrap(),
                server: None,
                pod: None,
                service: None,
            }),
            trace_id: NonZeroU128::new(0xbeef),
            trace: Some(trace),
            meant: None,
            events: Vec::new(),
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let counts = Arc::<Counts>::default();
        let (journal, mut readers) = Journal::new(AccessLog::Text, Some(Sampling::default()), &counts);
        let journal = journal.unwrap();
        for _ in 0..QUEUE_MAX + 3 {
            drop(Entry::new(journal.clone(), true, record()));
        }
        drop(Entry::new(journal, true, Record { trace: None, ..record() }));
        let measured = counts.measures().map(|measure| measure.value);
        assert_eq!(measured, [4.0, 0.0, 3.0]);
        let mut lines = readers.lines.take().unwrap();
        assert_eq!(std::iter::from_fn(|| lines.try_recv().ok()).count(), QUEUE_MAX);
    }

    #[test]
    fn nothing_is_there_when_nothing_is_to_be_written() {
        let (journal, readers) = Journal::new(AccessLog::None, None, &Arc::default());
        assert!(journal.is_none() && readers.lines.is_none() && readers.spans.is_none());
    }

    #[test]
    fn however_a_request_ends_it_is_written_down_once() {
        let (journal, mut readers) = Journal::new(AccessLog::Json, None, &Arc::default());
        let journal = journal.unwrap();
        let mut lines = readers.lines.take().unwrap();
        let mut written = |end: &dyn Fn(&Entry)| {
            let begun = Record { status: None, error: Some(CANCELLED), response_bytes: 0, ..record() };
            let entry = Entry::new(journal.clone(), true, begun);
            end(&entry);
            drop(entry);
            let record = lines.try_recv().unwrap();
            assert!(lines.try_recv().is_err());
            (record.status, record.grpc_status, record.response_bytes, record.error)
        };
        assert_eq!(written(&|_| {}), (None, None, 0, Some("cancelled")));
        assert_eq!(
            written(&|entry| {
                entry.head(200, None);
                entry.end(End::Http(200), 5);
            }),
            (Some(200), None, 5, None)
        );
        assert_eq!(
            written(&|entry| {
                entry.head(200, None);
                entry.end(End::Grpc(5), 5);
            }),
            (Some(200), Some(5), 5, None)
        );
        assert_eq!(
            written(&|entry| {
                entry.head(200, None);
                entry.reset();
                entry.end(End::Reset, 5);
            }),
            (Some(200), None, 5, Some("reset"))
        );
        assert_eq!(written(&|entry| entry.fail(Failure::Connect)), (Some(502), None, 43, Some("connect-failed")));
    }

    #[test]
    fn strangers_get_so_many_traces_a_second() {
        let granted = PerSecond::default();
        let all = |second| (0..STRANGERS_PER_SECOND_MAX * 2).filter(|_| granted.take(second)).count();
        assert_eq!([all(0), all(1), all(7)], [STRANGERS_PER_SECOND_MAX as usize; 3]);
    }

    #[test]
    fn what_is_written_down_is_bounded() {
        assert_eq!(text(&"ü".repeat(2000)).len(), TEXT_BYTES_MAX);
        assert_eq!(&*text("short"), "short");
    }
}

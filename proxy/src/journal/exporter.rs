//! Tells a collector of spans, on the control thread: in batches, again if it may take them later, and never at a request's cost.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use conduit_api::{
    journal::{Collector, Otlp},
    proto::otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient},
};
use conduit_ca::WorkloadTls;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::spawn_local,
    time::{sleep, timeout},
};
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use tracing::{info, warn};

use super::{Counts, Record, otlp};
use crate::{connect::Connector, control::resolve};

/// Spans in one message, of about a kilobyte each.
const BATCH_MAX: usize = 256;
/// The first span of a batch waits so long for others.
const GATHER: Duration = Duration::from_millis(500);
/// Within this a batch has been taken. OpenTelemetry's own exporters wait as long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause after a failure, doubled at each further one ...
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// ... up to this; each is drawn from half to all of its length.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A collector's answer says next to nothing.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends spans to a collector.
pub struct Exporter {
    /// Where to.
    pub collector: Collector,
    /// How: not through this proxy.
    pub connector: Connector,
    /// Whose they are.
    pub source: otlp::Source,
    /// Who that is.
    pub tls: WorkloadTls,
    /// What becomes of them.
    pub counts: Arc<Counts>,
}

/// What became of a batch.
enum Exported {
    /// It was taken, but for so many.
    Taken { rejected: u64 },
    /// It never will be.
    Refused(anyhow::Error),
    /// It may be another time.
    Failed(anyhow::Error),
}

/// A connection to the collector.
enum Connection {
    None,
    Grpc(TraceServiceClient<Channel>),
    Http(http1::SendRequest<Full<Bytes>>),
}

impl Exporter {
    /// Runs until the journal has ended, and what was in it is sent; that is tried once.
    pub async fn run(self, mut records: mpsc::Receiver<Arc<Record>>) {
        let (mut batch, mut connection, mut failures) = (Vec::new(), Connection::None, 0);
        loop {
            if batch.is_empty() {
                if records.recv_many(&mut batch, BATCH_MAX).await == 0 {
                    return;
                }
                if batch.len() < BATCH_MAX && !records.is_closed() {
                    sleep(GATHER).await;
                }
            }
            while batch.len() < BATCH_MAX
                && let Ok(record) = records.try_recv()
            {
                batch.push(record);
            }
            match self.export(&mut connection, &batch).await {
                Exported::Taken { rejected } => {
                    self.count(batch.len() as u64, rejected);
                    if failures > 0 {
                        info!(collector = %self.collector, "the trace collector takes spans again");
                    }
                    failures = 0;
                    batch.clear();
                }
                Exported::Refused(error) => {
                    warn!(collector = %self.collector, error = %format_args!("{error:#}"), "the trace collector refuses spans");
                    self.count(batch.len() as u64, batch.len() as u64);
                    batch.clear();
                }
                Exported::Failed(error) => {
                    if failures == 0 {
                        warn!(collector = %self.collector, error = %format_args!("{error:#}"), "the trace collector takes no spans; trying again");
                    }
                    if records.is_closed() {
                        let left = batch.len() + records.len();
                        return self.count(left as u64, left as u64);
                    }
                    connection = Connection::None;
                    // New ones are counted while the old ones wait: whoever looks for a trace looks for the beginning of an outage.
                    self.pause(&mut records, backoff(failures, rand::random())).await;
                    failures += 1;
                }
            }
        }
    }

    /// Not longer than the journal is there.
    async fn pause(&self, records: &mut mpsc::Receiver<Arc<Record>>, pause: Duration) {
        let until_closed = async {
            while !records.is_closed() {
                sleep(GATHER).await;
            }
        };
        let _ = timeout(pause, until_closed).await;
    }

    fn count(&self, all: u64, rejected: u64) {
        self.counts.spans_exported.fetch_add(all - rejected, Ordering::Relaxed);
        self.counts.spans_dropped.fetch_add(rejected, Ordering::Relaxed);
    }

    async fn export(&self, connection: &mut Connection, batch: &[Arc<Record>]) -> Exported {
        let own = self.tls.identity();
        let request =
            otlp::request(&self.source, own.as_ref().map(|own| &own.id), batch.iter().map(|record| &**record));
        let exported = timeout(EXPORT_TIMEOUT, async {
            if let Err(error) = self.connect(connection).await {
                return Exported::Failed(error);
            }
            match connection {
                Connection::Grpc(client) => by_grpc(client, request).await,
                Connection::Http(sender) => by_http(sender, self.collector.authority(), &request).await,
                Connection::None => Exported::Failed(anyhow::anyhow!("there is no connection")),
            }
        });
        let exported = exported.await.unwrap_or_else(|late| Exported::Failed(late.into()));
        match exported {
            Exported::Taken { rejected } => Exported::Taken { rejected: rejected.min(batch.len() as u64) },
            exported => exported,
        }
    }

    /// There is a connection then.
    async fn connect(&self, connection: &mut Connection) -> anyhow::Result<()> {
        let is_usable = match connection {
            Connection::None => false,
            Connection::Grpc(_) => true,
            Connection::Http(sender) => sender.ready().await.is_ok(),
        };
        if !is_usable {
            *connection = match self.collector.otlp() {
                Otlp::Grpc => Connection::Grpc(self.grpc().await?),
                Otlp::Http => Connection::Http(self.http().await?),
            };
        }
        Ok(())
    }

    async fn grpc(&self) -> anyhow::Result<TraceServiceClient<Channel>> {
        let uri: Uri = format!("http://{}", self.collector.authority()).parse()?;
        let (authority, connector) = (self.collector.authority().to_owned(), self.connector.clone());
        let connect = service_fn(move |_: Uri| {
            let (authority, connector) = (authority.clone(), connector.clone());
            async move { Ok::<_, io::Error>(TokioIo::new(connector.tcp(resolve(&authority).await?).await?)) }
        });
        Ok(TraceServiceClient::new(Endpoint::from(uri).connect_with_connector(connect).await?))
    }

    async fn http(&self) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let address: SocketAddr = resolve(self.collector.authority()).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(self.connector.tcp(address).await?)).await?;
        // It ends with the sender, or the next batch finds out.
        spawn_local(async move { drop(driver.await) });
        Ok(sender)
    }
}

async fn by_grpc(client: &mut TraceServiceClient<Channel>, request: ExportTraceServiceRequest) -> Exported {
    match client.export(request).await {
        Ok(answer) => taken(answer.into_inner()),
        Err(status) if may_pass(status.code()) => Exported::Failed(status.into()),
        Err(status) => Exported::Refused(status.into()),
    }
}

/// Errors after which a batch is sent again (OTLP, "Failures" of OTLP/gRPC).
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // Whatever breaks between here and there is that to tonic.
            | Code::Unknown
    )
}

async fn by_http(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    authority: &str,
    request: &ExportTraceServiceRequest,
) -> Exported {
    let post = Request::post("/v1/traces")
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(request.encode_to_vec())));
    let posted = async {
        let (head, body) = sender.send_request(post?).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error)).context("its answer has no end")?.to_bytes();
        anyhow::Ok((head.status, body))
    };
    match posted.await {
        // What it says besides having taken them is told in its own words, or not at all.
        Ok((status, body)) if status.is_success() => {
            taken(ExportTraceServiceResponse::decode(body).unwrap_or_default())
        }
        Ok((status, _)) if may_pass_over_http(status) => Exported::Failed(anyhow::anyhow!("it answers {status}")),
        Ok((status, _)) => Exported::Refused(anyhow::anyhow!("it answers {status}")),
        Err(error) => Exported::Failed(error),
    }
}

/// The same over HTTP.
fn may_pass_over_http(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

fn taken(answer: ExportTraceServiceResponse) -> Exported {
    let Some(partial) = answer.partial_success else { return Exported::Taken { rejected: 0 } };
    if partial.rejected_spans > 0 {
        warn!(rejected = partial.rejected_spans, why = partial.error_message, "the trace collector rejects spans");
    }
    Exported::Taken { rejected: u64::try_from(partial.rejected_spans).unwrap_or_default() }
}

/// The pause after a number of failures in a row; `random` is below 1.
fn backoff(failures: u32, random: f64) -> Duration {
    (BACKOFF_MIN * 2_u32.saturating_pow(failures.min(16))).min(BACKOFF_MAX).mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(backoff(0, 0.0), BACKOFF_MIN / 2);
        assert_eq!(backoff(2, 1.0), BACKOFF_MIN * 4);
        assert_eq!(backoff(1000, 1.0), BACKOFF_MAX);
    }

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        assert!(may_pass(Code::Unavailable) && !may_pass(Code::InvalidArgument) && !may_pass(Code::Unimplemented));
        for (status, passes) in [(429, true), (503, true), (400, false), (404, false), (500, false)] {
            assert_eq!(may_pass_over_http(StatusCode::from_u16(status).unwrap()), passes, "{status}");
        }
    }
}

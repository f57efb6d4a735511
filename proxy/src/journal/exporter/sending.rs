//! One batch, to the collector, over either of the two.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use conduit_api::{
    journal::Otlp,
    proto::otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient},
};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{task::spawn_local, time::timeout};
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use super::Exporter;
use crate::{
    control::resolve,
    journal::{Record, otlp},
};

/// Within this a batch has been taken. OpenTelemetry's own exporters wait as long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// A collector's answer says next to nothing.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What became of a batch.
pub(super) enum Exported {
    /// It was taken, but for so many; and why not those.
    Taken { rejected: u64, why: Option<String> },
    /// It never will be.
    Refused(anyhow::Error),
    /// It may be another time.
    Failed { error: anyhow::Error, blames: Blames },
}

/// What may have to be otherwise for a batch to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blames {
    /// There is no collector, whatever it is sent.
    Nobody,
    /// There is one: it may be the batch.
    Batch,
    /// There is too much in it.
    Size,
}

/// A connection to the collector.
pub(super) enum Connection {
    None,
    Grpc(TraceServiceClient<Channel>),
    Http(http1::SendRequest<Full<Bytes>>),
}

impl Exporter {
    pub(super) async fn export(&self, connection: &mut Connection, batch: &[Arc<Record>]) -> Exported {
        let own = self.tls.identity();
        let request =
            otlp::request(&self.source, own.as_ref().map(|own| &own.id), batch.iter().map(|record| &**record));
        let exported = timeout(EXPORT_TIMEOUT, async {
            if let Err(error) = self.connect(connection).await {
                return Exported::Failed { error, blames: Blames::Nobody };
            }
            match connection {
                Connection::Grpc(client) => by_grpc(client, request).await,
                Connection::Http(sender) => by_http(sender, self.collector.authority(), &request).await,
                Connection::None => {
                    let error = anyhow::anyhow!("there is no connection");
                    Exported::Failed { error, blames: Blames::Nobody }
                }
            }
        });
        match exported.await {
            Ok(Exported::Taken { rejected, why }) => {
                Exported::Taken { rejected: rejected.min(batch.len() as u64), why }
            }
            Ok(exported) => exported,
            Err(late) => {
                let blames = if matches!(connection, Connection::None) { Blames::Nobody } else { Blames::Batch };
                Exported::Failed { error: late.into(), blames }
            }
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
        Err(status) => match grpc_blames(status.code(), !status.details().is_empty()) {
            Some(blames) => Exported::Failed { error: status.into(), blames },
            None => Exported::Refused(status.into()),
        },
    }
}

/// What a batch is sent again for, if it is (OTLP, "Failures" of OTLP/gRPC). `has_details` is whether the collector says more, which is
/// when it may be tried again.
fn grpc_blames(code: Code, has_details: bool) -> Option<Blames> {
    match code {
        Code::Unavailable => Some(Blames::Nobody),
        Code::ResourceExhausted if !has_details => Some(Blames::Size),
        Code::ResourceExhausted
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::DataLoss
        // Whatever breaks between here and there is that to tonic.
        | Code::Unknown => Some(Blames::Batch),
        _ => None,
    }
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
        Ok((status, _)) => {
            let error = anyhow::anyhow!("it answers {status}");
            match http_blames(status) {
                Some(blames) => Exported::Failed { error, blames },
                None => Exported::Refused(error),
            }
        }
        Err(error) => Exported::Failed { error, blames: Blames::Batch },
    }
}

/// The same over HTTP.
fn http_blames(status: StatusCode) -> Option<Blames> {
    match status.as_u16() {
        502..=504 => Some(Blames::Nobody),
        429 => Some(Blames::Batch),
        413 => Some(Blames::Size),
        _ => None,
    }
}

fn taken(answer: ExportTraceServiceResponse) -> Exported {
    let Some(partial) = answer.partial_success.filter(|partial| partial.rejected_spans > 0) else {
        return Exported::Taken { rejected: 0, why: None };
    };
    let rejected = u64::try_from(partial.rejected_spans).unwrap_or_default();
    Exported::Taken { rejected, why: Some(partial.error_message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        for (code, blames) in [
            (Code::Unavailable, Some(Blames::Nobody)),
            (Code::Unknown, Some(Blames::Batch)),
            (Code::ResourceExhausted, Some(Blames::Size)),
            (Code::InvalidArgument, None),
            (Code::Unimplemented, None),
        ] {
            assert_eq!(grpc_blames(code, false), blames, "{code}");
        }
        assert_eq!(grpc_blames(Code::ResourceExhausted, true), Some(Blames::Batch));
        for (status, blames) in [
            (503, Some(Blames::Nobody)),
            (429, Some(Blames::Batch)),
            (413, Some(Blames::Size)),
            (400, None),
            (404, None),
            (500, None),
        ] {
            assert_eq!(http_blames(StatusCode::from_u16(status).unwrap()), blames, "{status}");
        }
    }
}

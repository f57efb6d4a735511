//! What proxies and controllers tell Prometheus, for who has none, or asks what it was told.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::{
    exposition::Format,
    proto::{
        peer::MetricsRequest,
        public::{MemberMetrics, MetricsPiece, ProxyMetricsRequest},
    },
};
use futures::{Stream, stream};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::proxy_admin::{self, Answer};
use crate::{
    admin::metrics,
    peer::{ask_others, server::Own},
};

/// A proxy that says nothing for so long does not go on.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A line is a few hundred bytes, and this is what it may be at most.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Of a proxy, as it says them.
///
/// # Errors
/// As the API describes them.
pub async fn of_proxy(
    own: &Own,
    request: ProxyMetricsRequest,
) -> Result<impl Stream<Item = Result<MetricsPiece, Status>> + Send + 'static, Status> {
    let answer = proxy_admin::get(own, &request.namespace, &request.pod, "/metrics").await?;
    let first = Some(Pieces { answer, rest: Vec::new() });
    Ok(stream::unfold(first, |pieces| async move {
        let mut pieces = pieces?;
        match pieces.next().await {
            Ok(text) => Some((Ok(MetricsPiece { text: text? }), Some(pieces))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

/// An answer in pieces of whole lines.
struct Pieces {
    answer: Answer,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<String>, Status> {
        loop {
            let frame = timeout(SILENCE_MAX, self.answer.body.frame()).await;
            let Some(frame) = frame.map_err(|_| self.answer.unavailable("it has stopped in the middle"))? else {
                let rest = std::mem::take(&mut self.rest);
                return if rest.is_empty() { Ok(None) } else { self.text(rest).map(Some) };
            };
            let frame = frame.map_err(|error| self.answer.unavailable(error))?;
            if let Some(lines) = self.lines(&frame.into_data().unwrap_or_default())? {
                return self.text(lines).map(Some);
            }
        }
    }

    /// The whole lines that there are with these bytes.
    fn lines(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Status> {
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            self.rest.extend(bytes);
            let is_line = self.rest.len() <= LINE_BYTES_MAX;
            return if is_line { Ok(None) } else { Err(self.answer.unavailable("these are no lines")) };
        };
        let (lines, rest) = bytes.split_at(end + 1);
        let mut all = std::mem::replace(&mut self.rest, rest.to_vec());
        all.extend(lines);
        Ok(Some(all))
    }

    fn text(&self, lines: Vec<u8>) -> Result<String, Status> {
        String::from_utf8(lines).map_err(|_| self.answer.unavailable("this is no text"))
    }
}

/// Of each member, in the order of their names.
pub async fn of_controllers(own: &Own) -> Vec<MemberMetrics> {
    let others =
        ask_others(
            &own.cluster,
            |mut peer| async move { peer.metrics(MetricsRequest {}).await.map(Response::into_inner) },
        );
    let others = others.await.into_iter().map(|other| (other.node, other.answer.map(|answer| answer.text)));
    let mut answers: BTreeMap<_, _> = others.collect();
    answers.insert(own.cluster.id(), metrics::scrape(own, Format::Text).ok());
    let status = own.cluster.status().borrow().clone();
    let members = status.members.iter().map(|(node, member)| {
        let text = answers.get_mut(node).and_then(Option::take).unwrap_or_default();
        MemberMetrics { name: member.name.clone(), text }
    });
    let mut members: Vec<_> = members.collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

//! What `conduit stat` says, as time passes: every replica's counts, step by step.

use conduit_api::proto::{
    peer::CollectSeriesRequest,
    public::{SeriesRequest, SeriesResponse},
};
use tonic::Status;

use super::stat::{Merged, counted_kind, counted_window};
use crate::{
    peer::{ask_others, server::Own},
    propose::unix_ms,
    telemetry::{counts::Traffic, series::Steps},
};

/// Answers `request` from all replicas.
///
/// # Errors
/// INVALID_ARGUMENT when it asks for what is not counted.
pub async fn series(own: &Own, request: SeriesRequest) -> Result<SeriesResponse, Status> {
    let selector = request.selector.clone().ok_or_else(|| Status::invalid_argument("a series without a resource"))?;
    counted_kind(&selector.kind, &["authority"])?;
    counted_window(request.window_ms)?;
    let steps = Steps::of(&request, unix_ms(own.clock.now())).map_err(Status::invalid_argument)?;
    let collect = CollectSeriesRequest {
        selector: Some(selector),
        first_ms: steps.first_ms,
        step_ms: request.step_ms,
        steps: steps.count,
    };
    let others = ask_others(&own.cluster, |mut peer| {
        let collect = collect.clone();
        async move {
            let answer = peer.collect_series(collect).await?.into_inner();
            Ok((0_u32..).zip(answer.steps).collect())
        }
    })
    .await;
    let mut merged = Merged::default();
    let answer = (0..).zip(own.collect_series(&collect)).collect();
    merged.add_all(answer, others, |(step, counts)| (step, Traffic::from_wire(counts)));
    let Merged { answered: replicas_answered, asked: replicas_total, mut traffic } = merged;
    let counts = (0..steps.count).map(|step| traffic.remove(&step).unwrap_or_default().requests);
    Ok(SeriesResponse { points: steps.points(counts), replicas_answered, replicas_total })
}

//! What `conduit stat` says, as time passes: every replica's counts, step by step.

use conduit_api::proto::{
    peer::{CollectSeriesRequest, CollectSeriesResponse},
    public::{SeriesRequest, SeriesResponse},
};
use tonic::{Response, Status};

use super::{
    merged::Merged,
    stat::{counted_kind, counted_window},
};
use crate::{
    peer::{SUMS_TIMEOUT, ask_others_within, server::Own},
    propose::unix_ms,
    telemetry::{select::Tellers, series::Steps},
};

/// Answers `request` from all replicas.
///
/// # Errors
/// INVALID_ARGUMENT when it asks for what is not counted.
pub async fn series(own: &Own, request: SeriesRequest) -> Result<SeriesResponse, Status> {
    let selector = request.selector.clone().ok_or_else(|| Status::invalid_argument("a series without a resource"))?;
    counted_kind(&selector.kind, &["authority", "service"])?;
    let needed_level = u32::from(selector.kind == "service");
    counted_window(request.window_ms)?;
    let steps = Steps::of(&request, unix_ms(own.clock.now())).map_err(Status::invalid_argument)?;
    let collect = CollectSeriesRequest {
        selector: Some(selector.clone()),
        first_ms: steps.first_ms,
        step_ms: steps.length.as_millis() as u32,
        steps: steps.count,
        by_number: true,
    };
    let others = ask_others_within(SUMS_TIMEOUT, &own.cluster, |mut peer| {
        let collect = collect.clone();
        async move { peer.collect_series(collect).await.map(Response::into_inner) }
    });
    let (own_answer, others) = tokio::join!(own.collect_series(collect.clone()), others);
    let mut merged = Merged::new(own, request.window_ms, needed_level, Tellers::of_received(&selector));
    // Older releases tell one series after the other.
    let parts =
        |answer: CollectSeriesResponse| (answer.heard, (0..steps.count).cycle().zip(answer.steps).collect::<Vec<_>>());
    merged.add_all(own_answer, others, parts, |(step, counts)| (counts.step.unwrap_or(step), counts));
    let Merged { answered, asked, outdated, covered_ms, since_start, window_ms, mut traffic, truncated, .. } = merged;
    let counts = (0..steps.count).map(|step| traffic.remove(&step).unwrap_or_default().requests);
    Ok(SeriesResponse {
        points: steps.points(counts),
        replicas_answered: answered,
        replicas_total: asked,
        replicas_outdated: outdated,
        covered_ms,
        window_ms,
        since_start,
        truncated,
    })
}

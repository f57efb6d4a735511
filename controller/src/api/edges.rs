//! `conduit edges`: who speaks with whom, as every replica's proxies saw it.

use std::time::Duration;

use conduit_api::{
    proto::{
        peer::CollectEdgesRequest,
        public::{Edge, EdgesRequest, EdgesResponse},
    },
    window::TIERS,
};
use tonic::{Response, Status};

use super::{
    merged::Merged,
    stat::{counted_kind, counted_window},
};
use crate::{
    peer::{SUMS_TIMEOUT, ask_others_within, server::Own},
    telemetry::{
        bounds::{Busy as _, TOLD, bounded},
        edges::{Ends, edges as told},
        questions::ms,
        select::Tellers,
    },
};

/// For how long latencies of links are kept: until the finest slots are added up to longer ones.
const LATENCY_WINDOW: Duration = TIERS[0].until;

/// Of a window, the part that latencies of links are known of.
pub(super) fn latency_window_ms(window_ms: u32) -> u32 {
    window_ms.min(ms(LATENCY_WINDOW))
}

/// Answers `request` from all replicas.
///
/// # Errors
/// INVALID_ARGUMENT when it asks for what is not counted.
pub async fn edges(own: &Own, request: EdgesRequest) -> Result<EdgesResponse, Status> {
    counted_kind(&request.kind, &[])?;
    counted_window(request.window_ms)?;
    let window_ms = request.window_ms;
    let collect = CollectEdgesRequest { edges: Some(request) };
    let others = ask_others_within(SUMS_TIMEOUT, &own.cluster, |mut peer| {
        let collect = collect.clone();
        async move { peer.collect_edges(collect).await.map(Response::into_inner) }
    });
    let (own_answer, others) = tokio::join!(own.collect_edges(collect.clone()), others);
    let mut merged = Merged::new(own, window_ms, 0, Tellers::ALL);
    merged.add_all(own_answer, others, |answer| (answer.heard, answer.edges), Ends::from_wire);
    let (edges, is_too_much) = bounded(told(merged.traffic), TOLD, Edge::traffic);
    Ok(EdgesResponse {
        edges,
        replicas_answered: merged.answered,
        replicas_total: merged.asked,
        replicas_outdated: merged.outdated,
        covered_ms: merged.covered_ms,
        truncated: is_too_much || merged.truncated,
        window_ms: merged.window_ms,
        since_start: merged.since_start,
        latency_window_ms: latency_window_ms(merged.window_ms),
    })
}

//! `conduit edges`: who speaks with whom, as every replica's proxies saw it.

use conduit_api::proto::{
    peer::CollectEdgesRequest,
    public::{EdgesRequest, EdgesResponse},
};
use tonic::Status;

use super::stat::{Merged, counted_kind, counted_window};
use crate::{
    peer::{ask_others, server::Own},
    telemetry::edges::{Ends, edges as told},
};

/// Answers `request` from all replicas.
///
/// # Errors
/// INVALID_ARGUMENT when it asks for what is not counted.
pub async fn edges(own: &Own, request: EdgesRequest) -> Result<EdgesResponse, Status> {
    counted_kind(&request.kind, &[])?;
    counted_window(request.window_ms)?;
    let collect = CollectEdgesRequest { edges: Some(request) };
    let others = ask_others(&own.cluster, |mut peer| {
        let collect = collect.clone();
        async move { peer.collect_edges(collect).await.map(|answer| answer.into_inner().edges) }
    })
    .await;
    let mut merged = Merged::default();
    merged.add_all(own.collect_edges(&collect), others, Ends::from_wire);
    let Merged { answered: replicas_answered, asked: replicas_total, traffic } = merged;
    Ok(EdgesResponse { edges: told(traffic), replicas_answered, replicas_total })
}

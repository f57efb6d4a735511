//! The replicated state as a file, and back.

use conduit_api::proto::public::{RestoreSnapshotResponse, SnapshotChunk};
use conduit_consensus::{Command, MeshState, backup};
use futures::{Stream, StreamExt as _, stream};
use tonic::{Status, Streaming};

use super::members::refused;
use crate::{authority::roots::Roots, peer::server::Own, propose};

/// Each well below a stream's window.
const CHUNK_BYTES: usize = 256 * 1024;

/// The state that this replica has applied.
///
/// # Errors
/// Never for a state that was applied.
pub fn save(own: &Own) -> Result<impl Stream<Item = Result<SnapshotChunk, Status>> + Send + use<>, Status> {
    let state = own.cluster.state().borrow().clone();
    let file = backup::encode(&state).map_err(|error| Status::internal(error.to_string()))?;
    let count = file.len().div_ceil(CHUNK_BYTES);
    Ok(stream::iter((0..count).map(move |i| {
        let end = file.len().min((i + 1) * CHUNK_BYTES);
        Ok(SnapshotChunk { data: file[i * CHUNK_BYTES..end].to_vec() })
    })))
}

/// Replaces the state by the one in `chunks`.
///
/// # Errors
/// As the API describes them; nothing has changed then, but for UNAVAILABLE.
pub async fn restore(
    own: &Own,
    roots: &Roots,
    mut chunks: Streaming<SnapshotChunk>,
) -> Result<RestoreSnapshotResponse, Status> {
    let mut file = Vec::new();
    while let Some(chunk) = chunks.next().await {
        file.extend(chunk?.data);
        if file.len() > backup::BYTES_MAX {
            return Err(Status::invalid_argument(format!("a snapshot of more than {} bytes", backup::BYTES_MAX)));
        }
    }
    let state = backup::decode(&file).map_err(|error| Status::invalid_argument(error.to_string()))?;
    opens(&state, roots)?;
    let (saved_revision, services, pods) =
        (state.revision().as_u64(), state.services().len() as u32, state.pods().len() as u32);
    let restored = propose::fenced(&own.cluster, "api", Command::Restore(Box::new(state)), None).await;
    let revision = restored.map_err(refused)?.revision.as_u64();
    Ok(RestoreSnapshotResponse { revision, saved_revision, services, pods })
}

/// A root whose key nobody can open would be the end of all certificates.
fn opens(state: &MeshState, roots: &Roots) -> Result<(), Status> {
    for root in state.ca().iter().flat_map(|ca| &ca.roots) {
        roots.open(root).map_err(|_| {
            Status::invalid_argument(
                "this snapshot was taken under another seed; start the control plane with that seed, and restore then",
            )
        })?;
    }
    Ok(())
}

//! What people configure: routes, as they are and as they were.

use std::time::Duration;

use conduit_api::{
    HttpRoute, Revision, RouteName,
    proto::public::{
        ApplyRequest, ApplyResponse, RollbackRequest, RollbackResponse, RoutesRequest, RoutesResponse, apply_response,
    },
    wire::WireError,
};
use conduit_consensus::{Applied, Change, Command, Outcome};
use tokio::time::timeout;
use tonic::{Request, Status, transport::server::UdsConnectInfo};

use super::{aggregated::Caller, members::refused};
use crate::{peer::server::Own, propose};

/// Routes in one request, set or removed: one entry of the log carries them.
const ROUTES_PER_APPLY_MAX: usize = 256;
/// A replica that is asked for a revision that another one has just confirmed is behind by a heartbeat at most.
const CATCH_UP: Duration = Duration::from_secs(1);

/// For the audit: who makes a call. A unix socket proves the user, as this replica numbers them.
pub fn who<T>(request: &Request<T>) -> String {
    if let Some(caller) = request.extensions().get::<Caller>() {
        return format!("kubernetes:{}", caller.user);
    }
    let local = request.extensions().get::<UdsConnectInfo>().and_then(|peer| peer.peer_cred);
    local.map_or_else(|| "api".to_owned(), |peer| format!("api:uid={}", peer.uid()))
}

/// Whether routes are changed here at all.
///
/// # Errors
/// When it is the platform that keeps them: it would undo it.
pub fn may_change(platform_keeps_routes: bool) -> Result<(), Status> {
    if !platform_keeps_routes {
        return Ok(());
    }
    Err(Status::failed_precondition(
        "in a cluster the Kubernetes API server keeps the routes: change them by `kubectl apply` and `kubectl delete httproute`; \
         `conduit get httproutes -o yaml` writes those that are in force, and `conduit diff` what has changed since a revision",
    ))
}

/// Sets and removes routes, all at one revision.
///
/// # Errors
/// As the API describes them.
pub async fn apply(own: &Own, who: &str, request: ApplyRequest) -> Result<ApplyResponse, Status> {
    if request.routes.len() + request.removals.len() > ROUTES_PER_APPLY_MAX {
        return Err(Status::invalid_argument(format!("more than {ROUTES_PER_APPLY_MAX} routes in one request")));
    }
    let routes = request.routes.iter().map(|wire| {
        let named = |error: WireError| format!("httproute `{}/{}`: {error}", wire.namespace, wire.name);
        HttpRoute::try_from(wire).map_err(|error| Status::invalid_argument(named(error)))
    });
    let removals = request.removals.iter().map(|wire| {
        RouteName::new(&wire.namespace, &wire.name).map_err(|error| Status::invalid_argument(error.to_string()))
    });
    let (routes, removals) = (routes.collect::<Result<Vec<_>, _>>()?, removals.collect::<Result<Vec<_>, _>>()?);

    let state = own.cluster.state().borrow().clone();
    let of_route = |route: &HttpRoute| match state.routes().get(&route.name) {
        None => apply_response::Outcome::Created,
        Some(known) if known.value == *route => apply_response::Outcome::Unchanged,
        Some(_) => apply_response::Outcome::Configured,
    };
    let of_removal = |name: &RouteName| match state.routes().contains_key(name) {
        true => apply_response::Outcome::Deleted,
        false => apply_response::Outcome::NotFound,
    };
    let outcomes = routes.iter().map(of_route).chain(removals.iter().map(of_removal));
    let outcomes = outcomes.map(i32::from).collect();
    let changes = routes.into_iter().map(Change::UpsertRoute).chain(removals.into_iter().map(Change::RemoveRoute));
    let applied = propose(own, who, Command::Batch(changes.collect())).await?;
    Ok(ApplyResponse { revision: applied.revision.as_u64(), outcomes })
}

/// The routes at a revision.
///
/// # Errors
/// As the API describes them.
pub async fn routes(own: &Own, request: RoutesRequest) -> Result<RoutesResponse, Status> {
    let asked = (request.revision > 0).then(|| Revision::from(request.revision));
    let mut state = own.cluster.state();
    if let Some(asked) = asked {
        // Told below if it does not come.
        let _ = timeout(CATCH_UP, state.wait_for(|state| state.revision() >= asked)).await;
    }
    let state = state.borrow().clone();
    let revision = asked.unwrap_or_else(|| state.revision());
    let routes = state.routes_at(revision).ok_or_else(|| {
        Status::not_found(if revision > state.revision() {
            format!("there is no revision {revision} yet: the latest is {}", state.revision())
        } else {
            format!("what was configured at revision {revision} is not remembered any more")
        })
    })?;
    Ok(RoutesResponse { revision: revision.as_u64(), routes: routes.values().map(Into::into).collect() })
}

/// Makes the routes what they were at a revision.
///
/// # Errors
/// As the API describes them.
pub async fn rollback(own: &Own, who: &str, request: RollbackRequest) -> Result<RollbackResponse, Status> {
    // Says why it cannot be.
    routes(own, RoutesRequest { revision: request.revision.max(1) }).await?;
    let applied = propose(own, who, Command::Rollback { to: request.revision.into() }).await?;
    Ok(RollbackResponse { revision: applied.revision.as_u64(), changed: applied.outcome != Outcome::Unchanged })
}

/// Proposes `command` for `who`. Whoever asks this replica next is shown what has become of it.
///
/// # Errors
/// As the API describes them.
pub async fn propose(own: &Own, who: &str, command: Command) -> Result<Applied, Status> {
    let applied = propose::fenced(&own.cluster, who, command, None).await.map_err(refused)?;
    // It is committed, whether or not this replica hears of it.
    let mut state = own.cluster.state();
    let _ = timeout(CATCH_UP, state.wait_for(|state| state.revision() >= applied.revision)).await;
    match applied.outcome {
        Outcome::Rejected(why) => Err(Status::failed_precondition(why)),
        Outcome::Done | Outcome::Unchanged | Outcome::Repeated => Ok(applied),
    }
}

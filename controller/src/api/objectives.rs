//! What people promise of their services, and what becomes of it.

use std::{sync::Arc, time::Duration};

use conduit_api::{
    Objective, ResourceName,
    objective::ObjectiveError,
    proto::{
        common::ResourceRef,
        public::{
            self, Alert, AlertEvent, ListAlertsRequest, ListAlertsResponse, ListObjectivesResponse,
            RemoveObjectiveRequest, SetObjectiveRequest, SetObjectiveResponse, assessment::State,
        },
    },
};
use conduit_consensus::{Command, MeshState, Outcome};
use tokio::time::timeout;
use tonic::Status;

use super::{routes::propose, stat::counted_kind};
use crate::{
    alerts::{
        Windows,
        measured::{Assessed, Measured, Objectives, measure},
    },
    peer::server::Own,
};

/// A replica that is asked next is behind by a heartbeat at most.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Promises something.
///
/// # Errors
/// As the API describes them.
pub async fn set(own: &Own, who: &str, request: SetObjectiveRequest) -> Result<SetObjectiveResponse, Status> {
    let resource = resource(request.resource.as_ref())?;
    counted_kind(resource.kind(), &["authority", "service"])?;
    let goals = request.goals.unwrap_or_default();
    let objective = Objective::try_from(&goals).map_err(invalid)?;
    let command = Command::SetObjective { resource: resource.clone(), objective: objective.clone() };
    changed(own, who, command, |state| state.objectives().get(&resource).is_some_and(|o| o.value == objective)).await
}

/// Promises nothing any more.
///
/// # Errors
/// As the API describes them.
pub async fn remove(own: &Own, who: &str, request: RemoveObjectiveRequest) -> Result<SetObjectiveResponse, Status> {
    let resource = resource(request.resource.as_ref())?;
    let command = Command::RemoveObjective { resource: resource.clone() };
    let removed = changed(own, who, command, |state| !state.objectives().contains_key(&resource)).await?;
    if !removed.changed {
        let message =
            format!("nothing is promised of {}; `conduit slo list -A` shows of what there is", resource.in_words());
        return Err(Status::not_found(message));
    }
    Ok(removed)
}

/// Proposes it, and answers when this replica shows it.
async fn changed(
    own: &Own,
    who: &str,
    command: Command,
    is_so: impl Fn(&MeshState) -> bool,
) -> Result<SetObjectiveResponse, Status> {
    let applied = propose(own, who, command).await?;
    let mut state = own.cluster.state();
    let _ = timeout(CATCH_UP, state.wait_for(|state| is_so(state))).await;
    Ok(SetObjectiveResponse { changed: applied.outcome != Outcome::Unchanged })
}

/// What is promised in `namespace`, or everywhere, and how it is kept.
pub async fn objectives(own: &Own, windows: Windows, namespace: &str) -> ListObjectivesResponse {
    let Found { state, objectives, measured } = find(own, windows, namespace).await;
    let mut assessed = measured.assess(&objectives, state.firing()).into_iter().peekable();
    let objective = |(resource, objective): (&ResourceName, &Arc<conduit_consensus::Versioned<Objective>>)| {
        let of_it = std::iter::from_fn(|| assessed.next_if(|assessed| assessed.resource == *resource));
        public::Objective {
            resource: Some(resource.to_wire()),
            goals: Some((&objective.value).into()),
            revision: objective.version.as_u64(),
            assessments: of_it.map(|assessed| assessed.to_wire()).collect(),
            declared_by: state.declarations().get(resource).map(ToString::to_string).unwrap_or_default(),
        }
    };
    ListObjectivesResponse {
        objectives: objectives.iter().map(objective).collect(),
        replicas_answered: measured.answered,
        replicas_total: measured.asked,
    }
}

/// What is not kept in `namespace`, or anywhere, and what was not lately.
pub async fn alerts(own: &Own, windows: Windows, request: ListAlertsRequest) -> ListAlertsResponse {
    let ListAlertsRequest { namespace, history_only } = &request;
    if *history_only {
        let events = events(&own.cluster.state().borrow(), namespace);
        return ListAlertsResponse { events, ..ListAlertsResponse::default() };
    }
    let Found { state, objectives, measured } = find(own, windows, namespace).await;
    let alert = |assessed: Assessed| {
        let assessment = assessed.to_wire();
        let is_one = matches!(assessment.state(), State::Firing | State::Pending);
        is_one.then(|| Alert { resource: Some(assessed.resource.to_wire()), assessment: Some(assessment) })
    };
    ListAlertsResponse {
        alerts: measured.assess(&objectives, state.firing()).into_iter().filter_map(alert).collect(),
        events: events(&state, namespace),
        replicas_answered: measured.answered,
        replicas_total: measured.asked,
    }
}

/// The newest first.
fn events(state: &MeshState, namespace: &str) -> Vec<AlertEvent> {
    let events = state.alert_events().rev().filter(|event| is_in(&event.resource, namespace));
    events.map(to_wire).collect()
}

struct Found {
    state: Arc<MeshState>,
    objectives: Objectives,
    measured: Measured,
}

async fn find(own: &Own, windows: Windows, namespace: &str) -> Found {
    let promised = own.cluster.state().borrow().objectives().clone();
    let objectives: Objectives = promised.into_iter().filter(|(resource, _)| is_in(resource, namespace)).collect();
    let measured = measure(own, windows, &objectives).await;
    // What fires is told as it is now.
    let state = own.cluster.state().borrow().clone();
    Found { state, objectives, measured }
}

fn is_in(resource: &ResourceName, namespace: &str) -> bool {
    namespace.is_empty() || resource.scope() == namespace
}

fn to_wire(event: &conduit_consensus::AlertEvent) -> AlertEvent {
    AlertEvent {
        id: event.id.as_u64(),
        resource: Some(event.resource.to_wire()),
        indicator: event.indicator.to_string(),
        goal: event.goal.clone(),
        firing: event.firing,
        severity: event.severity.as_str().to_owned(),
        time_ms: event.time_ms,
        delivery: event.delivery.as_str().to_owned(),
    }
}

fn resource(wire: Option<&ResourceRef>) -> Result<ResourceName, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("an objective without a resource"))?;
    ResourceName::try_from(wire).map_err(invalid)
}

fn invalid(error: ObjectiveError) -> Status {
    Status::invalid_argument(error.to_string())
}

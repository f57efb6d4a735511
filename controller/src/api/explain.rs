//! Why a connection or a request goes where it goes.

use conduit_api::{
    TrustDomain,
    proto::public::{ExplainRequest, ExplainResponse, explain_request::To},
    wire,
};
use conduit_consensus::MeshState;
use tonic::Status;

use super::members;
use crate::{
    explain::{Question, Unexplained, address_of_host, address_of_resource, pods},
    peer::server::Own,
};

/// Of the proxies that are behind, so many are named.
const EXAMPLES_MAX: usize = 10;
/// In a question; a proxy would take more, and nobody types them.
const HEADERS_MAX: usize = 64;

/// Answers `request` by the state of this replica, and what the proxies of the sender have acknowledged.
///
/// # Errors
/// As the API describes them.
pub async fn explain(
    own: &Own,
    trust_domain: &TrustDomain,
    request: ExplainRequest,
) -> Result<ExplainResponse, Status> {
    if request.headers.len() > HEADERS_MAX {
        return Err(Status::invalid_argument(format!("more than {HEADERS_MAX} headers")));
    }
    let connected = members::connected_proxies(own).await;
    let state = own.cluster.state().borrow().clone();
    let mut answer = of_state(&state, trust_domain, &request)?;
    let meshed: Vec<_> = pods(&state, &request.from.unwrap_or_default()).into_iter().filter(|pod| pod.meshed).collect();
    let behind = meshed.iter().filter(|pod| connected.get(&pod.name).is_none_or(|has| has.revision < state.revision()));
    answer.proxies = u32::try_from(meshed.len()).unwrap_or(u32::MAX);
    answer.behind = u32::try_from(behind.clone().count()).unwrap_or(u32::MAX);
    answer.examples = behind.take(EXAMPLES_MAX).map(|pod| pod.name.to_string()).collect();
    Ok(answer)
}

fn of_state(
    state: &MeshState,
    trust_domain: &TrustDomain,
    request: &ExplainRequest,
) -> Result<ExplainResponse, Status> {
    let from = request.from.as_ref().ok_or_else(|| Status::invalid_argument("explain without a sender"))?;
    let senders = pods(state, from);
    let sender = senders.iter().find(|pod| pod.meshed).or(senders.first());
    let not_found = || Unexplained::NotFound(format!("{}/{} in {}", from.kind, from.name, from.namespace));
    let sender = sender.ok_or_else(not_found)?;
    let port = wire::port(request.port).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let (to, authority) = match &request.to {
        Some(To::Resource(resource)) => address_of_resource(state, resource, port)?,
        Some(To::Host(host)) => address_of_host(state, sender.name.namespace(), host, port)?,
        None => return Err(Status::invalid_argument("explain without a destination")),
    };
    let headers = request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    let path = request.path.split_once('?').map_or(request.path.as_str(), |(path, _)| path);
    let question = Question {
        from: sender,
        to,
        authority: &authority,
        method: if request.method.is_empty() { "GET" } else { &request.method },
        path: if path.is_empty() { "/" } else { path },
        headers: &headers,
    };
    Ok(ExplainResponse {
        revision: state.revision().as_u64(),
        from: sender.name.to_string(),
        steps: crate::explain::explain(state, trust_domain, &question),
        address: to.to_string(),
        authority,
        ..ExplainResponse::default()
    })
}

impl From<Unexplained> for Status {
    fn from(error: Unexplained) -> Self {
        Self::not_found(error.to_string())
    }
}

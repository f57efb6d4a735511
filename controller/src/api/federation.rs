//! Other trust domains: whom they are believed by here, and what they need to believe in this one.

use conduit_api::{
    TrustDomain,
    proto::public::{CaDenyResponse, CaExportResponse, CaFederateRequest, Federation},
};
use conduit_ca::{TrustBundle, federation, lifetime};
use conduit_consensus::{CaState, Command, FederatedRecord, Outcome};
use tonic::Status;

use super::routes::propose;
use crate::{authority::roots::Roots, discovery::bundle_of, peer::server::Own, propose::unix_ms};

/// Believes another trust domain by other authorities, or no longer.
///
/// # Errors
/// As the API describes them.
pub async fn federate(
    own: &Own,
    roots: &Roots,
    who: &str,
    request: CaFederateRequest,
) -> Result<CaDenyResponse, Status> {
    let trust_domain: TrustDomain = request
        .trust_domain
        .parse()
        .map_err(|error: conduit_api::spiffe::ParseSpiffeError| Status::invalid_argument(error.to_string()))?;
    if trust_domain == roots.trust_domain {
        return Err(Status::invalid_argument(format!(
            "`{trust_domain}` is this mesh's own trust domain; its roots are replaced by `conduit ca rotate`"
        )));
    }
    let command = match request.bundle {
        None => Command::Defederate { trust_domain },
        Some(bundle) => {
            let authorities =
                federation::parse(&bundle).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let roots = authorities.roots().iter().map(|root| root.to_vec()).collect();
            Command::Federate { trust_domain, authorities: FederatedRecord { roots, jwt: authorities.jwt } }
        }
    };
    let applied = propose(own, who, command).await?;
    Ok(CaDenyResponse { revision: applied.revision.as_u64(), changed: applied.outcome != Outcome::Unchanged })
}

/// What others need.
///
/// # Errors
/// FAILED_PRECONDITION before there is a root, and when one has a key that the format does not know.
pub fn export(own: &Own) -> Result<CaExportResponse, Status> {
    let state = own.cluster.state().borrow().clone();
    let bundle = bundle_of(&state).ok_or_else(|| Status::failed_precondition("there is no trust root yet"))?;
    let sequence = bundle.revision;
    let bundle = TrustBundle::try_from(bundle).map_err(|error| Status::internal(error.to_string()))?;
    let exported = federation::export(bundle.own(), sequence);
    exported.map(|bundle| CaExportResponse { bundle }).map_err(|error| Status::failed_precondition(error.to_string()))
}

/// All of them.
pub fn federated(ca: &CaState) -> Vec<Federation> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let federation = |(trust_domain, record): (&TrustDomain, &FederatedRecord)| Federation {
        trust_domain: trust_domain.to_string(),
        roots: count(record.roots.len()),
        jwt_keys: count(record.jwt.len()),
        first_root_expires_ms: record
            .roots
            .iter()
            .filter_map(|root| lifetime(root))
            .map(|(_, end)| unix_ms(end))
            .min()
            .unwrap_or_default(),
    };
    ca.federated.iter().map(federation).collect()
}

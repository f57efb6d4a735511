//! What the control plane finds out about itself. Pure.

use conduit_api::proto::public::{CheckResult, RaftStatusResponse, check_result::Status};
use conduit_consensus::CaState;

/// A member this far behind the leader serves what others have replaced.
const LAG_MAX: u64 = 1000;

/// From the members' own words, the CA in the replicated state, and whether this replica can sign.
pub fn results(raft: &RaftStatusResponse, ca: Option<&CaState>, issuing: bool) -> Vec<CheckResult> {
    let voters: Vec<_> = raft.members.iter().filter(|member| member.voter).collect();
    let down: Vec<_> = voters.iter().filter(|m| m.role == "unreachable").map(|m| m.name.as_str()).collect();
    let behind: Vec<_> =
        voters.iter().filter(|m| m.lag.is_some_and(|lag| lag > LAG_MAX)).map(|m| m.name.as_str()).collect();
    let quorum = voters.len() / 2 + 1;
    let up = voters.len() - down.len();
    vec![
        check(
            "conduit-api[raft]",
            "a leader is known",
            (raft.leader_id.is_empty())
                .then(|| format!("no leader among {} voters, {up} of them reachable; start the others", voters.len())),
        ),
        check(
            "conduit-api[raft]",
            "a quorum of replicas is reachable",
            (up < quorum).then(|| {
                format!(
                    "{up} of {} voters are reachable, {quorum} are needed; not reachable: {}",
                    voters.len(),
                    down.join(", ")
                )
            }),
        ),
        check(
            "conduit-api[raft]",
            "every replica is reachable",
            (!down.is_empty()).then(|| format!("not reachable: {}; see its log", down.join(", "))),
        ),
        check(
            "conduit-api[raft]",
            "every replica is up to date",
            (!behind.is_empty()).then(|| format!("more than {LAG_MAX} entries behind: {}", behind.join(", "))),
        ),
        check(
            "conduit-api[ca]",
            "the trust root exists",
            ca.is_none()
                .then(|| "no root in the replicated state; a leader makes it as soon as there is one".to_owned()),
        ),
        check(
            "conduit-api[ca]",
            "certificates can be issued",
            (!issuing).then(|| "this replica has no issuing certificate; see its log".to_owned()),
        ),
    ]
}

fn check(subsystem: &str, description: &str, problem: Option<String>) -> CheckResult {
    let status = if problem.is_some() { Status::Fail } else { Status::Ok };
    CheckResult {
        subsystem: subsystem.to_owned(),
        description: description.to_owned(),
        status: status.into(),
        message: problem.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::public::RaftMember;

    use super::*;

    fn raft(roles: &[&str]) -> RaftStatusResponse {
        let members = roles.iter().enumerate().map(|(i, role)| RaftMember {
            name: format!("controller-{i}"),
            role: (*role).to_owned(),
            voter: true,
            lag: Some(0),
            ..RaftMember::default()
        });
        let leader_id = if roles.contains(&"leader") { "00000000000000aa".to_owned() } else { String::new() };
        RaftStatusResponse { leader_id, members: members.collect(), ..RaftStatusResponse::default() }
    }

    fn failed(roles: &[&str]) -> Vec<String> {
        let results = results(&raft(roles), None, true);
        results.into_iter().filter(|r| r.status() == Status::Fail).map(|r| r.description).collect()
    }

    #[test]
    fn says_what_is_wrong() {
        let (no_leader, no_quorum, not_all, no_root) = (
            "a leader is known",
            "a quorum of replicas is reachable",
            "every replica is reachable",
            "the trust root exists",
        );
        for (roles, expected) in [
            (&["leader", "follower", "follower"][..], &[no_root][..]),
            (&["leader", "unreachable", "follower"], &[not_all, no_root]),
            (&["follower", "unreachable", "unreachable"], &[no_leader, no_quorum, not_all, no_root]),
        ] {
            assert_eq!(failed(roles), expected, "{roles:?}");
        }
    }
}

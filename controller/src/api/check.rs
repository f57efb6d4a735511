//! What the control plane finds out about itself. Pure.

use std::time::Duration;

use conduit_api::proto::public::{CaStatusResponse, CheckResult, Issuer, RaftStatusResponse, check_result::Status};

/// A member this far behind the leader serves what others have replaced.
const LAG_MAX: u64 = 1000;

/// A user's own root that expires within so many days is a failure, unless it is said otherwise: its user needs some time.
const EXPIRY_DAYS: u64 = 60;
/// A certificate is renewed at 70 % of its life, and a root of ours replaced at 80 %. When so much of it is left and that has not
/// happened, it does not work.
const OVERDUE: f64 = 0.15;
/// Clocks may be this far apart. Beyond it a replica signs nothing.
const CLOCKS_APART_MAX_MS: u64 = 30_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What certificates are meant to last.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Replicas' issuing certificates.
    pub intermediate: Duration,
    /// Workloads' certificates.
    pub leaf: Duration,
}

/// From the members' own words.
pub fn raft(raft: &RaftStatusResponse) -> Vec<CheckResult> {
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
    ]
}

/// From what is known of certificates, and whether the answering replica can sign. `expiry_days` is 0 for what is usual.
pub fn identity(
    ca: Option<&CaStatusResponse>,
    issuing: bool,
    lifetimes: Lifetimes,
    expiry_days: u32,
    now_ms: u64,
) -> Vec<CheckResult> {
    let no_root = || "no root in the replicated state; a leader makes it as soon as there is one".to_owned();
    let mut results = vec![
        check("conduit-identity", "the trust root exists", ca.is_none().then(no_root)),
        check(
            "conduit-identity",
            "certificates can be issued",
            (!issuing).then(|| "this replica has no issuing certificate; see its log".to_owned()),
        ),
    ];
    let Some(ca) = ca else { return results };
    let overdue = |life: Duration| now_ms.saturating_add(life.mul_f64(OVERDUE).as_millis() as u64);
    results.push(check("conduit-identity", "the trust root is valid for long enough", root(ca, expiry_days, now_ms)));
    let late: Vec<_> = (ca.issuers.iter())
        .filter(|issuer| issuer.reachable && issuer.not_after_ms < overdue(lifetimes.intermediate))
        .map(|issuer| issuer.replica.as_str())
        .collect();
    results.push(check(
        "conduit-identity",
        "every replica renews its issuing certificate",
        (!late.is_empty()).then(|| format!("not renewed in time: {}; see their logs", late.join(", "))),
    ));
    let expires = ca.first_proxy_expires_ms;
    results.push(check(
        "conduit-identity",
        "every connected proxy renews its certificate",
        (expires > 0 && expires < overdue(lifetimes.leaf)).then(|| {
            let seconds = expires.saturating_sub(now_ms) / 1000;
            format!(
                "one expires in {seconds}s and was not renewed; `conduit identity` shows whose, its proxy's log why"
            )
        }),
    ));
    let apart: Vec<_> = (ca.issuers.iter())
        .filter(|issuer| issuer.clock_offset_ms.unsigned_abs() > CLOCKS_APART_MAX_MS)
        .map(|issuer| format!("{} by {:+}s", issuer.replica, issuer.clock_offset_ms / 1000))
        .collect();
    results.push(check(
        "conduit-identity",
        "the replicas' clocks agree",
        (!apart.is_empty()).then(|| format!("off: {}; it issues nothing until its clock is set", apart.join(", "))),
    ));
    let is_between = |issuer: &&Issuer| issuer.reachable && !issuer.other_seed.is_empty();
    results.push(check(
        "conduit-identity",
        "every replica has one seed",
        (ca.issuers.iter().any(|issuer| is_between(&issuer)))
            .then(|| "one is about to follow another; `conduit ca rotate-seed` goes on with that".to_owned()),
    ));
    if !ca.federated.is_empty() {
        // How long before its end a root is followed by the next one is for its owner to say.
        let limit = now_ms.saturating_add(u64::from(expiry_days).saturating_mul(DAY_MS));
        let old = ca.federated.iter().filter(|foreign| (1..=limit).contains(&foreign.first_root_expires_ms));
        let old: Vec<_> = old.map(|foreign| foreign.trust_domain.as_str()).collect();
        results.push(check(
            "conduit-identity",
            "the bundles of federated trust domains are current",
            (!old.is_empty())
                .then(|| format!("a root expires, or has: {}; import what they publish now", old.join(", "))),
        ));
    }
    results
}

fn root(ca: &CaStatusResponse, expiry_days: u32, now_ms: u64) -> Option<String> {
    let active = ca.roots.iter().find(|root| root.state == "active")?;
    let expires = active.not_after_ms.min(active.issues_until_ms);
    let days = |days: u64| days.saturating_mul(DAY_MS);
    let limit = match (expiry_days, active.imported) {
        (0, true) => days(EXPIRY_DAYS),
        // It is replaced by itself at 80 % of its life.
        (0, false) => (expires.saturating_sub(ca.rotates_at_ms) as f64 / 0.2 * OVERDUE) as u64,
        (given, _) => days(given.into()),
    };
    let left = expires.saturating_sub(now_ms);
    let next = match active.imported {
        true => "replace it with `conduit ca rotate --issuer-certificate-file FILE --issuer-key-file FILE`",
        false => "replace it with `conduit ca rotate`",
    };
    (left < limit).then(|| format!("it expires in {} days; {next}", left / days(1)))
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
    use conduit_api::proto::public::{Federation, RaftMember, TrustRoot};

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

    fn failed(results: Vec<CheckResult>) -> Vec<String> {
        results.into_iter().filter(|r| r.status() == Status::Fail).map(|r| r.description).collect()
    }

    #[test]
    fn says_what_is_wrong_with_replicas() {
        let (no_leader, no_quorum, not_all) =
            ("a leader is known", "a quorum of replicas is reachable", "every replica is reachable");
        for (roles, expected) in [
            (&["leader", "follower", "follower"][..], &[][..]),
            (&["leader", "unreachable", "follower"], &[not_all]),
            (&["follower", "unreachable", "unreachable"], &[no_leader, no_quorum, not_all]),
        ] {
            assert_eq!(failed(super::raft(&raft(roles))), expected, "{roles:?}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_certificates() {
        const NOW: u64 = 1000 * DAY_MS;
        let lifetimes = Lifetimes { intermediate: Duration::from_secs(7 * 86_400), leaf: Duration::from_secs(86_400) };
        let ca = |root_days: u64, imported: bool, issuer_days: u64, proxy_minutes: u64, offset: i64| CaStatusResponse {
            roots: vec![TrustRoot {
                state: "active".to_owned(),
                not_after_ms: NOW + root_days * DAY_MS,
                issues_until_ms: NOW + root_days * DAY_MS,
                imported,
                ..TrustRoot::default()
            }],
            // Of a root of a hundred days.
            rotates_at_ms: if imported { 0 } else { NOW + root_days * DAY_MS - 20 * DAY_MS },
            issuers: vec![Issuer {
                reachable: true,
                not_after_ms: NOW + issuer_days * DAY_MS,
                clock_offset_ms: offset,
                ..Issuer::default()
            }],
            first_proxy_expires_ms: if proxy_minutes == 0 { 0 } else { NOW + proxy_minutes * 60_000 },
            ..CaStatusResponse::default()
        };
        let (root, issuers, proxies, clocks) = (
            "the trust root is valid for long enough",
            "every replica renews its issuing certificate",
            "every connected proxy renews its certificate",
            "the replicas' clocks agree",
        );
        for (ca, days, expected) in [
            (ca(90, false, 5, 700, 0), 0, &[][..]),
            (ca(16, false, 5, 700, 0), 0, &[]),
            (ca(14, false, 5, 700, 0), 0, &[root]),
            (ca(90, false, 5, 700, 0), 100, &[root]),
            (ca(61, true, 5, 700, 0), 0, &[]),
            (ca(59, true, 5, 700, 0), 0, &[root]),
            (ca(59, true, 5, 700, 0), 10, &[]),
            (ca(90, false, 1, 700, 0), 0, &[issuers]),
            (ca(90, false, 5, 200, 0), 0, &[proxies]),
            (ca(90, false, 5, 0, 0), 0, &[]),
            (ca(90, false, 5, 700, -31_000), 0, &[clocks]),
        ] {
            assert_eq!(failed(identity(Some(&ca), true, lifetimes, days, NOW)), expected, "{ca:?} {days}");
        }
        let mut between = ca(90, false, 5, 700, 0);
        between.issuers[0].other_seed = "0123".to_owned();
        assert_eq!(failed(identity(Some(&between), true, lifetimes, 0, NOW)), ["every replica has one seed"]);
        for (expires, days, expected) in
            [(NOW + DAY_MS, 0, true), (NOW, 0, false), (NOW + DAY_MS, 2, false), (0, 2, true)]
        {
            let foreign = Federation { first_root_expires_ms: expires, ..Federation::default() };
            let federated = CaStatusResponse { federated: vec![foreign], ..ca(90, false, 5, 700, 0) };
            let results = identity(Some(&federated), true, lifetimes, days, NOW);
            let current = results.iter().find(|result| result.description.contains("federated")).unwrap();
            assert_eq!(current.status() == Status::Ok, expected, "{expires} {days}");
        }
        let nothing = failed(identity(None, false, lifetimes, 0, NOW));
        assert_eq!(nothing, ["the trust root exists", "certificates can be issued"]);
    }
}

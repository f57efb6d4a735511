use conduit_ca::{Root, SealedRoot, Seed};
use conduit_consensus::{Command, Link, MeshState, Proposal};

use super::*;

pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A root made at a time in seconds.
pub(crate) fn sealed(made: u64) -> SealedRoot {
    let trust_domain = "cluster.local".parse().unwrap();
    let lifetime = conduit_ca::ROOT_LIFETIME;
    Root::generate(&trust_domain, at(made + 60), lifetime).unwrap().seal(&Seed::generate()).unwrap()
}

fn state(commands: &[Command]) -> Input {
    let mut state = MeshState::default();
    for (index, command) in (1..).zip(commands) {
        state.apply(index, Proposal::new("test", 0, command.clone()));
    }
    Input::Ca(state.ca().cloned())
}

fn authority() -> Authority {
    Authority::new(NodeId::new(1), Duration::from_secs(1_000_000))
}

fn issuing(id: u8, root: &SealedRoot, renew_at: u64) -> Issuing {
    Issuing { id: KeyId::from_bytes(&[id]), root: root.id.clone(), linked: false, renew_at: at(renew_at) }
}

fn init(root: &SealedRoot) -> Command {
    Command::CaInit { root: Box::new(root.clone()), after: None }
}

fn recorded(id: u8) -> Command {
    Command::AddIssuer { node: NodeId::new(1), id: KeyId::from_bytes(&[id]), certificate: vec![id] }
}

/// The platform takes what it is given.
fn kept(authority: &mut Authority, now: SystemTime, effects: Vec<Effect>) -> Vec<Effect> {
    let kept = effects.into_iter().find_map(|effect| if let Effect::Keep(ca) = effect { Some(ca) } else { None });
    authority.handle(now, Input::Kept(kept.expect("something to keep")))
}

/// Without what is published and kept.
fn effects(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Publish(_) | Effect::Keep(_))).collect()
}

#[test]
fn the_leader_makes_the_root_once() {
    let mut authority = authority();
    assert_eq!(authority.handle(at(0), Input::Ca(None)), []);
    assert_eq!(authority.handle(at(0), Input::Leading(true)), [Effect::CreateRoot]);
    assert_eq!(authority.handle(at(1), Input::Timer), [], "one proposal at a time");
    assert_eq!(authority.handle(at(1), Input::Proposed(false)), [Effect::WakeAt(at(1) + RETRY)]);
    assert_eq!(authority.handle(at(1), Input::Leading(true)), [Effect::WakeAt(at(1) + RETRY)]);
    assert_eq!(authority.handle(at(2), Input::Timer), [Effect::CreateRoot]);
}

#[test]
fn a_follower_never_makes_a_root_but_issues_under_it() {
    let (mut authority, root) = (authority(), sealed(0));
    assert_eq!(authority.handle(at(0), Input::Leading(false)), []);
    let first = authority.handle(at(1), state(&[init(&root)]));
    assert!(matches!(first[..], [Effect::Publish(_), Effect::CreateIssuer]), "{first:?}");
    let created = authority.handle(at(1), Input::IssuerCreated(issuing(7, &root, 70)));
    assert_eq!(created, [Effect::RecordIssuer, Effect::WakeAt(at(1) + RECORD_RETRY)]);
    let known = effects(authority.handle(at(2), state(&[init(&root), recorded(7)])));
    assert_eq!(known, [Effect::WakeAt(at(70))]);
    assert_eq!(authority.handle(at(70), Input::Timer), [Effect::CreateIssuer]);
}

#[test]
fn the_leader_alone_has_it_kept() {
    let (mut authority, root) = (authority(), sealed(0));
    let kept = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Keep(_))).count();
    assert_eq!(kept(&authority.handle(at(0), state(&[init(&root)]))), 0);
    assert_eq!(kept(&authority.handle(at(0), Input::Leading(true))), 1);
    assert_eq!(kept(&authority.handle(at(0), Input::Leading(true))), 0);
    assert_eq!(kept(&authority.handle(at(0), state(&[init(&root), recorded(7)]))), 1);
}

/// What the platform keeps is what the mesh begins with when all disks are lost: nothing is dropped before it has what is active.
#[test]
fn nothing_is_rotated_before_the_platform_has_taken_what_it_is_to_keep() {
    let (mut authority, old, new) = (authority(), sealed(0), sealed(0));
    let prepare = Command::PrepareRoot { root: Box::new(new.clone()), link: None };
    let prepared = state(&[init(&old), recorded(7), prepare]);
    authority.handle(at(0), prepared);
    let told = authority.handle(at(0), Input::Leading(true));
    assert!(matches!(told[..], [Effect::Keep(_), ..]), "{told:?}");
    authority.handle(at(0), Input::IssuerCreated(issuing(7, &old, 70)));
    assert_eq!(authority.handle(at(1), Input::NotKept), [Effect::WakeAt(at(1) + KEEP_RETRY)]);
    let reached = || Input::Measured(Reached { step: Step::Activate(new.id.clone()), missing: 0 });
    assert_eq!(authority.handle(at(2), reached()), [Effect::WakeAt(at(1) + KEEP_RETRY)]);
    let again = authority.handle(at(1) + KEEP_RETRY, Input::Timer);
    assert!(matches!(again[..], [Effect::Keep(_), Effect::WakeAt(_)]), "{again:?}");
    let rotate = Effect::Rotate(Step::Activate(new.id.clone()));
    assert!(kept(&mut authority, at(7), again).contains(&rotate));
}

#[test]
fn what_was_not_noted_is_noted_again() {
    let (mut authority, root) = (authority(), sealed(0));
    authority.handle(at(1), state(&[init(&root), recorded(6)]));
    let created = authority.handle(at(1), Input::IssuerCreated(issuing(7, &root, 70)));
    assert_eq!(created, [Effect::RecordIssuer, Effect::WakeAt(at(6))]);
    assert_eq!(authority.handle(at(2), Input::Timer), [Effect::WakeAt(at(6))]);
    assert_eq!(authority.handle(at(6), Input::Timer), [Effect::RecordIssuer, Effect::WakeAt(at(11))]);
}

#[test]
fn another_active_root_and_a_link_that_has_gone_mean_a_new_issuer() {
    let (mut authority, old, new) = (authority(), sealed(0), sealed(0));
    let link = Some(Link { by: old.id.clone(), certificate: vec![] });
    let mut log = vec![init(&old), recorded(7), Command::PrepareRoot { root: Box::new(new.clone()), link }];
    authority.handle(at(0), state(&log));
    let prepared = authority.handle(at(0), Input::IssuerCreated(issuing(7, &old, 70)));
    assert_eq!(prepared, [Effect::WakeAt(at(70))], "nothing is issued under it yet");
    log.push(Command::ActivateRoot { root: new.id.clone() });
    assert_eq!(effects(authority.handle(at(1), state(&log))), [Effect::CreateIssuer]);
    authority.handle(at(1), Input::IssuerCreated(Issuing { linked: true, ..issuing(8, &new, 71) }));
    log.extend([recorded(8), Command::DropRoot { root: old.id }]);
    assert_eq!(effects(authority.handle(at(2), state(&log))), [Effect::CreateIssuer]);
}

#[test]
fn an_issuer_that_was_revoked_is_replaced() {
    let (mut authority, root) = (authority(), sealed(0));
    let mut log = vec![init(&root), recorded(7)];
    authority.handle(at(0), state(&log));
    authority.handle(at(0), Input::IssuerCreated(issuing(7, &root, 70)));
    log.push(Command::RevokeIssuer { node: NodeId::new(1) });
    assert_eq!(effects(authority.handle(at(1), state(&log))), [Effect::CreateIssuer]);
}

#[test]
fn that_an_earlier_state_was_kept_says_nothing_of_the_present_one() {
    let (mut authority, old, new) = (authority(), sealed(0), sealed(0));
    let prepare = Command::PrepareRoot { root: Box::new(new.clone()), link: None };
    let keep =
        |effects: Vec<Effect>| effects.into_iter().find_map(|e| if let Effect::Keep(ca) = e { Some(ca) } else { None });
    authority.handle(at(0), Input::Leading(false));
    authority.handle(at(0), state(&[init(&old), recorded(7)]));
    let first = keep(authority.handle(at(0), Input::Leading(true))).unwrap();
    let second = keep(authority.handle(at(0), state(&[init(&old), recorded(7), prepare]))).unwrap();
    assert!(authority.handle(at(0), Input::Kept(second)).contains(&Effect::Measure));
    authority.handle(at(0), Input::Kept(first));
    let reached = Input::Measured(Reached { step: Step::Activate(new.id.clone()), missing: 0 });
    assert!(authority.handle(at(0), reached).contains(&Effect::Rotate(Step::Activate(new.id))));
}

#[test]
fn one_issuer_is_made_at_a_time() {
    let (mut authority, root) = (authority(), sealed(0));
    assert!(effects(authority.handle(at(0), state(&[init(&root)]))).contains(&Effect::CreateIssuer));
    assert!(!authority.handle(at(0), Input::Leading(true)).contains(&Effect::CreateIssuer), "it is not there yet");
    assert!(!authority.handle(at(0), Input::IssuerCreated(issuing(7, &root, 70))).contains(&Effect::CreateIssuer));
    assert!(authority.handle(at(70), Input::Timer).contains(&Effect::CreateIssuer));
}

#[test]
fn a_failed_issuer_is_tried_again() {
    let mut authority = authority();
    authority.handle(at(0), state(&[init(&sealed(0))]));
    assert_eq!(authority.handle(at(1), Input::IssuerFailed), [Effect::WakeAt(at(1) + RETRY)]);
    assert_eq!(authority.handle(at(2), Input::Timer), [Effect::CreateIssuer]);
}

/// The root has expired, and the one that is to follow it is there: the leader does not stop at what it cannot do.
#[test]
fn a_leader_that_cannot_issue_rotates_all_the_same() {
    let (mut authority, old, new) = (authority(), sealed(0), sealed(0));
    authority.handle(at(0), Input::Leading(false));
    let prepare = Command::PrepareRoot { root: Box::new(new.clone()), link: None };
    authority.handle(at(0), state(&[init(&old), prepare]));
    authority.handle(at(0), Input::IssuerFailed);
    let led = authority.handle(at(0), Input::Leading(true));
    let led = kept(&mut authority, at(0), led);
    assert!(led.contains(&Effect::Measure), "{led:?}");
    let reached = Input::Measured(Reached { step: Step::Activate(new.id.clone()), missing: 0 });
    assert!(authority.handle(at(0), reached).contains(&Effect::Rotate(Step::Activate(new.id))));
}

#[test]
fn who_does_not_lead_any_more_does_nothing_of_a_leader() {
    let (mut authority, old, new) = (authority(), sealed(0), sealed(0));
    let prepare = Command::PrepareRoot { root: Box::new(new.clone()), link: None };
    let prepared = || state(&[init(&old), recorded(7), prepare.clone()]);
    authority.handle(at(0), Input::Leading(true));
    authority.handle(at(0), Input::Proposed(true));
    authority.handle(at(0), Input::Leading(false));
    let told = authority.handle(at(1), prepared());
    assert!(!told.iter().any(|effect| matches!(effect, Effect::Keep(_) | Effect::Measure)), "{told:?}");
    let reached = Input::Measured(Reached { step: Step::Activate(new.id), missing: 0 });
    assert!(!authority.handle(at(1), reached).iter().any(|effect| matches!(effect, Effect::Rotate(_))));
}

#[test]
fn only_the_leader_takes_the_steps_of_a_rotation() {
    let (old, new) = (sealed(0), sealed(0));
    let prepare = Command::PrepareRoot { root: Box::new(new.clone()), link: None };
    for leading in [false, true] {
        let mut authority = authority();
        authority.handle(at(0), state(&[init(&old), recorded(7)]));
        authority.handle(at(0), Input::Leading(leading));
        authority.handle(at(0), Input::IssuerCreated(issuing(7, &old, 70)));
        let prepared = authority.handle(at(1), state(&[init(&old), recorded(7), prepare.clone()]));
        let told = if leading { kept(&mut authority, at(1), prepared) } else { prepared };
        assert_eq!(told.contains(&Effect::Measure), leading);
        let measured =
            authority.handle(at(2), Input::Measured(Reached { step: Step::Activate(new.id.clone()), missing: 0 }));
        let step = Effect::Rotate(Step::Activate(new.id.clone()));
        assert_eq!(measured.contains(&step), leading);
        assert!(!authority.handle(at(2), Input::Timer).contains(&step), "one proposal at a time");
    }
}

//! The content of a snapshot file whose checksum is right: it is restored, and what comes of it can be kept.

#![no_main]

use aws_lc_rs::digest::{SHA256, digest};
use conduit_consensus::{Command, MeshState, Outcome, Proposal, backup};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    let file = [b"CONDUIT\x01", digest(&SHA256, content).as_ref(), content].concat();
    let Ok(kept) = backup::decode(&file) else { return };
    let mut state = MeshState::default();
    let applied = state.apply(1, Proposal::new("cli", 0, Command::Restore(Box::new(kept))));
    assert!(matches!(applied.outcome, Outcome::Done | Outcome::Rejected(_)), "{applied}");
    let again = backup::encode(&state).expect("a state is written");
    assert_eq!(backup::decode(&again).expect("what was written is read"), state);
    let _ = state.apply(2, Proposal::new("cli", 0, Command::Rollback { to: state.revision() }));
});

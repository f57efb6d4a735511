//! What replicas propose to each other: any of it is applied, or rejected, and the state stays one that can be kept.

#![no_main]

use conduit_consensus::{Applied, MeshState, Outcome, Proposal, backup};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(proposals) = rmp_serde::from_slice::<Vec<Proposal>>(bytes) else { return };
    let mut state = MeshState::default();
    for (index, proposal) in (1..).zip(proposals) {
        let before = state.clone();
        let Applied { revision, outcome } = state.apply(index, proposal);
        assert_eq!(revision, state.revision());
        assert!(matches!(outcome, Outcome::Done) || state.revision() == before.revision());
    }
    let kept = backup::encode(&state).expect("a state is written");
    assert_eq!(backup::decode(&kept).expect("what was written is read"), state, "what is derived is derived again");
});

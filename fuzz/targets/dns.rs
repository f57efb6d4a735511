//! Questions to the local mesh's DNS: an answer is to the question that was asked, and as short as it has to be.

#![no_main]

use std::sync::LazyLock;

use conduit_api::mesh::Inventory;
use conduit_cli::local::dns::answer;
use libfuzzer_sys::fuzz_target;

/// The length of a message over UDP.
const BYTES_MAX: usize = 512;

static INVENTORY: LazyLock<Inventory> = LazyLock::new(|| {
    let services =
        r#"{"services": [{"name": "ns/web", "cluster_ips": ["10.96.0.1", "fd00::1"], "ports": {}}], "pods": []}"#;
    serde_json::from_str(services).expect("an inventory")
});

fuzz_target!(|message: &[u8]| {
    let Some(answer) = answer(message, &INVENTORY, BYTES_MAX) else { return };
    assert!(answer.len() <= BYTES_MAX.max(message.len()));
    assert_eq!(answer[..2], message[..2], "the same id");
    assert_eq!(answer[2] & 0x80, 0x80, "it is an answer");
});

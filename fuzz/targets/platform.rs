//! What a platform says runs: the state becomes that, and proxies understand everything that they are told of it.

#![no_main]

use std::sync::Arc;

use conduit_api::{Revision, Target, mesh::Inventory};
use conduit_consensus::{Command, MeshState, Proposal};
use conduit_controller::{discovery::Subscriptions, platform::reconciler::diff};
use conduit_proxy::discovery::Directory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let Ok(inventory) = serde_json::from_slice::<Inventory>(file) else { return };
    let mut state = MeshState::default();
    state.apply(1, Proposal::new("platform", 0, Command::Batch(diff(&state, &inventory))));
    assert!(diff(&state, &inventory).is_empty());

    let (mut directory, domain) = (Directory::new("ns", "pod"), "cluster.local".parse().expect("a domain"));
    let mut subscriptions = Subscriptions::new("ns/web-0".parse().expect("a name"), domain, Arc::default(), 0);
    directory.connect(None);
    let of_services = inventory.services.iter().flat_map(|service| {
        let by_name = service.ports.keys().map(|port| Target::Service(service.name.clone(), *port));
        by_name.chain(service.cluster_ips.iter().map(|ip| Target::Address((*ip, 80).into())))
    });
    let of_pods = inventory.pods.iter().map(|pod| Target::Address((pod.ip, 80).into()));
    for target in of_services.chain(of_pods) {
        // Whatever is not in use is forgotten, but not before it is looked for.
        let _ = directory.want(target.clone());
        subscriptions.subscribe(target, Revision::default()).expect("there are not so many");
    }
    let told = subscriptions.update(&state).expect("the first answer is sent in any case");
    assert!(directory.update(&told).is_ok());
    assert_eq!(subscriptions.update(&state), None);
});

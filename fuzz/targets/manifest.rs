//! Manifests that people hand to `conduit inject`: what is read is written so that it can be read again, once is enough, and `uninject`
//! leaves no proxy behind.

#![no_main]

use conduit_inject::{Manifest, Namespaces, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(manifest) = Manifest::parse(text) else { return };
    let mut namespaces = Namespaces::default();
    namespaces.add(&manifest);
    let Ok(injected) = manifest.inject(&Settings::default(), &namespaces) else { return };
    let again = Manifest::parse(&injected.text).unwrap_or_else(|error| panic!("{error}\n{}", injected.text));
    let twice =
        again.inject(&Settings::default(), &namespaces).unwrap_or_else(|error| panic!("{error}\n{}", injected.text));
    assert_eq!(twice.text, injected.text);
    let without = again.uninject().unwrap_or_else(|error| panic!("{error}\n{}", injected.text));
    let rest = Manifest::parse(&without.text).unwrap_or_else(|error| panic!("{error}\n{}", without.text));
    assert_eq!(rest.uninject().map(|output| output.text).as_ref(), Ok(&without.text));
});

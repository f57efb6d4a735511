//! Blocks of fields: what goes on is what came.

#![no_main]

use conduit_proxy::http::h2::{
    fields::Fields,
    hpack::{Decoder, Encoder},
};
use libfuzzer_sys::fuzz_target;

const SIZE_MAX: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let (mut from, mut to, mut back) = (Decoder::default(), Encoder::default(), Decoder::default());
    // Blocks of one connection, each after its length.
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (block, after) = after.split_at(after.len().min((*length).into()));
        rest = after;
        let mut came = Fields::default();
        let Ok(size) = from.decode(block, &mut came, SIZE_MAX) else { return };
        assert!(size >= 32 * came.len());
        let (mut out, mut again) = (Vec::new(), Fields::default());
        to.encode(&came, &mut out);
        back.decode(&out, &mut again, SIZE_MAX).expect("what goes on is in order");
        let pairs = |fields: &Fields| fields.iter().map(|(n, v, _)| (n.to_vec(), v.to_vec())).collect::<Vec<_>>();
        assert_eq!(pairs(&came), pairs(&again));
    }
});

//! Who says to be a request's parent: what is told the next hop is read there as it was meant, in as many formats as it came in.

#![no_main]

use conduit_proxy::journal::context::{Decision, Reader};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 9] = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "uber-trace-id",
];

// A line to a field: which one, by its first byte, and its value.
fuzz_target!(|bytes: &[u8]| {
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| line.split_first());
    let fields: Vec<_> = lines.map(|(name, value)| (NAMES[usize::from(*name) % NAMES.len()], value)).collect();
    let mut reader = Reader::default();
    fields.iter().for_each(|(name, value)| reader.field(name.as_bytes(), value));
    let context = reader.finish();
    let mut number = 0;
    let trace = context.trace(|| {
        number += 1;
        number
    });
    assert_eq!(context.parent.map(|parent| parent.trace_id), context.parent.map(|_| trace.trace_id));

    // What goes on with nothing added is the same to whoever reads it, and nothing in it is malformed.
    let untold = context.edit(None);
    assert!(untold.add.is_empty());
    let mut kept = Reader::default();
    let is_kept = |name: &str| !untold.remove.contains(&name);
    fields.iter().filter(|(name, _)| is_kept(name)).for_each(|(name, value)| kept.field(name.as_bytes(), value));
    let kept = kept.finish();
    assert_eq!((kept.parent, kept.decision), (context.parent, context.decision));
    assert!(kept.edit(None).is_empty());

    // What is told is one parent, in every format.
    let told = context.edit(Some(&trace));
    assert!(!told.add.is_empty());
    for (name, _) in &told.add {
        assert!(fields.iter().all(|(known, _)| known != name) || told.remove.contains(name), "{name} twice");
    }
    let mut next = Reader::default();
    told.add.iter().for_each(|(name, value)| next.field(name.as_bytes(), value.as_bytes()));
    let next = next.finish();
    let parent = next.parent.expect("it names one");
    assert_eq!((parent.trace_id, parent.span_id), (trace.trace_id, trace.span_id));
    assert!(matches!(next.decision, Some(Decision::Record | Decision::Debug)));
    assert!(next.edit(None).is_empty(), "none of them is malformed");
});

//! Which trace a request belongs to, as its fields say it, and how the next hop is told. Pure.
//!
//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>), B3 in one field and in several (<https://github.com/openzipkin/b3-propagation>)
//! and Jaeger's own (<https://www.jaegertracing.io/docs/1.21/client-libraries/#propagation-format>). Read strictly: what is malformed is
//! nobody's parent, and does not go on.

use std::num::{NonZeroU64, NonZeroU128};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
const B3: &str = "b3";
const B3_TRACE_ID: &str = "x-b3-traceid";
const B3_SPAN_ID: &str = "x-b3-spanid";
const B3_PARENT_SPAN_ID: &str = "x-b3-parentspanid";
const B3_SAMPLED: &str = "x-b3-sampled";
const B3_FLAGS: &str = "x-b3-flags";
const JAEGER: &str = "uber-trace-id";

/// All fields of B3 in several.
const B3_FIELDS: [&str; 5] = [B3_TRACE_ID, B3_SPAN_ID, B3_PARENT_SPAN_ID, B3_SAMPLED, B3_FLAGS];
/// Of W3C: `-` after version, trace and span, two digits at the end.
const TRACEPARENT_LEN: usize = 55;
/// More of `tracestate` than this need not be propagated by anybody (section 3.3.1.5): spans get none then.
const TRACESTATE_LEN_MAX: usize = 512;

/// A span that somebody else has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Of the whole trace.
    pub trace_id: NonZeroU128,
    /// Of the span.
    pub span_id: NonZeroU64,
    /// Its trace id has 32 digits, whatever they are.
    is_wide: bool,
    /// It is random, says whoever has begun it: flag 2 of W3C's.
    is_random: bool,
}

/// What whoever sent the request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is not recorded.
    Drop,
    /// It is.
    Record,
    /// It is, by everybody who can.
    Debug,
}

/// How one says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    W3c,
    B3Single,
    B3Multiple,
    Jaeger,
}

/// In the order in which they are believed.
const FORMATS: [Format; 4] = [Format::W3c, Format::B3Single, Format::B3Multiple, Format::Jaeger];

/// What one of them says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    parent: Option<Parent>,
    decision: Option<Decision>,
}

/// What a format's fields say; nothing when there are none of it.
type Reading = Option<Result<Said, Malformed>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

/// Takes a request's fields, one by one.
#[derive(Debug, Default)]
pub struct Reader<'a> {
    traceparent: Once<'a>,
    tracestate: Option<&'a [u8]>,
    b3: Once<'a>,
    b3_multiple: [Once<'a>; B3_FIELDS.len()],
    jaeger: Once<'a>,
}

/// A field that must not be there twice.
#[derive(Clone, Copy, Debug, Default)]
enum Once<'a> {
    #[default]
    Missing,
    There(&'a [u8]),
    Twice,
}

impl<'a> Once<'a> {
    fn take(&mut self, value: &'a [u8]) {
        *self = if matches!(self, Self::Missing) { Self::There(value) } else { Self::Twice };
    }

    /// What `parse` makes of it.
    fn read<T>(self, parse: impl FnOnce(&'a [u8]) -> Option<T>) -> Option<Result<T, Malformed>> {
        match self {
            Self::Missing => None,
            Self::There(value) => Some(parse(value).ok_or(Malformed)),
            Self::Twice => Some(Err(Malformed)),
        }
    }
}

impl<'a> Reader<'a> {
    /// A field of the request.
    pub fn field(&mut self, name: &[u8], value: &'a [u8]) {
        // By length first: of most fields that is all there is to look at.
        match name.len() {
            2 if name.eq_ignore_ascii_case(B3.as_bytes()) => self.b3.take(value),
            10 if name.eq_ignore_ascii_case(TRACESTATE.as_bytes()) => _ = self.tracestate.get_or_insert(value),
            11 if name.eq_ignore_ascii_case(TRACEPARENT.as_bytes()) => self.traceparent.take(value),
            13 if name.eq_ignore_ascii_case(JAEGER.as_bytes()) => self.jaeger.take(value),
            10..=17 => {
                let known = B3_FIELDS.iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes()));
                if let Some(index) = known {
                    self.b3_multiple[index].take(value);
                }
            }
            _ => {}
        }
    }

    /// What all of them say together.
    pub fn finish(&self) -> Context<'a> {
        let [trace, span, parent, sampled, flags] = self.b3_multiple;
        let readings: [Reading; 4] = [
            self.traceparent.read(traceparent),
            self.b3.read(b3),
            b3_multiple([trace, span, parent], sampled, flags),
            self.jaeger.read(jaeger),
        ];
        let said = || readings.iter().filter_map(|reading| reading.as_ref()?.ok());
        // Who names a parent has more to say than who only decides.
        let said = said().find(|said| said.parent.is_some()).or_else(|| said().next()).unwrap_or_default();
        let is_w3c = matches!(readings[0], Some(Ok(_)));
        let tracestate = self.tracestate.filter(|state| is_w3c && state.len() <= TRACESTATE_LEN_MAX);
        let tracestate = tracestate.and_then(|state| str::from_utf8(state).ok()).unwrap_or_default();
        let has_state = self.tracestate.is_some();
        Context { parent: said.parent, decision: said.decision, tracestate, has_state, readings }
    }
}

/// Of a request that comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// Who has asked for it.
    pub parent: Option<Parent>,
    /// Whether it is recorded, if somebody has decided that.
    pub decision: Option<Decision>,
    /// Of W3C: what others know of the trace.
    pub tracestate: &'a str,
    /// There is a field of that name, whatever is in it.
    has_state: bool,
    /// By [`FORMATS`].
    readings: [Reading; 4],
}

/// This proxy's part of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Of the whole trace.
    pub trace_id: NonZeroU128,
    /// Of the span that is recorded.
    pub span_id: NonZeroU64,
    /// Of the span that this one is part of.
    pub parent: Option<NonZeroU64>,
    /// As it came.
    pub tracestate: Box<str>,
    is_recorded: bool,
    is_debug: bool,
    is_wide: bool,
    is_random: bool,
}

/// Fields to take out of a request, and fields to put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Names, in lower case.
    pub remove: Vec<&'static str>,
    /// Names, in lower case, and values.
    pub add: Vec<(&'static str, String)>,
}

impl Edit {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

impl Context<'_> {
    /// A span of it. `random` gives what has not been there before, and is asked twice at most.
    pub fn trace(&self, mut random: impl FnMut() -> u128) -> Trace {
        // Of 2^64 numbers one is 0, and any other will do.
        let span_id = NonZeroU64::new(random() as u64).unwrap_or(NonZeroU64::MIN);
        let trace_id = self.parent.map(|parent| parent.trace_id);
        Trace {
            trace_id: trace_id.or_else(|| NonZeroU128::new(random())).unwrap_or(NonZeroU128::MIN),
            span_id,
            parent: self.parent.map(|parent| parent.span_id),
            tracestate: self.tracestate.into(),
            is_recorded: true,
            is_debug: self.decision == Some(Decision::Debug),
            is_wide: self.parent.is_none_or(|parent| parent.is_wide),
            is_random: self.parent.is_some_and(|parent| parent.is_random),
        }
    }

    /// No span of it, and what the next hop is told instead: that it has been decided, so that nobody draws again.
    pub fn declined(&self, random: impl FnMut() -> u128) -> Trace {
        let trace = self.trace(random);
        // Whoever was the parent is it still.
        let span_id = self.parent.map_or(trace.span_id, |parent| parent.span_id);
        Trace { span_id, parent: None, is_recorded: false, is_debug: false, ..trace }
    }

    /// What the next hop is told: `trace`, if there is one, in the formats in which the request came, or W3C's if it came in none.
    /// What was malformed does not go on; what was well said goes on untouched when there is nothing to add to it.
    pub fn edit(&self, trace: Option<&Trace>) -> Edit {
        let mut edit = Edit::default();
        let mut is_told = false;
        for (format, reading) in FORMATS.into_iter().zip(&self.readings) {
            match (reading, trace) {
                (None, _) | (Some(Ok(_)), None) => {}
                (Some(Err(Malformed)), _) => {
                    edit.remove.extend(format.fields());
                    if format == Format::W3c {
                        // It belongs to the parent that it came with.
                        edit.remove.push(TRACESTATE);
                    }
                }
                (Some(Ok(_)), Some(trace)) => {
                    edit.remove.extend(format.fields());
                    format.write(trace, &mut edit.add);
                    is_told = true;
                }
            }
        }
        if let Some(trace) = trace.filter(|_| !is_told) {
            Format::W3c.write(trace, &mut edit.add);
            if self.has_state && !edit.remove.contains(&TRACESTATE) {
                // It belongs to a parent that nobody has named.
                edit.remove.push(TRACESTATE);
            }
        }
        edit
    }
}

impl Format {
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::W3c => &[TRACEPARENT],
            Self::B3Single => &[B3],
            Self::B3Multiple => &B3_FIELDS,
            Self::Jaeger => &[JAEGER],
        }
    }

    fn write(self, trace: &Trace, fields: &mut Vec<(&'static str, String)>) {
        let (id, span) = (trace.short_id(), format!("{:016x}", trace.span_id));
        let parent = trace.parent.map(|parent| format!("{parent:016x}"));
        let sampled = if trace.is_recorded { "1" } else { "0" };
        match self {
            Self::W3c => {
                let flags = u8::from(trace.is_recorded) | u8::from(trace.is_random) << 1;
                fields.push((TRACEPARENT, format!("00-{:032x}-{span}-{flags:02x}", trace.trace_id)));
            }
            Self::B3Single => {
                let state = if trace.is_debug { "d" } else { sampled };
                let parent = parent.map(|parent| format!("-{parent}")).unwrap_or_default();
                fields.push((B3, format!("{id}-{span}-{state}{parent}")));
            }
            Self::B3Multiple => {
                fields.extend([(B3_TRACE_ID, id), (B3_SPAN_ID, span)]);
                fields.extend(parent.map(|parent| (B3_PARENT_SPAN_ID, parent)));
                let (name, state) = if trace.is_debug { (B3_FLAGS, "1") } else { (B3_SAMPLED, sampled) };
                fields.push((name, state.to_owned()));
            }
            Self::Jaeger => {
                let (parent, flags) = (parent.as_deref().unwrap_or("0"), if trace.is_debug { "3" } else { sampled });
                fields.push((JAEGER, format!("{id}:{span}:{parent}:{flags}")));
            }
        }
    }
}

impl Trace {
    /// In the formats that know trace ids of 64 bits: as long as it came.
    fn short_id(&self) -> String {
        if self.is_wide { format!("{:032x}", self.trace_id) } else { format!("{:016x}", self.trace_id) }
    }
}

/// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01` (section 3.2). Versions to come may have more behind it.
fn traceparent(value: &[u8]) -> Option<Said> {
    let (known, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
    let mut parts = known.split(|byte| *byte == b'-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = lower_hex(version, 2..=2)?;
    let is_extended = version > 0 && rest.first() == Some(&b'-');
    if parts.next().is_some() || version == 0xff || !(rest.is_empty() || is_extended) {
        return None;
    }
    let parent = parent(lower_hex(trace, 32..=32)?, lower_hex(span, 16..=16)?, true)?;
    let flags = lower_hex(flags, 2..=2)?;
    let decision = if flags & 1 == 1 { Decision::Record } else { Decision::Drop };
    Some(Said { parent: Some(Parent { is_random: flags & 2 == 2, ..parent }), decision: Some(decision) })
}

/// `80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90`, of which the last two may be missing; or a decision alone.
fn b3(value: &[u8]) -> Option<Said> {
    let state = |value: &[u8]| match value {
        b"0" => Some(Decision::Drop),
        b"1" => Some(Decision::Record),
        b"d" => Some(Decision::Debug),
        _ => None,
    };
    if value.len() == 1 {
        return Some(Said { parent: None, decision: Some(state(value)?) });
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let parent = b3_parent(parts.next()?, parts.next()?)?;
    let decision = parts.next().map(|part| state(part).ok_or(Malformed)).transpose().ok()?;
    if let Some(grandparent) = parts.next() {
        lower_hex(grandparent, 16..=16)?;
    }
    parts.next().is_none().then_some(Said { parent: Some(parent), decision })
}

fn b3_multiple(ids: [Once<'_>; 3], sampled: Once<'_>, flags: Once<'_>) -> Reading {
    let decision = sampled.read(|value| match value {
        // The words are of tracers before there was a specification.
        b"0" | b"false" => Some(Decision::Drop),
        b"1" | b"true" => Some(Decision::Record),
        _ => None,
    });
    let debug = flags.read(|value| matches!(value, b"0" | b"1").then_some(value == b"1"));
    let [trace, span, grandparent] = ids.map(|id| id.read(Some));
    let is_there = [&trace, &span, &grandparent].into_iter().any(Option::is_some);
    if !is_there && decision.is_none() && debug.is_none() {
        return None;
    }
    let said = || {
        if let Some(grandparent) = grandparent {
            lower_hex(grandparent?, 16..=16).ok_or(Malformed)?;
        }
        let parent = match (trace, span) {
            (Some(trace), Some(span)) => Some(b3_parent(trace?, span?).ok_or(Malformed)?),
            (None, None) if grandparent.is_none() => None,
            _ => return Err(Malformed),
        };
        let is_debug = debug.transpose()?.unwrap_or_default();
        let decision = decision.transpose()?;
        Ok(Said { parent, decision: if is_debug { Some(Decision::Debug) } else { decision } })
    };
    Some(said())
}

fn b3_parent(trace: &[u8], span: &[u8]) -> Option<Parent> {
    let is_wide = trace.len() == 32;
    let trace = if is_wide { lower_hex(trace, 32..=32)? } else { lower_hex(trace, 16..=16)? };
    parent(trace, lower_hex(span, 16..=16)?, is_wide)
}

/// `{trace}:{span}:{parent}:{flags}` in hexadecimal, without zeros that begin a number, or with them; the colons may be escaped as in a
/// URL.
fn jaeger(value: &[u8]) -> Option<Said> {
    let text = str::from_utf8(value).ok()?;
    let unescaped = text.contains('%').then(|| text.replace("%3A", ":").replace("%3a", ":"));
    let mut parts = unescaped.as_deref().unwrap_or(text).as_bytes().split(|byte| *byte == b':');
    let (trace, span) = (parts.next()?, parts.next()?);
    let (grandparent, flags) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    lower_hex(grandparent, 1..=16)?;
    let parent = parent(lower_hex(trace, 1..=32)?, lower_hex(span, 1..=16)?, trace.len() > 16)?;
    let decision = match lower_hex(flags, 1..=2)? {
        flags if flags & 1 == 0 => Decision::Drop,
        flags if flags & 2 == 0 => Decision::Record,
        _ => Decision::Debug,
    };
    Some(Said { parent: Some(parent), decision: Some(decision) })
}

/// Zeros are nobody's.
fn parent(trace_id: u128, span_id: u128, is_wide: bool) -> Option<Parent> {
    let span_id = NonZeroU64::new(u64::try_from(span_id).ok()?)?;
    Some(Parent { trace_id: NonZeroU128::new(trace_id)?, span_id, is_wide, is_random: false })
}

/// A number of so many digits, none of which is in upper case.
fn lower_hex(digits: &[u8], length: std::ops::RangeInclusive<usize>) -> Option<u128> {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !length.contains(&digits.len()) || !digits.iter().all(is_hex) {
        return None;
    }
    u128::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read<'a>(fields: &[(&str, &'a str)]) -> Context<'a> {
        let mut reader = Reader::default();
        fields.iter().for_each(|(name, value)| reader.field(name.as_bytes(), value.as_bytes()));
        reader.finish()
    }

    /// What goes on of a request with `fields` when it is recorded; the new span is `…01`, a new trace `…02`.
    fn recorded(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let context = read(fields);
        let mut numbers = 0;
        let trace = context.trace(|| {
            numbers += 1;
            numbers
        });
        applied(fields, &context.edit(Some(&trace)))
    }

    fn applied(fields: &[(&str, &str)], edit: &Edit) -> Vec<(String, String)> {
        let kept = fields.iter().filter(|(name, _)| !edit.remove.contains(&name.to_lowercase().as_str()));
        let kept = kept.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        kept.chain(edit.add.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))).collect()
    }

    fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_parent_is_told_on_in_the_format_in_which_it_came() {
        let (span, wide, narrow) = ("0000000000000001", "4bf92f3577b34da6a3ce929d0e0e4736", "a3ce929d0e0e4736");
        let cases: [(&[_], &[_]); 9] = [
            (&[], &[("traceparent", "00-00000000000000000000000000000002-0000000000000001-01")]),
            (
                &[("Traceparent", W3C), ("tracestate", "a=b")],
                &[("tracestate", "a=b"), ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-01")],
            ),
            (
                &[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90")],
                &[("b3", "a3ce929d0e0e4736-0000000000000001-1-00f067aa0ba902b7")],
            ),
            (
                &[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-d")],
                &[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-d-00f067aa0ba902b7")],
            ),
            (&[("b3", "1")], &[("b3", "00000000000000000000000000000002-0000000000000001-1")]),
            (
                &[("X-B3-TraceId", narrow), ("X-B3-SpanId", "00f067aa0ba902b7"), ("X-B3-Sampled", "1")],
                &[
                    ("x-b3-traceid", narrow),
                    ("x-b3-spanid", span),
                    ("x-b3-parentspanid", "00f067aa0ba902b7"),
                    ("x-b3-sampled", "1"),
                ],
            ),
            (
                &[("x-b3-traceid", wide), ("x-b3-spanid", "00f067aa0ba902b7"), ("x-b3-flags", "1")],
                &[
                    ("x-b3-traceid", wide),
                    ("x-b3-spanid", span),
                    ("x-b3-parentspanid", "00f067aa0ba902b7"),
                    ("x-b3-flags", "1"),
                ],
            ),
            (
                &[("uber-trace-id", "ce929d0e0e4736:f067aa0ba902b7:0:1")],
                &[("uber-trace-id", "00ce929d0e0e4736:0000000000000001:00f067aa0ba902b7:1")],
            ),
            (
                &[("traceparent", W3C), ("b3", "a3ce929d0e0e4736-00f067aa0ba902b8-1")],
                &[
                    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-01"),
                    ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-1-00f067aa0ba902b7"),
                ],
            ),
        ];
        for (came, goes) in cases {
            assert_eq!(recorded(came), owned(goes), "{came:?}");
        }
    }

    #[test]
    fn a_draw_of_no_is_told_on() {
        let declined = |fields: &[(&str, &str)]| {
            let context = read(fields);
            let mut numbers = 0;
            let trace = context.declined(|| {
                numbers += 1;
                numbers
            });
            let goes = applied(fields, &context.edit(Some(&trace)));
            let names: Vec<_> = goes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(read(&names).decision, Some(Decision::Drop), "{goes:?}");
            goes
        };
        let fresh = ("traceparent", "00-00000000000000000000000000000002-0000000000000001-00");
        let (trace, span) = ("a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(declined(&[]), owned(&[fresh]));
        assert_eq!(declined(&[("traceparent", "?")]), owned(&[fresh]));
        assert_eq!(
            declined(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7")]),
            owned(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-0")])
        );
        let multiple = [(B3_TRACE_ID, trace), (B3_SPAN_ID, span)];
        assert_eq!(declined(&multiple), owned(&[multiple[0], multiple[1], (B3_SAMPLED, "0")]));
        // Of clients that ask for too much.
        assert_eq!(declined(&[("traceparent", W3C)]), owned(&[("traceparent", &W3C.replace("-01", "-00"))]));
        let (asked, told) = ("a3ce929d0e0e4736:f067aa0ba902b7:0:3", "a3ce929d0e0e4736:00f067aa0ba902b7:0:0");
        assert_eq!(declined(&[("uber-trace-id", asked)]), owned(&[("uber-trace-id", told)]));
    }

    #[test]
    fn what_is_known_of_a_trace_goes_on_with_it_and_with_no_other() {
        let random = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03";
        let goes = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-03")];
        assert_eq!(recorded(&[("traceparent", random)]), owned(&goes));
        let fresh = [("traceparent", "00-00000000000000000000000000000002-0000000000000001-01")];
        assert_eq!(recorded(&[("tracestate", "a=b")]), owned(&fresh));
    }

    #[test]
    fn somebody_has_decided_or_nobody_has() {
        let multiple = [(B3_TRACE_ID, "a3ce929d0e0e4736"), (B3_SPAN_ID, "00f067aa0ba902b7")];
        let with = |name, value| [multiple[0], multiple[1], (name, value)];
        for (fields, decision) in [
            (&[("traceparent", W3C)][..], Some(Decision::Record)),
            (&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")], Some(Decision::Drop)),
            (&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03")], Some(Decision::Record)),
            (
                &[("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more")],
                Some(Decision::Record),
            ),
            (&[("b3", "0")], Some(Decision::Drop)),
            (&[("b3", "d")], Some(Decision::Debug)),
            (&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7")], None),
            (&[(B3_SAMPLED, "0")], Some(Decision::Drop)),
            (&[(B3_FLAGS, "1")], Some(Decision::Debug)),
            (&multiple, None),
            (&with(B3_SAMPLED, "true"), Some(Decision::Record)),
            (&[("uber-trace-id", "ce929d0e0e4736:f067aa0ba902b7:0:0")], Some(Decision::Drop)),
            (&[("uber-trace-id", "ce929d0e0e4736%3Af067aa0ba902b7%3A0%3A3")], Some(Decision::Debug)),
            (&[], None),
        ] {
            let context = read(fields);
            assert_eq!(context.decision, decision, "{fields:?}");
            assert_eq!(context.edit(None), Edit::default(), "what is not recorded goes on as it came");
        }
    }

    #[test]
    fn what_is_malformed_is_nobody_s_parent_and_does_not_go_on() {
        for (name, value) in [
            ("traceparent", ""),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"),
            ("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more"),
            ("traceparent", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("traceparent", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
            ("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1x"),
            ("traceparent", "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01"),
            ("b3", ""),
            ("b3", "2"),
            ("b3", "a3ce929d0e0e473-00f067aa0ba902b7-1"),
            ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-x"),
            ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1-5"),
            ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90-1"),
            ("b3", "0000000000000000-00f067aa0ba902b7-1"),
            (B3_TRACE_ID, "a3ce929d0e0e4736"),
            (B3_SPAN_ID, "a3ce929d0e0e4736"),
            (B3_PARENT_SPAN_ID, "a3ce929d0e0e4736"),
            (B3_SAMPLED, "perhaps"),
            (B3_FLAGS, "2"),
            ("uber-trace-id", "1:2:3"),
            ("uber-trace-id", "1:2:3:4:5"),
            ("uber-trace-id", "0:2:0:1"),
            ("uber-trace-id", "1:0:0:1"),
            ("uber-trace-id", "1:00000000000000002:0:1"),
            ("uber-trace-id", "1::0:1"),
            ("uber-trace-id", "+1:2:0:1"),
        ] {
            let context = read(&[(name, value)]);
            assert_eq!((context.parent, context.decision), (None, None), "{name}: {value}");
            assert!(applied(&[(name, value)], &context.edit(None)).is_empty(), "{name}: {value}");
            let goes = recorded(&[(name, value)]);
            assert_eq!(goes, owned(&[("traceparent", "00-00000000000000000000000000000002-0000000000000001-01")]));
        }
        let twice = [("traceparent", W3C), ("traceparent", W3C), ("tracestate", "a=b")];
        assert_eq!(read(&twice).parent, None);
        assert!(applied(&twice, &read(&twice).edit(None)).is_empty(), "what others know of it is nothing without it");
        let other = [("traceparent", "?"), ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1")];
        assert_eq!(read(&other).parent.unwrap().span_id.get(), 0xf0_67aa_0ba9_02b7);
        assert_eq!(applied(&other, &read(&other).edit(None)), owned(&other[1..]));
    }
}

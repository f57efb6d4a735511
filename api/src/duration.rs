//! Durations as the Gateway API writes them (GEP-2257): `500ms`, `1m30s`.

/// What is longer cannot be written in one way: no number has more than five digits.
const END_MS: u64 = 100_000 * 3_600_000;

/// Something else.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a duration as 500ms or 1m30s")]
pub struct ParseDurationError(String);

/// In milliseconds: up to four numbers of up to five digits, each with its unit.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<u64, ParseDurationError> {
    let malformed = || ParseDurationError(text.to_owned());
    let (mut rest, mut total, mut count) = (text, 0, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (unit, ms) = units.into_iter().find(|(unit, _)| after.starts_with(unit)).ok_or_else(malformed)?;
        let number: u64 = Some(number).filter(|n| n.len() <= 5).and_then(|n| n.parse().ok()).ok_or_else(malformed)?;
        (rest, total, count) = (&after[unit.len()..], total + number * ms, count + 1);
    }
    if (1..=4).contains(&count) && total < END_MS { Ok(total) } else { Err(malformed()) }
}

/// The reverse: no number has more than five digits. Nothing, of no time at all.
pub fn written(ms: u64) -> Option<String> {
    let units = [(ms / 3_600_000, "h"), (ms / 60_000 % 60, "m"), (ms / 1_000 % 60, "s"), (ms % 1_000, "ms")];
    let parts = units.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}"));
    (ms > 0).then(|| parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("1h30m5s20ms", Some(5_405_020)),
            ("99999h", Some(359_996_400_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("99999h1h", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
        for ms in [1, 500, 5_405_020, 359_996_400_000] {
            assert_eq!(parse(&written(ms).unwrap()), Ok(ms));
        }
    }
}

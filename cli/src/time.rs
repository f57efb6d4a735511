//! Times as they are written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last moment that RFC 3339 can write.
const TIME_MS_MAX: u64 = 253_402_300_799_000;

/// RFC 3339, in UTC, of milliseconds since the Unix epoch: what is read by people in several places.
pub fn rfc3339(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms.min(TIME_MS_MAX))).to_string()
}

/// How long it is until then, in the two largest units; `expired` when it is over.
pub fn until(ms: u64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    match Duration::from_millis(ms.min(TIME_MS_MAX)).checked_sub(now) {
        Some(left) if !left.is_zero() => {
            let seconds = left.as_secs();
            match seconds {
                86_400.. => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
                3600.. => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
                60.. => format!("{}m{}s", seconds / 60, seconds % 60),
                _ => format!("{seconds}s"),
            }
        }
        _ => "expired".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_and_never_panic() {
        assert_eq!(rfc3339(1_525_000_000_000), "2018-04-29T11:06:40Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_left_is_written_in_two_units() {
        let at = |seconds: u64| until(1_000_000_000 + seconds * 1000, UNIX_EPOCH + Duration::from_secs(1_000_000));
        for (seconds, expected) in
            [(0, "expired"), (59, "59s"), (61, "1m1s"), (3600, "1h0m"), (90_000, "1d1h"), (864_000, "10d0h")]
        {
            assert_eq!(at(seconds), expected);
        }
        assert_eq!(until(0, UNIX_EPOCH + Duration::from_secs(1)), "expired");
    }
}

//! Which parts of a path only tell one of many things.

use memchr::memchr;

/// A longer pattern has no row of its own.
pub const PATH_LEN_MAX: usize = 256;
/// Hexadecimal digits from here on are an id, and not a word as `feed`.
const HEX_MIN: usize = 16;
/// Tokens, as base64 and ULIDs, are at least that long. Names of gRPC's services are as well ...
const TOKEN_MIN: usize = 20;
/// ... but they do not go from letters to digits and back so often: `v1beta2` does it three times.
const TOKEN_CHANGES_MIN: usize = 4;
/// No name that anybody has to type is so long.
const WORD_MAX: usize = 96;
/// Digits, with what dates and addresses have between them, are one of many; `1.1` is a version.
const DIGITS_MIN: usize = 6;
/// What stands for one of many.
const ANY: &[u8] = b"*";

/// The pattern of a path that has no query, in `buffer`; none if there is no room for it.
pub fn pattern<'a>(path: &str, buffer: &'a mut [u8; PATH_LEN_MAX]) -> Option<&'a str> {
    let mut len = 0;
    let mut push = |bytes: &[u8]| {
        buffer.get_mut(len..len + bytes.len())?.copy_from_slice(bytes);
        len += bytes.len();
        Some(())
    };
    for (index, segment) in path.as_bytes().split(|byte| *byte == b'/').enumerate() {
        if index > 0 {
            push(b"/")?;
        }
        // Parameters of a segment (RFC 3986 section 3.3), as `;jsessionid=…`.
        let (name, parameters) = match memchr(b';', segment) {
            Some(at) => (&segment[..at], true),
            None => (segment, false),
        };
        push(if is_one_of_many(name) { ANY } else { name })?;
        if parameters {
            push(b";*")?;
        }
    }
    str::from_utf8(&buffer[..len]).ok()
}

/// A number, a date, a UUID, a long hexadecimal, a token, an address, or what had to be escaped.
fn is_one_of_many(segment: &[u8]) -> bool {
    if segment.len() > WORD_MAX {
        return true;
    }
    let seen = Seen::of(segment);
    let is_number = seen.digits == segment.len() && seen.digits > 0;
    let is_date = seen.digits >= DIGITS_MIN && seen.digits + seen.marks == segment.len();
    let is_hex = segment.len() >= HEX_MIN && seen.hex == segment.len();
    let is_token = segment.len() >= TOKEN_MIN && seen.others == 0 && seen.changes >= TOKEN_CHANGES_MIN;
    is_number || is_date || is_hex || is_token || seen.has_escape || seen.is_address || is_uuid(segment)
}

/// What there is in a segment, by one look.
#[derive(Default)]
struct Seen {
    digits: usize,
    hex: usize,
    /// What is in dates, times and IP addresses besides digits.
    marks: usize,
    /// What is in no token.
    others: usize,
    /// From a letter to a digit, and from a digit to a letter.
    changes: usize,
    has_escape: bool,
    /// As of e-mail.
    is_address: bool,
}

impl Seen {
    fn of(segment: &[u8]) -> Self {
        let (mut seen, mut previous, mut at) = (Self::default(), b'-', false);
        for (index, byte) in segment.iter().copied().enumerate() {
            let is_change = previous.is_ascii_digit() && byte.is_ascii_alphabetic()
                || previous.is_ascii_alphabetic() && byte.is_ascii_digit();
            seen.changes += usize::from(is_change);
            seen.digits += usize::from(byte.is_ascii_digit());
            seen.hex += usize::from(byte.is_ascii_hexdigit());
            seen.marks += usize::from(matches!(byte, b'-' | b':' | b'.' | b'_' | b'+' | b'T' | b'Z'));
            let is_of_token =
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b'=' | b'~' | b':');
            seen.others += usize::from(!is_of_token);
            seen.has_escape |= byte == b'%';
            seen.is_address |= at && byte == b'.';
            at |= byte == b'@' && index > 0;
            previous = byte;
        }
        seen
    }
}

fn is_uuid(segment: &[u8]) -> bool {
    segment.len() == 36
        && (0..).zip(segment).all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_patterns(cases: &[(&str, &str)]) {
        for (path, expected) in cases {
            assert_eq!(pattern(path, &mut [0; PATH_LEN_MAX]), Some(*expected), "{path}");
        }
    }

    #[test]
    fn what_is_one_of_many_is_not_told_apart() {
        assert_patterns(&[
            ("/books/42/pages/7", "/books/*/pages/*"),
            ("/u/6f1c2a34-0b1d-4e5f-8a9b-0c1d2e3f4a5b/x", "/u/*/x"),
            ("/u/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee/x", "/u/*/x"),
            ("/blobs/0123456789abcdefABCDEF", "/blobs/*"),
            ("/größe/1", "/größe/*"),
            ("/login;jsessionid=0A1B2C3D4E5F", "/login;*"),
            ("/42;v=1/x;", "/*;*/x;*"),
            ("/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6y", "/t/*"),
            ("/t/dGhpcyBpcyBhIHRva2VuIDEyMzQ1Ng==", "/t/*"),
            ("/o/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/o/*"),
            ("/o/order-6f1c2a34-0b1d-4e5f", "/o/*"),
            ("/blobs/sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "/blobs/*"),
            ("/days/2024-01-31/x", "/days/*/x"),
            ("/at/2024-01-31T12:00:00.000Z", "/at/*"),
            ("/months/2024-01", "/months/*"),
            ("/hosts/192.168.1.17", "/hosts/*"),
            ("/users/jane.doe@example.org/mail", "/users/*/mail"),
            ("/files/my%20holidays.jpg", "/files/*"),
            ("/q/%7B%22a%22%3A1%7D", "/q/*"),
        ]);
        assert_patterns(&[(&format!("/{}/x", "word".repeat(30)), "/*/x")]);
    }

    #[test]
    fn what_is_a_word_is() {
        assert_patterns(&[
            ("/", "/"),
            ("*", "*"),
            ("", ""),
            ("/emojivoto.v1.VotingService/VoteDoughnut", "/emojivoto.v1.VotingService/VoteDoughnut"),
            (
                "/google.ads.googleads.v14.services.CustomerSkAdNetworkConversionValueSchemaService/Mutate",
                "/google.ads.googleads.v14.services.CustomerSkAdNetworkConversionValueSchemaService/Mutate",
            ),
            ("/google.bigquery.storage.v1beta2.BigQueryWrite/X", "/google.bigquery.storage.v1beta2.BigQueryWrite/X"),
            ("/books/", "/books/"),
            ("/feed/beef/c0ffee/v1/2x", "/feed/beef/c0ffee/v1/2x"),
            ("/1.1/statuses/user_timeline.json", "/1.1/statuses/user_timeline.json"),
            ("/pkg/@v/list/@latest", "/pkg/@v/list/@latest"),
            ("/assets/main.js", "/assets/main.js"),
            ("/a-long-name-with-many-words-in-it", "/a-long-name-with-many-words-in-it"),
        ]);
    }
}

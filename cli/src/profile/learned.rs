//! From requests to calls. Pure.

use super::calls::Call;

/// Longer words are drawn at random, or worked out.
const WORD_MAX: usize = 40;
/// As many hexadecimal digits are no word.
const HEX_MIN: usize = 12;

/// What was asked for; nothing, if no route can be for that.
pub(super) fn call(method: &str, path: &str) -> Option<Call> {
    let path = path.split('?').next().unwrap_or_default();
    let mut before = 0;
    for part in path.strip_prefix('/')?.split('/') {
        if is_identifier(part) {
            return Call::below(Some(method), &path[..before]);
        }
        before += "/".len() + part.len();
    }
    Call::exact(Some(method), path)
}

/// Whether it is another one in the next request.
fn is_identifier(part: &str) -> bool {
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let is_hex = part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_number = digits == part.len() && digits > 0;
    is_number || part.len() > WORD_MAX || (is_hex && digits > 0 && part.len() >= HEX_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_request_to_request_is_left_out() {
        let get = |path: &str| Call::exact(Some("GET"), path);
        let below = |path: &str| Call::below(Some("GET"), path);
        for (path, expected) in [
            ("/", get("/")),
            ("/books?page=2", get("/books")),
            ("/books/", get("/books/")),
            ("/v1/books", get("/v1/books")),
            ("/books/17/edit", below("/books")),
            ("/orders/3f2504e0-4f89-11d3-9a0c-0305e82c3301", below("/orders")),
            ("/cafe/deadbeef", get("/cafe/deadbeef")),
            ("/emojivoto.v1.VotingService/VoteDoughnut", get("/emojivoto.v1.VotingService/VoteDoughnut")),
            ("/17", below("/")),
            ("*", None),
            ("/a//b", None),
        ] {
            assert_eq!(call("GET", path), expected, "{path}");
        }
    }
}

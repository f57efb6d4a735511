//! What heads say, as it is shown to those who watch: not all of it, and not what proves who somebody is.

use conduit_api::proto::tap::{
    TapEvent,
    tap_event::{Header, Kind, RequestInit, ResponseInit},
};

use crate::http::Headers;

/// Of one head. What comes after them is not shown.
const HEADERS_MAX: usize = 64;
/// In all of them: a head may have eight times as much.
const BYTES_MAX: usize = 8 * 1024;
/// Of names and values besides their text, in memory and on the wire.
const OVERHEAD_BYTES: usize = 64;
/// What is in the names of fields by which people, sessions and programs prove who they are. Rather one too many: a name that is redacted is
/// still seen to be there. Addresses of pages have codes and signatures in them.
const SECRETS: [&str; 22] = [
    "assertion",
    "auth",
    "cookie",
    "credential",
    "dpop",
    "forwarded-client-cert",
    "forwarded-email",
    "forwarded-user",
    "jwt",
    "key",
    "link",
    "location",
    "passwd",
    "password",
    "referer",
    "remote-user",
    "secret",
    "session",
    "signature",
    "token",
    "x-amz-security",
    "xsrf",
];

/// The first of them, in their order; without the values of those that `redact` names, and of those that are no one's business.
pub fn shown(headers: Headers<'_>, redact: &[String]) -> Vec<Header> {
    let (mut shown, mut left) = (Vec::new(), BYTES_MAX);
    headers.for_each(|name, value| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if name.starts_with(':') || shown.len() >= HEADERS_MAX {
            return;
        }
        let redacted = is_secret(&name, redact);
        let value = if redacted { Vec::new() } else { value.to_vec() };
        let header = Header { name, value, redacted };
        // Also those after one that is too long are not shown: nobody is to think that these are all.
        left = left.saturating_sub(bytes(std::slice::from_ref(&header)));
        if left > 0 {
            shown.push(header);
        }
    });
    shown
}

/// `name` is in lower case.
fn is_secret(name: &str, redact: &[String]) -> bool {
    SECRETS.iter().any(|secret| name.contains(secret)) || redact.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// What they take, roughly.
pub fn bytes(headers: &[Header]) -> usize {
    headers.iter().map(|header| header.name.len() + header.value.len() + OVERHEAD_BYTES).sum()
}

/// `event` for those who did not ask for headers; none if it has none.
pub fn without(event: &TapEvent) -> Option<TapEvent> {
    let kind = match event.kind.as_ref()? {
        Kind::RequestInit(init) if !init.headers.is_empty() => {
            Kind::RequestInit(RequestInit { headers: Vec::new(), ..init.clone() })
        }
        Kind::ResponseInit(init) if !init.headers.is_empty() => {
            Kind::ResponseInit(ResponseInit { headers: Vec::new(), ..init.clone() })
        }
        _ => return None,
    };
    Some(TapEvent { kind: Some(kind), ..event.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(head: &str, redact: &[String]) -> Vec<(String, String, bool)> {
        let head = head.replace('\n', "\r\n");
        let shown = shown(Headers::Http1(head.as_bytes()), redact);
        let text = |header: Header| (header.name, String::from_utf8(header.value).unwrap(), header.redacted);
        shown.into_iter().map(text).collect()
    }

    #[test]
    fn nobody_is_shown_who_somebody_is() {
        let head = "GET / HTTP/1.1\nHost: shop\nAccept: */*\nAuthorization: Bearer abc\nCookie: a=b\nX-Api-Key: 1\n\
                    X-Csrf-Token: 2\nProxy-Authorization: Basic 3\nX-Customer: ann\n\n";
        let field = |name: &str, value: &str, redacted| (name.to_owned(), value.to_owned(), redacted);
        let expected = [
            field("host", "shop", false),
            field("accept", "*/*", false),
            field("authorization", "", true),
            field("cookie", "", true),
            field("x-api-key", "", true),
            field("x-csrf-token", "", true),
            field("proxy-authorization", "", true),
            field("x-customer", "", true),
        ];
        assert_eq!(names(head, &["X-Customer".to_owned()]), expected);
        assert_eq!(names("HTTP/1.1 200 OK\nSet-Cookie: a=b\n\n", &[]), [field("set-cookie", "", true)]);
    }

    #[test]
    fn not_all_of_a_large_head_is_shown() {
        let many = format!("GET / HTTP/1.1\n{}\n", "a: b\n".repeat(HEADERS_MAX + 1));
        assert_eq!(names(&many, &[]).len(), HEADERS_MAX);
        let long = format!("GET / HTTP/1.1\na: b\nlong: {}\nc: d\n\n", "x".repeat(BYTES_MAX));
        assert_eq!(names(&long, &[]), [("a".to_owned(), "b".to_owned(), false)]);
    }
}

//! What a route says of its requests besides where they go: how long they may take, what is changed of them, and what is answered in
//! their place. Pure.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit_api::{
    filters::{Filters, HeaderEdits, PathEdit, Redirect, Timeouts},
    route::{PathMatch, RouteMatch, RouteRule},
};
use http::{HeaderName, HeaderValue, Response, StatusCode, header::LOCATION};
use tokio::time::Instant;

use crate::{
    buffer::{Buffer, TooLarge},
    http::{RequestView, h2::fields::Fields, head},
};

/// Of one rule that says more than where requests go; most say nothing, and have none.
#[derive(Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long requests may take.
    pub timeouts: Timeouts,
    /// What else becomes of them.
    pub filters: Filters,
    /// By which they were accepted; empty if that was no prefix.
    prefix: String,
}

impl Policy {
    /// Of the requests of `rule` that `accepted` accepts; nothing if it says nothing of them.
    pub fn new(rule: &RouteRule, accepted: &RouteMatch) -> Option<Arc<Self>> {
        if rule.timeouts.is_none() && rule.filters.is_none() {
            return None;
        }
        let prefix = match &accepted.path {
            PathMatch::Prefix(prefix) => prefix.clone(),
            PathMatch::Exact(_) => String::new(),
        };
        Some(Arc::new(Self { timeouts: rule.timeouts, filters: rule.filters.clone(), prefix }))
    }

    /// Until when a request that begins `now` may take.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        after(now, self.timeouts.request_ms)
    }

    /// The same of an attempt that begins `now`, of a request that may take until `deadline`.
    pub fn deadline_of_attempt(&self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        let own = after(now, self.timeouts.backend_request_ms);
        own.into_iter().chain(deadline).min()
    }

    /// What is changed of requests, if anything is.
    pub fn of_requests(&self) -> Option<&HeaderEdits> {
        Some(&self.filters.request_headers).filter(|edits| !edits.is_none())
    }

    /// What is changed of responses, if anything is.
    pub fn of_responses(&self) -> Option<&HeaderEdits> {
        Some(&self.filters.response_headers).filter(|edits| !edits.is_none())
    }

    /// The answer to `request`, if nobody is to be asked for one.
    pub fn redirect(&self, request: &RequestView<'_>) -> Option<Response<Bytes>> {
        let redirect = self.filters.redirect.as_ref()?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::from_u16(redirect.status).ok()?;
        for (name, value) in self.of_responses().into_iter().flat_map(HeaderEdits::gives) {
            let (name, value) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()));
            response.headers_mut().append(name.ok()?, value.ok()?);
        }
        let location = HeaderValue::try_from(visible(&self.location(redirect, request))).ok()?;
        response.headers_mut().insert(LOCATION, location);
        Some(response)
    }

    fn location(&self, redirect: &Redirect, request: &RequestView<'_>) -> String {
        let asked = request.authority;
        let number = |(host, port): (&'_ str, &'_ str)| Some((host.len(), port.parse::<u16>().ok()?));
        let (end, port) = asked.rsplit_once(':').and_then(number).map_or((asked.len(), None), |(at, p)| (at, Some(p)));
        let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
        let host = redirect.hostname.as_deref().unwrap_or(&asked[..end]);
        // One that is not said is the scheme's, if that is said.
        let port = redirect.port.or(port.filter(|_| redirect.scheme.is_none()));
        let port = port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
        let (path, query) = request.path.split_at(request.path.find('?').unwrap_or(request.path.len()));
        let (before, after) = match &redirect.path {
            None => ("", path),
            Some(PathEdit::Full(full)) => (full.as_str(), ""),
            Some(PathEdit::Prefix(new)) => {
                (new.trim_end_matches('/'), path.strip_prefix(self.prefix.as_str()).unwrap_or_default())
            }
        };
        let slash = if before.is_empty() && !after.starts_with('/') { "/" } else { "" };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{before}{slash}{after}{query}")
    }
}

fn after(now: Instant, ms: u64) -> Option<Instant> {
    // What is beyond the clock is never.
    Some(ms).filter(|ms| *ms > 0).and_then(|ms| now.checked_add(Duration::from_millis(ms)))
}

/// Without what a URI, and a field's value, cannot have.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e => visible.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(visible, "%{byte:02X}")),
        }
    }
    visible
}

/// Writes `head`, of HTTP/1 and as it goes on otherwise, with or without the empty line at its end, to `out`.
///
/// # Errors
/// When it is too large for a head then.
pub fn edit_lines(edits: &HeaderEdits, head: &[u8], out: &mut Buffer) -> Result<(), TooLarge> {
    head::edited(head, |name| edits.takes(name), edits.gives(), out)
}

/// The same for HTTP/2.
pub fn edit_fields(edits: &HeaderEdits, fields: &Fields) -> Fields {
    fields.edited(|name| edits.takes(name), edits.gives())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Headers, h2::fields::Indexing};

    fn edits() -> HeaderEdits {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        HeaderEdits { set: vec![pair("x-set", "new")], add: vec![pair("x-add", "2")], remove: vec!["x-gone".into()] }
    }

    #[test]
    fn lines_are_set_added_and_removed_and_nothing_else() {
        let head = "GET /x-gone: HTTP/1.1\r\nHost: a\r\nX-Set: old\r\nx-set: older\r\nX-Add: 1\r\nX-GONE: a\r\nX-Gone-Too: b\r\n";
        let edited = "GET /x-gone: HTTP/1.1\r\nHost: a\r\nX-Add: 1\r\nX-Gone-Too: b\r\nx-set: new\r\nx-add: 2\r\n";
        for end in ["\r\n", ""] {
            let mut out = Buffer::small();
            edit_lines(&edits(), format!("{head}{end}").as_bytes(), &mut out).unwrap();
            assert_eq!(String::from_utf8(out.filled().to_vec()).unwrap(), format!("{edited}{end}"));
        }
        let mut out = Buffer::small();
        assert_eq!(edit_lines(&edits(), &[b'x'; crate::buffer::LARGE_BYTES], &mut out), Err(TooLarge));
    }

    #[test]
    fn fields_are_set_added_and_removed_and_nothing_else() {
        let mut fields = Fields::default();
        for (name, value) in [(":path", "/"), ("x-set", "old"), ("x-add", "1"), ("x-gone", "a"), ("x-gone-too", "b")] {
            fields.push(name.as_bytes(), value.as_bytes(), Indexing::Never);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let edited = edit_fields(&edits(), &fields);
        let edited: Vec<_> = edited.iter().map(|(name, value, _)| format!("{}={}", text(name), text(value))).collect();
        assert_eq!(edited, [":path=/", "x-add=1", "x-gone-too=b", "x-set=new", "x-add=2"]);
    }

    #[test]
    fn clients_are_sent_to_what_is_said_and_else_to_what_they_asked_for() {
        let nowhere = Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 };
        let path = |path| Redirect { path: Some(path), ..nowhere.clone() };
        for (redirect, prefix, authority, asked, location) in [
            (nowhere.clone(), "", "web:8080", "/a?b=/c", "http://web:8080/a?b=/c"),
            (Redirect { hostname: Some("x".into()), ..nowhere.clone() }, "", "web", "/a", "http://x/a"),
            (Redirect { scheme: Some("https".into()), ..nowhere.clone() }, "", "web:8080", "/", "https://web/"),
            (Redirect { port: Some(80), ..nowhere.clone() }, "", "web:8080", "/", "http://web/"),
            (Redirect { port: Some(81), ..nowhere.clone() }, "", "[::1]", "/", "http://[::1]:81/"),
            (path(PathEdit::Full("/new".into())), "/old", "web", "/old/x?y", "http://web/new?y"),
            (path(PathEdit::Prefix("/new/".into())), "/old", "web", "/old/x?y", "http://web/new/x?y"),
            (path(PathEdit::Prefix("/".into())), "/old", "web", "/old?y", "http://web/?y"),
            (path(PathEdit::Prefix("/new".into())), "", "web", "/x", "http://web/new/x"),
            (nowhere.clone(), "", "web", "/ä\u{7f}", "http://web/%C3%A4%7F"),
        ] {
            let filters = Filters { redirect: Some(redirect), ..Filters::default() };
            let policy = Policy { timeouts: Timeouts::default(), filters, prefix: prefix.to_owned() };
            let (method, scheme, headers) = ("GET", "http", Headers::Http1(b""));
            let request = RequestView { method, scheme, authority, path: asked, is_grpc: false, headers };
            let response = policy.redirect(&request).unwrap();
            assert_eq!(response.headers()[LOCATION], location);
            assert_eq!(response.status(), 302);
        }
    }

    #[test]
    fn what_is_said_of_responses_holds_for_redirects() {
        let to = Redirect { scheme: None, hostname: None, port: None, path: None, status: 301 };
        let filters = Filters { redirect: Some(to), response_headers: edits(), ..Filters::default() };
        let policy = Policy { timeouts: Timeouts::default(), filters, prefix: String::new() };
        let (headers, path) = (Headers::Http1(b""), "/");
        let request = RequestView { method: "GET", scheme: "http", authority: "web", path, is_grpc: false, headers };
        let response = policy.redirect(&request).unwrap();
        let text = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(
            (text("x-set").as_str(), text("x-add").as_str(), text("location").as_str()),
            ("new", "2", "http://web/")
        );
    }

    #[test]
    fn an_attempt_ends_with_its_request() {
        let policy = |request_ms, backend_request_ms| {
            let timeouts = Timeouts { request_ms, backend_request_ms };
            let rule = RouteRule { timeouts, ..RouteRule::default() };
            Policy::new(&rule, &RouteMatch::default())
        };
        assert_eq!(policy(0, 0), None);
        let (now, ms) = (Instant::now(), Duration::from_millis);
        for (request, backend, first, second) in
            [(100, 0, Some(100), Some(100)), (100, 60, Some(60), Some(100)), (0, 60, Some(60), Some(110))]
        {
            let policy = policy(request, backend).unwrap();
            let deadline = policy.deadline(now);
            assert_eq!(policy.deadline_of_attempt(now, deadline), first.map(|after| now + ms(after)));
            assert_eq!(policy.deadline_of_attempt(now + ms(50), deadline), second.map(|after| now + ms(after)));
        }
    }
}

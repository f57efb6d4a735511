//! Whom the pages are for. They act with the rights of the person who started the server, so that no other page that this
//! person has open may use them, by whatever name it reaches the server.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header, uri::Authority},
    middleware::Next,
    response::Response,
};

use crate::failure::{FOREIGN, MISNAMED, Refusal};

/// Nothing but what this server serves, and nothing inline.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; frame-ancestors 'none'";

/// What a browser may call this server. A name that somebody else can make point here (DNS rebinding) is never among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// `localhost`, and addresses of the loopback interface.
    Loopback,
    /// `localhost`, and whatever is an address.
    Addresses,
}

/// Refuses what does not come from a page of this server.
pub(crate) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let response = match check(hosts, request.headers(), request.uri().authority()) {
        Ok(()) => next.run(request).await,
        Err((refusal, message)) => refusal.respond(message),
    };
    restrict(response).await
}

/// Says what pages may load.
pub(crate) async fn restrict(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn check(hosts: Hosts, headers: &HeaderMap, authority: Option<&Authority>) -> Result<(), (Refusal, &'static str)> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = authority.map(Authority::as_str).or(host).unwrap_or_default();
    if !hosts.include(host) {
        const SAYS: &str = "this server is not called that: open it at the address that `conduit dashboard` printed";
        return Err((MISNAMED, SAYS));
    }
    if !is_own(headers, host) {
        return Err((FOREIGN, "only pages of this server may ask it"));
    }
    Ok(())
}

/// Browsers say who asks; what is no browser says nothing, and is the person's own. A link from elsewhere may be followed, but
/// for that there is the page only.
fn is_own(headers: &HeaderMap, host: &str) -> bool {
    let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(origin) = value("origin")
        && origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) != Some(host)
    {
        return false;
    }
    match value("sec-fetch-site") {
        None | Some("same-origin" | "none") => true,
        Some(_) => value("sec-fetch-mode") == Some("navigate"),
    }
}

impl Hosts {
    fn include(self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = authority.host();
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        address.parse::<IpAddr>().is_ok_and(|address| self == Self::Addresses || address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (host, loopback, addresses) in [
            ("localhost", true, true),
            ("LOCALHOST:8084", true, true),
            ("127.0.0.1:8084", true, true),
            ("127.8.9.1", true, true),
            ("[::1]:8084", true, true),
            ("10.1.2.3:8084", false, true),
            ("rebound.example:8084", false, false),
            ("localhost.example", false, false),
            ("127.0.0.1.example", false, false),
            ("localhost@evil.example", false, false),
            ("evil@localhost", false, false),
            ("", false, false),
            ("a b", false, false),
        ] {
            assert_eq!(Hosts::Loopback.include(host), loopback, "{host}");
            assert_eq!(Hosts::Addresses.include(host), addresses, "{host}");
        }
    }

    #[test]
    fn who_asks() {
        for (headers, is_ours) in [
            (&[][..], true),
            (&[("origin", "http://localhost:1")], true),
            (&[("origin", "https://localhost:1")], true),
            (&[("origin", "http://localhost:2")], false),
            (&[("origin", "http://evil.example")], false),
            (&[("origin", "null")], false),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false),
            (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], true),
            (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("origin", "http://e")], false),
        ] {
            let all: HeaderMap =
                headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(is_own(&all, "localhost:1"), is_ours, "{headers:?}");
        }
    }
}

//! Calls, and their routes. Pure.

use std::collections::BTreeSet;

use conduit_api::{
    HttpRoute, RouteName, ServiceName,
    route::{ParentRef, PathMatch, RouteBackend, RouteMatch, RouteRule},
};

/// Of what names a call. With a service's name and its port, that is far from Kubernetes' bound of 253.
const CALL_NAME_MAX: usize = 48;
/// The Gateway API's.
const PATH_MAX: usize = 1024;
/// The Gateway API knows no others.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Of the route for all other requests: without one they would be refused, as the Gateway API says.
const OTHER: &str = "other";

/// What can be asked of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    /// Without a slash at its end.
    path: String,
    /// All paths below it as well.
    pub(super) is_prefix: bool,
    /// Any, if there is none.
    method: Option<String>,
}

impl Call {
    /// One of a path; none, if no route can be for it.
    pub(super) fn exact(method: Option<&str>, path: &str) -> Option<Self> {
        let is_known = method.is_none_or(|method| METHODS.contains(&method));
        let call = || Self { path: path.to_owned(), is_prefix: false, method: method.map(str::to_owned) };
        (is_known && is_path(path)).then(call)
    }

    /// All below a path; none, if no route can be for them.
    pub(super) fn below(method: Option<&str>, path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/');
        let call = Self::exact(method, if path.is_empty() { "/" } else { path })?;
        Some(Self { path: path.to_owned(), is_prefix: true, ..call })
    }

    /// Whether it is for everything, as the route for all other requests is.
    pub(super) fn is_any(&self) -> bool {
        self.is_prefix && self.path.is_empty()
    }

    fn accepted(&self) -> RouteMatch {
        let path = self.path.clone();
        let path = if self.is_prefix { PathMatch::Prefix(path) } else { PathMatch::Exact(path) };
        RouteMatch { path, method: self.method.clone(), ..RouteMatch::default() }
    }

    /// In words, the last ones of which are within `length`.
    fn name(&self, length: usize) -> String {
        let text = format!("{} {}", self.method.as_deref().unwrap_or_default(), self.path).to_ascii_lowercase();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut name = String::new();
        for word in words.collect::<Vec<_>>().into_iter().rev() {
            if name.len() + 1 + word.len() > length {
                break;
            }
            name = if name.is_empty() { word.to_owned() } else { format!("{word}-{name}") };
        }
        if name.is_empty() { "root".to_owned() } else { name }
    }
}

/// Those that were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// Those for which there are routes.
    pub(super) routable: BTreeSet<Call>,
    /// How often something was found that no route can be for.
    pub(super) unroutable: usize,
}

impl Calls {
    /// One more. Those that are for everything are for the route that is there anyway.
    pub(super) fn add(&mut self, call: Option<Call>) {
        match call {
            Some(call) if call.is_any() => {}
            Some(call) => drop(self.routable.insert(call)),
            None => self.unroutable += 1,
        }
    }
}

impl FromIterator<Option<Call>> for Calls {
    fn from_iter<I: IntoIterator<Item = Option<Call>>>(all: I) -> Self {
        let mut calls = Self::default();
        all.into_iter().for_each(|call| calls.add(call));
        calls
    }
}

/// As the Gateway API has them (`HTTPPathMatch`): what a server could understand in two ways is none.
fn is_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
    let bytes = path.as_bytes();
    let is_valid = |(at, byte): (usize, &u8)| match byte {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        byte => is_plain(*byte),
    };
    path.starts_with('/')
        && path.len() <= PATH_MAX
        && bytes.iter().enumerate().all(is_valid)
        && !["//", "%2f", "%2F"].iter().any(|wrong| path.contains(wrong))
        && !path.split('/').any(|part| matches!(part, "." | ".."))
}

/// A route for each of them, and one for all other requests, to where they would have gone without.
///
/// # Errors
/// When one of them cannot be a route.
pub(super) fn routes(service: &ServiceName, port: u16, calls: &BTreeSet<Call>) -> anyhow::Result<Vec<HttpRoute>> {
    let mut taken = BTreeSet::from([OTHER.to_owned()]);
    // Of another port, or of another service, there are others beside them.
    let prefix = format!("{}-{port}", service.name());
    let mut named = Vec::new();
    for call in calls {
        let name = call.name(CALL_NAME_MAX);
        let numbered = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
        let free = numbered.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
        taken.insert(free.clone());
        named.push((free, call.accepted()));
    }
    named.push((OTHER.to_owned(), RouteMatch::default()));
    let route = |(name, accepted): (String, RouteMatch)| {
        let backend = RouteBackend { service: service.clone(), port, weight: 1 };
        let rule = RouteRule { matches: vec![accepted], backends: vec![backend], ..RouteRule::default() };
        let parent = ParentRef { service: service.clone(), port: Some(port) };
        let name = RouteName::new(service.namespace(), &format!("{prefix}-{name}"))?;
        Ok(HttpRoute::new(name, [parent].into(), vec![rule])?)
    };
    named.into_iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_route_and_everything_else_has_one() {
        let long = format!("/{}last", "very-long-word/".repeat(20));
        let calls = [
            Call::exact(Some("GET"), "/books"),
            Call::below(Some("GET"), "/books/"),
            Call::exact(None, "/emojivoto.v1.VotingService/VoteDoughnut"),
            Call::exact(None, "/"),
            Call::exact(Some("GET"), &long),
        ];
        let calls: BTreeSet<_> = calls.into_iter().flatten().collect();
        let routes_of = |service: &str, port| routes(&service.parse().unwrap(), port, &calls).unwrap();
        let routes = routes_of("shop/web", 80);
        let lines = routes.iter().map(|route| {
            let RouteMatch { path, method, .. } = &route.rules[0].matches[0];
            assert_eq!(route.rules[0].backends[0].port, 80);
            format!("{} {} {path:?}", route.name.name(), method.as_deref().unwrap_or("-"))
        });
        assert_eq!(
            lines.filter(|line| !line.contains("/last")).collect::<Vec<_>>(),
            [
                "web-80-root - Exact(\"/\")",
                "web-80-get-books GET Exact(\"/books\")",
                "web-80-get-books-2 GET Prefix(\"/books\")",
                "web-80-emojivoto-v1-votingservice-votedoughnut - Exact(\"/emojivoto.v1.VotingService/VoteDoughnut\")",
                "web-80-other - Prefix(\"\")",
            ]
        );
        assert!(routes.iter().any(|route| route.name.name().ends_with("-word-last")));

        // Who applies those of another port, or of a service whose name begins as this one's, replaces none of these.
        let long = "payments-gateway-internal-api-of-the-shop-v";
        let [one, other] = ["1", "2"].map(|version| routes_of(&format!("shop/{long}{version}"), 80));
        let all = [routes, routes_of("shop/web", 9090), routes_of("shop/web-get", 80), one, other];
        let names: BTreeSet<_> = all.iter().flatten().map(|route| &route.name).collect();
        assert_eq!(names.len(), all.iter().flatten().count());
    }

    #[test]
    fn what_no_route_can_be_for_is_no_call() {
        for (path, is_one) in [
            ("/", true),
            ("/a/", true),
            ("/a%20b/~c:d@e", true),
            ("", false),
            ("*", false),
            ("a", false),
            ("/x#y", false),
            ("/a//b", false),
            ("/q|x", false),
            ("/a%2fb", false),
            ("/a%2", false),
            ("/a/../b", false),
            ("/a/.", false),
            ("/caf\u{e9}", false),
        ] {
            assert_eq!(Call::exact(None, path).is_some(), is_one, "{path}");
        }
        assert!(Call::exact(None, &format!("/{}", "a".repeat(PATH_MAX))).is_none());
        assert!(Call::exact(Some("PROPFIND"), "/").is_none() && Call::below(Some("GET"), "").unwrap().is_any());
    }
}

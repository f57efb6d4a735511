//! Calls, and their routes. Pure.

use std::collections::BTreeSet;

use conduit_api::{
    HttpRoute, RouteName, ServiceName,
    route::{ParentRef, PathMatch, RouteBackend, RouteMatch, RouteRule},
};

/// Kubernetes' bound of labels, which names of objects are best within.
const NAME_MAX: usize = 63;
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
    pub(super) fn exact(method: Option<&str>, path: &str) -> Self {
        Self { path: path.to_owned(), is_prefix: false, method: method.map(str::to_owned) }
    }

    pub(super) fn below(method: Option<&str>, path: &str) -> Self {
        Self { is_prefix: true, ..Self::exact(method, path.trim_end_matches('/')) }
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

/// A route for each of them, and one for all other requests, to where they would have gone without.
///
/// # Errors
/// When one of them cannot be a route.
pub(super) fn routes(service: &ServiceName, port: u16, calls: &BTreeSet<Call>) -> anyhow::Result<Vec<HttpRoute>> {
    let mut taken = BTreeSet::from([OTHER.to_owned()]);
    let prefix = &service.name()[..service.name().len().min(NAME_MAX / 2)].trim_end_matches(['-', '.']);
    // Room for a number.
    let length = NAME_MAX - prefix.len() - "-".len() - "-999".len();
    let mut named = Vec::new();
    for call in calls.iter().filter(|call| !call.is_any()) {
        let name = call.name(length);
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
        let long = format!("/{}/last", "very-long-word/".repeat(20));
        let calls = [
            Call::exact(Some("GET"), "/books"),
            Call::below(Some("GET"), "/books/"),
            Call::exact(None, "/emojivoto.v1.VotingService/VoteDoughnut"),
            Call::exact(None, "/"),
            Call::below(None, "/"),
            Call::exact(Some("GET"), &long),
        ];
        let routes = routes(&"shop/web".parse().unwrap(), 80, &calls.into()).unwrap();
        let lines = routes.iter().map(|route| {
            let RouteMatch { path, method, .. } = &route.rules[0].matches[0];
            assert_eq!(route.rules[0].backends[0].port, 80);
            assert!(route.name.name().len() <= NAME_MAX, "{}", route.name);
            format!("{} {} {path:?}", route.name.name(), method.as_deref().unwrap_or("-"))
        });
        assert_eq!(
            lines.filter(|line| !line.contains("/last")).collect::<Vec<_>>(),
            [
                "web-root - Exact(\"/\")",
                "web-get-books GET Exact(\"/books\")",
                "web-get-books-2 GET Prefix(\"/books\")",
                "web-emojivoto-v1-votingservice-votedoughnut - Exact(\"/emojivoto.v1.VotingService/VoteDoughnut\")",
                "web-other - Prefix(\"\")",
            ]
        );
        assert!(routes.iter().any(|route| route.name.name().ends_with("-word-last")));
    }
}

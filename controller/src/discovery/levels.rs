//! What proxies of releases before are told of routes: a rule that they would take for another one sends requests where nobody meant them
//! to go, and so they are told of none. Pure.

use std::collections::BTreeSet;

use conduit_api::{
    RouteTable,
    proto::{discovery, route},
    route::{PROXY_LEVEL, RouteChoice},
};

use super::encodings::Routed;

/// What holds for `port`, for a proxy of `level`, the best match first.
pub fn table(routes: &RouteTable, port: u16, level: u32) -> discovery::RouteTable {
    let (names, rules) = told(routes, port, level).map(|(name, rule)| (name.to_owned(), rule)).unzip();
    discovery::RouteTable { names, rules }
}

/// The same, one by one: whose it is, and what it says.
fn told(routes: &RouteTable, port: u16, level: u32) -> impl Iterator<Item = (&str, route::Rule)> {
    let rule = |choice: &RouteChoice| route::Rule { matches: vec![(&choice.accepted).into()], ..(&choice.rule).into() };
    let is_current = level >= PROXY_LEVEL;
    // In their release such a route was not in force.
    let unresolved = routes.of_port(port).filter(|choice| choice.rule.unresolved > 0);
    let refused: BTreeSet<_> = unresolved.map(|choice| &choice.route).collect();
    let is_known = move |choice: &RouteChoice| {
        choice.accepted.query.is_empty() && choice.rule.filters.redirect.is_none() && !refused.contains(&choice.route)
    };
    let plain = move |choice| route::Rule { timeouts: None, filters: None, ..rule(choice) };
    let of_level = move |choice: &&RouteChoice| is_current || is_known(choice);
    let told = routes.of_port(port).filter(of_level);
    told.map(move |choice| (choice.route.name(), if is_current { rule(choice) } else { plain(choice) }))
}

/// Whether nothing is kept from whoever is told `now`.
pub fn is_told_all(now: Routed<'_>, port: u16) -> bool {
    let mut choices = now.routes.into_iter().flat_map(|routes| routes.of_port(port));
    now.level >= PROXY_LEVEL || choices.all(RouteChoice::is_plain)
}

#[cfg(test)]
mod tests {
    use conduit_api::{
        RouteName, ServiceName,
        filters::{Filters, Redirect, Timeouts},
        route::{HttpRoute, ParentRef, PathMatch, RouteBackend, RouteMatch, RouteRule},
    };

    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName::new("shop", name).unwrap()
    }

    fn rule(path: &str, backend: &str) -> RouteRule {
        let matches = vec![RouteMatch { path: PathMatch::Prefix(path.into()), ..RouteMatch::default() }];
        let backends = vec![RouteBackend { service: service(backend), port: 80, weight: 1 }];
        RouteRule { matches, backends, ..RouteRule::default() }
    }

    fn table(routes: Vec<(&str, Vec<RouteRule>)>) -> RouteTable {
        let route = |(name, rules)| {
            let parents = [ParentRef { service: service("web"), port: None }].into();
            HttpRoute::new(RouteName::new("shop", name).unwrap(), parents, rules).unwrap()
        };
        let routes: Vec<_> = routes.into_iter().map(route).collect();
        RouteTable::new(&service("web"), routes.iter())
    }

    fn backends(table: &discovery::RouteTable) -> Vec<&str> {
        table.rules.iter().map(|rule| rule.backends.first().map_or("", |backend| backend.service.as_str())).collect()
    }

    /// A canary that a query asks for would have every request.
    #[test]
    fn proxies_of_the_release_before_are_told_of_no_rule_that_they_would_misread() {
        let mut canary = rule("/", "canary");
        canary.matches[0].query = [("canary".to_owned(), "1".to_owned())].into();
        let redirect = Redirect { scheme: None, hostname: None, port: None, path: None, status: 301 };
        let filters = Filters { redirect: Some(redirect), ..Filters::default() };
        let moved = RouteRule { filters, backends: Vec::new(), ..rule("/moved", "none") };
        let timeouts = Timeouts { request_ms: 100, backend_request_ms: 0 };
        let timed = RouteRule { timeouts, ..rule("/timed", "timed") };
        let missing = RouteRule { unresolved: 1, ..rule("/share", "share") };
        let table = table(vec![
            ("a", vec![canary, moved, timed, rule("/", "stable")]),
            ("b", vec![missing, rule("/same-route", "other")]),
        ]);
        let all = super::table(&table, 80, PROXY_LEVEL);
        assert_eq!(all.names, ["b", "a", "a", "b", "a", "a"]);
        assert_eq!(backends(&all), ["other", "", "timed", "share", "canary", "stable"]);
        let plain = super::table(&table, 80, 0);
        assert_eq!(plain.names, ["a", "a"]);
        assert_eq!(backends(&plain), ["timed", "stable"]);
        assert!(plain.rules.iter().all(|rule| rule.timeouts.is_none() && rule.filters.is_none()));
    }
}

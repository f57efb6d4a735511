//! Which of a service's requests go elsewhere: Gateway API's `HTTPRoute`, as the control plane has sorted it out. Pure.

use std::sync::Arc;

use conduit_api::{
    ServiceName, Target,
    proto::{discovery, route as wire},
    route::{RouteBackend, RouteMatch, RouteRule},
    wire::WireError,
};

use crate::{http::RequestView, policy::Policy, telemetry::Meant};

/// The routes of one service port; none for most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    rules: Arc<[Rule]>,
    /// What requests are counted by: first those that no route accepts, and then those of each route.
    meant: Arc<[Meant]>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    accepted: RouteMatch,
    backends: Vec<Backend>,
    policy: Option<Arc<Policy>>,
    /// The place in [`Routes::meant`] of what its requests are counted by: the same for all rules of a route.
    meant: usize,
    /// Sum over `backends`, and the share of requests that go nowhere.
    weight: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Backend {
    weight: u64,
    /// `None` for the service whose routes these are.
    target: Option<Target>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen<'a> {
    /// To the service that it is for.
    Own,
    /// To another one.
    Other(&'a Target),
    /// There are routes, but none for it.
    NoRoute,
    /// There is a route for it, to nowhere.
    NoBackend,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Where it goes.
    pub chosen: Chosen<'a>,
    /// What else its route says of it.
    pub policy: Option<&'a Arc<Policy>>,
    /// The place in [`Routes::meant`] of what it is counted by.
    pub meant: usize,
}

impl Routes {
    /// The routes of the service `name` at `port`.
    ///
    /// # Errors
    /// When they are none.
    pub fn new(name: &ServiceName, port: u16, wire: Option<&discovery::RouteTable>) -> Result<Self, WireError> {
        let mut known = vec![Meant::new(name, port, "")];
        let mut meant = |route: &str| {
            known.iter().position(|known| known.route == route).unwrap_or_else(|| {
                known.push(Meant::new(name, port, route));
                known.len() - 1
            })
        };
        let table = wire.map(|table| (&table.rules[..], &table.names[..])).unwrap_or_default();
        let names = table.1.iter().map(String::as_str).chain(std::iter::repeat(""));
        let rules = table.0.iter().zip(names).map(|(rule, route)| {
            let rule = RouteRule::read(name.namespace(), rule)?;
            let own = |backend: &RouteBackend| (&backend.service, backend.port) == (name, port);
            let weight = rule.weight();
            let backend = |backend: RouteBackend| Backend {
                weight: backend.weight.into(),
                target: (!own(&backend)).then_some(Target::Service(backend.service, backend.port)),
            };
            let accepted = rule.matches.first().cloned().unwrap_or_default();
            let policy = Policy::new(&rule, &accepted);
            let backends = rule.backends.into_iter().map(backend).collect();
            Ok(Rule { accepted, backends, policy, meant: meant(route), weight })
        });
        let rules = rules.collect::<Result<_, WireError>>()?;
        Ok(Self { rules, meant: known.into() })
    }

    /// What requests are counted by: one for those that no route accepts, and one for each route.
    pub fn meant(&self) -> &[Meant] {
        &self.meant
    }

    /// The reverse of [`Routes::new`].
    pub fn to_wire(&self, name: &ServiceName, port: u16) -> discovery::RouteTable {
        let backend = |backend: &Backend| {
            let (service, port) = match &backend.target {
                Some(Target::Service(service, port)) => (service, *port),
                Some(Target::Address(_)) | None => (name, port),
            };
            wire::Backend { service: service.name().to_owned(), port: port.into(), weight: backend.weight as u32 }
        };
        let rule = |rule: &Rule| wire::Rule {
            matches: vec![(&rule.accepted).into()],
            backends: rule.backends.iter().map(backend).collect(),
            unresolved: (rule.weight - rule.backends.iter().map(|backend| backend.weight).sum::<u64>()) as u32,
            timeouts: rule.policy.as_ref().filter(|p| !p.timeouts.is_none()).map(|policy| policy.timeouts.into()),
            filters: rule.policy.as_ref().filter(|p| !p.filters.is_none()).map(|policy| (&policy.filters).into()),
        };
        let names = self.rules.iter().map(|rule| self.meant[rule.meant].route.clone());
        discovery::RouteTable { rules: self.rules.iter().map(rule).collect(), names: names.collect() }
    }

    /// What becomes of `request`; `random` gives numbers below 1.
    pub fn choose(&self, request: &RequestView<'_>, random: impl FnOnce() -> f64) -> Choice<'_> {
        let without = |chosen| Choice { chosen, policy: None, meant: 0 };
        if self.rules.is_empty() {
            return without(Chosen::Own);
        }
        let header = |name: &str| request.headers.get(name);
        let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
        let accepts = |rule: &&Rule| rule.accepted.accepts(request.method, path, query, header);
        let Some(rule) = self.rules.iter().find(accepts) else { return without(Chosen::NoRoute) };
        Choice { chosen: rule.backend(random), policy: rule.policy.as_ref(), meant: rule.meant }
    }
}

impl Rule {
    fn backend(&self, random: impl FnOnce() -> f64) -> Chosen<'_> {
        let mut left = (random() * self.weight as f64) as u64;
        for backend in &self.backends {
            match left.checked_sub(backend.weight) {
                Some(rest) => left = rest,
                None => return backend.target.as_ref().map_or(Chosen::Own, Chosen::Other),
            }
        }
        Chosen::NoBackend
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::route::{Backend, Match, Rule, r#match::Path};

    use super::*;
    use crate::http::Headers;

    fn routes(rules: &[(&str, &[(&str, u32)])]) -> Routes {
        let backend =
            |(service, weight): &(&str, u32)| Backend { service: (*service).into(), port: 80, weight: *weight };
        let rule = |(prefix, backends): &(&str, &[(&str, u32)])| Rule {
            matches: vec![Match { path: Some(Path::Prefix((*prefix).into())), ..Match::default() }],
            backends: backends.iter().filter(|(service, _)| !service.is_empty()).map(backend).collect(),
            unresolved: backends.iter().filter(|(service, _)| service.is_empty()).map(|(_, weight)| *weight).sum(),
            ..Rule::default()
        };
        let names = (0..rules.len()).map(|at| format!("route-{}", at / 2)).collect();
        let table = discovery::RouteTable { rules: rules.iter().map(rule).collect(), names };
        let name = ServiceName::new("shop", "web").unwrap();
        let routes = Routes::new(&name, 80, Some(&table)).unwrap();
        assert_eq!(routes.to_wire(&name, 80), table);
        routes
    }

    fn choose(routes: &Routes, path: &str, random: f64) -> String {
        let headers = Headers::Http1(b"");
        let request = RequestView { method: "GET", scheme: "http", authority: "", path, is_grpc: false, headers };
        match routes.choose(&request, || random).chosen {
            Chosen::Other(Target::Service(name, port)) => format!("{name}:{port}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn requests_go_where_the_first_rule_says_that_accepts_them() {
        let routes =
            routes(&[("/new", &[("next", 1)]), ("/old", &[("web", 1)]), ("/gone", &[]), ("/off", &[("a", 0)])]);
        for (path, chosen) in [
            ("/new/x", "shop/next:80"),
            ("/old", "Own"),
            ("/gone", "NoBackend"),
            ("/off", "NoBackend"),
            ("/other", "NoRoute"),
        ] {
            assert_eq!(choose(&routes, path, 0.0), chosen, "{path}");
        }
        assert_eq!(choose(&Routes::default(), "/other", 0.0), "Own");
    }

    #[test]
    fn requests_are_counted_by_the_route_that_accepted_them() {
        let routes = routes(&[("/a", &[("next", 1)]), ("/b", &[]), ("/c", &[("web", 1)])]);
        let meant = |path| {
            let headers = Headers::Http1(b"");
            let request = RequestView { method: "GET", scheme: "http", authority: "", path, is_grpc: false, headers };
            routes.choose(&request, || 0.0).meant
        };
        for (path, route) in [("/a", "route-0"), ("/b", "route-0"), ("/c", "route-1"), ("/d", "")] {
            let Meant { namespace, name, port, route: found } = &routes.meant()[meant(path)];
            assert_eq!((namespace.as_str(), name.as_str(), *port), ("shop", "web", 80));
            assert_eq!(found, route, "{path}");
        }
        assert_eq!((meant("/a"), routes.meant().len()), (meant("/b"), 3), "rules of one route share it");
    }

    #[test]
    fn weights_are_shares() {
        let routes = routes(&[("", &[("web", 90), ("off", 0), ("next", 10)])]);
        let mut next = 0;
        for i in 0..1000 {
            match choose(&routes, "/", f64::from(i) / 1000.0).as_str() {
                "Own" => {}
                "shop/next:80" => next += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!(next, 100);
    }

    #[test]
    fn what_a_rule_says_besides_goes_with_its_requests() {
        let rule =
            Rule { timeouts: Some(wire::Timeouts { request_ms: 100, backend_request_ms: 0 }), ..Rule::default() };
        let table = discovery::RouteTable { rules: vec![rule], names: vec![] };
        let name = ServiceName::new("shop", "web").unwrap();
        let routes = Routes::new(&name, 80, Some(&table)).unwrap();
        let (method, scheme, headers) = ("GET", "http", Headers::Http1(b""));
        let request = RequestView { method, scheme, authority: "", path: "/?a", is_grpc: false, headers };
        let Choice { chosen, policy, meant } = routes.choose(&request, || 0.0);
        assert_eq!(routes.meant()[meant].route, "", "of an older controller");
        assert_eq!((chosen, policy.unwrap().timeouts.request_ms), (Chosen::NoBackend, 100));
        let kept = routes.to_wire(&name, 80);
        assert_eq!(Routes::new(&name, 80, Some(&kept)).unwrap(), routes);
    }

    #[test]
    fn what_cannot_be_a_backend_has_its_share_and_fails() {
        let routes = routes(&[("", &[("next", 75), ("", 25)])]);
        let failing = (0..100).filter(|i| choose(&routes, "/", f64::from(*i) / 100.0) == "NoBackend");
        assert_eq!(failing.count(), 25);
    }
}

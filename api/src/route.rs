//! Which requests go where: Gateway API's `HTTPRoute` with Services as parents (GAMMA, GEP-1426).
//!
//! What is carried out: matches by path (exact and prefix), method, headers and query (exact); weighted backends; what is in
//! [`filters`](crate::filters). A route, its parents and its backends are in one namespace.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    filters::{Filters, Timeouts},
    mesh::{RouteName, ServiceName},
    proto::route::{self, r#match},
    wire::{self, WireError},
};

/// How much this release's proxies understand of routes, as they tell the control plane. Those that tell nothing know what
/// [`RouteChoice::is_plain`] says.
pub const PROXY_LEVEL: u32 = 1;

/// Gateway API's own limits.
const PARENTS_MAX: usize = 32;
/// See [`PARENTS_MAX`].
const RULES_MAX: usize = 16;
/// See [`PARENTS_MAX`]; of all rules together.
const MATCHES_MAX: usize = 128;
/// See [`PARENTS_MAX`]; in one match, as many again in its query.
const HEADERS_MAX: usize = 16;
/// See [`PARENTS_MAX`]; of one rule.
pub(crate) const BACKENDS_MAX: usize = 16;
/// See [`PARENTS_MAX`].
pub(crate) const WEIGHT_MAX: u32 = 1_000_000;
/// See [`PARENTS_MAX`]; in bytes.
pub(crate) const PATH_MAX: usize = 1024;
/// See [`PARENTS_MAX`]; in bytes.
pub(crate) const HEADER_VALUE_MAX: usize = 4096;

/// Of all paths and headers of a route: it is kept by every replica as often as it changes, and sent to every proxy that follows one
/// of its parents.
const BYTES_MAX: usize = 64 * 1024;
/// Of a request's query, so many are looked at: it is the client's, and looked at for each rule.
const QUERY_PAIRS_MAX: usize = 256;

/// An HTTPRoute. Made by [`HttpRoute::new`], which has checked it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// `namespace/name`
    pub name: RouteName,
    /// Whose requests it routes.
    pub parents: BTreeSet<ParentRef>,
    /// In the order in which they were written, which decides between equally good matches.
    pub rules: Vec<RouteRule>,
    /// When its platform first had it, in milliseconds since the Unix epoch, which decides between those of different routes; nothing where
    /// no platform says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<u64>,
}

/// A service, or one port of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ParentRef {
    /// In the route's namespace.
    pub service: ServiceName,
    /// All ports if absent.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Requests, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// Any of them; at least one.
    pub matches: Vec<RouteMatch>,
    /// May be empty: then the requests fail.
    pub backends: Vec<RouteBackend>,
    /// Together with the weights of `backends`: the share of requests that fail, because they are for what cannot be a backend.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unresolved: u32,
    /// How long they may take.
    #[serde(default, skip_serializing_if = "Timeouts::is_none")]
    pub timeouts: Timeouts,
    /// What else becomes of them.
    #[serde(default, skip_serializing_if = "Filters::is_none")]
    pub filters: Filters,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(weight: &u32) -> bool {
    *weight == 0
}

impl RouteRule {
    /// Whether it says nothing but where requests go, to backends that may be ones.
    fn is_plain(&self) -> bool {
        self.unresolved == 0 && self.timeouts.is_none() && self.filters.is_none()
    }

    /// Sum of all weights.
    pub fn weight(&self) -> u64 {
        self.backends.iter().map(|backend| u64::from(backend.weight)).sum::<u64>() + u64::from(self.unresolved)
    }
}

/// All of it must be so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMatch {
    /// Without the query.
    pub path: PathMatch,
    /// Any if absent.
    #[serde(default)]
    pub method: Option<String>,
    /// By lower-case name.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// By name. Of several values the first one counts, as it is without its encoding.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    /// The very same.
    Exact(String),
    /// By whole elements: `/v1` accepts `/v1` and `/v1/x`, but not `/v10`. Never ends in `/`; empty accepts every path.
    Prefix(String),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix(String::new())
    }
}

/// Where requests go, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteBackend {
    /// In the route's namespace.
    pub service: ServiceName,
    /// Of the service.
    pub port: u16,
    /// In proportion to the sum of the rule's weights; 0 for no requests.
    pub weight: u32,
}

/// A route that breaks a limit of the Gateway API, or says what is not carried out; by the field.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct RouteError(pub(crate) String);

impl HttpRoute {
    /// Checks the limits of the Gateway API, and makes one way of writing of several: a rule without matches gets the one that accepts
    /// everything, names of headers are lower-case, prefixes do not end in `/`.
    ///
    /// # Errors
    /// Names the field, as it is written in YAML.
    pub fn new(name: RouteName, parents: BTreeSet<ParentRef>, mut rules: Vec<RouteRule>) -> Result<Self, RouteError> {
        within("spec.parentRefs", parents.len(), 1, PARENTS_MAX)?;
        within("spec.rules", rules.len(), 1, RULES_MAX)?;
        for parent in &parents {
            same_namespace("spec.parentRefs", name.namespace(), &parent.service)?;
        }
        let mut matches = 0;
        for (i, rule) in rules.iter_mut().enumerate() {
            let at = |field: &str| format!("spec.rules[{i}].{field}");
            within(&at("backendRefs"), rule.backends.len(), 0, BACKENDS_MAX)?;
            if rule.unresolved > WEIGHT_MAX * BACKENDS_MAX as u32 {
                return Err(RouteError(format!("{}: a weight is at most {WEIGHT_MAX}", at("backendRefs"))));
            }
            for backend in &rule.backends {
                same_namespace(&at("backendRefs"), name.namespace(), &backend.service)?;
                if backend.weight > WEIGHT_MAX {
                    return Err(RouteError(format!("{}: a weight is at most {WEIGHT_MAX}", at("backendRefs"))));
                }
            }
            if rule.matches.is_empty() {
                rule.matches.push(RouteMatch::default());
            }
            matches += rule.matches.len();
            for (j, accepted) in rule.matches.iter_mut().enumerate() {
                accepted.normalise(&at(&format!("matches[{j}]")))?;
            }
            rule.timeouts.check(&at("timeouts"))?;
            let mut filters = std::mem::take(&mut rule.filters);
            filters.normalise(&at("filters"), rule)?;
            rule.filters = filters;
        }
        within("spec.rules: all matches together", matches, 1, MATCHES_MAX)?;
        let bytes = rules.iter().flat_map(|rule| &rule.matches).map(RouteMatch::bytes).sum::<usize>()
            // Proxies are told of them with each match.
            + rules.iter().map(|rule| rule.filters.bytes() * rule.matches.len()).sum::<usize>();
        within("spec.rules: bytes of all paths and headers together", bytes, 0, BYTES_MAX)?;
        Ok(Self { name, parents, rules, created_ms: None })
    }

    /// Whether members of feature level 5 know all of it.
    pub fn is_plain(&self) -> bool {
        let is_plain =
            |rule: &RouteRule| rule.is_plain() && rule.matches.iter().all(|accepted| accepted.query.is_empty());
        self.created_ms.is_none() && self.rules.iter().all(is_plain)
    }

    /// Smaller is better, between equally good matches: the oldest route, then the first one by its name
    /// (Gateway API, `HTTPRouteRule.matches`). One whose age nobody knows comes last.
    fn precedence(&self) -> impl Ord + use<'_> {
        (self.created_ms.is_none(), self.created_ms, &self.name)
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let special = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(special)
}

/// Whether what stands in a query, encoded, is `wanted`.
fn decodes_to(encoded: &str, wanted: &str) -> bool {
    let hex = |digit: u8| (digit as char).to_digit(16).map(|digit| digit as u8);
    let (mut encoded, mut wanted) = (encoded.as_bytes(), wanted.as_bytes());
    while let [first, rest @ ..] = encoded {
        let (byte, rest) = match (*first, rest) {
            (b'+', rest) => (b' ', rest),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', rest),
            },
            (byte, rest) => (byte, rest),
        };
        match wanted.split_first() {
            Some((next, after)) if *next == byte => (encoded, wanted) = (rest, after),
            _ => return false,
        }
    }
    wanted.is_empty()
}

fn within(field: &str, count: usize, least: usize, most: usize) -> Result<(), RouteError> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(RouteError(format!("{field}: there must be {least} to {most}, not {count}")))
}

pub(crate) fn same_namespace(field: &str, namespace: &str, service: &ServiceName) -> Result<(), RouteError> {
    if namespace == service.namespace() {
        return Ok(());
    }
    Err(RouteError(format!("{field}: {service} is not in the route's namespace, `{namespace}`")))
}

impl RouteMatch {
    fn normalise(&mut self, at: &str) -> Result<(), RouteError> {
        let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &self.path;
        let default = self.path == PathMatch::default();
        if !default && (!path.starts_with('/') || path.contains(['?', '#']) || path.len() > PATH_MAX) {
            let error = format!("{at}.path: `{path}` is not a path of at most {PATH_MAX} bytes that begins with /");
            return Err(RouteError(error));
        }
        if let PathMatch::Prefix(path) = &mut self.path {
            path.truncate(path.trim_end_matches('/').len());
        }
        if let Some(method) = self.method.as_ref().filter(|method| !is_token(method)) {
            return Err(RouteError(format!("{at}.method: `{method}` is not a method")));
        }
        within(&format!("{at}.headers"), self.headers.len(), 0, HEADERS_MAX)?;
        for (name, value) in &self.headers {
            if !is_token(name) || value.len() > HEADER_VALUE_MAX {
                let error =
                    format!("{at}.headers: `{name}` is not a header with a value of at most {HEADER_VALUE_MAX} bytes");
                return Err(RouteError(error));
            }
        }
        for (name, value) in std::mem::take(&mut self.headers) {
            if self.headers.insert(name.to_ascii_lowercase(), value).is_some() {
                return Err(RouteError(format!("{at}.headers: `{name}` is there twice")));
            }
        }
        within(&format!("{at}.queryParams"), self.query.len(), 0, HEADERS_MAX)?;
        match self.query.iter().find(|(name, value)| !is_token(name) || value.len() > PATH_MAX) {
            Some((name, _)) => {
                let error =
                    format!("{at}.queryParams: `{name}` is not a name with a value of at most {PATH_MAX} bytes");
                Err(RouteError(error))
            }
            None => Ok(()),
        }
    }

    fn bytes(&self) -> usize {
        let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &self.path;
        let pairs = self.headers.iter().chain(&self.query);
        path.len() + pairs.map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// Whether it accepts a request; `query` is without `?`, and `header` gives the value of a header by its lower-case name.
    pub fn accepts<'a>(
        &self,
        method: &str,
        path: &str,
        query: &str,
        header: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> bool {
        let path_accepted = match &self.path {
            PathMatch::Exact(exact) => path == exact,
            PathMatch::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    || prefix.is_empty()
            }
        };
        path_accepted
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.headers.iter().all(|(name, value)| header(name) == Some(value.as_bytes()))
            && self.query.iter().all(|(name, value)| {
                let pairs = query.split('&').take(QUERY_PAIRS_MAX);
                let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.find(|(known, _)| decodes_to(known, name)).is_some_and(|(_, known)| decodes_to(known, value))
            })
    }

    /// Smaller is better, in the order of Gateway API's `HTTPRouteRule`: an exact path, the longest prefix, a method, the most
    /// headers, the most of the query.
    fn rank(&self) -> impl Ord + use<> {
        let (kind, path) = match &self.path {
            PathMatch::Exact(path) => (0, path),
            PathMatch::Prefix(path) => (1, path),
        };
        let longest = usize::MAX - path.len();
        let most = |pairs: &BTreeMap<_, _>| HEADERS_MAX.saturating_sub(pairs.len());
        (kind, longest, self.method.is_none(), most(&self.headers), most(&self.query))
    }
}

/// What holds for the requests of one service: the first match that accepts decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    choices: Vec<RouteChoice>,
}

/// One match, and where the requests go that it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChoice {
    /// Whose it is.
    pub route: RouteName,
    /// All ports if absent.
    pub port: Option<u16>,
    /// Which requests.
    pub accepted: RouteMatch,
    /// What becomes of them; without its matches.
    pub rule: RouteRule,
}

impl RouteChoice {
    /// Whether proxies know all of it that tell no level.
    pub fn is_plain(&self) -> bool {
        self.rule.is_plain() && self.accepted.query.is_empty()
    }
}

impl RouteTable {
    /// Of `service`, by `routes` in any order.
    pub fn new<'a>(service: &ServiceName, routes: impl Iterator<Item = &'a HttpRoute>) -> Self {
        let mut choices = Vec::new();
        let mut routes: Vec<_> = routes.collect();
        routes.sort_by_key(|route| route.precedence());
        for route in routes {
            for parent in route.parents.iter().filter(|parent| parent.service == *service) {
                for whole in &route.rules {
                    let rule = RouteRule { matches: Vec::new(), ..whole.clone() };
                    choices.extend(whole.matches.iter().map(|accepted| RouteChoice {
                        route: route.name.clone(),
                        port: parent.port,
                        accepted: accepted.clone(),
                        rule: rule.clone(),
                    }));
                }
            }
        }
        // Stable: what is equally good stays in order.
        choices.sort_by_key(|choice| choice.accepted.rank());
        Self { choices }
    }

    /// What holds for `port`, the best match first.
    pub fn of_port(&self, port: u16) -> impl Iterator<Item = &RouteChoice> {
        self.choices.iter().filter(move |choice| choice.port.is_none_or(|only| only == port))
    }
}

impl From<&HttpRoute> for route::HttpRoute {
    fn from(route: &HttpRoute) -> Self {
        let parent = |parent: &ParentRef| route::Parent {
            service: parent.service.name().to_owned(),
            port: parent.port.map(u32::from),
        };
        Self {
            namespace: route.name.namespace().to_owned(),
            name: route.name.name().to_owned(),
            parents: route.parents.iter().map(parent).collect(),
            rules: route.rules.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<&route::HttpRoute> for HttpRoute {
    type Error = WireError;

    fn try_from(wire: &route::HttpRoute) -> Result<Self, WireError> {
        let namespace = &wire.namespace;
        let parents = wire.parents.iter().map(|parent| {
            let port = parent.port.map(wire::port).transpose()?;
            Ok(ParentRef { service: ServiceName::new(namespace, &parent.service)?, port })
        });
        let rules = wire.rules.iter().map(|rule| RouteRule::read(namespace, rule));
        let (parents, rules) = (parents.collect::<Result<_, WireError>>()?, rules.collect::<Result<_, WireError>>()?);
        Ok(Self::new(RouteName::new(namespace, &wire.name)?, parents, rules)?)
    }
}

impl RouteRule {
    /// A rule of a route in `namespace`. Limits are for [`HttpRoute::new`] to check.
    ///
    /// # Errors
    /// When a backend is no service port.
    pub fn read(namespace: &str, wire: &route::Rule) -> Result<Self, WireError> {
        let backend = |backend: &route::Backend| {
            let service = ServiceName::new(namespace, &backend.service)?;
            Ok(RouteBackend { service, port: wire::port(backend.port)?, weight: backend.weight })
        };
        Ok(Self {
            matches: wire.matches.iter().map(RouteMatch::from).collect(),
            backends: wire.backends.iter().map(backend).collect::<Result<_, WireError>>()?,
            unresolved: wire.unresolved,
            timeouts: wire.timeouts.map(Into::into).unwrap_or_default(),
            filters: wire.filters.as_ref().map(TryInto::try_into).transpose()?.unwrap_or_default(),
        })
    }
}

impl From<&RouteRule> for route::Rule {
    fn from(rule: &RouteRule) -> Self {
        Self {
            matches: rule.matches.iter().map(Into::into).collect(),
            backends: rule.backends.iter().map(Into::into).collect(),
            unresolved: rule.unresolved,
            timeouts: (!rule.timeouts.is_none()).then(|| rule.timeouts.into()),
            filters: (!rule.filters.is_none()).then(|| (&rule.filters).into()),
        }
    }
}

impl From<&RouteBackend> for route::Backend {
    fn from(backend: &RouteBackend) -> Self {
        Self { service: backend.service.name().to_owned(), port: backend.port.into(), weight: backend.weight }
    }
}

impl From<&RouteMatch> for route::Match {
    fn from(accepted: &RouteMatch) -> Self {
        let path = match accepted.path.clone() {
            PathMatch::Exact(path) => r#match::Path::Exact(path),
            PathMatch::Prefix(path) => r#match::Path::Prefix(path),
        };
        let header = |(name, value): (&String, &String)| route::Header { name: name.clone(), value: value.clone() };
        Self {
            path: Some(path),
            method: accepted.method.clone().unwrap_or_default(),
            headers: accepted.headers.iter().map(header).collect(),
            query: accepted.query.iter().map(header).collect(),
        }
    }
}

impl From<&route::Match> for RouteMatch {
    fn from(wire: &route::Match) -> Self {
        let path = match wire.path.clone() {
            Some(r#match::Path::Exact(path)) => PathMatch::Exact(path),
            Some(r#match::Path::Prefix(path)) => PathMatch::Prefix(path),
            None => PathMatch::default(),
        };
        let method = Some(wire.method.clone()).filter(|method| !method.is_empty());
        let pair = |pair: &route::Header| (pair.name.clone(), pair.value.clone());
        let (headers, query) = (wire.headers.iter().map(pair).collect(), wire.query.iter().map(pair).collect());
        Self { path, method, headers, query }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName::new("shop", name).unwrap()
    }

    fn prefix(path: &str) -> RouteMatch {
        RouteMatch { path: PathMatch::Prefix(path.into()), ..RouteMatch::default() }
    }

    fn rule(accepted: RouteMatch, backend: &str) -> RouteRule {
        let backends = vec![RouteBackend { service: service(backend), port: 80, weight: 1 }];
        RouteRule { matches: vec![accepted], backends, ..RouteRule::default() }
    }

    fn route(name: &str, port: Option<u16>, rules: Vec<RouteRule>) -> HttpRoute {
        let parents = [ParentRef { service: service("web"), port }].into();
        HttpRoute::new(RouteName::new("shop", name).unwrap(), parents, rules).unwrap()
    }

    #[test]
    fn prefixes_are_of_whole_elements() {
        let route = route("a", None, vec![rule(prefix("/v1/"), "a")]);
        let accepts = |path| route.rules[0].matches[0].accepts("GET", path, "", |_| None);
        for (path, accepted) in [("/v1", true), ("/v1/", true), ("/v1/x", true), ("/v10", false), ("/", false)] {
            assert_eq!(accepts(path), accepted, "{path}");
        }
        assert!(RouteMatch::default().accepts("OPTIONS", "*", "", |_| None), "without a path every request is meant");
    }

    #[test]
    fn all_of_a_match_must_be_so() {
        let headers = [("X-Canary".to_owned(), "yes".to_owned())].into();
        let (path, method) = (PathMatch::Exact("/a".into()), Some("GET".into()));
        let accepted = RouteMatch { path, method, headers, ..RouteMatch::default() };
        let route = route("a", None, vec![rule(accepted, "a")]);
        let accepts = |method, path, canary: Option<&'static str>| {
            let header = |name: &str| canary.filter(|_| name == "x-canary").map(str::as_bytes);
            route.rules[0].matches[0].accepts(method, path, "", header)
        };
        assert!(accepts("GET", "/a", Some("yes")));
        assert!(!accepts("POST", "/a", Some("yes")));
        assert!(!accepts("GET", "/a/", Some("yes")));
        assert!(!accepts("GET", "/a", Some("no")));
        assert!(!accepts("GET", "/a", None));
    }

    #[test]
    fn a_query_is_compared_without_its_encoding() {
        let query = [("user name".to_owned(), "a+b".to_owned())].map(|(name, value)| (name.replace(' ', "-"), value));
        let accepted = RouteMatch { query: query.into(), ..RouteMatch::default() };
        for (query, expected) in [
            ("user-name=a%2Bb", true),
            ("x=1&user%2dname=a%2bb&user-name=other", true),
            ("user-name=other&user-name=a%2Bb", false),
            ("user-name=a+b", false),
            ("user-name=a%2Bbc", false),
            ("user-name=a%2B", false),
            ("user-name", false),
            ("User-Name=a%2Bb", false),
            ("", false),
        ] {
            assert_eq!(accepted.accepts("GET", "/", query, |_| None), expected, "{query}");
        }
        let many = |pairs: usize| format!("{}a=b", "x&".repeat(pairs - 1));
        let wanted = RouteMatch { query: [("a".into(), "b".into())].into(), ..RouteMatch::default() };
        let is_accepted = |pairs| wanted.accepts("GET", "/", &many(pairs), |_| None);
        assert!(is_accepted(QUERY_PAIRS_MAX) && !is_accepted(QUERY_PAIRS_MAX + 1));
        assert!(decodes_to("a%2", "a%2") && decodes_to("a+b", "a b") && !decodes_to("%zz", "z"));
    }

    #[test]
    fn the_best_match_decides_whatever_the_order() {
        let exact = RouteMatch { path: PathMatch::Exact("/v1".into()), ..RouteMatch::default() };
        let query = RouteMatch { query: [("a".to_owned(), "b".to_owned())].into(), ..prefix("/v1") };
        let method = RouteMatch { method: Some("GET".into()), ..prefix("/v1") };
        let routes = [
            route("a", None, vec![rule(RouteMatch::default(), "any"), rule(prefix("/v1"), "prefix")]),
            route(
                "b",
                Some(80),
                vec![rule(method, "method"), rule(exact, "exact"), rule(prefix("/v1"), "later"), rule(query, "query")],
            ),
        ];
        let table = RouteTable::new(&service("web"), routes.iter());
        let names = |port| table.of_port(port).map(|choice| choice.rule.backends[0].service.name()).collect::<Vec<_>>();
        assert_eq!(names(80), ["exact", "method", "query", "prefix", "later", "any"]);
        assert_eq!(names(81), ["prefix", "any"]);
        assert_eq!(RouteTable::new(&service("other"), routes.iter()), RouteTable::default());
    }

    #[test]
    fn the_oldest_route_decides_between_equally_good_matches() {
        let made =
            |name: &str, created_ms| HttpRoute { created_ms, ..route(name, None, vec![rule(prefix("/"), name)]) };
        let routes = [made("a", None), made("c", Some(2)), made("d", Some(1)), made("b", Some(2))];
        let table = RouteTable::new(&service("web"), routes.iter());
        let names: Vec<_> = table.of_port(80).map(|choice| choice.rule.backends[0].service.name()).collect();
        assert_eq!(names, ["d", "b", "c", "a"]);
    }

    #[test]
    fn routes_survive_the_wire_and_bad_ones_are_named() {
        let good = route("a", Some(80), vec![rule(prefix("/v1"), "a"), rule(RouteMatch::default(), "b")]);
        let wire = route::HttpRoute::from(&good);
        assert_eq!(HttpRoute::try_from(&wire), Ok(good));
        let broken = |break_it: fn(&mut route::HttpRoute)| {
            let mut wire = wire.clone();
            break_it(&mut wire);
            HttpRoute::try_from(&wire).unwrap_err().to_string()
        };
        let path = broken(|wire| wire.rules[1].matches[0].path = Some(r#match::Path::Exact("v1".into())));
        assert!(path.starts_with("spec.rules[1].matches[0].path: `v1` is not a path"), "{path}");
        assert_eq!(broken(|wire| wire.rules.clear()), "spec.rules: there must be 1 to 16, not 0");
        assert_eq!(broken(|wire| wire.parents.clear()), "spec.parentRefs: there must be 1 to 32, not 0");
        assert!(broken(|wire| wire.rules[0].backends[0].weight = 1_000_001).contains("a weight is at most"));
    }
}

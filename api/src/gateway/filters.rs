//! Timeouts and filters as people write them.

use serde::{Deserialize, Serialize};

use crate::{
    duration,
    filters::{self, HeaderEdits, PathEdit},
    route::RouteError,
};

/// Of a redirect that does not say.
const FOUND: u16 = 302;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Timeouts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend_request: Option<String>,
}

/// One of them, as its type says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_header_modifier: Option<Edits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response_header_modifier: Option<Edits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_redirect: Option<Redirect>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edits {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    set: Vec<Header>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    add: Vec<Header>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Redirect {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Path>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Path {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replace_full_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replace_prefix_match: Option<String>,
}

fn duration(at: &str, text: &str) -> Result<u64, RouteError> {
    duration::parse(text).map_err(|error| RouteError(format!("{at}: {error}")))
}

pub(super) fn timeouts(at: &str, written: Option<Timeouts>) -> Result<filters::Timeouts, RouteError> {
    let Some(Timeouts { request, backend_request }) = written else { return Ok(filters::Timeouts::default()) };
    let read = |field: &str, text: Option<String>| {
        text.map(|text| duration(&format!("{at}.{field}"), &text)).transpose().map(Option::unwrap_or_default)
    };
    Ok(filters::Timeouts {
        request_ms: read("request", request)?,
        backend_request_ms: read("backendRequest", backend_request)?,
    })
}

impl Timeouts {
    pub(super) fn written(timeouts: filters::Timeouts) -> Option<Self> {
        let filters::Timeouts { request_ms, backend_request_ms } = timeouts;
        let (request, backend_request) = (duration::written(request_ms), duration::written(backend_request_ms));
        (!timeouts.is_none()).then_some(Self { request, backend_request })
    }
}

/// Each kind of them may be there once.
pub(super) fn filters(at: &str, written: Vec<Filter>) -> Result<filters::Filters, RouteError> {
    let (mut filters, mut kinds) = (filters::Filters::default(), Vec::new());
    for (i, filter) in written.into_iter().enumerate() {
        let at = format!("{at}[{i}]");
        let Filter { kind, request_header_modifier, response_header_modifier, request_redirect } = filter;
        match (kind.as_str(), request_header_modifier, response_header_modifier, request_redirect) {
            ("RequestHeaderModifier", Some(edits), None, None) => filters.request_headers = edits.into(),
            ("ResponseHeaderModifier", None, Some(edits), None) => filters.response_headers = edits.into(),
            ("RequestRedirect", None, None, Some(redirect)) => filters.redirect = Some(redirect.read(&at)?),
            _ => {
                return Err(RouteError(format!(
                    "{at}: only RequestHeaderModifier, ResponseHeaderModifier and RequestRedirect are carried out, each with \
                     what it says, not {kind}"
                )));
            }
        }
        if kinds.contains(&kind) {
            return Err(RouteError(format!("{at}: there is a {kind} before it")));
        }
        kinds.push(kind);
    }
    Ok(filters)
}

impl Filter {
    pub(super) fn written(filters: &filters::Filters) -> Vec<Self> {
        let edits = |edits: &HeaderEdits| (!edits.is_none()).then(|| Edits::from(edits));
        let of = |kind: &str| Self { kind: kind.to_owned(), ..Self::default() };
        let request = edits(&filters.request_headers)
            .map(|edits| Self { request_header_modifier: Some(edits), ..of("RequestHeaderModifier") });
        let response = edits(&filters.response_headers)
            .map(|edits| Self { response_header_modifier: Some(edits), ..of("ResponseHeaderModifier") });
        let redirect = filters
            .redirect
            .as_ref()
            .map(|redirect| Self { request_redirect: Some(redirect.into()), ..of("RequestRedirect") });
        [request, response, redirect].into_iter().flatten().collect()
    }
}

impl From<Edits> for HeaderEdits {
    fn from(Edits { set, add, remove }: Edits) -> Self {
        let pairs = |headers: Vec<Header>| headers.into_iter().map(|header| (header.name, header.value)).collect();
        Self { set: pairs(set), add: pairs(add), remove }
    }
}

impl From<&HeaderEdits> for Edits {
    fn from(edits: &HeaderEdits) -> Self {
        let header = |(name, value): &(String, String)| Header { name: name.clone(), value: value.clone() };
        Self {
            set: edits.set.iter().map(header).collect(),
            add: edits.add.iter().map(header).collect(),
            remove: edits.remove.clone(),
        }
    }
}

impl Redirect {
    fn read(self, at: &str) -> Result<filters::Redirect, RouteError> {
        let Self { scheme, hostname, port, path, status_code } = self;
        let path = path.map(|path| match (path.kind.as_str(), path.replace_full_path, path.replace_prefix_match) {
            ("ReplaceFullPath", Some(path), None) => Ok(PathEdit::Full(path)),
            ("ReplacePrefixMatch", None, Some(path)) => Ok(PathEdit::Prefix(path)),
            _ => Err(RouteError(format!("{at}: a path is replaced by ReplaceFullPath or ReplacePrefixMatch"))),
        });
        Ok(filters::Redirect { scheme, hostname, port, path: path.transpose()?, status: status_code.unwrap_or(FOUND) })
    }
}

impl From<&filters::Redirect> for Redirect {
    fn from(redirect: &filters::Redirect) -> Self {
        let path = redirect.path.clone().map(|path| match path {
            PathEdit::Full(path) => {
                Path { kind: "ReplaceFullPath".to_owned(), replace_full_path: Some(path), replace_prefix_match: None }
            }
            PathEdit::Prefix(path) => Path {
                kind: "ReplacePrefixMatch".to_owned(),
                replace_full_path: None,
                replace_prefix_match: Some(path),
            },
        });
        Self {
            scheme: redirect.scheme.clone(),
            hostname: redirect.hostname.clone(),
            port: redirect.port,
            path,
            status_code: Some(redirect.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{HttpRoute, RouteName, gateway::Spec};

    fn route(rule: Value) -> Result<HttpRoute, String> {
        let spec = json!({"parentRefs": [{"name": "web"}], "rules": [rule]});
        let spec: Spec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
        spec.route(RouteName::new("shop", "a").unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let edits =
            json!({"set": [{"name": "x-a", "value": "1"}], "add": [{"name": "x-b", "value": "2"}], "remove": ["x-c"]});
        let rule = json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/old"}, "queryParams": [{"name": "a", "value": "b"}]}],
            "timeouts": {"request": "1m", "backendRequest": "500ms"},
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": edits},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": edits},
                {"type": "RequestRedirect", "requestRedirect": {
                    "scheme": "https", "hostname": "example.org", "port": 8443, "statusCode": 308,
                    "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"},
                }},
            ],
        });
        let read = route(rule).unwrap();
        let again = serde_json::to_value(Spec::from(&read)).unwrap();
        let again: Spec = serde_json::from_value(again).unwrap();
        assert_eq!(again.route(read.name.clone()).unwrap(), read);
        assert_eq!(HttpRoute::try_from(&crate::proto::route::HttpRoute::from(&read)), Ok(read.clone()));
        assert!(!read.is_plain());
    }

    #[test]
    fn what_is_not_carried_out_is_named() {
        let edits = |name: &str, value: &str| json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": name, "value": value}]}}]});
        let redirect = |redirect: Value| json!({"filters": [{"type": "RequestRedirect", "requestRedirect": redirect}]});
        for (rule, message) in [
            (json!({"timeouts": {"request": "soon"}}), "spec.rules[0].timeouts.request: `soon` is not a duration"),
            (json!({"timeouts": {"request": "1s", "backendRequest": "2s"}}), "backendRequest is part of request"),
            (json!({"filters": [{"type": "RequestMirror", "requestMirror": {}}]}), "unknown field `requestMirror`"),
            (json!({"filters": [{"type": "CORS"}]}), "spec.rules[0].filters[0]: only RequestHeaderModifier"),
            (edits("Content-Length", "1"), "`content-length` is not a header that a route can change"),
            (edits("conduit-x", "1"), "`conduit-x` is not a header"),
            (edits("x\ny", "1"), "is not a header"),
            (edits("x", "a\r\nhost: b"), "the value of `x` is not one"),
            (redirect(json!({"statusCode": 200})), "statusCode: 200 is none of"),
            (redirect(json!({"hostname": "a/b"})), "it is not the name of a host"),
            (redirect(json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/a\r\n"}})), "it is not a path"),
        ] {
            let error = route(rule).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let mut twice = edits("x", "y");
        let first = twice["filters"][0].clone();
        twice["filters"].as_array_mut().unwrap().push(first);
        assert!(route(twice).unwrap_err().contains("there is a RequestHeaderModifier before it"));
        let mut both = redirect(json!({}));
        both["backendRefs"] = json!([{"name": "web", "port": 80}]);
        assert!(route(both).unwrap_err().contains("have no backendRefs"));
    }
}

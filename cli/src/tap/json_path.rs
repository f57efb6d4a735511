//! `-o jsonpath=TEMPLATE`: what of an event is written, in the words of kubectl. Pure.
//!
//! <https://kubernetes.io/docs/reference/kubectl/jsonpath/>

use std::{fmt::Write as _, iter::Peekable, str::CharIndices};

use anyhow::{anyhow, bail, ensure};
use jsonpath_rust::{
    parser::{errors::JsonPathError, model::JpQuery, parse_json_path},
    query::{QueryRef, js_path_process},
};
use serde_json::Value;

use crate::printable::printable;

/// Of ranges in each other: an event is not that deep.
const RANGES_MAX: usize = 8;

/// Text, and paths in braces.
#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Path(JpQuery),
    /// For each that the path finds.
    Range(JpQuery, Vec<Part>),
}

/// What is in braces.
enum Directive {
    Part(Part),
    Range(JpQuery),
    End,
}

impl Template {
    /// # Errors
    /// When it is none, with where.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        // Of the ranges that are open: their paths, and the parts before them.
        let mut open: Vec<(JpQuery, Vec<Part>)> = Vec::new();
        let (mut parts, mut has_path) = (Vec::new(), false);
        let mut rest = text.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            if c != '{' {
                push(&mut parts, c);
                continue;
            }
            let inside = braced(text, at, &mut rest)?;
            let place = character(text, at);
            let directive = directive(inside).map_err(|why| anyhow!("{{{inside}}} at character {place}: {why}"))?;
            match directive {
                Directive::Part(part) => {
                    has_path |= matches!(part, Part::Path(_));
                    parts.push(part);
                }
                Directive::Range(path) => {
                    ensure!(open.len() < RANGES_MAX, "more than {RANGES_MAX} ranges are in each other");
                    has_path = true;
                    open.push((path, std::mem::take(&mut parts)));
                }
                Directive::End => {
                    let Some((path, before)) = open.pop() else {
                        bail!("{{end}} at character {place}: no {{range}} is before it")
                    };
                    let inner = std::mem::replace(&mut parts, before);
                    parts.push(Part::Range(path, inner));
                }
            }
        }
        ensure!(open.is_empty(), "a {{range}} has no {{end}}");
        ensure!(has_path, "it has no path in braces, as in {{.requestInitEvent.path}}");
        Ok(Self(parts))
    }

    /// A line, without its end. None if no path finds anything: it is then another kind of event that is asked for.
    pub(super) fn line(&self, event: &Value) -> Option<String> {
        let mut line = String::new();
        write(&self.0, event, &mut line).then_some(line)
    }
}

/// Whether a path found something.
fn write(parts: &[Part], value: &Value, line: &mut String) -> bool {
    let mut has_found = false;
    for part in parts {
        match part {
            Part::Text(text) => line.push_str(text),
            Part::Path(path) => {
                let found = found(path, value).into_iter().map(text).collect::<Vec<_>>();
                has_found |= !found.is_empty();
                line.push_str(&found.join(" "));
            }
            Part::Range(path, parts) => {
                for value in found(path, value) {
                    has_found = true;
                    write(parts, value, line);
                }
            }
        }
    }
    has_found
}

fn found<'a>(path: &JpQuery, value: &'a Value) -> Vec<&'a Value> {
    // What goes wrong when a path is followed goes wrong for this event only: what it compares is of another kind.
    js_path_process(path, value).unwrap_or_default().into_iter().map(QueryRef::val).collect()
}

/// As kubectl writes it; somebody else may have chosen it.
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    printable(&text).into_owned()
}

fn push(parts: &mut Vec<Part>, c: char) {
    match parts.last_mut() {
        Some(Part::Text(text)) => text.push(c),
        _ => parts.push(Part::Text(c.into())),
    }
}

/// What is between the brace at `start` and the one that closes it, which may be in quotes before.
fn braced<'a>(text: &'a str, start: usize, rest: &mut Peekable<CharIndices<'a>>) -> anyhow::Result<&'a str> {
    let mut quote = None;
    while let Some((at, c)) = rest.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(rest.next()),
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Ok(text[start + 1..at].trim()),
            _ => {}
        }
    }
    bail!("the brace at character {} is not closed", character(text, start))
}

/// As people count them.
fn character(text: &str, at: usize) -> usize {
    text[..at].chars().count() + 1
}

fn directive(inside: &str) -> anyhow::Result<Directive> {
    if inside == "end" {
        return Ok(Directive::End);
    }
    if let Some(range) = inside.strip_prefix("range").filter(|range| range.starts_with([' ', '.', '$', '@', '['])) {
        return Ok(Directive::Range(path(range.trim())?));
    }
    if let Some(quote) = inside.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        return Ok(Directive::Part(Part::Text(unquoted(inside, quote)?)));
    }
    Ok(Directive::Part(Part::Path(path(inside)?)))
}

fn unquoted(text: &str, quote: char) -> anyhow::Result<String> {
    let inner = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    let Some(inner) = inner.filter(|_| text.len() > 1) else { bail!("a text ends with the quote that it begins with") };
    let mut unquoted = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        unquoted.push(match (c, c == '\\') {
            (c, false) => c,
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('\\' | '"' | '\'')) => c,
                other => {
                    bail!("`\\{}` is none of \\n, \\t, \\\\ and \\\"", other.map_or_else(String::new, String::from))
                }
            },
        });
    }
    Ok(unquoted)
}

/// A path as kubectl has it, as RFC 9535 does: from `$`, and names that are more than letters in brackets.
fn path(text: &str) -> anyhow::Result<JpQuery> {
    ensure!(!text.is_empty(), "there is nothing in it");
    let steps = text.strip_prefix(['$', '@']).unwrap_or(text);
    let mut standard = String::from("$");
    let mut rest = steps.chars().peekable();
    let mut depth = 0_usize;
    while let Some(c) = rest.next() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_name = c == '.' && depth == 0 && rest.peek().is_some_and(|next| !matches!(next, '.' | '*' | '['));
        if !is_name {
            standard.push(c);
            continue;
        }
        let mut name = String::new();
        while let Some(c) = rest.next_if(|c| !matches!(c, '.' | '[')) {
            name.push(if c == '\\' { rest.next().unwrap_or(c) } else { c });
        }
        let is_recursive = standard.ends_with('.');
        let is_plain = name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(char::is_numeric);
        match (is_plain, is_recursive) {
            (true, _) => write!(standard, ".{name}")?,
            (false, true) => write!(standard, ".[{}]", Value::from(name))?,
            (false, false) => write!(standard, "[{}]", Value::from(name))?,
        }
    }
    parse_json_path(&standard).map_err(|error| match error {
        JsonPathError::PestError(error) => anyhow!("it is no path: {}", error.variant.message()),
        error => anyhow!("it is no path: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "source": {"ip": "10.0.0.1", "port": 40000, "metadata": {"pod": "web-0", "app.kubernetes.io/name": "web"}},
            "requestInitEvent": {
                "id": {"base": 1, "stream": 2},
                "path": "/a\nb",
                "headers": [{"name": "a", "valueStr": "1"}, {"name": "b", "valueStr": "2"}],
            },
        })
    }

    #[test]
    fn as_kubectl_understands_it() {
        for (template, line) in [
            ("{.source.ip}", Some("10.0.0.1")),
            ("{$.source.ip}:{@.source.port}", Some("10.0.0.1:40000")),
            ("{ .source.ip }{\"\\t\"}{.source.port}{'\\n'}", Some("10.0.0.1\t40000\n")),
            ("{.requestInitEvent.id}", Some(r#"{"base":1,"stream":2}"#)),
            (r"{.source.metadata.app\.kubernetes\.io/name}", Some("web")),
            ("{.source['metadata']['pod']}", Some("web-0")),
            ("{.requestInitEvent.headers[*].name}", Some("a b")),
            ("{.requestInitEvent.headers[0].name}", Some("a")),
            ("{.requestInitEvent.headers[-1:].name}", Some("b")),
            (r#"{.requestInitEvent.headers[?(@.name=="b")].valueStr}"#, Some("2")),
            ("{range .requestInitEvent.headers[*]}{.name}={.valueStr};{end}!", Some("a=1;b=2;!")),
            ("{..stream}", Some("2")),
            ("{..port} {.responseEndEvent}", Some("40000 ")),
            (r#"{.source.metadata["pod"]}{"}"}"#, Some("web-0}")),
            ("{.responseEndEvent.grpcStatusCode}", None),
            ("text {range .responseEndEvent.trailers[*]}{.name}{end}", None),
        ] {
            assert_eq!(Template::parse(template).unwrap().line(&event()).as_deref(), line, "{template}");
        }
    }

    #[test]
    fn what_others_chose_forges_no_line() {
        let line = Template::parse("{.requestInitEvent.path}").unwrap().line(&event()).unwrap();
        assert_eq!(line, r"/a\nb");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (template, says) in [
            (".source.ip", "no path in braces"),
            ("", "no path in braces"),
            ("{\"text\"}", "no path in braces"),
            ("a {.source.ip", "the brace at character 3 is not closed"),
            ("{.a}{}", "{} at character 5: there is nothing in it"),
            ("{.a[}", "{.a[} at character 1: it is no path: "),
            ("{.a b}{.c[?(@.x}", "{.c[?(@.x} at character 7: it is no path: "),
            ("{'a}", "the brace at character 1 is not closed"),
            (r#"{"\x"}{.a}"#, r"`\x` is none of"),
            ("{range .a[*]}{.b}", "a {range} has no {end}"),
            ("{.a}{end}", "{end} at character 5: no {range} is before it"),
            (&"{range .a}".repeat(RANGES_MAX + 1), "more than 8 ranges"),
        ] {
            let error = Template::parse(template).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{template}: {error}");
        }
    }
}

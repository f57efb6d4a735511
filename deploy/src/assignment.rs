//! `--set`, as helm has it: `a.b=c,d[0]=e,f={g,h}`.

use serde_json::{Map, Value};
use thiserror::Error;

/// An index above it is a slip, and would make a list of nulls; helm has the same bound.
const INDEX_MAX: usize = 65_536;

/// What values are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typing {
    /// Integers, booleans and null are what they look like.
    Guess,
    /// Everything is text.
    Text,
}

/// Why an assignment is not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AssignmentError {
    /// There is nothing to assign.
    #[error("`{0}` has no value: write key=value")]
    NoValue(String),
    /// The key is none.
    #[error("`{0}` is not the name of a value: write a.b=c, or a[0]=c for a place in a list")]
    Key(String),
    /// A list is not closed.
    #[error("`{0}` has no `}}` at its end")]
    OpenList(String),
}

enum Segment {
    Key(String),
    Index(usize),
}

/// Carries out all `assignments`, which have commas between them.
pub(crate) fn apply(values: &mut Value, assignments: &str, typing: Typing) -> Result<(), AssignmentError> {
    for assignment in split(assignments, ',') {
        let (key, value) = assignment.split_once('=').ok_or_else(|| AssignmentError::NoValue(assignment.clone()))?;
        assign(values, &path(key)?, parse(value, typing)?);
    }
    Ok(())
}

/// The parts of `text`. What is escaped by a backslash, or in braces, separates nothing.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part, mut depth) = (Vec::new(), String::new(), 0_usize);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                part.push(character);
                part.extend(characters.next());
                continue;
            }
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if character == separator && depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(character);
    }
    parts.push(part);
    parts
}

fn path(key: &str) -> Result<Vec<Segment>, AssignmentError> {
    let invalid = || AssignmentError::Key(key.to_owned());
    let mut segments = Vec::new();
    for part in split(key, '.') {
        let (name, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
        if name.is_empty() {
            return Err(invalid());
        }
        segments.push(Segment::Key(unescaped(name)));
        for index in indices.split_terminator(']') {
            let index = index.strip_prefix('[').and_then(|index| index.parse().ok()).ok_or_else(invalid)?;
            segments.push(Segment::Index(Some(index).filter(|index| *index <= INDEX_MAX).ok_or_else(invalid)?));
        }
        if !indices.is_empty() && !indices.ends_with(']') {
            return Err(invalid());
        }
    }
    Ok(segments)
}

fn parse(text: &str, typing: Typing) -> Result<Value, AssignmentError> {
    if let Some(list) = text.strip_prefix('{') {
        let list = list.strip_suffix('}').ok_or_else(|| AssignmentError::OpenList(text.to_owned()))?;
        let items = split(list, ',');
        return items.iter().filter(|_| !list.is_empty()).map(|item| parse(item, typing)).collect();
    }
    let integer = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
    Ok(match text {
        _ if typing == Typing::Text => Value::from(unescaped(text)),
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ => integer.map_or_else(|| Value::from(unescaped(text)), Value::from),
    })
}

fn unescaped(text: &str) -> String {
    let mut characters = text.chars();
    let mut unescaped = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        unescaped.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    unescaped
}

/// Puts `value` where `path` says. What is in the way and has no place for it gives way; null takes a key away.
fn assign(target: &mut Value, path: &[Segment], value: Value) {
    match path {
        [] => *target = value,
        [Segment::Key(key), rest @ ..] => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let Value::Object(map) = target else { return };
            if rest.is_empty() && value.is_null() {
                map.remove(key);
            } else {
                assign(map.entry(key.clone()).or_insert(Value::Null), rest, value);
            }
        }
        [Segment::Index(index), rest @ ..] => {
            if !target.is_array() {
                *target = Value::Array(Vec::new());
            }
            let Value::Array(list) = target else { return };
            if list.len() <= *index {
                list.resize(index + 1, Value::Null);
            }
            assign(&mut list[*index], rest, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(assignments: &str, typing: Typing) -> Result<Value, AssignmentError> {
        let mut values = json!({"a": {"b": 1, "c": 2}, "list": [{"k": "v"}]});
        apply(&mut values, assignments, typing).map(|()| values)
    }

    #[test]
    fn assignments_are_helms() {
        for (assignments, expected) in [
            ("a.b=3", json!({"a": {"b": 3, "c": 2}, "list": [{"k": "v"}]})),
            ("a.b=null,d=true", json!({"a": {"c": 2}, "list": [{"k": "v"}], "d": true})),
            ("a=text", json!({"a": "text", "list": [{"k": "v"}]})),
            ("a={x,2,false}", json!({"a": ["x", 2, false], "list": [{"k": "v"}]})),
            ("a={},list=", json!({"a": [], "list": ""})),
            ("list[0].k=w,list[2]=1", json!({"a": {"b": 1, "c": 2}, "list": [{"k": "w"}, null, 1]})),
            (r"a.x\.y/z=1\,2", json!({"a": {"b": 1, "c": 2, "x.y/z": "1,2"}, "list": [{"k": "v"}]})),
            ("a.b=007,a.c=1.5", json!({"a": {"b": "007", "c": "1.5"}, "list": [{"k": "v"}]})),
            ("a.b=x=y", json!({"a": {"b": "x=y", "c": 2}, "list": [{"k": "v"}]})),
        ] {
            assert_eq!(set(assignments, Typing::Guess).unwrap(), expected, "{assignments}");
        }
        assert_eq!(set("a=3", Typing::Text).unwrap()["a"], "3");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = |assignments: &str| set(assignments, Typing::Guess).unwrap_err();
        assert_eq!(error("a.b"), AssignmentError::NoValue("a.b".to_owned()));
        assert_eq!(error("a=1,"), AssignmentError::NoValue(String::new()));
        for key in ["", "a..b", "a.", "[0]", "a[x]", "a[-1]", "a[1", "a[0]b", "a[65537]"] {
            assert_eq!(error(&format!("{key}=1")), AssignmentError::Key(key.to_owned()));
        }
        assert_eq!(error("a={x"), AssignmentError::OpenList("{x".to_owned()));
    }
}

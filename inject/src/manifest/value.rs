//! What YAML means, as JSON: aliases and merge keys replaced by what they stand for.

use serde_json::{Map, Number, Value};

use granit_parser::ScalarStyle;

use super::tree::{Content, Document, MERGE, NodeId, is_null};

/// Nodes that aliases may expand to. A pod has some hundreds; ten aliases of ten aliases and so on are an attack.
pub(super) const NODES_MAX: usize = 100_000;
/// Aliases in what aliases refer to; more are a circle.
pub(super) const DEPTH_MAX: usize = 512;

/// An alias that stands for too much, or for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endless;

/// The value of a node.
pub(super) fn value(document: &Document<'_>, node: NodeId) -> Result<Value, Endless> {
    Reader { document, nodes_left: NODES_MAX }.value(node, DEPTH_MAX)
}

struct Reader<'a> {
    document: &'a Document<'a>,
    nodes_left: usize,
}

impl Reader<'_> {
    fn value(&mut self, id: NodeId, depth: usize) -> Result<Value, Endless> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(Endless)?;
        let depth = depth.checked_sub(1).ok_or(Endless)?;
        let document = self.document;
        let node = document.node(id);
        match &node.content {
            Content::Alias(target) => self.value(*target, depth),
            Content::Scalar(text, style) => Ok(scalar(text, *style, node.tag.as_deref())),
            Content::Sequence(_, elements) => elements.iter().map(|element| self.value(*element, depth)).collect(),
            Content::Mapping(_, entries) => {
                let mut object = Map::new();
                let is_merge = |key: NodeId| document.text(key) == Some(MERGE);
                for (key, value) in entries.iter().filter(|(key, _)| !is_merge(*key)) {
                    // Other keys are nothing to Kubernetes.
                    if let Some(key) = document.text(*key) {
                        object.insert(key.to_owned(), self.value(*value, depth)?);
                    }
                }
                for (_, merged) in entries.iter().filter(|(key, _)| is_merge(*key)) {
                    self.merge(&mut object, *merged, depth)?;
                }
                Ok(Value::Object(object))
            }
        }
    }

    /// What is there, and what was merged before, is kept.
    fn merge(&mut self, object: &mut Map<String, Value>, merged: NodeId, depth: usize) -> Result<(), Endless> {
        let mappings = match self.value(merged, depth)? {
            Value::Array(mappings) => mappings,
            mapping => vec![mapping],
        };
        for (key, value) in
            mappings.into_iter().filter_map(|m| if let Value::Object(m) = m { Some(m) } else { None }).flatten()
        {
            object.entry(key).or_insert(value);
        }
        Ok(())
    }
}

/// Booleans are those of YAML 1.1 as well, since Kubernetes' parser takes them.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Value {
    if style != ScalarStyle::Plain || tag == Some("!!str") {
        return Value::String(text.to_owned());
    }
    match text {
        text if is_null(text) => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return None;
    }
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    is_decimal.then(|| text.parse().ok()).flatten().and_then(Number::from_f64)
}

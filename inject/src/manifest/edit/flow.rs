//! Collections in brackets: all of JSON, and some of YAML. What is added to them is JSON.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Editor, Entangled};
use crate::manifest::{
    render,
    tree::{Content, NodeId},
};

impl Editor<'_> {
    pub(super) fn extend_mapping(
        &mut self,
        mapping: NodeId,
        key: &str,
        value: &Value,
        depth: usize,
    ) -> Result<(), Entangled> {
        self.extend(mapping, false, depth, |lines, line_end| {
            format!("{}: {}", Value::from(key), render::json(value, lines, line_end))
        })
    }

    pub(super) fn extend_sequence(
        &mut self,
        sequence: NodeId,
        value: &Value,
        first: bool,
        depth: usize,
    ) -> Result<(), Entangled> {
        self.extend(sequence, first, depth, |lines, line_end| render::json(value, lines, line_end))
    }

    /// Puts a value where `null` is.
    pub(super) fn replace_null(&mut self, null: NodeId, value: &Value, depth: usize) -> Result<(), Entangled> {
        if self.is_void(null) || self.node(null).decorated {
            return Err(Entangled);
        }
        let null = self.node(null);
        let lines = self.lines_of(null.start);
        let text = render::json(value, lines.as_ref().map(|(prefix, step)| (prefix.as_str(), *step)), self.line_end);
        self.splice(null.start..null.end, text, depth);
        Ok(())
    }

    /// Adds what `write` makes of it before or behind all others, on a line of its own if they have one.
    fn extend(
        &mut self,
        collection: NodeId,
        first: bool,
        depth: usize,
        write: impl Fn(Option<(&str, usize)>, &str) -> String,
    ) -> Result<(), Entangled> {
        let items = self.items(collection)?;
        let (open, line_end) = (self.node(collection).start + 1, self.line_end);
        let Some(neighbour) = (if first { items.first() } else { items.last() }) else {
            let comma = if self.extended.insert(collection) { "" } else { ", " };
            self.splice(open..open, format!("{comma}{}", write(None, line_end)), depth);
            return Ok(());
        };
        let lines = self.own_line(neighbour.start).map(|prefix| {
            let step = self.step(collection, prefix.len());
            (prefix.to_owned(), step)
        });
        let text = write(lines.as_ref().map(|(prefix, step)| (prefix.as_str(), *step)), line_end);
        let (at, text) = match (first, &lines) {
            (true, Some((prefix, _))) => (open, format!("{line_end}{prefix}{text},")),
            (true, None) => (open, format!("{text}, ")),
            (false, Some((prefix, _))) => (neighbour.end, format!(",{line_end}{prefix}{text}")),
            (false, None) => (neighbour.end, format!(", {text}")),
        };
        self.splice(at..at, text, depth);
        Ok(())
    }

    pub(super) fn remove_from_brackets(
        &mut self,
        collection: NodeId,
        removed: &BTreeSet<usize>,
    ) -> Result<(), Entangled> {
        let items = self.items(collection)?;
        for index in removed {
            let item = &items[*index];
            // With the comma before it, or, where nothing before it is kept, with the one behind it.
            let range = if (0..*index).any(|before| !removed.contains(&before)) {
                items[index - 1].end..item.end
            } else if let Some(next) = items.get(index + 1) {
                item.start..next.start
            } else {
                item.start..item.end
            };
            self.splice(range, String::new(), 0);
        }
        Ok(())
    }

    /// Where each entry or element begins and ends.
    fn items(&self, collection: NodeId) -> Result<Vec<std::ops::Range<usize>>, Entangled> {
        let item = |first: NodeId, last: NodeId| {
            // Of `{a: }` it cannot be seen here where it ends.
            if self.node(first).decorated || self.is_void(last) {
                return Err(Entangled);
            }
            Ok(self.node(first).start..self.node(last).end)
        };
        match &self.node(collection).content {
            Content::Sequence(_, elements) => elements.iter().map(|element| item(*element, *element)).collect(),
            Content::Mapping(_, entries) => entries.iter().map(|(key, value)| item(*key, *value)).collect(),
            _ => Err(Entangled),
        }
    }

    /// What is before something that has a line of its own.
    fn own_line(&self, offset: usize) -> Option<&str> {
        let before = self.line_before(offset);
        (self.line_start(offset) > 0 && before.bytes().all(|byte| matches!(byte, b' ' | b'\t'))).then_some(before)
    }

    fn lines_of(&self, offset: usize) -> Option<(String, usize)> {
        let before = self.line_before(offset);
        let prefix = &before[..before.len() - before.trim_start_matches([' ', '\t']).len()];
        before.trim_start().starts_with('"').then(|| (prefix.to_owned(), 2))
    }

    /// How much deeper the elements of a collection are than it is.
    fn step(&self, collection: NodeId, deep: usize) -> usize {
        let before = self.line_before(self.node(collection).start);
        match deep.saturating_sub(before.len() - before.trim_start_matches([' ', '\t']).len()) {
            0 => 2,
            step => step,
        }
    }
}

//! Collections whose entries and elements stand on lines of their own.

use std::collections::BTreeSet;

use granit_parser::StructureStyle;
use serde_json::Value;

use super::{Editor, Entangled, FILLED_DEEPER, Located};
use crate::manifest::{
    render,
    tree::{Content, NodeId},
};

/// A key and its value.
type Entry = (NodeId, NodeId);

/// Bytes of a volume, or of some labels.
const LINES_USUAL: usize = 256;

/// The value of a key before something was added to it.
enum Before {
    /// `{}` or `[]`
    Brackets,
    /// None.
    Nothing,
}

impl Editor<'_> {
    /// Adds an entry behind all others of a mapping.
    pub(super) fn append_entry(
        &mut self,
        mapping: NodeId,
        key: &str,
        value: &Value,
        depth: usize,
    ) -> Result<(), Entangled> {
        let column = self.mapping_column(mapping)?;
        let layout = self.layout(self.dashes(mapping));
        let end = self.node(mapping).end;
        self.insert_lines(end, depth, |out| layout.entry(out, column, key, value, 2))
    }

    /// Gives a value to a key that has none.
    pub(super) fn fill(&mut self, (key, null): Entry, value: &Value, depth: usize) -> Result<(), Entangled> {
        let (key, null, is_void) = (self.node(key), self.node(null), self.is_void(null));
        if key.decorated || null.decorated {
            return Err(Entangled);
        }
        let column = self.column(key.start)? + FILLED_DEEPER;
        let colon = key.end + self.text[key.end..].find(':').ok_or(Entangled)? + 1;
        if !is_void {
            // `key: null`
            self.splice(colon..null.end, String::new(), depth);
        }
        if value.is_object() || value.is_array() {
            let layout = self.layout(0);
            return self.insert_lines(null.end, depth, |out| layout.lines(out, column, value));
        }
        let mut text = " ".to_owned();
        render::push_scalar(&mut text, value.as_str().ok_or(Entangled)?);
        self.splice(colon..colon, text, depth);
        Ok(())
    }

    /// Adds an element before or behind all others of a list.
    pub(super) fn insert_element(
        &mut self,
        list: Located,
        value: &Value,
        first: bool,
        depth: usize,
    ) -> Result<(), Entangled> {
        let dash = self.dash(list, 0)?;
        let column = self.column(dash)?;
        let layout = self.layout(0);
        // Comments before the first element are that element's: what is added is before them.
        let key = list.key.map(|key| self.node(key).end);
        let end = if first { key.ok_or(Entangled)? } else { self.node(list.node).end };
        self.insert_lines(end, depth, |out| layout.element(out, column, value))
    }

    /// Removes one entry or element of several that are `removed`.
    pub(super) fn remove_lines(
        &mut self,
        collection: Located,
        index: usize,
        removed: &BTreeSet<usize>,
    ) -> Result<(), Entangled> {
        match &self.node(collection.node).content {
            Content::Sequence(_, elements) => {
                let dash = self.dash(collection, index)?;
                self.column(dash)?;
                let (from, to) = (self.line_start(dash), self.after_line(self.node(elements[index]).end));
                self.splice(from..to, String::new(), 0);
                Ok(())
            }
            Content::Mapping(_, entries) => self.remove_entry(entries, index, removed),
            _ => Err(Entangled),
        }
    }

    fn remove_entry(&mut self, entries: &[Entry], index: usize, removed: &BTreeSet<usize>) -> Result<(), Entangled> {
        let entry = entries[index];
        let (key, value) = (self.node(entry.0), self.node(entry.1));
        if let Content::Mapping(_, inner) = &value.content
            && inner.iter().any(|entry| self.was_there(*entry).is_some())
        {
            let all = (0..inner.len()).collect();
            return (0..inner.len()).try_for_each(|index| self.remove_entry(inner, index, &all));
        }
        let range = match self.was_there(entry) {
            Some(Before::Brackets) => value.start + 1..value.end - 1,
            Some(Before::Nothing) => self.after_line(key.end)..self.after_line(value.end),
            None if self.line_before(key.start).bytes().all(|byte| byte == b' ') => {
                self.line_start(key.start)..self.after_line(value.end.max(key.end))
            }
            None => {
                // The first entry of an element stands behind its dash: the next one takes its place.
                let next = (index + 1..entries.len()).find(|next| !removed.contains(next)).ok_or(Entangled)?;
                key.start..self.node(entries[next].0).start
            }
        };
        self.splice(range, String::new(), 0);
        Ok(())
    }

    /// Whether an entry, all of whose value is taken away, was there before any of it was added, and what its value was.
    fn was_there(&self, (key, value): Entry) -> Option<Before> {
        let key_column = self.column(self.node(key).start).ok()?;
        match self.node(value).content {
            // What is added to a block is in lines.
            Content::Sequence(StructureStyle::Flow, _) | Content::Mapping(StructureStyle::Flow, _) => {
                Some(Before::Brackets)
            }
            _ if self.collection_column(value) == Some(key_column + FILLED_DEEPER) => Some(Before::Nothing),
            _ => None,
        }
    }

    /// Adds lines behind the one in which something ends.
    fn insert_lines(&mut self, end: usize, depth: usize, write: impl FnOnce(&mut String)) -> Result<(), Entangled> {
        let at = self.after_line(end);
        let mut lines = String::with_capacity(LINES_USUAL);
        write(&mut lines);
        if at == self.text.len() && !self.text.ends_with('\n') {
            if self.document.ends_in_block_scalar {
                // A line's end behind it would be part of it.
                return Err(Entangled);
            }
            lines.truncate(lines.len() - self.line_end.len());
            lines.insert_str(0, self.line_end);
        }
        self.splice(at..at, lines, depth);
        Ok(())
    }

    /// Where the line after that of `end` begins.
    fn after_line(&self, end: usize) -> usize {
        if end > 0 && self.text[..end].ends_with('\n') {
            return end;
        }
        self.text[end..].find('\n').map_or(self.text.len(), |newline| end + newline + 1)
    }

    /// The dash before an element.
    fn dash(&self, list: Located, index: usize) -> Result<usize, Entangled> {
        let Content::Sequence(_, elements) = &self.node(list.node).content else { return Err(Entangled) };
        let before = match index.checked_sub(1) {
            Some(previous) => self.node(elements[previous]).end,
            None => self.node(list.key.ok_or(Entangled)?).end,
        };
        let mut at = self.after_line(before);
        for line in self.text[at..].split_inclusive('\n') {
            let content = line.trim_start();
            if content.starts_with("- ") || content.trim_end() == "-" {
                return Ok(at + line.len() - content.len());
            }
            if !content.is_empty() && !content.starts_with('#') {
                break;
            }
            at += line.len();
        }
        Err(Entangled)
    }

    /// The column of something before which there is nothing in its line, or dashes.
    fn column(&self, offset: usize) -> Result<usize, Entangled> {
        let before = self.line_before(offset);
        let is_indentation = before.bytes().all(|byte| matches!(byte, b' ' | b'-')) && !before.ends_with('-');
        if is_indentation { Ok(before.len()) } else { Err(Entangled) }
    }

    fn mapping_column(&self, mapping: NodeId) -> Result<usize, Entangled> {
        let Content::Mapping(_, entries) = &self.node(mapping).content else { return Err(Entangled) };
        let (key, _) = entries.first().ok_or(Entangled)?;
        if self.node(*key).decorated {
            return Err(Entangled);
        }
        self.column(self.node(*key).start)
    }

    /// The column of a block's keys or dashes.
    fn collection_column(&self, collection: NodeId) -> Option<usize> {
        let node = self.node(collection);
        match &node.content {
            Content::Mapping(StructureStyle::Block, _) => self.mapping_column(collection).ok(),
            Content::Sequence(StructureStyle::Block, _) => {
                // It begins at the dash, or behind it.
                let before = self.line_before(node.start);
                Some(before.trim_end().strip_suffix('-').unwrap_or(before).len())
            }
            _ => None,
        }
    }

    /// How much deeper than their keys the lists of a mapping are written: as the first one in it.
    fn dashes(&self, mapping: NodeId) -> usize {
        let Content::Mapping(_, entries) = &self.node(mapping).content else { return 0 };
        let depth = entries.iter().find_map(|(key, value)| {
            let list = matches!(self.node(*value).content, Content::Sequence(StructureStyle::Block, _));
            let dash = list.then(|| self.collection_column(*value)).flatten()?;
            Some(dash.saturating_sub(self.column(self.node(*key).start).ok()?))
        });
        if depth.unwrap_or_default() > 0 { 2 } else { 0 }
    }
}

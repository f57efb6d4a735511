//! Carries operations out in a text: what they do not concern stays byte for byte what it is.
//!
//! Collections in lines are edited in `edit/block.rs`, those in brackets, JSON's among them, in `edit/flow.rs`. What can be edited
//! in neither way is [`Entangled`]; the document is then written anew.

mod block;
mod flow;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use granit_parser::{ScalarStyle, StructureStyle};

use super::{
    render::Layout,
    tree::{Content, Document, Node, NodeId},
};
use crate::operation::{Operation, Path, Step};

/// Some bytes of a text, and what takes their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Splice {
    pub(super) range: Range<usize>,
    pub(super) text: String,
}

/// The change would concern something else as well, or stands where only a parser finds it: aliases, merge keys, tags, explicit keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entangled;

/// How much deeper than its key stands what is filled into a key that was there without a value. Everything else stands two deeper:
/// so it can be seen, when all of it is taken away again, that the key was there before.
const FILLED_DEEPER: usize = 4;

/// What `operations`, whose paths begin at the document's root, come to. `line_end` is how the text ends its lines.
pub(super) fn splices(
    text: &str,
    document: &Document<'_>,
    operations: &[Operation],
    line_end: &str,
) -> Result<Vec<Splice>, Entangled> {
    let mut editor = Editor { text, document, line_end, edits: Vec::new(), extended: BTreeSet::new() };
    let mut removals = BTreeMap::<&[Step], Vec<&Step>>::new();
    for operation in operations {
        match operation {
            Operation::Entry { object, key, value } => editor.add_entry(object, key, value)?,
            Operation::First { array, value } => editor.add_element(array, value, true)?,
            Operation::Last { array, value } => editor.add_element(array, value, false)?,
            Operation::Remove(path) => {
                let (last, parent) = path.split_last().ok_or(Entangled)?;
                removals.entry(parent).or_default().push(last);
            }
        }
    }
    for (parent, steps) in removals {
        editor.remove(parent, &steps)?;
    }
    // At one place, what belongs deeper into the document comes first, and otherwise what was said first.
    editor.edits.sort_by_key(|edit| (edit.splice.range.start, std::cmp::Reverse(edit.depth)));
    Ok(editor.edits.into_iter().map(|edit| edit.splice).collect())
}

/// `text` with `splices` carried out, which are in order and do not overlap.
pub(super) fn apply(text: &str, splices: &[Splice]) -> String {
    let mut out = String::with_capacity(text.len() + splices.iter().map(|splice| splice.text.len()).sum::<usize>());
    let copied = append(&mut out, text, 0, splices);
    out.push_str(&text[copied..]);
    out
}

/// Appends `text` from `copied` on to `out`, up to the last of `splices`, and says up to where that is.
pub(super) fn append(out: &mut String, text: &str, mut copied: usize, splices: &[Splice]) -> usize {
    let cut_end = cut_end(text, splices);
    for splice in splices {
        // Lines that are taken away at the end of a text that does not end with a line's end take the one before them along.
        let start = match cut_end {
            Some((from, to)) if from == splice.range.start => to,
            _ => splice.range.start,
        };
        out.push_str(&text[copied.min(start)..start]);
        out.push_str(&splice.text);
        copied = splice.range.end;
    }
    copied
}

/// Where the last run of removals begins that reaches the end, and where it should begin.
fn cut_end(text: &str, splices: &[Splice]) -> Option<(usize, usize)> {
    if text.ends_with('\n') {
        return None;
    }
    let mut start = text.len();
    for splice in splices.iter().rev() {
        if splice.range.end != start || !splice.text.is_empty() || splice.range.is_empty() {
            break;
        }
        start = splice.range.start;
    }
    let before = text[..start].strip_suffix('\n')?;
    (start < text.len()).then(|| (start, before.trim_end_matches('\r').len()))
}

struct Editor<'a> {
    text: &'a str,
    document: &'a Document<'a>,
    line_end: &'a str,
    edits: Vec<Edit>,
    /// Collections in brackets that were empty and are not any more.
    extended: BTreeSet<NodeId>,
}

struct Edit {
    splice: Splice,
    depth: usize,
}

/// A node by its path: it, and its key if it has one.
#[derive(Clone, Copy)]
struct Located {
    node: NodeId,
    key: Option<NodeId>,
}

impl<'a> Editor<'a> {
    fn add_entry(&mut self, object: &Path, key: &str, value: &serde_json::Value) -> Result<(), Entangled> {
        let Located { node: mapping, .. } = self.locate(object)?;
        let depth = object.len();
        let existing = self.document.entry(mapping, key);
        match (&self.node(mapping).content, existing) {
            (Content::Mapping(StructureStyle::Block, _), None) => self.append_entry(mapping, key, value, depth),
            (Content::Mapping(StructureStyle::Block, _), Some(entry)) => self.fill(entry, value, depth + 1),
            (Content::Mapping(StructureStyle::Flow, _), None) => self.extend_mapping(mapping, key, value, depth),
            (Content::Mapping(StructureStyle::Flow, _), Some((_, null))) => self.replace_null(null, value, depth),
            _ => Err(Entangled),
        }
    }

    fn add_element(&mut self, array: &Path, value: &serde_json::Value, first: bool) -> Result<(), Entangled> {
        let located = self.locate(array)?;
        match &self.node(located.node).content {
            Content::Sequence(StructureStyle::Block, _) => self.insert_element(located, value, first, array.len()),
            Content::Sequence(StructureStyle::Flow, _) => self.extend_sequence(located.node, value, first, array.len()),
            _ => Err(Entangled),
        }
    }

    fn remove(&mut self, parent: &[Step], steps: &[&Step]) -> Result<(), Entangled> {
        let located = self.locate(parent)?;
        let index = |step: &Step| match (step, &self.node(located.node).content) {
            (Step::Key(key), Content::Mapping(_, entries)) => {
                entries.iter().position(|(k, _)| self.document.text(*k) == Some(key.as_str())).ok_or(Entangled)
            }
            (Step::Index(index), Content::Sequence(_, elements)) if *index < elements.len() => Ok(*index),
            _ => Err(Entangled),
        };
        let removed = steps.iter().map(|step| index(step)).collect::<Result<BTreeSet<_>, _>>()?;
        if self.node(located.node).is_block() {
            removed.iter().try_for_each(|index| self.remove_lines(located, *index, &removed))
        } else {
            self.remove_from_brackets(located.node, &removed)
        }
    }

    /// Finds the node that stands at the end of `path` itself, and that nothing else refers to on the way.
    fn locate(&self, path: &[Step]) -> Result<Located, Entangled> {
        let mut here = Located { node: self.document.root(), key: None };
        for step in path {
            self.refuse_aliased(here.node)?;
            here = match (step, &self.node(here.node).content) {
                (Step::Key(key), Content::Mapping(..)) => {
                    let (key, node) = self.document.entry(here.node, key).ok_or(Entangled)?;
                    if self.node(key).decorated || !matches!(self.node(key).content, Content::Scalar(..)) {
                        return Err(Entangled);
                    }
                    Located { node, key: Some(key) }
                }
                (Step::Index(index), Content::Sequence(_, elements)) => {
                    Located { node: *elements.get(*index).ok_or(Entangled)?, key: None }
                }
                _ => return Err(Entangled),
            };
        }
        self.refuse_aliased(here.node)?;
        Ok(here)
    }

    fn refuse_aliased(&self, node: NodeId) -> Result<(), Entangled> {
        if self.node(node).aliased { Err(Entangled) } else { Ok(()) }
    }

    fn node(&self, id: NodeId) -> &'a Node<'a> {
        self.document.node(id)
    }

    fn splice(&mut self, range: Range<usize>, text: String, depth: usize) {
        self.edits.push(Edit { splice: Splice { range, text }, depth });
    }

    /// What is before `offset` in its line.
    fn line_before(&self, offset: usize) -> &'a str {
        &self.text[self.line_start(offset)..offset]
    }

    fn line_start(&self, offset: usize) -> usize {
        let byte_order_mark = if self.text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        self.text[..offset].rfind('\n').map_or(byte_order_mark, |newline| newline + 1)
    }

    fn layout(&self, dashes: usize) -> Layout<'a> {
        Layout { line_end: self.line_end, dashes }
    }

    /// The node stands for nothing: not even a word is there.
    fn is_void(&self, id: NodeId) -> bool {
        matches!(&self.node(id).content, Content::Scalar(text, ScalarStyle::Plain) if text.is_empty())
    }
}

//! A document written anew, in lines, without anchors, aliases, merge keys and tags: what cannot be edited where it stands can be
//! edited in this.

use std::collections::HashSet;

use granit_parser::ScalarStyle;

use super::{
    render,
    tree::{Content, Document, MERGE, Node, NodeId},
    value::{DEPTH_MAX, Endless, NODES_MAX},
};

/// The same document; plain scalars stay as they are, so that nobody takes them for something else than before.
pub(super) fn normal(document: &Document<'_>, line_end: &str) -> Result<String, Endless> {
    let mut writer = Writer { document, line_end, out: String::new(), nodes_left: NODES_MAX };
    writer.lines(document.root(), 0, DEPTH_MAX)?;
    Ok(writer.out)
}

struct Writer<'a> {
    document: &'a Document<'a>,
    line_end: &'a str,
    out: String,
    nodes_left: usize,
}

type Entry = (NodeId, NodeId);

impl Writer<'_> {
    /// A collection on lines of its own.
    fn lines(&mut self, id: NodeId, column: usize, depth: usize) -> Result<(), Endless> {
        let depth = depth.checked_sub(1).ok_or(Endless)?;
        let id = self.document.resolved(id);
        match &self.document.node(id).content {
            Content::Sequence(_, elements) => {
                for element in elements {
                    self.indent(column);
                    self.out.push('-');
                    self.behind_dash(*element, column + 2, depth)?;
                }
            }
            _ => {
                for (index, (key, value)) in self.entries(id, depth)?.into_iter().enumerate() {
                    // The first stands behind the dash of its element.
                    if index > 0 || !self.out.ends_with("- ") {
                        self.indent(column);
                    }
                    self.entry(key, value, column, depth)?;
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, key: NodeId, value: NodeId, column: usize, depth: usize) -> Result<(), Endless> {
        let (key, value) = (self.document.resolved(key), self.document.resolved(value));
        let key = self.scalar(key)?;
        self.out.push_str(&key);
        self.out.push(':');
        match &self.document.node(value).content {
            Content::Sequence(_, elements) if !elements.is_empty() => {
                self.out.push_str(self.line_end);
                self.lines(value, column, depth)
            }
            Content::Mapping(_, entries) if !entries.is_empty() => {
                self.out.push_str(self.line_end);
                self.lines(value, column + 2, depth)
            }
            _ => self.leaf(value),
        }
    }

    fn behind_dash(&mut self, id: NodeId, column: usize, depth: usize) -> Result<(), Endless> {
        let id = self.document.resolved(id);
        match &self.document.node(id).content {
            Content::Mapping(_, entries) if !entries.is_empty() => {
                self.out.push(' ');
                self.lines(id, column, depth)
            }
            Content::Sequence(_, elements) if !elements.is_empty() => {
                self.out.push_str(self.line_end);
                self.lines(id, column, depth)
            }
            _ => self.leaf(id),
        }
    }

    /// What fits on the line that has been begun.
    fn leaf(&mut self, id: NodeId) -> Result<(), Endless> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(Endless)?;
        let text = self.scalar(id)?;
        if !text.is_empty() {
            self.out.push(' ');
            self.out.push_str(&text);
        }
        self.out.push_str(self.line_end);
        Ok(())
    }

    fn scalar(&self, id: NodeId) -> Result<String, Endless> {
        let Node { content, tag, .. } = self.document.node(id);
        match (content, tag.as_deref()) {
            (Content::Scalar(text, ScalarStyle::Plain), None) if !text.contains('\n') => Ok(text.to_string()),
            (Content::Scalar(text, _), None | Some("!!str")) => Ok(quoted(text)),
            (Content::Scalar(text, ScalarStyle::Plain), Some(tag)) => Ok(format!("{tag} {text}")),
            (Content::Scalar(text, _), Some(tag)) => Ok(format!("{tag} {}", quoted(text))),
            (Content::Sequence(_, elements), _) if elements.is_empty() => Ok("[]".to_owned()),
            (Content::Mapping(_, entries), _) if entries.is_empty() => Ok("{}".to_owned()),
            // A collection as a key.
            _ => Err(Endless),
        }
    }

    /// A mapping's own entries, and those that it merges.
    fn entries(&mut self, mapping: NodeId, depth: usize) -> Result<Vec<Entry>, Endless> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(Endless)?;
        let depth = depth.checked_sub(1).ok_or(Endless)?;
        let mapping = self.document.resolved(mapping);
        let Content::Mapping(_, entries) = &self.document.node(mapping).content else { return Ok(Vec::new()) };
        let is_merge = |key: NodeId| self.document.text(key) == Some(MERGE);
        let (merges, own): (Vec<Entry>, Vec<Entry>) = entries.iter().copied().partition(|(key, _)| is_merge(*key));
        let mut all = own;
        let mut seen: HashSet<_> = all.iter().map(|(key, _)| self.document.text(*key)).collect();
        for (_, merged) in merges {
            let merged = self.document.resolved(merged);
            let mappings = match &self.document.node(merged).content {
                Content::Sequence(_, mappings) => mappings.clone(),
                _ => vec![merged],
            };
            for merged in mappings {
                let merged = self.entries(merged, depth)?;
                all.extend(merged.into_iter().filter(|(key, _)| seen.insert(self.document.text(*key))));
            }
        }
        Ok(all)
    }

    fn indent(&mut self, column: usize) {
        self.out.extend(std::iter::repeat_n(' ', column));
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    render::push_quoted(&mut out, text);
    out
}

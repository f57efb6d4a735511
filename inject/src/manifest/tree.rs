//! YAML as it stands in a text: nodes with the places where they begin and end.

use std::{borrow::Cow, collections::HashSet};

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, StructureStyle};

/// Where in a text something is, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A text that is not YAML, or not what Kubernetes takes for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) position: Position,
    pub(super) message: String,
}

/// A node of a [`Document`].
pub(super) type NodeId = usize;

/// What is between two `---`.
#[derive(Debug)]
pub(super) struct Document<'a> {
    nodes: Vec<Node<'a>>,
    root: NodeId,
    /// Where the root begins, with its anchor and its tag.
    pub(super) start: usize,
    /// Its last scalar is one that takes whole lines (`|`, `>`).
    pub(super) ends_in_block_scalar: bool,
}

#[derive(Debug)]
pub(super) struct Node<'a> {
    /// Where its content begins: after its anchor and its tag, and, of a list of lines with dashes, after the first dash.
    pub(super) start: usize,
    /// Behind its last character, at a line's beginning if line breaks at its end are part of it. Where nothing stands for it, where
    /// what is before it ends.
    pub(super) end: usize,
    pub(super) content: Content<'a>,
    /// It has an anchor or a tag.
    pub(super) decorated: bool,
    /// Something refers to it.
    pub(super) aliased: bool,
    pub(super) tag: Option<String>,
}

#[derive(Debug)]
pub(super) enum Content<'a> {
    Scalar(Cow<'a, str>, ScalarStyle),
    Sequence(StructureStyle, Vec<NodeId>),
    Mapping(StructureStyle, Vec<(NodeId, NodeId)>),
    Alias(NodeId),
}

/// The key that stands for all entries of another mapping.
pub(super) const MERGE: &str = "<<";
/// A small Deployment has as many; most of what a list of nodes costs is moving it when it grows.
const NODES_USUAL: usize = 64;
/// Above this many keys comparing each with each would take longer than hashing them.
const FEW_KEYS: usize = 8;

impl<'a> Document<'a> {
    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    pub(super) fn node(&self, id: NodeId) -> &Node<'a> {
        &self.nodes[id]
    }

    /// The node, or what it is an alias of.
    pub(super) fn resolved(&self, id: NodeId) -> NodeId {
        match self.nodes[id].content {
            Content::Alias(target) => target,
            _ => id,
        }
    }

    /// The entry of a mapping that stands there itself, not by a merge key.
    pub(super) fn entry(&self, mapping: NodeId, key: &str) -> Option<(NodeId, NodeId)> {
        let Content::Mapping(_, entries) = &self.nodes[mapping].content else { return None };
        entries.iter().find(|(k, _)| self.text(*k) == Some(key)).copied()
    }

    /// The value of a mapping's entry, also by an alias or a merge key.
    pub(super) fn value_of(&self, mapping: NodeId, key: &str) -> Option<NodeId> {
        self.look_up(mapping, key, MERGES_MAX).map(|value| self.resolved(value))
    }

    fn look_up(&self, mapping: NodeId, key: &str, merges: usize) -> Option<NodeId> {
        let mapping = self.resolved(mapping);
        if let Some((_, value)) = self.entry(mapping, key) {
            return Some(value);
        }
        let (_, merged) = self.entry(mapping, MERGE)?;
        let merges = merges.checked_sub(1)?;
        match &self.nodes[self.resolved(merged)].content {
            Content::Sequence(_, mappings) => mappings.iter().find_map(|m| self.look_up(*m, key, merges)),
            _ => self.look_up(merged, key, merges),
        }
    }

    /// A scalar's, or that of what it is an alias of.
    pub(super) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.nodes[self.resolved(id)].content {
            Content::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    pub(super) fn elements(&self, sequence: NodeId) -> &[NodeId] {
        match &self.nodes[self.resolved(sequence)].content {
            Content::Sequence(_, elements) => elements,
            _ => &[],
        }
    }
}

/// A merge key in what a merge key refers to, and so on: more are a circle.
const MERGES_MAX: usize = 16;

impl Node<'_> {
    pub(super) fn is_block(&self) -> bool {
        matches!(self.content, Content::Sequence(StructureStyle::Block, _) | Content::Mapping(StructureStyle::Block, _))
    }
}

/// `null`, `~`, or nothing.
pub(super) fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

/// Reads all documents of `text`. Those of which nothing is there are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Document<'_>>, SyntaxError> {
    let mut options = Options::default();
    options.emit_anchor_events = true;
    options.set_emit_comments(false);
    let mut builder = Builder {
        text,
        events: Parser::new_from_str_with_options(text, options),
        nodes: Vec::new(),
        anchors: Vec::new(),
        end: 0,
        last_is_block: false,
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = builder.next()? {
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) => {
                builder.end = byte(span.end);
                if let Some(document) = builder.document()? {
                    documents.push(document);
                }
            }
            _ => {}
        }
    }
    Ok(documents)
}

struct Builder<'a> {
    text: &'a str,
    events: Parser<'a, StrInput<'a>>,
    nodes: Vec<Node<'a>>,
    /// The numbers of anchors, and what has them.
    anchors: Vec<(usize, NodeId)>,
    /// Behind the last character that is not white space, a comment, or between nodes.
    end: usize,
    /// The last scalar takes whole lines.
    last_is_block: bool,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, SyntaxError> {
        match self.events.next() {
            Some(Ok(next)) => Ok(Some(next)),
            Some(Err(error)) => Err(syntax_error(&error)),
            None => Ok(None),
        }
    }

    /// To be called where something must follow: the parser ends every node that it has begun.
    fn expect_next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        // Events are large: this way they are not copied once more.
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(syntax_error(&error)),
            None => Err(self.error(self.text.len(), ENDED)),
        }
    }

    fn document(&mut self) -> Result<Option<Document<'a>>, SyntaxError> {
        self.nodes = Vec::with_capacity(NODES_USUAL);
        self.anchors.clear();
        let (event, span) = self.expect_next()?;
        if matches!(event, Event::DocumentEnd) {
            return Ok(None);
        }
        let mut start = span.tag_start().map_or(byte(span.start), byte);
        let is_empty = span.is_empty() && matches!(event, Event::Scalar(..)) && span.tag_start().is_none();
        let root = self.node(event, span, &mut start)?;
        // The document's end.
        self.expect_next()?;
        let nodes = std::mem::take(&mut self.nodes);
        Ok((!is_empty).then_some(Document { nodes, root, start, ends_in_block_scalar: self.last_is_block }))
    }

    /// Builds the node that `event` begins. `start` is moved to where its anchor is, if that is before it.
    fn node(&mut self, event: Event<'a>, span: Span, start: &mut usize) -> Result<NodeId, SyntaxError> {
        let tag = event.tag().map(granit_parser::Tag::original);
        let anchored = event.is_node() && event.anchor_id().is_some();
        if let Some(tag) = span.tag_span() {
            self.reach(byte(tag.end));
        }
        let id = self.nodes.len();
        let decorated = anchored || tag.is_some();
        let content = Content::Scalar(Cow::Borrowed(""), ScalarStyle::Plain);
        self.nodes.push(Node { start: byte(span.start), end: 0, content, decorated, aliased: false, tag });
        if anchored && let (Event::Anchor(number, _), span) = self.expect_next()? {
            self.anchors.push((number, id));
            self.reach(byte(span.end));
            *start = byte(span.start).min(*start);
        }
        let content = self.content(event, span)?;
        self.nodes[id].content = content;
        self.nodes[id].end = self.end;
        Ok(id)
    }

    fn content(&mut self, event: Event<'a>, span: Span) -> Result<Content<'a>, SyntaxError> {
        Ok(match event {
            Event::Scalar(text, style, ..) => {
                self.last_is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let end = if self.last_is_block { self.block_scalar_end(&text, span) } else { byte(span.end) };
                if !span.is_empty() {
                    self.reach(end);
                }
                if self.last_is_block && byte(span.end) == self.text.len() && !self.text.ends_with('\n') {
                    // Kubernetes' parser adds no line's end where the text has none.
                    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
                    return Ok(Content::Scalar(Cow::Owned(text), style));
                }
                // What stands for nothing.
                let text = if span.is_empty() && style == ScalarStyle::Plain { Cow::Borrowed("") } else { text };
                Content::Scalar(text, style)
            }
            Event::SequenceStart(style, ..) => {
                self.bracket(style, span);
                let mut elements = Vec::new();
                loop {
                    let (event, span) = self.expect_next()?;
                    if matches!(event, Event::SequenceEnd) {
                        self.bracket(style, span);
                        break Content::Sequence(style, elements);
                    }
                    elements.push(self.node(event, span, &mut 0)?);
                }
            }
            Event::MappingStart(style, ..) => {
                self.bracket(style, span);
                let mut entries = Vec::new();
                loop {
                    let (event, span) = self.expect_next()?;
                    if matches!(event, Event::MappingEnd) {
                        self.bracket(style, span);
                        self.refuse_duplicates(&entries)?;
                        break Content::Mapping(style, entries);
                    }
                    let key = self.node(event, span, &mut 0)?;
                    let (event, span) = self.expect_next()?;
                    entries.push((key, self.node(event, span, &mut 0)?));
                }
            }
            Event::Alias(number) => {
                self.reach(byte(span.end));
                let target = self.anchors.iter().rev().find(|(other, _)| *other == number).map(|(_, node)| *node);
                let target = target.ok_or_else(|| self.error(byte(span.start), "this alias refers to nothing"))?;
                self.nodes[target].aliased = true;
                Content::Alias(target)
            }
            _ => return Err(self.error(byte(span.start), ENDED)),
        })
    }

    /// Brackets are there; lines begin and end with what is in them.
    fn bracket(&mut self, style: StructureStyle, span: Span) {
        if style == StructureStyle::Flow {
            self.reach(byte(span.end));
        }
    }

    fn reach(&mut self, end: usize) {
        self.end = self.end.max(end);
    }

    /// Blank lines at the end are part of a block scalar if it says so (`|+`), and then only.
    fn block_scalar_end(&self, text: &str, span: Span) -> usize {
        let source = &self.text[byte(span.start)..byte(span.end)];
        if text.ends_with("\n\n") || text == "\n" {
            byte(span.start) + source.rfind('\n').map_or(source.len(), |newline| newline + 1)
        } else {
            byte(span.start) + source.trim_end().len()
        }
    }

    fn refuse_duplicates(&self, entries: &[(NodeId, NodeId)]) -> Result<(), SyntaxError> {
        let text = |key: NodeId| match &self.nodes[key].content {
            Content::Scalar(text, _) if text != MERGE => Some(&**text),
            _ => None,
        };
        let mut keys = entries.iter().filter_map(|(key, _)| text(*key).map(|text| (*key, text)));
        let twice = if entries.len() <= FEW_KEYS {
            let before = |at: usize| entries[..at].iter().map(|(key, _)| *key);
            let is_there = |at: usize, key: NodeId| before(at).any(|other| text(other) == text(key));
            let keys = entries.iter().enumerate().map(|(at, (key, _))| (at, *key));
            keys.filter_map(|(at, key)| Some((at, key, text(key)?)))
                .find(|(at, key, _)| is_there(*at, *key))
                .map(|(_, key, text)| (key, text))
        } else {
            let mut seen = HashSet::new();
            keys.find(|(_, text)| !seen.insert(*text))
        };
        match twice {
            Some((key, text)) => Err(self.error(self.nodes[key].start, &format!("the key `{text}` is there twice"))),
            None => Ok(()),
        }
    }

    fn error(&self, offset: usize, message: &str) -> SyntaxError {
        SyntaxError { position: position(self.text, offset), message: message.to_owned() }
    }
}

const ENDED: &str = "the document ends in the middle";

/// Of a parser over a text every marker has one.
fn byte(marker: granit_parser::Marker) -> usize {
    marker.byte_offset().unwrap_or_default()
}

fn syntax_error(error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    let position = Position { line: marker.line(), column: marker.col() + 1 };
    SyntaxError { position, message: error.info() }
}

/// Where `offset` is, for people.
pub(super) fn position(text: &str, offset: usize) -> Position {
    let before = text[..offset].trim_start_matches('\u{feff}');
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    Position { line, column }
}

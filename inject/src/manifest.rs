//! The proxy added to what a file says, and taken away from it again. What is not concerned stays byte for byte what it was,
//! comments and unknown kinds among it.

mod edit;
mod normal;
mod objects;
mod render;
mod tree;
mod value;

use std::{collections::BTreeMap, num::NonZero, ops::Range, panic::resume_unwind, thread};

use serde_json::Value;

pub use self::tree::Position;
use self::{
    edit::{Entangled, Splice},
    objects::Object,
    tree::Document,
};
use crate::{
    injection::{self, Decision, InjectionError, Origin, Pods, Skip, Warning, annotations_of},
    operation::{Operation, path},
    removal,
    report::{Outcome, Report},
    settings::{Settings, annotations::Annotations},
};

/// Up to so many documents one thread is faster than several are begun.
const ALONE_MAX: usize = 64;

/// A text that has been read, and that is well-formed.
#[derive(Debug)]
pub struct Manifest<'a> {
    text: &'a str,
    documents: Vec<Document<'a>>,
}

/// What is to be printed, and what is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The whole text.
    pub text: String,
    /// Of each object, in order.
    pub reports: Vec<Report>,
}

/// Why nothing is printed. Its text begins with line and column, so that it can be put behind the file's name.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{}:{}: {reason}", position.line, position.column)]
pub struct ManifestError {
    /// Where.
    pub position: Position,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a text.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Reason {
    /// The parser's words.
    #[error("this is not YAML: {0}")]
    Syntax(String),
    /// See [`InjectionError`].
    #[error("{kind} `{name}`: {error}")]
    Pods {
        /// Of the object.
        kind: String,
        /// Of the object.
        name: String,
        /// What is wrong with it.
        error: Box<InjectionError>,
    },
    /// Aliases that stand for themselves, or for more than anybody can mean.
    #[error("{kind} `{name}`: its aliases have no end; write out what they stand for")]
    Endless {
        /// Of the object.
        kind: String,
        /// Of the object.
        name: String,
    },
    /// Neither as it stands nor written anew.
    #[error("this document cannot be changed; write it without anchors, aliases, tags and explicit keys")]
    Entangled,
}

/// What the namespaces that are described beside workloads are annotated with.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(BTreeMap<String, Annotations>);

impl Namespaces {
    /// Adds those that `manifest` describes.
    pub fn add(&mut self, manifest: &Manifest<'_>) {
        for document in &manifest.documents {
            let is_namespace = |object: &Object<'_>| object.kind == "Namespace" && object.api_version == "v1";
            for object in objects::objects(document).into_iter().filter(is_namespace) {
                if let Ok(value) = value::value(document, object.node) {
                    self.0.insert(object.name.to_owned(), annotations_of(&value));
                }
            }
        }
    }
}

/// What is to become of one object.
struct Change {
    outcome: Outcome,
    warnings: Vec<Warning>,
    /// Their paths begin at the pods' template.
    operations: Vec<Operation>,
}

impl Change {
    fn none(skip: Skip) -> Self {
        Self { outcome: Outcome::Skipped(skip), warnings: Vec::new(), operations: Vec::new() }
    }
}

/// What has become of one document.
struct Changed {
    reports: Vec<Report>,
    splices: Vec<Splice>,
}

/// What `make` makes of each document, in their order. Documents have nothing to do with each other: all processors help where there are many.
fn each<'a, T: Send>(documents: &[Document<'a>], make: impl Fn(&Document<'a>) -> T + Sync) -> Vec<T> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    if documents.len() < ALONE_MAX || processors == 1 {
        return documents.iter().map(make).collect();
    }
    let made = |part: &[Document<'a>]| part.iter().map(&make).collect::<Vec<_>>();
    thread::scope(|scope| {
        let parts = documents.chunks(documents.len().div_ceil(processors));
        let parts: Vec<_> = parts.map(|part| scope.spawn(|| made(part))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

impl<'a> Manifest<'a> {
    /// Reads YAML or JSON, of any number of documents.
    ///
    /// # Errors
    /// Where it is neither, or has a key twice in one object.
    pub fn parse(text: &'a str) -> Result<Self, ManifestError> {
        let documents = tree::documents(text)
            .map_err(|error| ManifestError { position: error.position, reason: Reason::Syntax(error.message) })?;
        Ok(Self { text, documents })
    }

    /// Adds the proxy to all workloads that can have one and have none.
    ///
    /// # Errors
    /// For the first object that makes no sense.
    pub fn inject(&self, settings: &Settings, namespaces: &Namespaces) -> Result<Output, ManifestError> {
        let unnamed = Annotations::new();
        self.transform(|object, template| {
            let Some(owner) = object.owner() else { return Ok(Change::none(Skip::NotAWorkload)) };
            let Some(template) = template else { return Ok(Change::none(Skip::NoContainers)) };
            let namespace = object.namespace.and_then(|name| namespaces.0.get(name)).unwrap_or(&unnamed);
            let pods = Pods { template: &template, owner: Some(&owner), namespace, origin: Origin::Cli };
            Ok(match injection::plan(pods, settings)? {
                Decision::Skip(skip) => Change::none(skip),
                Decision::Inject(injection) => Change {
                    outcome: Outcome::Injected,
                    warnings: injection.warnings,
                    operations: injection.operations,
                },
            })
        })
    }

    /// Takes the proxy away from all workloads that have one.
    ///
    /// # Errors
    /// For the first object that makes no sense.
    pub fn uninject(&self) -> Result<Output, ManifestError> {
        self.transform(|object, template| {
            let skip = object.owner().map_or(Skip::NotAWorkload, |_| Skip::NotInjected);
            let operations = template.map(|template| removal::plan(&template)).unwrap_or_default();
            Ok(match operations.is_empty() {
                true => Change::none(skip),
                false => Change { outcome: Outcome::Uninjected, warnings: Vec::new(), operations },
            })
        })
    }

    fn transform(
        &self,
        change: impl Fn(&Object<'_>, Option<Value>) -> Result<Change, InjectionError> + Sync,
    ) -> Result<Output, ManifestError> {
        let line_end =
            if self.text.find('\n').is_some_and(|end| self.text[..end].ends_with('\r')) { "\r\n" } else { "\n" };
        let changed = each(&self.documents, |document| self.changed(document, line_end, &change));
        let (mut text, mut copied) = (String::with_capacity(self.text.len()), 0);
        let mut reports = Vec::new();
        for changed in changed {
            let Changed { reports: more, splices } = changed?;
            copied = edit::append(&mut text, self.text, copied, &splices);
            reports.extend(more);
        }
        text.push_str(&self.text[copied..]);
        Ok(Output { text, reports })
    }

    fn changed(
        &self,
        document: &Document<'_>,
        line_end: &str,
        change: impl Fn(&Object<'_>, Option<Value>) -> Result<Change, InjectionError>,
    ) -> Result<Changed, ManifestError> {
        let (mut reports, mut operations) = (Vec::new(), Vec::new());
        for object in objects::objects(document) {
            let change = self.change_of(document, &object, &change)?;
            let prefix = object.owner().map(|owner| path(owner.kind.template())).unwrap_or_default();
            let prefix: Vec<_> = object.path.iter().cloned().chain(prefix).collect();
            operations.extend(change.operations.into_iter().map(|operation| operation.below(&prefix)));
            reports.push(Report {
                kind: object.kind.to_owned(),
                name: object.name.to_owned(),
                outcome: change.outcome,
                warnings: change.warnings,
            });
        }
        if operations.is_empty() {
            return Ok(Changed { reports, splices: Vec::new() });
        }
        let splices = match edit::splices(self.text, document, &operations, line_end) {
            Ok(splices) => splices,
            Err(Entangled) => {
                let changed = reports.iter_mut().filter(|report| report.outcome.is_change());
                changed.for_each(|report| report.warnings.push(Warning::WrittenAnew));
                vec![self.anew(document, &operations, line_end)?]
            }
        };
        Ok(Changed { reports, splices })
    }

    fn change_of(
        &self,
        document: &Document<'_>,
        object: &Object<'_>,
        change: impl Fn(&Object<'_>, Option<Value>) -> Result<Change, InjectionError>,
    ) -> Result<Change, ManifestError> {
        let failed = |reason| self.error(document.node(object.node).start, reason);
        let named = || (object.kind.to_owned(), object.name.to_owned());
        let node = object.owner().and_then(|owner| object.template(document, &path(owner.kind.template())));
        let template = match node.map(|node| value::value(document, node)).transpose() {
            Ok(template) => template,
            Err(value::Endless) => {
                let (kind, name) = named();
                return Err(failed(Reason::Endless { kind, name }));
            }
        };
        change(object, template).map_err(|error| {
            let (kind, name) = named();
            failed(Reason::Pods { kind, name, error: Box::new(error) })
        })
    }

    /// The document written in a way in which it can be edited, and edited.
    fn anew(&self, document: &Document<'_>, operations: &[Operation], line_end: &str) -> Result<Splice, ManifestError> {
        let entangled = || self.error(document.start, Reason::Entangled);
        let text = normal::normal(document, line_end).map_err(|value::Endless| entangled())?;
        let documents = tree::documents(&text).map_err(|_| entangled())?;
        let normal = documents.first().ok_or_else(entangled)?;
        let edits = edit::splices(&text, normal, operations, line_end).map_err(|Entangled| entangled())?;
        Ok(self.replacement(document, edit::apply(&text, &edits), line_end))
    }

    fn replacement(&self, document: &Document<'_>, mut text: String, line_end: &str) -> Splice {
        let line = self.text[..document.start].rfind('\n').map_or(0, |newline| newline + 1);
        let Range { mut start, mut end } = document.start..document.node(document.root()).end;
        if !self.text[..end].ends_with('\n') {
            // The colon of a key that nothing follows is behind it.
            let rest = self.text[end..].lines().next().unwrap_or_default();
            end += rest.len();
        }
        if self.text[line..start].trim_matches(['\u{feff}', ' ']).is_empty() {
            start -= self.text[line..start].len() - self.text[line..start].trim_end_matches(' ').len();
        } else {
            // Behind the `---`.
            text.insert_str(0, line_end);
        }
        if !self.text[..end].ends_with('\n') {
            text.truncate(text.len() - line_end.len());
        }
        Splice { range: start..end, text }
    }

    fn error(&self, offset: usize, reason: Reason) -> ManifestError {
        ManifestError { position: tree::position(self.text, offset), reason }
    }
}

//! The Kubernetes objects in a document: itself, or what it lists.

use super::tree::{Content, Document, NodeId};
use crate::{
    operation::{Path, Step},
    workload::{Owner, WorkloadKind},
};

/// One object, as it says itself.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) node: NodeId,
    /// From the document's root.
    pub(super) path: Path,
    pub(super) api_version: &'a str,
    /// Empty if it says none.
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
}

/// Lists in lists: more are a mistake, or a circle of aliases.
const LISTS_MAX: usize = 8;

/// All objects of `document`, in order.
pub(super) fn objects<'a>(document: &'a Document<'_>) -> Vec<Object<'a>> {
    let mut objects = Vec::new();
    collect(document, document.root(), Path::new(), ("", ""), LISTS_MAX, &mut objects);
    objects
}

/// `default` is what elements of a typed list, `DeploymentList`, do not say themselves.
fn collect<'a>(
    document: &'a Document<'_>,
    node: NodeId,
    path: Path,
    default: (&'a str, &'a str),
    lists: usize,
    objects: &mut Vec<Object<'a>>,
) {
    let node = document.resolved(node);
    if !matches!(document.node(node).content, Content::Mapping(..)) {
        return;
    }
    let text = |node, key| document.value_of(node, key).and_then(|value| document.text(value));
    let api_version = text(node, "apiVersion").unwrap_or(default.0);
    let kind = text(node, "kind").unwrap_or(default.1);
    if let (Some(items), Some(element)) = (document.value_of(node, "items"), kind.strip_suffix("List")) {
        let Some(lists) = lists.checked_sub(1) else { return };
        for (index, item) in document.elements(items).iter().enumerate() {
            let mut path = path.clone();
            path.extend([Step::Key("items".to_owned()), Step::Index(index)]);
            collect(document, *item, path, (api_version, element), lists, objects);
        }
        return;
    }
    let metadata = |key| document.value_of(node, "metadata").and_then(|metadata| text(metadata, key));
    objects.push(Object {
        node,
        path,
        api_version,
        kind,
        name: metadata("name").or_else(|| metadata("generateName")).unwrap_or_default(),
        namespace: metadata("namespace"),
    });
}

impl Object<'_> {
    /// Whose pods it has, if it has any.
    pub(super) fn owner(&self) -> Option<Owner> {
        let kind = WorkloadKind::of(self.api_version, self.kind)?;
        Some(Owner { kind, name: self.name.to_owned() })
    }

    /// What describes its pods.
    pub(super) fn template(&self, document: &Document<'_>, template: &[Step]) -> Option<NodeId> {
        template.iter().try_fold(self.node, |node, step| match step {
            Step::Key(key) => document.value_of(node, key),
            Step::Index(_) => None,
        })
    }
}

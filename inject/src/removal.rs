//! Decides what is taken away from a pod so that it has no proxy: what [`crate::injection`] adds, and what Conduit 0.5 added.

use serde_json::Value;

use crate::{
    containers::{CHECK, INIT, PROXY, SPIFFE_ENDPOINT_SOCKET, VOLUMES, WORKLOAD_API_VOLUME, spiffe_endpoint},
    injection::{ADDED_ANNOTATIONS, CONTROL_PLANE_NAMESPACE, CREATED_BY, PROXY_VERSION},
    operation::{Operation, Step, path},
    settings::annotations::PREFIX,
    workload::OWNER_LABELS,
};

/// What is to be taken away from `template`; nothing if it has no proxy.
pub fn plan(template: &Value) -> Vec<Operation> {
    let mut removals = Removals { template, operations: Vec::new() };
    let is_ours = |container: &Value| [PROXY, INIT, CHECK].iter().any(|name| container["name"] == *name);
    removals.elements("spec.initContainers", is_ours);
    removals.elements("spec.containers", is_ours);
    removals.elements("spec.volumes", |volume| VOLUMES.iter().any(|name| volume["name"] == *name));
    for (index, container) in template["spec"]["containers"].as_array().into_iter().flatten().enumerate() {
        if !is_ours(container) {
            let list = |name| format!("spec.containers.{index}.{name}");
            removals.elements(&list("volumeMounts"), |mount| mount["name"] == WORKLOAD_API_VOLUME);
            removals.elements(&list("env"), |variable| {
                variable["name"] == SPIFFE_ENDPOINT_SOCKET && variable["value"] == spiffe_endpoint()
            });
        }
    }
    removals.metadata();
    removals.operations
}

struct Removals<'a> {
    template: &'a Value,
    operations: Vec<Operation>,
}

impl Removals<'_> {
    fn at(&self, list: &str) -> Option<&Value> {
        path(list).iter().try_fold(self.template, |here, step| match step {
            Step::Key(key) => here.get(key),
            Step::Index(index) => here.get(index),
        })
    }

    /// Removes the elements that are ours; with the last the list.
    fn elements(&mut self, list: &str, is_ours: impl Fn(&Value) -> bool) {
        let Some(elements) = self.at(list).and_then(Value::as_array) else { return };
        let ours: Vec<_> = (0..elements.len()).filter(|index| is_ours(&elements[*index])).collect();
        if !ours.is_empty() && ours.len() == elements.len() {
            self.operations.push(Operation::Remove(path(list)));
        } else {
            let element = |index| path(list).into_iter().chain([Step::Index(index)]).collect();
            self.operations.extend(ours.into_iter().map(element).map(Operation::Remove));
        }
    }

    /// Removes labels and annotations; with all there are the `metadata`.
    fn metadata(&mut self) {
        let added = self.template["metadata"]["annotations"][ADDED_ANNOTATIONS].as_str().unwrap_or_default();
        let added: Vec<_> = added.split(',').map(|name| format!("{PREFIX}{name}")).collect();
        let is_label = |key: &str| key == CONTROL_PLANE_NAMESPACE || OWNER_LABELS.contains(&key);
        let is_annotation = |key: &str| {
            [CREATED_BY, PROXY_VERSION, ADDED_ANNOTATIONS].contains(&key) || added.iter().any(|name| name == key)
        };
        let before = self.operations.len();
        let emptied = [self.entries("metadata.labels", is_label), self.entries("metadata.annotations", is_annotation)];
        let emptied = emptied.into_iter().filter(|emptied| *emptied).count();
        if emptied > 0 && self.template["metadata"].as_object().is_some_and(|metadata| metadata.len() == emptied) {
            self.operations.truncate(before);
            self.operations.push(Operation::Remove(path("metadata")));
        }
    }

    /// Removes the entries that are ours, and says whether those were all.
    fn entries(&mut self, object: &str, is_ours: impl Fn(&str) -> bool) -> bool {
        let Some(entries) = self.at(object).and_then(Value::as_object) else { return false };
        let ours: Vec<_> = entries.keys().filter(|key| is_ours(key)).cloned().collect();
        let all = !ours.is_empty() && ours.len() == entries.len();
        if all {
            self.operations.push(Operation::Remove(path(object)));
        } else {
            let entry = |key| path(object).into_iter().chain([Step::Key(key)]).collect();
            self.operations.extend(ours.into_iter().map(entry).map(Operation::Remove));
        }
        all
    }
}

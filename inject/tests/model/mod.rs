//! What a manifest means according to another parser, and what a plan makes of it: to be compared with the text that was edited.

use std::collections::BTreeMap;

use conduit_inject::{
    Decision, Operation, Origin, Settings, Step,
    injection::{Pods, plan},
    settings::annotations::Annotations,
    workload::{Owner, WorkloadKind},
};
use serde::Deserialize as _;
use serde_json::{Value, json};

/// All documents that say something, with aliases and merge keys resolved.
pub fn documents(text: &str) -> Vec<Value> {
    let text = text.trim_start_matches('\u{feff}');
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(|document| {
        let mut value = serde_yaml_ng::Value::deserialize(document).unwrap_or_else(|error| panic!("{error}\n{text}"));
        value.apply_merge().unwrap();
        serde_json::to_value(untagged(value)).unwrap()
    });
    documents.filter(|document| !document.is_null()).collect()
}

fn untagged(value: serde_yaml_ng::Value) -> serde_yaml_ng::Value {
    use serde_yaml_ng::Value;
    match value {
        Value::Tagged(tagged) => untagged(tagged.value),
        Value::Sequence(elements) => Value::Sequence(elements.into_iter().map(untagged).collect()),
        Value::Mapping(entries) => {
            Value::Mapping(entries.into_iter().map(|(k, v)| (untagged(k), untagged(v))).collect())
        }
        other => other,
    }
}

/// The same without what is empty or null: what uninjecting may leave out.
#[allow(dead_code, reason = "each test file has its own copy of this module")]
pub fn without_nothing(text: &str) -> Vec<Value> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(entries) => {
                entries.values_mut().for_each(strip);
                entries.retain(|_, value| !matches!(value, Value::Null) && *value != json!({}) && *value != json!([]));
            }
            Value::Array(elements) => elements.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut documents = documents(text);
    documents.iter_mut().for_each(strip);
    documents
}

/// What injecting `text` should mean.
#[allow(dead_code, reason = "each test file has its own copy of this module")]
pub fn injected(text: &str, settings: &Settings) -> Vec<Value> {
    let mut documents = documents(text);
    let namespaces = documents.iter().filter(|document| document["kind"] == "Namespace").map(|namespace| {
        let annotations = serde_json::from_value(namespace["metadata"]["annotations"].clone()).unwrap_or_default();
        (namespace["metadata"]["name"].as_str().unwrap().to_owned(), annotations)
    });
    let namespaces = namespaces.collect::<BTreeMap<String, Annotations>>();
    for document in &mut documents {
        inject(document, settings, &namespaces);
    }
    documents
}

fn inject(object: &mut Value, settings: &Settings, namespaces: &BTreeMap<String, Annotations>) {
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if let (Some(element), Some(items)) = (kind.strip_suffix("List"), object.get_mut("items")) {
        for item in items.as_array_mut().unwrap() {
            let is_untyped = item.get("kind").is_none();
            if is_untyped {
                item["kind"] = json!(element);
                item["apiVersion"] = json!(version);
            }
            inject(item, settings, namespaces);
            if is_untyped {
                item.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
            }
        }
        return;
    }
    let Some(kind) = WorkloadKind::of(&version, &kind) else { return };
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let namespace = object["metadata"]["namespace"].as_str().and_then(|name| namespaces.get(name)).cloned();
    let pointer = kind.template().split('.').filter(|step| !step.is_empty()).map(|step| format!("/{step}"));
    let Some(template) = object.pointer_mut(&pointer.collect::<String>()) else { return };
    let (namespace, owner) = (namespace.unwrap_or_default(), Owner { kind, name });
    let pods = Pods { template, owner: Some(&owner), namespace: &namespace, origin: Origin::Cli };
    if let Decision::Inject(injection) = plan(pods, settings).unwrap() {
        apply(template, &injection.operations);
    }
}

/// Operations that add, carried out on a value.
fn apply(root: &mut Value, operations: &[Operation]) {
    let mut firsts = BTreeMap::<Vec<Step>, usize>::new();
    for operation in operations {
        match operation {
            Operation::Entry { object, key, value } => at(root, object)[key.as_str()] = value.clone(),
            Operation::First { array, value } => {
                let first = firsts.entry(array.clone()).or_default();
                at(root, array).as_array_mut().unwrap().insert(*first, value.clone());
                *first += 1;
            }
            Operation::Last { array, value } => at(root, array).as_array_mut().unwrap().push(value.clone()),
            Operation::Remove(_) => panic!("injecting removes nothing"),
        }
    }
}

fn at<'a>(value: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Index(index) => &mut value[*index],
    })
}

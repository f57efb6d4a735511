//! What is otherwise in an object than in another one. Pure.

use serde_json::Value;

/// Values that are longer are not shown.
const SHOWN_MAX: usize = 48;
/// What the API server keeps of an object for itself, and others write.
const NOT_COMPARED: [&str; 5] = ["managedFields", "resourceVersion", "generation", "creationTimestamp", "uid"];
/// What `kubectl apply` was given last.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Each as `path: what was -> what is`, in order.
pub(super) fn changes(was: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", &comparable(was), &comparable(is), &mut found);
    found
}

/// The paths that `live` has because `kubectl apply` was given them last, and which are not in what it is given now: it takes them away.
pub(super) fn taken_away(live: &Value, now: &Value) -> Vec<String> {
    let applied = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    let Ok(applied) = serde_json::from_str::<Value>(applied) else { return Vec::new() };
    let mut found = Vec::new();
    missing("", &comparable(&applied), &comparable(now), &comparable(live), &mut found);
    found
}

fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|key, _| !NOT_COMPARED.contains(&key.as_str()));
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(LAST_APPLIED);
            }
        }
    }
    object
}

fn compare(path: &str, was: &Value, is: &Value, found: &mut Vec<String>) {
    match (was, is) {
        (was, is) if was == is => {}
        (Value::Object(was), Value::Object(is)) => {
            let keys: std::collections::BTreeSet<_> = was.keys().chain(is.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&below(path, key), &of(was), &of(is), found);
            }
        }
        (Value::Array(was), Value::Array(is)) if named(was).is_some() && named(is).is_some() => {
            let (was, is) = (named(was).unwrap_or_default(), named(is).unwrap_or_default());
            let names: std::collections::BTreeSet<_> = was.iter().chain(&is).map(|(name, _)| *name).collect();
            for name in names {
                compare(&format!("{path}[{name}]"), entry(&was, name), entry(&is, name), found);
            }
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            for (index, (was, is)) in was.iter().zip(is).enumerate() {
                compare(&format!("{path}[{index}]"), was, is, found);
            }
        }
        (was, is) => found.push(match (shown(was), shown(is)) {
            (Some(was), Some(is)) => format!("{path}: {was} -> {is}"),
            _ => path.to_owned(),
        }),
    }
}

fn missing(path: &str, applied: &Value, now: &Value, live: &Value, found: &mut Vec<String>) {
    match (applied, now, live) {
        (_, _, Value::Null) => {}
        (_, Value::Null, _) => found.push(format!("{path}: taken away")),
        (Value::Object(applied), now, live) => {
            applied.iter().for_each(|(key, applied)| missing(&below(path, key), applied, &now[key], &live[key], found));
        }
        (Value::Array(applied), Value::Array(now), Value::Array(live)) => {
            let (Some(applied), Some(now), Some(live)) = (named(applied), named(now), named(live)) else { return };
            for (name, applied) in applied {
                missing(&format!("{path}[{name}]"), applied, entry(&now, name), entry(&live, name), found);
            }
        }
        _ => {}
    }
}

fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// The entries by their names, if all of them have one.
fn named(list: &[Value]) -> Option<Vec<(&str, &Value)>> {
    list.iter().map(|entry| Some((entry["name"].as_str()?, entry))).collect()
}

fn entry<'a>(list: &[(&str, &'a Value)], name: &str) -> &'a Value {
    list.iter().find(|(known, _)| *known == name).map_or(&Value::Null, |(_, value)| value)
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("nothing".to_owned()),
        Value::Object(_) | Value::Array(_) => None,
        value => Some(value.to_string()).filter(|text| text.len() <= SHOWN_MAX),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_otherwise_is_told_by_its_path() {
        let was = json!({
            "metadata": {"name": "x", "resourceVersion": "1", "generation": 1, "labels": {"a": "1"}},
            "spec": {"replicas": 1, "containers": [{"name": "a", "image": "x:1", "args": ["--a", "--b"]}], "rules": [1]},
            "status": {"replicas": 1},
        });
        let is = json!({
            "metadata": {"name": "x", "resourceVersion": "2", "generation": 2, "labels": {"a": "1", "b": "2"}},
            "spec": {"replicas": 3, "containers": [{"name": "a", "image": "x:2", "args": ["--a", "--c"]}, {"name": "b"}], "rules": [1, 2]},
        });
        let expected = [
            "metadata.labels.b: nothing -> \"2\"",
            "spec.containers[a].args[1]: \"--b\" -> \"--c\"",
            "spec.containers[a].image: \"x:1\" -> \"x:2\"",
            "spec.containers[b]",
            "spec.replicas: 1 -> 3",
            "spec.rules",
        ];
        assert_eq!(changes(&was, &is), expected);
        assert_eq!(changes(&was, &was), [""; 0]);
    }

    #[test]
    fn what_is_not_given_any_more_is_taken_away() {
        let applied =
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"b": 1, "c": [{"name": "x", "y": 1}], "d": 1}});
        let live = |spec: Value| {
            let annotations = json!({(LAST_APPLIED): applied.to_string()});
            json!({"metadata": {"labels": {"a": "1"}, "annotations": annotations}, "spec": spec})
        };
        let now = json!({"metadata": {"labels": {}}, "spec": {"c": [{"name": "x"}], "e": 1}});
        let all = live(json!({"b": 1, "c": [{"name": "x", "y": 1}]}));
        assert_eq!(
            taken_away(&all, &now),
            ["metadata.labels.a: taken away", "spec.b: taken away", "spec.c[x].y: taken away"]
        );
        assert_eq!(taken_away(&json!({"spec": {"b": 1}}), &now), [""; 0], "nobody has applied it");
    }
}

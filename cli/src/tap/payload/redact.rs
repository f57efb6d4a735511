//! What is not shown of a message: what its schema marks, and what its workload names. Pure.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

/// In place of a value.
const REDACTED: &str = "[redacted]";
/// `debug_redact` of `google.protobuf.FieldOptions`.
const DEBUG_REDACT: u32 = 16;
const ANY: &str = "google.protobuf.Any";

/// Takes values out of `json`, which is a message of `descriptor`.
pub(super) fn redact(json: &mut Value, descriptor: &MessageDescriptor, names: &[String]) {
    let names = names.iter().map(|name| name.rsplit('.').map(folded).collect()).collect();
    Redaction { names, path: Vec::new() }.message(json, descriptor);
}

/// A field has two names, and people write either: `card_number` and `cardNumber`.
fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

struct Redaction {
    /// Each by its parts, the last one first.
    names: Vec<Vec<String>>,
    /// What leads here.
    path: Vec<Part>,
}

/// A field, or a key of a map.
struct Part {
    name: String,
    json_name: String,
    /// Paths may leave it out.
    is_key: bool,
}

impl Part {
    fn named(name: &str, is_key: bool) -> Self {
        Self { name: folded(name), json_name: String::new(), is_key }
    }
}

impl Redaction {
    fn message(&mut self, json: &mut Value, descriptor: &MessageDescriptor) {
        match descriptor.full_name() {
            ANY => self.any(json, descriptor),
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => self.free(json),
            _ => self.fields(json, descriptor),
        }
    }

    fn fields(&mut self, json: &mut Value, descriptor: &MessageDescriptor) {
        let Value::Object(fields) = json else { return };
        for (key, value) in fields {
            match descriptor.get_field_by_json_name(key) {
                Some(field) => self.field(value, &field),
                // An extension, of which nobody says that it may be shown.
                None if key != "@type" => *value = REDACTED.into(),
                None => {}
            }
        }
    }

    fn field(&mut self, value: &mut Value, field: &FieldDescriptor) {
        let json_name = folded(field.json_name());
        self.path.push(Part { json_name, ..Part::named(field.name(), false) });
        if is_marked(field) || self.is_named() {
            *value = REDACTED.into();
        } else if field.is_map() {
            if let (Kind::Message(entry), Value::Object(entries)) = (field.kind(), value) {
                let kind = entry.map_entry_value_field().kind();
                entries.iter_mut().for_each(|(key, value)| self.entry(key, value, &kind));
            }
        } else if let Value::Array(values) = value
            && field.is_list()
        {
            let kind = field.kind();
            values.iter_mut().for_each(|value| self.value(value, &kind));
        } else {
            self.value(value, &field.kind());
        }
        self.path.pop();
    }

    /// Of a map, whose keys are names as well.
    fn entry(&mut self, key: &str, value: &mut Value, kind: &Kind) {
        self.path.push(Part::named(key, true));
        if self.is_named() {
            *value = REDACTED.into();
        } else {
            self.value(value, kind);
        }
        self.path.pop();
    }

    fn value(&mut self, value: &mut Value, kind: &Kind) {
        if let Kind::Message(descriptor) = kind {
            self.message(value, descriptor);
        }
    }

    /// It says itself of which type it is.
    fn any(&mut self, json: &mut Value, descriptor: &MessageDescriptor) {
        let name = json.get("@type").and_then(Value::as_str).and_then(|url| url.rsplit('/').next());
        let packed = name.and_then(|name| descriptor.parent_pool().get_message_by_name(name));
        let Some(packed) = packed else {
            *json = REDACTED.into();
            return;
        };
        let has_own_form = packed.full_name() == ANY || packed.get_field_by_json_name("value").is_none();
        match json.get_mut("value") {
            // Types with a form of their own are in here.
            Some(value) if has_own_form => self.message(value, &packed),
            _ => self.fields(json, &packed),
        }
    }

    /// Whose fields have no schema, but names.
    fn free(&mut self, json: &mut Value) {
        match json {
            Value::Object(fields) => {
                for (key, value) in fields {
                    self.path.push(Part::named(key, false));
                    if self.is_named() {
                        *value = REDACTED.into();
                    } else {
                        self.free(value);
                    }
                    self.path.pop();
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.free(value)),
            _ => {}
        }
    }

    /// The path ends with one of the names.
    fn is_named(&self) -> bool {
        let path = || self.path.iter().rev();
        self.names.iter().any(|name| ends(path(), name) || ends(path().filter(|part| !part.is_key), name))
    }
}

/// Both begin with what is last.
fn ends<'a>(mut path: impl Iterator<Item = &'a Part>, name: &[String]) -> bool {
    name.iter().all(|name| path.next().is_some_and(|part| part.name == *name || part.json_name == *name))
}

/// By whoever has written the schema.
fn is_marked(field: &FieldDescriptor) -> bool {
    field.options().get_field_by_number(DEBUG_REDACT).is_some_and(|value| value.as_bool() == Some(true))
}

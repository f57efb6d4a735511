//! What is not shown of a message: what its schema marks, and what its workload names. Pure.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

/// In place of a value.
const REDACTED: &str = "[redacted]";
/// `debug_redact` of `google.protobuf.FieldOptions`.
const DEBUG_REDACT: u32 = 16;

/// Takes values out of `json`, which is a message of `descriptor`.
pub(super) fn redact(json: &mut Value, descriptor: &MessageDescriptor, names: &[String]) {
    Redaction { names, path: Vec::new() }.message(json, descriptor);
}

struct Redaction<'a> {
    names: &'a [String],
    /// The names of the fields that lead here.
    path: Vec<String>,
}

impl Redaction<'_> {
    fn message(&mut self, json: &mut Value, descriptor: &MessageDescriptor) {
        match descriptor.full_name() {
            "google.protobuf.Any" => self.any(json, descriptor),
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
        self.path.push(field.name().to_owned());
        if is_marked(field) || self.is_named() {
            *value = REDACTED.into();
        } else if field.is_map() {
            if let (Kind::Message(entry), Value::Object(entries)) = (field.kind(), value) {
                let kind = entry.map_entry_value_field().kind();
                entries.values_mut().for_each(|value| self.value(value, &kind));
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

    fn value(&mut self, value: &mut Value, kind: &Kind) {
        if let Kind::Message(descriptor) = kind {
            self.message(value, descriptor);
        }
    }

    /// It says itself of which type it is.
    fn any(&mut self, json: &mut Value, descriptor: &MessageDescriptor) {
        let name = json.get("@type").and_then(Value::as_str).and_then(|url| url.rsplit('/').next());
        let packed = name.and_then(|name| descriptor.parent_pool().get_message_by_name(name));
        let Some(packed) = packed else { return };
        match json.get_mut("value") {
            // Types with a form of their own are in here.
            Some(value) if packed.get_field_by_json_name("value").is_none() => self.message(value, &packed),
            _ => self.fields(json, &packed),
        }
    }

    /// Whose fields have no schema, but names.
    fn free(&mut self, json: &mut Value) {
        match json {
            Value::Object(fields) => {
                for (key, value) in fields {
                    self.path.push(key.clone());
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
        self.names.iter().any(|name| {
            let mut path = self.path.iter().rev();
            name.rsplit('.').all(|part| path.next().is_some_and(|field| field == part))
        })
    }
}

/// By whoever has written the schema.
fn is_marked(field: &FieldDescriptor) -> bool {
    field.options().get_field_by_number(DEBUG_REDACT).is_some_and(|value| value.as_bool() == Some(true))
}

//! Messages as JSON Schemas, by [proto3's JSON mapping](https://protobuf.dev/programming-guides/json/) as
//! [`transcode`](crate::transcode) carries it out. Pure.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use serde_json::{Map, Value, json};

use super::comments::above;

/// Which way a message goes: more is understood than is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In a question. Any field may be absent or null, and none may be there that the message has not; numbers may be strings.
    Asked,
    /// In an answer. Fields that have their default value are written as well, unless their absence says something.
    Answered,
}

/// The messages and enumerations that are needed, by their names.
#[derive(Default)]
pub(crate) struct Schemas {
    asked: BTreeMap<String, Value>,
    answered: BTreeMap<String, Value>,
}

impl Schemas {
    /// A reference to the message's schema, which is there from now on with all that it needs.
    pub(crate) fn message(&mut self, message: &MessageDescriptor, way: Way) -> Value {
        let name = name(message.full_name(), way);
        // It may have itself in it.
        if !self.of(way).contains_key(&name) {
            self.of(way).insert(name.clone(), Value::Null);
            let schema = self.object(message, way);
            self.of(way).insert(name.clone(), schema);
        }
        reference(&name)
    }

    /// All of them.
    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.asked.into_iter().chain(self.answered).collect()
    }

    fn of(&mut self, way: Way) -> &mut BTreeMap<String, Value> {
        match way {
            Way::Asked => &mut self.asked,
            Way::Answered => &mut self.answered,
        }
    }

    fn object(&mut self, message: &MessageDescriptor, way: Way) -> Value {
        let fields: Map<_, _> =
            message.fields().map(|field| (field.json_name().to_owned(), self.field(&field, way))).collect();
        let mut schema = json!({ "type": "object", "properties": fields });
        describe(&mut schema, above(&message.parent_file(), message.path()));
        match way {
            Way::Asked => {
                schema["additionalProperties"] = json!(false);
                let choices: Vec<_> = message.oneofs().filter_map(|oneof| at_most_one(&oneof)).collect();
                if !choices.is_empty() {
                    schema["allOf"] = json!(choices);
                }
            }
            Way::Answered => {
                let always = message.fields().filter(|field| !field.supports_presence());
                schema["required"] = always.map(|field| field.json_name().to_owned()).collect();
            }
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor, way: Way) -> Value {
        let kind = field.kind();
        let mut schema = match kind.as_message().filter(|message| message.is_map_entry()) {
            Some(entry) => {
                let values = self.kind(&entry.map_entry_value_field().kind(), way);
                let mut map = json!({ "type": "object", "additionalProperties": values });
                if let Some(pattern) = keys(&entry.map_entry_key_field().kind()) {
                    map["propertyNames"] = json!({ "pattern": pattern });
                }
                map
            }
            None if field.is_list() => json!({ "type": "array", "items": self.kind(&kind, way) }),
            None => self.kind(&kind, way),
        };
        if way == Way::Asked {
            schema = or_null(schema);
        }
        describe(&mut schema, above(&field.parent_message().parent_file(), field.path()));
        schema
    }

    fn kind(&mut self, kind: &Kind, way: Way) -> Value {
        match kind {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                small(json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX }), SIGNED, way)
            }
            Kind::Uint32 | Kind::Fixed32 => {
                small(json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }), UNSIGNED, way)
            }
            // More than a number of JavaScript holds. Bounds are left out: tools would read them as such numbers.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => large(json!({ "type": "integer" }), "int64", SIGNED, way),
            Kind::Uint64 | Kind::Fixed64 => large(json!({ "type": "integer", "minimum": 0 }), "uint64", UNSIGNED, way),
            Kind::Float | Kind::Double => number(way),
            Kind::Enum(values) => self.enumeration(values, way),
            Kind::Message(message) => self.message(message, way),
        }
    }

    fn enumeration(&mut self, values: &EnumDescriptor, way: Way) -> Value {
        let name = name(values.full_name(), way);
        let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
        let named = match way {
            Way::Asked => json!({ "type": "string", "enum": names }),
            // A newer server may write others, and what it does not know itself by its number.
            Way::Answered => json!({ "type": "string", "examples": names }),
        };
        let mut schema = json!({ "anyOf": [named, { "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX }] });
        let file = values.parent_file();
        let says = |value: &prost_reflect::EnumValueDescriptor| {
            let comment = above(&file, value.path());
            (!comment.is_empty()).then(|| format!("`{}`: {comment}", value.name()))
        };
        let comments = [above(&file, values.path())].into_iter().filter(|comment| !comment.is_empty());
        let comments: Vec<_> = comments.chain(values.values().filter_map(|value| says(&value))).collect();
        describe(&mut schema, comments.join("\n\n"));
        self.of(way).insert(name.clone(), schema);
        reference(&name)
    }
}

/// Digits, as they may be written in strings.
const UNSIGNED: &str = r"^\+?[0-9]+$";
const SIGNED: &str = r"^[+-]?[0-9]+$";
/// What else a number may be written as.
const DECIMAL: &str = r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|NaN|-?Infinity)$";

/// Questions have schemas of their own, since they may be written in more ways than answers are.
fn name(full_name: &str, way: Way) -> String {
    match way {
        Way::Asked => format!("{full_name}.asked"),
        Way::Answered => full_name.to_owned(),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn describe(schema: &mut Value, comment: String) {
    if !comment.is_empty() {
        schema["description"] = comment.into();
    }
}

fn or_null(mut schema: Value) -> Value {
    let absent = json!({ "type": "null" });
    if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        any.push(absent);
        return schema;
    }
    match schema.get("type").cloned() {
        Some(kind) => schema["type"] = json!([kind, "null"]),
        None => schema = json!({ "anyOf": [schema, absent] }),
    }
    schema
}

fn small(number: Value, digits: &str, way: Way) -> Value {
    match way {
        Way::Asked => json!({ "anyOf": [number, { "type": "string", "pattern": digits }] }),
        Way::Answered => number,
    }
}

fn large(number: Value, format: &str, digits: &str, way: Way) -> Value {
    match way {
        Way::Asked => json!({ "anyOf": [number, { "type": "string", "format": format, "pattern": digits }] }),
        Way::Answered => {
            json!({ "type": "string", "format": format, "pattern": digits.replace(r"\+?", "").replace("[+-]", "-") })
        }
    }
}

fn number(way: Way) -> Value {
    let others = match way {
        Way::Asked => json!({ "type": "string", "pattern": DECIMAL }),
        Way::Answered => json!({ "type": "string", "enum": ["NaN", "Infinity", "-Infinity"] }),
    };
    json!({ "anyOf": [{ "type": "number" }, others] })
}

/// Keys are strings, whatever they are.
fn keys(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Bool => Some("^(true|false)$"),
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => Some(UNSIGNED),
        Kind::String => None,
        _ => Some(SIGNED),
    }
}

/// No two of a oneof's fields are there, unless they are null.
fn at_most_one(oneof: &OneofDescriptor) -> Option<Value> {
    let names: Vec<_> = oneof.fields().map(|field| field.json_name().to_owned()).collect();
    let is_there = || json!({ "not": { "type": "null" } });
    let both = |one: &String, other: &String| json!({ "required": [one, other], "properties": { one: is_there(), other: is_there() } });
    let pairs = names.iter().enumerate().flat_map(|(at, one)| names[at + 1..].iter().map(move |other| (one, other)));
    let pairs: Vec<_> = pairs.map(|(one, other)| both(one, other)).collect();
    (!pairs.is_empty()).then(|| json!({ "not": { "anyOf": pairs } }))
}

//! The document, against what is kept of it, what is understood and what is written.

use std::{collections::BTreeMap, env, fs, path::Path, sync::Arc};

use axum::{body::Body, http::Request};
use boon::{Compiler, SchemaIndex};
use conduit_api::proto::DESCRIPTORS;
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor};
use tonic::Status;
use tower::ServiceExt as _;

use super::*;
use crate::{Connect, Hosts, Options, Upstream, failure::NOT_ALLOWED, router, transcode};

/// An address, which nobody asks.
const ADDRESS: &str = "https://conduit.io/openapi.json";

/// The schemas of the whole document.
struct Document {
    compiler: Compiler,
    schemas: boon::Schemas,
}

impl Document {
    fn new() -> Self {
        let mut compiler = Compiler::new();
        compiler.add_resource(ADDRESS, document(&Methods::new(true))).unwrap();
        Self { compiler, schemas: boon::Schemas::new() }
    }

    fn schema(&mut self, name: &str) -> SchemaIndex {
        let place = format!("{ADDRESS}#/components/schemas/{name}");
        self.compiler.compile(&place, &mut self.schemas).unwrap_or_else(|error| panic!("{name}: {error:#}"))
    }

    fn check(&mut self, name: &str, json: &Value) -> Result<(), String> {
        let schema = self.schema(name);
        self.schemas.validate(json, schema).map_err(|error| format!("{name}: {error:#}\n{json}"))
    }
}

#[test]
fn what_is_kept_is_what_is_derived() {
    let mut derived = document(&Methods::new(true));
    // What is kept is served by nobody; that is where `conduit dashboard` has it.
    derived["servers"] = json!([{ "url": "http://localhost:8084/api/v1" }]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/openapi.json");
    if env::var_os("CONDUIT_WRITE_GOLDEN").is_some() {
        fs::write(&path, format!("{derived:#}\n")).unwrap();
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(
        kept == derived,
        "api/openapi.json is not what the contract says: look at what \
         `CONDUIT_WRITE_GOLDEN=1 cargo test --workspace --lib -- what_is_kept` makes of it"
    );
}

#[tokio::test]
async fn what_it_says_is_what_is_served() {
    const PREFIX: &str = "/api/v1/namespaces/conduit/services/web:http/proxy";
    for writes in [false, true] {
        let connect: Connect = Arc::new(|_| async { Err(Status::unavailable("no replica answers")) }.boxed());
        let options = Options { prefixes: vec![PREFIX.into()], hosts: Hosts::Loopback, writes, pages: Vec::new() };
        let router = router(Upstream::new(connect), &options);
        let ask = async |http: &str, path: &str| {
            let request = Request::builder().method(http).uri(path).header(header::HOST, "localhost");
            let request = request.header(header::CONTENT_TYPE, JSON).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            (response.status(), response)
        };
        for at in [String::from("/api/v1/openapi.json"), format!("{PREFIX}/api/v1/openapi.json")] {
            let (_, response) = ask("GET", &at).await;
            assert_eq!(response.headers()[header::CONTENT_TYPE], JSON);
            let served = response.into_body().collect().await.unwrap().to_bytes();
            let served: Value = serde_json::from_slice(&served).unwrap();
            let paths = served["paths"].as_object().unwrap();
            assert_eq!(paths.contains_key("/CaRotate"), writes);
            let server = resolved(&at, served["servers"][0]["url"].as_str().unwrap());
            for (path, item) in paths {
                is_served(&ask, &format!("{server}{path}"), item).await;
            }
        }
    }
}

/// A relative URL where the document is, as RFC 3986 has it, which the specification refers to.
fn resolved(document: &str, relative: &str) -> String {
    let mut segments: Vec<_> = document.split('/').collect();
    segments.pop();
    for part in relative.split('/') {
        match part {
            ".." => drop(segments.pop()),
            "." => {}
            part => segments.push(part),
        }
    }
    if relative.ends_with('.') {
        segments.push("");
    }
    segments.join("/")
}

#[test]
fn relative_addresses() {
    for (relative, says) in [("../..", "/p/"), ("../v1", "/p/api/v1"), (".", "/p/api/v1/"), ("a/b", "/p/api/v1/a/b")] {
        assert_eq!(resolved("/p/api/v1/openapi.json", relative), says, "{relative}");
    }
}

/// All that is said of a path, and nothing else.
async fn is_served(ask: &impl AsyncFn(&str, &str) -> (StatusCode, Response), path: &str, item: &Value) {
    for (http, operation) in item.as_object().unwrap() {
        let (status, _) = ask(&http.to_uppercase(), path).await;
        assert!(operation["responses"].get(status.as_str()).is_some(), "{path}: {status}");
        assert!(!matches!(status.as_u16(), 404 | 405), "{path}: {status}");
    }
    let (status, response) = ask("PUT", path).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    let allowed = response.headers()[header::ALLOW].to_str().unwrap().to_ascii_lowercase();
    assert!(item.as_object().unwrap().keys().all(|http| allowed.contains(http)), "{path}: {allowed}");
}

#[test]
fn a_schema_takes_the_questions_that_are_understood() {
    let (methods, mut document) = (Methods::new(true), Document::new());
    for (method, question, is_understood) in [
        ("Stat", json!({}), true),
        ("Stat", json!([]), false),
        ("Stat", json!(null), false),
        ("Stat", json!({ "selector": { "kind": "deployment" }, "windowMs": 60_000 }), true),
        ("Stat", json!({ "selector": null, "windowMs": "60000", "by": null }), true),
        ("Stat", json!({ "windowMs": -1 }), false),
        ("Stat", json!({ "windowMs": u64::from(u32::MAX) + 1 }), false),
        ("Stat", json!({ "windowMs": 1.0 }), true),
        ("Stat", json!({ "windowMs": 1.5 }), false),
        ("Stat", json!({ "windowMs": "+15" }), true),
        ("Stat", json!({ "windowMs": "" }), false),
        ("Stat", json!({ "windowMs": "1.5" }), false),
        ("Stat", json!({ "windowMs": true }), false),
        ("Stat", json!({ "window": 1 }), false),
        ("Stat", json!({ "selector": { "kind": 1 } }), false),
        ("Stat", json!({ "selector": [] }), false),
        ("Stat", json!({ "by": ["BY_PATH", 2, -7] }), true),
        ("Stat", json!({ "by": ["BY_NOTHING"] }), false),
        ("Stat", json!({ "by": [null] }), false),
        ("Stat", json!({ "by": "BY_PATH" }), false),
        ("Stat", json!({ "to": {}, "from": null }), true),
        ("Stat", json!({ "to": {}, "from": {} }), false),
        ("Explain", json!({ "headers": { "a": "b" } }), true),
        ("Explain", json!({ "headers": { "a": null } }), false),
        ("Explain", json!({ "headers": [] }), false),
        ("Explain", json!({ "resource": {}, "host": "10.0.0.1" }), false),
        ("History", json!({ "limit": "x" }), false),
        ("Routes", json!({ "revision": u64::MAX }), true),
        ("Routes", json!({ "revision": "18446744073709551615" }), true),
        ("Routes", json!({ "revision": -1 }), false),
        ("Wait", json!({ "acknowledged": true }), true),
        ("Wait", json!({ "acknowledged": "true" }), false),
        ("Tap", json!({ "maxRps": 0.5 }), true),
        ("Tap", json!({ "maxRps": "Infinity" }), true),
        ("Tap", json!({ "maxRps": "many" }), false),
        ("SetObjective", json!({ "goals": { "latencyMs": { "99": 100, "50": "7" } } }), true),
        ("SetObjective", json!({ "goals": { "latencyMs": { "p99": 100 } } }), false),
    ] {
        let input = methods.find(method).unwrap().descriptor.input();
        let name = format!("{}.asked", input.full_name());
        let accepted = document.check(&name, &question);
        assert_eq!(accepted.is_ok(), is_understood, "{method} {question}: {accepted:?}");
        let understood = transcode::to_message(question.to_string().as_bytes(), input);
        assert_eq!(understood.is_ok(), is_understood, "{method} {question}: {understood:?}");
    }
}

#[test]
fn the_contracts_own_names_are_understood_but_not_described() {
    let input = Methods::new(false).find("Stat").unwrap().descriptor.input();
    let question = json!({ "window_ms": 60_000 });
    assert!(Document::new().check(&format!("{}.asked", input.full_name()), &question).is_err());
    transcode::to_message(question.to_string().as_bytes(), input).unwrap();
}

#[test]
fn examples_are_questions() {
    let (methods, mut document) = (Methods::new(true), Document::new());
    for (method, example) in EXAMPLES {
        let input = methods.find(method).unwrap().descriptor.input();
        let json = serde_json::from_str(example).unwrap();
        document.check(&format!("{}.asked", input.full_name()), &json).unwrap();
        transcode::to_message(example.as_bytes(), input).unwrap();
    }
}

/// A number that no enumeration of the contract has.
const UNKNOWN: i32 = 1000;

/// A message in which every field is there, and of each oneof the last one; enumerations have this number, or their last one.
fn full(kind: &MessageDescriptor, number: Option<i32>) -> DynamicMessage {
    let mut message = DynamicMessage::new(kind.clone());
    for field in kind.fields() {
        message.set_field(&field, value(&field, number));
    }
    message
}

fn value(field: &FieldDescriptor, number: Option<i32>) -> prost_reflect::Value {
    use prost_reflect::Value as V;
    let kind = field.kind();
    if let Some(entry) = kind.as_message().filter(|message| message.is_map_entry()) {
        let key = match entry.map_entry_key_field().kind() {
            Kind::Uint32 => MapKey::U32(99),
            Kind::String => MapKey::String("key".into()),
            other => panic!("no map of this contract has keys of {other:?}"),
        };
        return V::Map([(key, value(&entry.map_entry_value_field(), number))].into());
    }
    let one = match kind {
        Kind::Bool => V::Bool(true),
        Kind::String => V::String("text".into()),
        Kind::Bytes => V::Bytes(vec![0xff; 5].into()),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => V::I32(i32::MIN),
        Kind::Uint32 | Kind::Fixed32 => V::U32(u32::MAX),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => V::I64(i64::MIN),
        Kind::Uint64 | Kind::Fixed64 => V::U64(u64::MAX),
        Kind::Float => V::F32(f32::NAN),
        Kind::Double => V::F64(0.25),
        Kind::Enum(values) => V::EnumNumber(number.unwrap_or_else(|| values.values().last().unwrap().number())),
        Kind::Message(message) => V::Message(full(&message, number)),
    };
    if field.is_list() { V::List(vec![one.clone(), one]) } else { one }
}

#[test]
fn a_schema_takes_every_answer_that_is_written_and_needs_what_always_is() {
    let (methods, mut document) = (Methods::new(true), Document::new());
    for (_, method) in methods.all() {
        let kind = method.descriptor.output();
        let name = kind.full_name().to_owned();
        for message in [DynamicMessage::new(kind.clone()), full(&kind, None), full(&kind, Some(UNKNOWN))] {
            let json = transcode::to_json(message.encode_to_vec().into(), kind.clone()).unwrap();
            let json: Value = serde_json::from_slice(&json).unwrap();
            document.check(&name, &json).unwrap();
            for (field, always) in kind.fields().map(|field| (field.json_name().to_owned(), !field.supports_presence()))
            {
                let mut without = json.clone();
                without.as_object_mut().unwrap().remove(&field);
                assert_eq!(document.check(&name, &without).is_err(), always, "{name} without {field}");
                let mut other = json.clone();
                other[&field] = Value::Null;
                assert!(document.check(&name, &other).is_err(), "{name} with null for {field}");
            }
        }
    }
}

#[test]
fn values_that_a_newer_server_writes_are_answers() {
    let mut document = Document::new();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let answered: Vec<_> =
        super::document(&Methods::new(true))["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    let enumerations: Vec<_> = pool.all_enums().filter(|it| answered.contains(&it.full_name().to_owned())).collect();
    assert!(!enumerations.is_empty());
    for name in enumerations.iter().map(|it| it.full_name()) {
        document.check(name, &json!("A_NEWER_ONE")).unwrap();
        document.check(name, &json!(UNKNOWN)).unwrap();
    }
}

#[test]
fn every_method_is_described_and_nothing_is_left_over() {
    let (derived, mut schemas) = (document(&Methods::new(true)), Document::new());
    let text = derived.to_string();
    for name in derived["components"]["schemas"].as_object().unwrap().keys() {
        schemas.schema(name);
        assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "nothing refers to {name}");
    }
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let api = pool.get_service_by_name("conduit.public.v1.Api").unwrap();
    let mut missing: Vec<_> = api.methods().map(|method| method.name().to_owned()).collect();
    missing.retain(|name| derived["paths"].get(format!("/{name}")).is_none());
    // For the day on which a majority is gone, for files of the whole state, and for what applications say to each other: the command line's alone.
    assert_eq!(missing, ["SaveSnapshot", "RestoreSnapshot", "Recover", "TapPayload"]);
    // Their JSON is another than that of messages with their fields.
    assert!(!text.contains("schemas/google.protobuf"), "say in schema.rs how Google's own types are written");
}

#[test]
fn every_status_is_described() {
    let derived = document(&Methods::new(false));
    let described: BTreeMap<String, Value> =
        serde_json::from_value(derived["paths"]["/Stat"]["post"]["responses"].clone()).unwrap();
    for (_, name, status) in CODES {
        assert!(described.contains_key(status.as_str()), "{name}");
    }
    for refusal in UNASKED {
        assert!(described.contains_key(refusal.status.as_str()), "{}", refusal.status);
        let response = &derived["components"]["responses"][response_name(refusal.status)]["description"];
        assert!(response.as_str().unwrap().contains(failure::name(refusal.code)), "{response}");
    }
    let refused = format!("{} with `{}`", NOT_ALLOWED.status.as_u16(), failure::name(NOT_ALLOWED.code));
    assert!(derived["info"]["description"].as_str().unwrap().contains(&refused), "{refused}");
}

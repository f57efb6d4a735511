use std::io::Write as _;

use conduit_api::proto::tap::tap_event::Schema;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use prost_reflect::prost::Message as _;
use serde_json::json;

use super::*;

/// Whose messages they are.
const SERVER: &str = "shop/pay-0";

const PROTO: &str = r#"
syntax = "proto3";
package shop.v1;
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";

service Checkout { rpc Pay(PayRequest) returns (PayResponse); }

message Card { string number = 1; string holder = 2; string pin = 3 [debug_redact = true]; }
message PayRequest {
  string password = 1;
  Card card = 2;
  repeated Card others = 3;
  map<string, Card> by_name = 4;
  google.protobuf.Struct extra = 5;
  google.protobuf.Any any = 6;
  google.protobuf.Timestamp at = 7;
  uint32 amount = 8;
  string number = 9;
  map<string, string> labels = 10;
  string card_number = 11;
  string other = 12 [json_name = "secretNote"];
}
message PayResponse { string receipt = 1; }
"#;

fn files() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::TempDir::with_prefix("conduit-payload-").unwrap();
    std::fs::write(directory.path().join("shop.proto"), PROTO).unwrap();
    let mut compiler = protox::Compiler::new([directory.path()]).unwrap();
    let set = compiler.include_imports(true).open_file("shop.proto").unwrap().encode_file_descriptor_set();
    let path = directory.path().join("set.bin");
    std::fs::write(&path, set).unwrap();
    (directory, path)
}

fn given() -> Services {
    let (_directory, path) = files();
    Services::given(&[path]).unwrap()
}

/// `json` as somebody sent it to the service above.
fn sent(services: &Services, json: &Value, redact: &[&str]) -> Message {
    let message = Message { path: "/shop.v1.Checkout/Pay".into(), ..Message::default() };
    let descriptor = services.descriptor(SERVER, &message).unwrap();
    let bytes = DynamicMessage::deserialize(descriptor, json).unwrap().encode_to_vec();
    let redact = redact.iter().map(|name| (*name).to_owned()).collect();
    Message { number: 1, length: bytes.len() as u32, bytes, redact, ..message }
}

#[test]
fn fields_have_names_and_those_that_are_marked_no_values() {
    let services = given();
    let request = json!({"password": "p", "card": {"number": "1", "holder": "h", "pin": "2"}, "amount": 3,
                         "at": "2026-11-22T00:00:00Z"});
    let Shown::Json(shown) = services.show(SERVER, &sent(&services, &request, &[])) else { panic!("it is described") };
    assert_eq!(
        shown,
        json!({"password": "p", "card": {"number": "1", "holder": "h", "pin": "[redacted]"}, "amount": 3,
               "at": "2026-11-22T00:00:00Z"})
    );
    let response =
        Message { is_response: true, bytes: b"\x0a\x01r".into(), length: 3, ..sent(&services, &json!({}), &[]) };
    assert_eq!(services.show(SERVER, &response), Shown::Json(json!({"receipt": "r"})));
}

#[test]
fn what_a_workload_names_is_nowhere_shown() {
    let services = given();
    let card = json!({"number": "1", "holder": "h", "pin": "2"});
    let any = json!({"@type": "type.googleapis.com/shop.v1.Card", "number": "1", "holder": "h"});
    let request = json!({"password": "p", "card": card, "others": [card, card], "byName": {"a": card}, "number": "free",
                         "extra": {"password": "p", "deep": [{"card": {"number": "1"}}]}, "any": any});
    let Shown::Json(shown) = services.show(SERVER, &sent(&services, &request, &["password", "card.number"])) else {
        panic!("it is described")
    };
    let (none, other) = ("[redacted]", json!({"number": "1", "holder": "h", "pin": "[redacted]"}));
    assert_eq!(
        shown,
        json!({"password": none, "card": {"number": none, "holder": "h", "pin": none}, "others": [other, other],
               "byName": {"a": other}, "number": "free",
               "extra": {"password": none, "deep": [{"card": {"number": none}}]}, "any": any})
    );
    let Shown::Json(shown) = services.show(SERVER, &sent(&services, &request, &["holder", "number"])) else {
        panic!("it is described")
    };
    assert!(!shown.to_string().contains("\"h\"") && !shown.to_string().contains("\"1\""), "{shown}");
}

#[test]
fn a_field_has_the_names_that_people_write() {
    let services = given();
    let request = json!({"cardNumber": "1", "secretNote": "n", "extra": {"card_number": "1", "card-number": "1"}});
    for (name, hidden) in [("card_number", 3), ("cardNumber", 3), ("CardNumber", 3), ("other", 1), ("secretNote", 1)] {
        let Shown::Json(shown) = services.show(SERVER, &sent(&services, &request, &[name])) else {
            panic!("it is described")
        };
        assert_eq!(shown.to_string().matches("[redacted]").count(), hidden, "{name}: {shown}");
    }
}

#[test]
fn keys_of_maps_are_names_and_can_be_left_out() {
    let services = given();
    let request = json!({"labels": {"password": "p", "a": "free"}, "byName": {"a": {"number": "1", "holder": "h"}}});
    for (name, expected) in [
        ("password", json!({"labels": {"password": "[redacted]", "a": "free"}, "byName": request["byName"]})),
        ("labels.password", json!({"labels": {"password": "[redacted]", "a": "free"}, "byName": request["byName"]})),
        (
            "by_name.number",
            json!({"labels": request["labels"], "byName": {"a": {"number": "[redacted]", "holder": "h"}}}),
        ),
        (
            "by_name.a.number",
            json!({"labels": request["labels"], "byName": {"a": {"number": "[redacted]", "holder": "h"}}}),
        ),
        ("by_name.b.number", request.clone()),
    ] {
        assert_eq!(services.show(SERVER, &sent(&services, &request, &[name])), Shown::Json(expected), "{name}");
    }
}

#[test]
fn what_is_packed_twice_is_found() {
    let services = given();
    let card = json!({"@type": "type.googleapis.com/shop.v1.Card", "holder": "h", "pin": "2"});
    let request = json!({"any": {"@type": "type.googleapis.com/google.protobuf.Any", "value": card}});
    let Shown::Json(shown) = services.show(SERVER, &sent(&services, &request, &["holder"])) else {
        panic!("it is described")
    };
    assert_eq!(
        shown["any"]["value"],
        json!({"@type": "type.googleapis.com/shop.v1.Card", "holder": "[redacted]", "pin": "[redacted]"})
    );
}

#[test]
fn what_is_cut_off_is_shown_as_far_as_it_came() {
    let services = given();
    let whole = sent(&services, &json!({"password": "p", "card": {"number": "1"}}), &[]);
    let cut = Message { bytes: whole.bytes[..5].to_vec(), ..whole.clone() };
    assert_eq!(services.show(SERVER, &cut), Shown::Json(json!({"password": "p", "card": {}})));
    let malformed = Message { bytes: b"\xff\xff".into(), length: 2, ..whole.clone() };
    assert!(matches!(services.show(SERVER, &malformed), Shown::Hidden(why) if why.contains("no shop.v1.PayRequest")));
}

#[test]
fn what_is_packed_without_end_or_has_endless_names_is_not_shown() {
    let services = given();
    let hidden = |bytes: Vec<u8>| {
        let length = u32::try_from(bytes.len()).unwrap();
        let path = "/shop.v1.Checkout/Pay".to_owned();
        match services.show(SERVER, &Message { path, bytes, length, ..Message::default() }) {
            Shown::Hidden(why) => why,
            shown => panic!("{shown:?}"),
        }
    };
    let packed = |tag: u8, bytes: &[u8]| {
        let mut field = vec![tag];
        prost_reflect::prost::encoding::encode_varint(bytes.len() as u64, &mut field);
        field.extend(bytes);
        field
    };
    // Each has all those before it as its value.
    let type_url = packed(0x0a, b"x/google.protobuf.Any");
    let mut any = type_url.clone();
    for _ in 0..8_000 {
        any = [type_url.clone(), packed(0x12, &any)].concat();
    }
    let why = hidden(packed(0x32, &any));
    assert!(why.contains("in each other"), "{why}");
    // Of the cards that others have, each is written with the names of its fields: 5 bytes become 20.
    let why = hidden([0x1a, 3, 0x12, 1, b'h'].repeat(100_000));
    assert!(why.contains("more than 1048576 bytes"), "{why}");
}

#[test]
fn what_is_compressed_is_shown_and_has_a_bound() {
    let services = given();
    let plain = sent(&services, &json!({"labels": {"a": "n".repeat(1_000), "b": "o"}, "password": "p"}), &[]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(&plain.bytes).unwrap();
    let as_sent = |encoding: &str, bytes: Vec<u8>| {
        let length = u32::try_from(bytes.len()).unwrap();
        Message { encoding: encoding.into(), bytes, length, ..plain.clone() }
    };
    let (gzipped, deflated) = (as_sent("gzip", gzip(&plain.bytes)), as_sent("deflate", zlib.finish().unwrap()));
    let expected = services.show(SERVER, &plain);
    assert!(matches!(expected, Shown::Json(_)));
    assert_eq!(services.show(SERVER, &gzipped), expected);
    assert_eq!(services.show(SERVER, &deflated), expected);

    let cut = Message { bytes: gzipped.bytes[..gzipped.bytes.len() / 2].to_vec(), ..gzipped.clone() };
    assert!(matches!(services.show(SERVER, &cut), Shown::Json(_)), "as far as it came");
    let hidden = |message: &Message| match services.show(SERVER, message) {
        Shown::Hidden(why) => why,
        shown => panic!("{shown:?}"),
    };
    assert!(hidden(&as_sent("gzip", gzip(&vec![0; 5_000_000]))).contains("more than 262144 bytes"));
    assert!(hidden(&as_sent("gzip", plain.bytes.clone())).contains("said to be compressed with gzip"));
    assert!(hidden(&as_sent("snappy", plain.bytes.clone())).contains("compressed with snappy"));
}

#[test]
fn without_a_schema_nothing_is_shown_but_numbers_if_they_are_asked_for() {
    let mut services = Services::default();
    let message = Message { path: "/a.B/C".into(), bytes: b"\x0a\x01x".into(), length: 3, ..Message::default() };
    assert!(!services.is_decided(SERVER, &message));
    services.learn(
        SERVER,
        &Schema { service: "a.B".into(), error: "it has no server reflection".into(), ..Schema::default() },
    );
    assert!(services.is_decided(SERVER, &message));
    let note = services.note(SERVER, &message).unwrap();
    assert!(
        note.contains("a.B")
            && note.contains("no server reflection")
            && note.contains("--descriptor-set")
            && note.contains("--raw"),
        "{note}"
    );
    assert_eq!(services.note(SERVER, &message), None, "once");
    assert!(matches!(services.show(SERVER, &message), Shown::Hidden(_)), "it could be a field that is marked");
    let services = services.or_raw(true);
    assert_eq!(services.show(SERVER, &message), Shown::Raw(json!({"1": "x"})));
    let redacted = Message { redact: vec!["password".into()], ..message.clone() };
    assert!(matches!(services.show(SERVER, &redacted), Shown::Hidden(_)));
    let malformed = Message { bytes: b"\xff".into(), length: 1, ..message };
    assert!(matches!(services.show(SERVER, &malformed), Shown::Hidden(why) if why.contains("no message")));
}

#[test]
fn what_a_server_says_is_believed_when_no_file_was_given() {
    let (_directory, path) = files();
    let files = FileSet::decode(std::fs::read(path).unwrap().as_slice()).unwrap().files;
    let mut services = Services::default();
    let service = "shop.v1.Checkout";
    services.learn(SERVER, &Schema { service: service.into(), error: "elsewhere".into(), ..Schema::default() });
    let message = Message { path: format!("/{service}/Pay"), ..Message::default() };
    assert!(services.note(SERVER, &message).is_some());
    // In any order, and with files that everybody has.
    let files: Vec<_> = files.into_iter().rev().collect();
    services.learn(SERVER, &Schema { service: service.into(), files: files.clone(), ..Schema::default() });
    assert_eq!(services.show(SERVER, &message), Shown::Json(json!({})));
    services
        .learn(SERVER, &Schema { service: service.into(), error: "it says nothing now".into(), ..Schema::default() });
    assert_eq!(services.show(SERVER, &message), Shown::Json(json!({})));
    let broken = Schema { service: "x.Y".into(), files: vec![vec![0xff]], ..Schema::default() };
    services.learn(SERVER, &broken);
    let note = services.note(SERVER, &Message { path: "/x.Y/Z".into(), ..Message::default() }).unwrap();
    assert!(note.contains("of no use"), "{note}");
}

#[test]
fn what_one_server_says_is_not_believed_of_another() {
    let (_directory, path) = files();
    let files = FileSet::decode(std::fs::read(path).unwrap().as_slice()).unwrap().files;
    let mut services = Services::default();
    let service = "shop.v1.Checkout";
    services.learn(SERVER, &Schema { service: service.into(), files, ..Schema::default() });
    let message = Message { path: format!("/{service}/Pay"), ..Message::default() };
    assert_eq!(services.show(SERVER, &message), Shown::Json(json!({})));
    assert!(!services.is_decided("shop/pay-1", &message));
    assert!(matches!(services.show("shop/pay-1", &message), Shown::Hidden(_)));
}

#[test]
fn files_come_once_and_are_known_by_their_digest() {
    let (_directory, path) = files();
    let files = FileSet::decode(std::fs::read(path).unwrap().as_slice()).unwrap().files;
    let mut services = Services::default();
    let schema = Schema { service: "shop.v1.Checkout".into(), digest: b"1".to_vec(), ..Schema::default() };
    let message = Message { path: "/shop.v1.Checkout/Pay".into(), ..Message::default() };
    services.learn("a", &schema);
    assert!(services.note("a", &message).unwrap().contains("lost on the way"));
    services.learn("b", &Schema { files, ..schema.clone() });
    services.learn("a", &schema);
    assert_eq!(services.show("a", &message), Shown::Json(json!({})));
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut services = Services::default();
    let message = |service: usize| Message { path: format!("/a.S{service}/C"), ..Message::default() };
    let notes = (0..TOLD_MAX + 10).filter(|service| {
        services.give_up(SERVER, &message(*service));
        services.note(SERVER, &message(*service)).is_some()
    });
    assert_eq!(notes.count(), NOTED_MAX);
    assert_eq!(services.told.len(), TOLD_MAX);
    services.learn("other", &Schema { error: "there are too many".into(), ..Schema::default() });
    assert!(services.is_decided("other", &message(0)) && !services.is_decided("third", &message(0)));
}

#[test]
fn files_that_are_no_descriptor_sets_are_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "syntax = \"proto3\";").unwrap();
    for path in [file.path(), Path::new("/no/such/set")] {
        let error = format!("{:#}", Services::given(&[path.to_owned()]).err().unwrap());
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

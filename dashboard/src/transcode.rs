//! Between JSON and encoded messages, by descriptors: [proto3's JSON mapping](https://protobuf.dev/programming-guides/json/).
//! Fields that have their default value are written as well. Pure.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;

/// The message that a JSON text says. An empty text is a message without fields.
///
/// # Errors
/// INVALID_ARGUMENT when it is none, as blanks are, or has a field that the message has not.
pub(crate) fn to_message(json: &[u8], kind: MessageDescriptor) -> Result<Bytes, Status> {
    let json = if json.is_empty() { b"{}" } else { json };
    if json.trim_ascii().is_empty() {
        return Err(Status::invalid_argument("the body is blank, which is no JSON: send `{}`, or nothing"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let name = kind.name().to_owned();
    let message = DynamicMessage::deserialize(kind, &mut deserializer)
        .and_then(|message| deserializer.end().map(|()| message))
        .map_err(|error| Status::invalid_argument(format!("the body is no {name}: {error}")))?;
    Ok(message.encode_to_vec().into())
}

/// A message as JSON, on one line.
///
/// # Errors
/// INTERNAL when it cannot be decoded.
pub(crate) fn to_json(message: Bytes, kind: MessageDescriptor) -> Result<Vec<u8>, Status> {
    let broken = |error: &dyn std::error::Error| {
        Status::internal(format!("the control plane's answer cannot be read: {error}; are both of one release?"))
    };
    let message = DynamicMessage::decode(kind, message).map_err(|error| broken(&error))?;
    let mut json = serde_json::Serializer::new(Vec::new());
    let options = SerializeOptions::new().skip_default_fields(false);
    message.serialize_with_options(&mut json, &options).map_err(|error| broken(&error))?;
    Ok(json.into_inner())
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::{
        common::ResourceRef,
        public::{BasicStats, StatRequest, StatResponse, StatRow, stat_request},
    };
    use tonic::Code;

    use super::*;
    use crate::methods::Methods;

    fn stat() -> prost_reflect::MethodDescriptor {
        Methods::new(false).find("Stat").unwrap().descriptor.clone()
    }

    fn request(json: &str) -> Result<StatRequest, Status> {
        to_message(json.as_bytes(), stat().input()).map(|message| StatRequest::decode(message).unwrap())
    }

    #[test]
    fn questions() {
        let full = request(
            r#"{"selector": {"kind": "deployment"}, "windowMs": 60000, "from": {"kind": "pod", "name": "web-0"}}"#,
        )
        .unwrap();
        assert_eq!((full.selector.unwrap().kind.as_str(), full.window_ms), ("deployment", 60_000));
        assert!(matches!(full.other, Some(stat_request::Other::From(from)) if from.name == "web-0"));
        // The names of the contract do as well, and so do numbers in strings.
        assert_eq!(request(r#"{"window_ms": "5"}"#).unwrap().window_ms, 5);
        assert_eq!(request("").unwrap(), StatRequest::default());
    }

    #[test]
    fn what_is_no_question_is_said_by_its_place() {
        for (json, says) in [
            ("{", "EOF"),
            // Nothing at all is a question, but this is no JSON.
            ("\r\n", "send `{}`, or nothing"),
            ("[]", "StatRequest"),
            (r#"{"windowMs": -1}"#, "out of range"),
            (r#"{"window": 1}"#, "window"),
            (r#"{"to": {}, "from": {}}"#, "other"),
            ("{} {}", "trailing"),
        ] {
            let refused = request(json).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(says), "{json}: {}", refused.message());
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = format!("{{\"selector\": {}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(request(&deep).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn answers() {
        let resource = ResourceRef { kind: "deployment".into(), namespace: "emojivoto".into(), name: "web".into() };
        let stats = BasicStats { success_count: u64::MAX, window_ms: 7, ..BasicStats::default() };
        let rows = vec![
            StatRow {
                resource: Some(resource),
                meshed_pods: 1,
                running_pods: 1,
                stats: Some(stats),
                ..StatRow::default()
            },
            StatRow::default(),
        ];
        let answer = StatResponse { rows, replicas_answered: 3, replicas_total: 3, ..StatResponse::default() };
        let json = to_json(answer.encode_to_vec().into(), stat().output()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        // 64 bits are more than a number of JavaScript holds.
        assert_eq!(json["rows"][0]["stats"]["successCount"], "18446744073709551615");
        assert_eq!(json["rows"][0]["stats"]["failureCount"], "0");
        assert_eq!(json["rows"][0]["stats"]["windowMs"], 7);
        // What is absent stays absent: there was no traffic.
        assert!(json["rows"][1].get("stats").is_none_or(serde_json::Value::is_null));
        assert_eq!(json["replicasAnswered"], 3);
    }

    #[test]
    fn what_cannot_be_read_is_no_panic() {
        let garbage = Bytes::from_static(&[0xff; 20]);
        assert_eq!(to_json(garbage, stat().output()).unwrap_err().code(), Code::Internal);
    }
}

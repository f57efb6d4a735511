//! What needs neither an agent nor a namespace.

use serde_json::{Value, json};

use super::*;

fn told(command: &str, input: &str) -> (Value, bool) {
    let (output, success) = run(
        |name| match name {
            "CNI_COMMAND" => Some(command.to_owned()).filter(|command| !command.is_empty()),
            "CNI_CONTAINERID" => Some("a".to_owned()),
            // It is there, and no namespace.
            "CNI_NETNS" => Some("/proc/self/status".to_owned()),
            "CNI_ARGS" => Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web".to_owned()),
            _ => None,
        },
        input.as_bytes(),
    );
    (serde_json::from_str(&output).unwrap_or_default(), success)
}

#[test]
fn it_says_which_versions_it_speaks() {
    let (said, success) = told("VERSION", r#"{"cniVersion": "1.0.0"}"#);
    assert!(success);
    assert_eq!(
        said,
        json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
    );
}

#[test]
fn what_is_wrong_is_said_by_code() {
    let input = |more: Value| {
        let mut input =
            json!({"cniVersion": "1.0.0", "name": "net", "type": "conduit-cni", "socket": "/nowhere/agent.sock"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input.to_string()
    };
    let result = json!({"prevResult": {"cniVersion": "1.0.0"}});
    for (command, input, code, says) in [
        ("ADD", "{".to_owned(), DECODE, "not JSON"),
        ("ADD", "[]".to_owned(), DECODE, "not understood"),
        ("ADD", "{}".to_owned(), DECODE, "cniVersion"),
        ("ADD", input(json!({"cniVersion": "2.0.0"})), INCOMPATIBLE, "2.0.0"),
        ("ADD", input(json!({"socket": 1})), DECODE, "not understood"),
        ("ADD", input(json!({})), CONFIGURATION, "prevResult"),
        ("ADD", input(json!({"socket": "", "prevResult": {}})), CONFIGURATION, "`socket`"),
        ("ADD", input(result.clone()), TRY_AGAIN, "agent does not answer at /nowhere/agent.sock"),
        ("CHECK", input(json!({})), CONFIGURATION, "prevResult"),
        ("CHECK", input(result), TRY_AGAIN, "agent does not answer"),
        ("STATUS", input(json!({"socket": ""})), CONFIGURATION, "`socket`"),
        ("MAKE", input(json!({})), ENVIRONMENT, "MAKE"),
        ("", input(json!({})), ENVIRONMENT, "CNI_COMMAND"),
    ] {
        let (said, success) = told(command, &input);
        assert!(!success && said["code"] == code, "{command} {input}: {said}");
        assert!(said["msg"].as_str().unwrap().contains(says), "{command} {input}: {said}");
        assert!(VERSIONS.contains(&said["cniVersion"].as_str().unwrap()), "{said}");
    }
    for command in ["DEL", "GC", "STATUS"] {
        assert_eq!(told(command, &input(json!({}))), (Value::Null, true), "{command}");
    }
    for input in ["{", "[]", r#"{"cniVersion": "0.2.0"}"#] {
        assert_eq!(told("DEL", input), (Value::Null, true), "{input}");
    }
}

#[test]
fn pods_of_excluded_namespaces_ask_nobody() {
    let result = json!({"ips": [{"address": "10.1.0.2/24"}], "unknown": 1});
    let input =
        json!({"cniVersion": "0.4.0", "socket": "/nowhere", "excludeNamespaces": ["shop"], "prevResult": result});
    let (said, success) = told("ADD", &input.to_string());
    let mut expected = result;
    expected["cniVersion"] = json!("0.4.0");
    assert_eq!((said, success), (expected, true));
}

#[test]
fn an_agent_of_another_release_is_asked_again() {
    let failed = rules(&["--proxy-colour".to_owned(), "blue".to_owned()]).unwrap_err();
    assert!(failed.code == TRY_AGAIN && failed.message.contains("--proxy-colour"), "{failed:?}");
    assert_eq!(rules(&["--proxy-uid".to_owned(), "3000".to_owned()]).unwrap().proxy_uid, 3000);
}

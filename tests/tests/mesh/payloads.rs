//! What is in the messages of requests, and who may see it.

use serde_json::Value;

use super::{harness::Mesh, traffic::Traffic};

/// By what the demo's services say of themselves.
pub fn assert_shown(mesh: &Mesh) {
    let lines = mesh.first_lines("-n emojivoto tap deploy/emoji --payload", 40);
    let asked = lines.iter().position(|line| line.starts_with("  > ") && line.contains("{\"shortcode\":\":"));
    let asked = &lines[asked.unwrap_or_else(|| panic!("nobody asked for an emoji: {lines:#?}"))];
    let id = asked.split(' ').find(|word| word.starts_with("id=")).unwrap();
    let answered = lines.iter().find(|line| line.starts_with(&format!("  < {id} ")));
    assert!(answered.is_some_and(|line| line.contains("{\"emoji\":{\"shortcode\":\":")), "{lines:#?}");
    let of_this: Vec<_> = lines.iter().filter(|line| line.contains(&format!("{id} "))).collect();
    assert!(of_this[0].starts_with("req "), "{of_this:#?}");

    let json = mesh.first_lines("-n emojivoto tap deploy/emoji --payload -o json", 12);
    let json: Vec<Value> = json.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let message = json.iter().find(|event| event["messageEvent"]["message"]["shortcode"].is_string());
    assert!(message.is_some(), "{json:#?}");

    let history = mesh.ok("history");
    let told = history.lines().filter(|line| line.contains("tapped the payloads of deployment/emoji in emojivoto"));
    assert_eq!(told.count(), 1, "who looks twice within minutes is there once: {history}");
    assert!(history.lines().any(|line| line.contains("api:uid=") && line.contains("tapped the payloads")), "{history}");
}

/// The web service's pods have no annotation: requests are seen, and messages are not.
pub fn assert_hidden(mesh: &Mesh) {
    let (note, lines) = mesh.note_and_lines("-n emojivoto tap deploy/web --payload", 20);
    assert!(note.contains("pod/web-0 in emojivoto does not let its messages be seen"), "{note}");
    assert!(note.contains("config.conduit.io/tap-payloads: enabled"), "{note}");
    assert!(lines.iter().any(|line| line.starts_with("req ")), "{lines:#?}");
    // It asks services that do allow it, which is theirs to say.
    assert!(lines.iter().all(|line| !line.starts_with("  ")), "{lines:#?}");
}

/// Who watches sees less than there is, is told so, and disturbs nobody.
pub fn assert_dropped(mesh: &Mesh) {
    let traffic = Traffic::start(mesh.web_address());
    let (note, _) = mesh.note_and_lines("-n emojivoto tap deploy/emoji --payload --max-rps 1", 10);
    assert!(note.contains("more requests or messages passed unseen"), "{note}");
    let (answered, failed) = traffic.stop();
    assert!(answered > 10, "only {answered} requests were answered");
    assert_eq!(failed, Vec::<String>::new(), "of {answered}");
}

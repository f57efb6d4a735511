use super::*;

const BEFORE: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-01-02T00:00:00Z";
const PLACE: Place<'_> = Place { namespace: "shop", name: "canary", resource_version: "7" };

fn parent(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name})
}

fn condition(kind: &'static str, is_true: bool, generation: i64) -> Condition {
    let reason = if is_true { kind } else { "UnsupportedValue" };
    Condition { kind, is_true, reason, message: String::new(), generation: Some(generation) }
}

fn of(name: &str, accepted: bool, generation: i64) -> (Value, [Condition; 2]) {
    let conditions = [condition("Accepted", accepted, generation), condition("ResolvedRefs", true, generation)];
    (parent(name), conditions)
}

fn theirs() -> Value {
    json!({"parentRef": {"name": "edge"}, "controllerName": "example.org/gateway", "conditions": [{"type": "Odd"}]})
}

/// `status.parents` after that is said at that time; nothing, if that is not necessary.
fn say(entries: &[Value], said: Vec<(Value, [Condition; 2])>, at: &str) -> Option<Vec<Value>> {
    let patch = Statement::of_route(PLACE, entries, said)?.patch(&serde_json::from_value(json!(at)).unwrap());
    Some(patch["status"]["parents"].as_array().unwrap().clone())
}

fn since(entry: &Value) -> Vec<&str> {
    let conditions = entry["conditions"].as_array().unwrap().iter();
    conditions.map(|condition| condition["lastTransitionTime"].as_str().unwrap()).collect()
}

#[test]
fn what_others_say_stays_as_it_is() {
    let said = say(&[theirs()], vec![of("web", true, 1)], NOW).unwrap();
    assert_eq!(said[0], theirs());
    assert_eq!(said[1]["parentRef"], parent("web"));
    assert_eq!(say(&said, vec![], NOW), Some(vec![theirs()]));
    assert_eq!(say(&[theirs()], vec![], NOW), None);
}

#[test]
fn a_condition_has_come_about_when_it_became_what_it_is() {
    let first = say(&[], vec![of("web", true, 1)], BEFORE).unwrap();
    assert_eq!(since(&first[0]), [BEFORE, BEFORE]);
    assert_eq!(say(&first, vec![of("web", true, 1)], NOW), None, "it is said already");
    let seen = say(&first, vec![of("web", true, 2)], NOW).unwrap();
    assert_eq!(since(&seen[0]), [BEFORE, BEFORE], "only another generation was looked at");
    assert_eq!(seen[0]["conditions"][0]["observedGeneration"], 2);
    let refused = say(&seen, vec![of("web", false, 3)], NOW).unwrap();
    assert_eq!(since(&refused[0]), [NOW, BEFORE], "of the one that has changed");
    let another = say(&refused, vec![of("other", false, 3)], NOW).unwrap();
    assert_eq!(since(&another[0]), [NOW, NOW], "another parent has no past");
    assert_eq!(another.len(), 1);
}

#[test]
fn what_somebody_has_made_of_it_is_put_right() {
    let said = say(&[], vec![of("web", true, 1)], BEFORE).unwrap();
    for spoil in [
        |entry: &mut Value| entry["conditions"] = json!([]),
        |entry: &mut Value| entry["conditions"][1]["message"] = json!("all is well"),
        |entry: &mut Value| entry["conditions"] = json!("nonsense"),
        |entry: &mut Value| _ = entry.as_object_mut().unwrap().remove("parentRef"),
    ] {
        let mut entry = said[0].clone();
        spoil(&mut entry);
        let right = say(&[entry], vec![of("web", true, 1)], BEFORE).unwrap();
        assert_eq!(right, said);
    }
}

#[test]
fn there_is_room_for_so_many_and_others_were_there_first() {
    let others = vec![theirs(); ENTRIES_MAX - 1];
    let said = say(&others, vec![of("web", true, 1), of("other", true, 1)], NOW).unwrap();
    assert_eq!(said.len(), ENTRIES_MAX);
    assert_eq!(say(&said, vec![of("web", true, 1), of("other", true, 1)], NOW), None);
}

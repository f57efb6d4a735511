//! What cannot be injected is refused with its place, and nothing is half done.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use conduit_inject::{Manifest, Namespaces, Settings};

fn refusal(text: &str) -> String {
    let manifest = match Manifest::parse(text) {
        Ok(manifest) => manifest,
        Err(error) => return error.to_string(),
    };
    manifest.inject(&Settings::default(), &Namespaces::default()).unwrap_err().to_string()
}

fn pod(metadata: &str, spec: &str) -> String {
    format!("# a pod\n---\napiVersion: v1\nkind: Pod\nmetadata: {metadata}\nspec: {spec}\n")
}

#[test]
fn what_is_not_yaml_is_refused_where_it_stops_being_so() {
    for (text, place) in [
        ("a: [1\nb: 2\n", "2:"),
        ("kind: Pod\nspec:\n\tcontainers: []\n", "3:"),
        ("a: b\n  c: d\n", "2:"),
        ("a: *missing\n", "1:4:"),
        ("a: \"open\n", "2:1:"),
        ("---\na: b\n---\nä: ü: {\n", "4:"),
        ("{\"a\": 1,\n \"b\" 2}\n", "2:"),
        ("a: b\na: c\n", "2:1:"),
        ("\u{feff}a: b\na: c\n", "2:1:"),
        ("a: {b: 1, c: 2, \"b\": 3}\n", "1:17:"),
        ("a: 'x' y\n", "1:"),
        ("- a\nb: c\n", "2:"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.starts_with(place), "{text:?}: {refusal}");
        assert!(refusal.contains(": this is not YAML: "), "{refusal}");
        assert!(refusal.len() > place.len() + 30, "{refusal}");
    }
}

#[test]
fn a_key_is_there_twice_among_many() {
    let keys: String = (0..20).map(|key| format!("k{key}: 1\n")).collect();
    assert_eq!(refusal(&format!("{keys}k7: 2\n")), "21:1: this is not YAML: the key `k7` is there twice");
    assert!(Manifest::parse(&keys).is_ok());
    assert!(Manifest::parse("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n").is_ok());
}

#[test]
fn annotations_that_cannot_be_carried_out_are_named() {
    let annotated = |name: &str, value: &str| {
        pod(&format!("{{name: web, annotations: {{{name}: {value}}}}}"), "{containers: [{name: a}]}")
    };
    assert_eq!(
        refusal(&annotated("config.conduit.io/skip-inbound-ports", "smtp")),
        "3:1: Pod `web`: the annotation `config.conduit.io/skip-inbound-ports: smtp` cannot be carried out: `smtp` is not a port; \
         ports are 1 to 65535, a range is two of them: 7000-7100"
    );
    assert_eq!(
        refusal(&annotated("conduit.io/inject", "maybe")),
        "3:1: Pod `web`: the annotation `conduit.io/inject: maybe` cannot be carried out: must be one of: enabled, disabled"
    );
}

#[test]
fn pods_of_another_shape_are_refused() {
    assert_eq!(refusal(&pod("web", "{containers: [{name: a}]}")), "3:1: Pod ``: `metadata` is not an object");
    assert_eq!(
        refusal(&pod("{name: web}", "{containers: [{name: a}], volumes: {}}")),
        "3:1: Pod `web`: `spec.volumes` is not a list"
    );
}

#[test]
fn aliases_without_end_are_refused() {
    let circle = "apiVersion: v1\nkind: Pod\nspec: &spec\n  containers:\n  - name: a\n    again: *spec\n";
    assert!(refusal(circle).contains("its aliases have no end"), "{}", refusal(circle));
    let mut bomb = "apiVersion: v1\nkind: Pod\na0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
    for level in 1..9 {
        let alias = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    // Where nobody asks for it, it is text.
    let beside = format!("{bomb}spec:\n  containers:\n  - name: a\n");
    assert!(Manifest::parse(&beside).unwrap().inject(&Settings::default(), &Namespaces::default()).is_err());
    let inside = format!("{bomb}spec:\n  containers:\n  - name: a\n    args: *a8\n");
    assert!(refusal(&inside).contains("its aliases have no end"), "{}", refusal(&inside));
    let merged = "apiVersion: v1\nkind: Pod\nspec: &a\n  <<: *a\n  containers: [{name: a}]\n";
    assert!(refusal(merged).contains("its aliases have no end"), "{}", refusal(merged));
    let lists = "apiVersion: v1\nkind: List\nitems: &items\n- kind: List\n  items: *items\n";
    let output = Manifest::parse(lists).unwrap().inject(&Settings::default(), &Namespaces::default()).unwrap();
    assert_eq!(output.text, lists);
}

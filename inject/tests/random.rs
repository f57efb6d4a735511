//! Manifests in all the ways in which people write them: what is injected means what was planned, is not injected again, and gives
//! back every byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use conduit_inject::{Manifest, Namespaces, Outcome, Settings};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Writes YAML, and takes each decision of style from a list of them.
struct Writer {
    out: String,
    decisions: Vec<u8>,
    next: usize,
    line_end: &'static str,
    /// How much deeper a mapping is than its key, and a dash than its key.
    steps: (usize, usize),
}

impl Writer {
    fn decide(&mut self, one_in: u8) -> bool {
        self.next += 1;
        self.decisions[self.next % self.decisions.len()].is_multiple_of(one_in)
    }

    fn line_end(&mut self) {
        if self.decide(5) {
            self.out.push_str(" # said behind it");
        }
        self.out.push_str(self.line_end);
        if self.decide(9) {
            self.out.push_str(self.line_end);
        }
        if self.decide(9) {
            self.out.push_str("       # said between");
            self.out.push_str(self.line_end);
        }
    }

    fn block(&mut self, value: &Value, column: usize, mut at_start: bool) {
        match value {
            Value::Object(entries) => {
                for (key, value) in entries {
                    if !std::mem::take(&mut at_start) {
                        self.indent(column);
                    }
                    let quoted = self.decide(7);
                    self.out.push_str(&if quoted { format!("\"{key}\":") } else { format!("{key}:") });
                    let deeper = if value.is_array() { self.steps.1 } else { self.steps.0 };
                    self.value(value, column + deeper, column);
                }
            }
            Value::Array(elements) => {
                for element in elements {
                    self.indent(column);
                    self.out.push('-');
                    if element.is_object() && !element.as_object().unwrap().is_empty() && !self.decide(5) {
                        let spaces = if self.decide(4) { 3 } else { 1 };
                        self.indent(spaces);
                        self.block(element, column + 1 + spaces, true);
                    } else {
                        self.value(element, column + 2, column);
                    }
                }
            }
            _ => unreachable!("only collections stand in lines"),
        }
    }

    fn value(&mut self, value: &Value, below: usize, column: usize) {
        let empty = *value == json!({}) || *value == json!([]);
        match value {
            Value::Null => self.line_end(),
            Value::Object(_) | Value::Array(_) if !empty && !self.decide(6) => {
                self.line_end();
                self.block(value, below, false);
            }
            Value::String(text) if text.contains('\n') => self.literal(text, column + 2),
            _ => {
                self.out.push(' ');
                self.flow(value, column + 2);
                self.line_end();
            }
        }
    }

    fn literal(&mut self, text: &str, column: usize) {
        // Comments and blank lines behind it would be its own.
        self.out.push_str(if text.ends_with("\n\n") { " |+" } else { " |" });
        self.out.push_str(self.line_end);
        for line in text.lines() {
            if !line.is_empty() {
                self.indent(column);
                self.out.push_str(line);
            }
            self.out.push_str(self.line_end);
        }
    }

    fn flow(&mut self, value: &Value, column: usize) {
        let lines = self.decide(4);
        let (open, close, items): (_, _, Vec<(Option<&String>, &Value)>) = match value {
            Value::Object(entries) => ('{', '}', entries.iter().map(|(key, value)| (Some(key), value)).collect()),
            Value::Array(elements) => ('[', ']', elements.iter().map(|element| (None, element)).collect()),
            scalar => return self.out.push_str(&scalar.to_string()),
        };
        self.out.push(open);
        // Of what is empty there, uninjecting leaves nothing.
        let items = items.into_iter().filter(|(_, value)| !says_nothing(value));
        for (index, (key, value)) in items.enumerate() {
            if index > 0 {
                let comma = if self.decide(2) { "," } else { ", " };
                self.out.push_str(comma);
            }
            if lines {
                self.out.push_str(self.line_end);
                self.indent(column);
            }
            if let Some(key) = key {
                let key = if self.decide(2) { format!("\"{key}\": ") } else { format!("{key}: ") };
                self.out.push_str(&key);
            }
            self.flow(value, column + 2);
        }
        self.out.push(close);
    }

    fn indent(&mut self, column: usize) {
        self.out.extend(std::iter::repeat_n(' ', column));
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(entries) => entries.values().all(says_nothing),
        Value::Array(elements) => elements.is_empty(),
        _ => false,
    }
}

fn labels() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(json!({}))),
        Just(Some(Value::Null)),
        prop::collection::btree_map("[a-c]\\.example/[a-z]", "[a-z0-9 #:-]{0,4}", 1..3)
            .prop_map(|map| Some(json!(map))),
    ]
}

fn container() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("echo one\n\necho two\n"),
        Just("kept\n\n"),
        Just("nginx:1"),
        Just("- no: element"),
        Just("ünï 漢字 # no comment"),
        Just(""),
    ];
    let args = prop::collection::vec(text.clone().prop_map(Value::from), 0..3).prop_map(Value::Array);
    let env =
        prop::collection::vec(text.prop_map(|value| json!({"name": "A", "value": value})), 0..3).prop_map(Value::Array);
    (args, prop::option::of(env), any::<bool>(), any::<bool>()).prop_map(|(args, env, first, udp)| {
        // `name` stands before some of the others, and behind some.
        let mut container = Map::from_iter([("args".to_owned(), args), ("name".to_owned(), json!("web"))]);
        container.extend(env.map(|env| ((if first { "env" } else { "zenv" }).to_owned(), env)));
        if udp {
            container.insert("ports".to_owned(), json!([{"containerPort": 53, "protocol": "UDP"}]));
        }
        Value::Object(container)
    })
}

fn lists() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(json!([]))),
        Just(Some(Value::Null)),
        prop::collection::vec(container(), 1..3).prop_map(|containers| Some(Value::Array(containers))),
    ]
}

fn template() -> impl Strategy<Value = Value> {
    let metadata = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        (labels(), labels()).prop_map(|(labels, annotations)| {
            let entries = [("labels", labels), ("annotations", annotations)].into_iter();
            Some(Value::Object(entries.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()))
        }),
    ];
    let spec = (prop::collection::vec(container(), 1..3), lists(), lists(), any::<bool>());
    (metadata, spec).prop_map(|(metadata, (containers, init_containers, volumes, more))| {
        let entries = [
            ("containers", Some(Value::Array(containers))),
            ("initContainers", init_containers),
            ("volumes", volumes),
            ("zone", more.then(|| json!("last"))),
        ];
        let spec: Map<_, _> = entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        let mut template = Map::from_iter([("spec".to_owned(), Value::Object(spec))]);
        template.extend(metadata.map(|metadata| ("metadata".to_owned(), metadata)));
        Value::Object(template)
    })
}

fn object() -> impl Strategy<Value = Value> {
    let name = json!({"name": "web"});
    (template(), 0..4).prop_map(move |(template, kind)| match kind {
        0 => json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": name, "spec": {"template": template}}),
        1 => json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": name,
                    "spec": {"jobTemplate": {"spec": {"template": template}}}}),
        2 => json!({"apiVersion": "v1", "kind": "Service", "spec": {"template": template}}),
        _ => {
            let job =
                json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": name, "spec": {"template": template}});
            json!({"apiVersion": "v1", "kind": "List", "items": [{"kind": "ConfigMap"}, job]})
        }
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<[bool; 4]>()).prop_map(|[native_sidecar, workload_api, cni, ports]| {
        let skip_inbound_ports = if ports { vec!["80".parse().unwrap()] } else { Vec::new() };
        Settings { native_sidecar, workload_api, cni, skip_inbound_ports, ..Settings::default() }
    })
}

fn manifest() -> impl Strategy<Value = String> {
    let decisions = prop::collection::vec(any::<u8>(), 16..64);
    let style =
        (decisions, any::<bool>(), any::<bool>(), 1..5usize, prop_oneof![Just(0usize), Just(2), Just(1), Just(4)]);
    (prop::collection::vec(object(), 1..3), style).prop_map(|(objects, (decisions, crlf, ends, step, dashes))| {
        let line_end = if crlf { "\r\n" } else { "\n" };
        let steps = (step + 1, dashes);
        let mut writer = Writer { out: String::new(), decisions, next: 0, line_end, steps };
        for object in &objects {
            writer.out.push_str("---");
            writer.line_end();
            if writer.decide(6) {
                writer.flow(object, 2);
                writer.line_end();
            } else {
                writer.block(object, 0, false);
            }
        }
        if !ends && !writer.out.contains('|') {
            writer.out.truncate(writer.out.trim_end().len());
        }
        writer.out
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn manifests_are_injected_as_planned_once_and_come_back(text in manifest(), settings in settings()) {
        let manifest = Manifest::parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let injected = manifest.inject(&settings, &Namespaces::default()).unwrap();
        prop_assert_eq!(model::documents(&injected.text), model::injected(&text, &settings), "\n{}", injected.text);
        let parsed = Manifest::parse(&injected.text).unwrap();
        let again = parsed.inject(&settings, &Namespaces::default()).unwrap();
        prop_assert_eq!(&again.text, &injected.text);
        prop_assert!(again.reports.iter().all(|report| report.outcome != Outcome::Injected));
        let back = parsed.uninject().unwrap();
        prop_assert_eq!(&back.text, &text, "\n{}", injected.text);
    }
}

//! Manifests, and what becomes of them, byte for byte. `UPDATE_EXPECT=1 cargo test -p conduit-inject` writes anew what is
//! expected; it is reviewed like code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::{fs, path::PathBuf};

use conduit_inject::{Manifest, Namespaces, Outcome, Output, Settings, Warning, report};

/// Where brackets were empty, or null said so, uninjecting leaves less.
const NOT_THE_SAME_BYTES: [&str; 3] = ["list.json", "cni.yml", "anchors.yml"];

fn manifests() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// A first line may say how it is to be injected.
fn settings(text: &str) -> Settings {
    let line = text.lines().next().and_then(|line| line.strip_prefix("# settings: "));
    line.map(|settings| serde_yaml_ng::from_str(settings).unwrap()).unwrap_or_default()
}

fn inject(text: &str) -> Output {
    let manifest = Manifest::parse(text).unwrap();
    let mut namespaces = Namespaces::default();
    namespaces.add(&manifest);
    manifest.inject(&settings(text), &namespaces).unwrap()
}

fn uninject(text: &str) -> Output {
    Manifest::parse(text).unwrap().uninject().unwrap()
}

/// Of no particular release.
fn unversioned(text: &str) -> String {
    text.replace(conduit_api::VERSION, "vX.Y.Z")
}

/// Byte for byte: also the ends of lines, which other tools for this take for the same.
fn expect(name: &str, text: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/expected").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&file, text).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap_or_default(), text, "{}", file.display());
}

#[test]
fn manifests_become_what_is_expected() {
    for (name, text) in manifests() {
        let output = if text.starts_with("# uninjected") { uninject(&text) } else { inject(&text) };
        expect(&name, &unversioned(&output.text));
        let told = report::injected(&output.reports, true);
        expect(&format!("{name}.txt"), &told);
    }
}

/// As many as several threads share.
#[test]
fn many_documents_become_what_each_becomes_alone() {
    let document = |number: usize| {
        let spec = format!("spec: {{containers: [{{name: main, image: app:{number}}}]}}");
        match number % 3 {
            0 => format!("# {number}\nkind: Other\n"),
            1 => format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{number}}}\n{spec}\n"),
            _ => format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{number}\n{spec} # so\n"),
        }
    };
    let documents: Vec<_> = (0..200).map(document).collect();
    let alone: Vec<_> = documents.iter().map(|document| inject(document)).collect();
    let together = inject(&documents.join("---\n"));
    assert_eq!(together.text, alone.iter().map(|output| output.text.as_str()).collect::<Vec<_>>().join("---\n"));
    assert_eq!(together.reports, alone.into_iter().flat_map(|output| output.reports).collect::<Vec<_>>());

    let wrong = |number| {
        let annotations = "annotations: {conduit.io/inject: maybe}";
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: wrong-{number}, {annotations}}}\nspec: {{containers: [{{name: a}}]}}\n"
        )
    };
    let with_wrong = |at: [usize; 2]| {
        let document = |number| if at.contains(&number) { wrong(number) } else { document(number) };
        (0..200).map(document).collect::<Vec<_>>().join("---\n")
    };
    for at in [[7, 190], [120, 130]] {
        let text = with_wrong(at);
        let error = Manifest::parse(&text).unwrap().inject(&Settings::default(), &Namespaces::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("Pod `wrong-{}`", at[0])), "{error}");
    }
}

#[test]
fn another_parser_reads_what_was_planned() {
    for (name, text) in manifests() {
        let expected = model::injected(&text, &settings(&text));
        assert_eq!(model::documents(&inject(&text).text), expected, "{name}");
    }
}

#[test]
fn what_is_injected_is_not_injected_again() {
    for (name, text) in manifests() {
        let once = inject(&text);
        let twice = inject(&once.text);
        assert_eq!(twice.text, once.text, "{name}");
        assert!(twice.reports.iter().all(|report| report.outcome != Outcome::Injected), "{name}");
    }
}

#[test]
fn uninjecting_gives_back_the_bytes_that_were_injected() {
    for (name, text) in manifests().into_iter().filter(|(_, text)| !text.starts_with("# uninjected")) {
        let injected = inject(&text);
        let uninjected = uninject(&injected.text);
        if NOT_THE_SAME_BYTES.contains(&name.as_str()) {
            assert_eq!(model::without_nothing(&uninjected.text), model::without_nothing(&text), "{name}");
        } else if injected.reports.iter().any(|report| report.warnings.contains(&Warning::WrittenAnew)) {
            assert_eq!(model::documents(&uninjected.text), model::documents(&text), "{name}");
        } else {
            assert_eq!(uninjected.text, text, "{name}");
        }
        let again = uninject(&uninjected.text);
        assert_eq!(again.text, uninjected.text, "{name}");
        assert!(again.reports.iter().all(|report| !report.outcome.is_change()), "{name}");
    }
}

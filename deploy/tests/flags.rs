//! What is refused, and in which words.

use std::{fs, io::Write as _};

use clap::Parser;
use conduit_deploy::{Install, InstallError};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    install: Install,
}

fn install(flags: &[&str]) -> Result<String, InstallError> {
    Line::try_parse_from(["install"].iter().chain(flags)).expect("the flags exist").install.print("conduit")
}

#[test]
fn errors_say_what_would_do() {
    for (flags, error) in [
        (vec!["--ha=2"], "--ha must be one of: 3, 5"),
        (vec!["--image-pull-policy", "x"], "--image-pull-policy must be one of: Always, IfNotPresent, Never"),
        (
            vec!["--controller-log-level", "trace"],
            "--controller-log-level must be one of: panic, fatal, error, warn, info, debug",
        ),
        (vec!["--raft-storage", "disk"], "--raft-storage must be one of: pvc, emptydir"),
        (vec!["--tls", "off"], "--tls must be blank or set to \"optional\""),
        (vec!["--values", "/none"], "cannot read /none: No such file or directory (os error 2)"),
        (vec!["--set", "proxy.uid"], "--set: `proxy.uid` has no value: write key=value"),
        (vec!["--set", "proxi.uid=1"], "there is no value `proxi`: the chart's values.yaml says which there are"),
        (vec!["--proxy-uid", "0"], "the value `proxy.uid` is not what it may be: must be >=1, but got 0"),
        (
            vec!["--identity-trust-anchors-file", "/none"],
            "--identity-issuer-certificate-file is missing: an issuer of your own is its certificate, its key and what is to be \
             trusted, all three",
        ),
    ] {
        assert_eq!(install(&flags).unwrap_err().to_string(), error);
    }
}

#[test]
fn a_webhook_is_told_of_alerts_by_a_secret() {
    let set = ["--set", "alerts.webhookSecret=hook,alerts.window=1m"];
    let text = install(&set).unwrap();
    for line in [
        "            - --alert-window=1m\n",
        "            - --alert-webhook=file:/etc/conduit-alert-webhook/url\n",
        "            - --alert-webhook-secret-file=/etc/conduit-alert-webhook/secret\n",
        "              mountPath: /etc/conduit-alert-webhook\n",
        "            secretName: hook\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(!install(&[]).unwrap().contains("--alert-webhook"));
    // As the controllers read it, which do not start otherwise.
    for (window, is_one) in [
        ("15s", true),
        ("99s", true),
        ("1800s", true),
        ("1m", true),
        ("30m", true),
        ("29m59s", true),
        ("14s", false),
        ("5s", false),
        ("1801s", false),
        ("31m", false),
        ("30m1s", false),
        ("1h", false),
        ("0m", false),
        ("x", false),
    ] {
        let rendered = install(&["--set", &format!("alerts.window={window}")]);
        assert_eq!(rendered.is_ok(), is_one, "{window}");
        let refused = rendered.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(is_one || refused.starts_with("the value `alerts.window` is not what it may be"), "{refused}");
    }
    // It would be kept, and printed, with what is secret in it.
    assert!(install(&["--set", "alerts.webhook=https://hooks.example.org/token"]).is_err());
}

#[test]
fn what_proxies_write_down_is_a_value() {
    let set = ["--set", "proxy.accessLog=json,proxy.traceCollector=otel:4317"];
    for (share, line) in
        [("0", "\n    traceSampling: 0\n"), ("0.25", "\n    traceSampling: 0.25\n"), ("1", "\n    traceSampling: 1\n")]
    {
        let share = format!("proxy.traceSampling={share}");
        let text = install(&[set[0], set[1], "--set", &share]).unwrap();
        assert!(text.contains("\n    accessLog: \"json\"\n    traceCollector: \"otel:4317\"\n"), "{text}");
        assert!(text.contains(line), "{share}");
    }
    // The values that are kept say it, deeper, and what is injected does not.
    assert!(!install(&[]).unwrap().contains("\n    traceSampling"));
    assert!(install(&["--set", "proxy.accessLog=all"]).is_err());
    for collector in ["otel", "http://10.0.0.1:4318/", "[::1]:4317"] {
        assert!(install(&["--set-string", &format!("proxy.traceCollector={collector}")]).is_ok(), "{collector}");
    }
    for collector in ["https://otel:4318", "http://otel:4318/v1/traces", "otel:port", "grpc://otel", "otel:0"] {
        let error = install(&["--set-string", &format!("proxy.traceCollector={collector}")]).unwrap_err().to_string();
        assert!(error.contains("traceCollector"), "{error}");
    }
    // Made as it should be, and no collector all the same: no pod would get a proxy.
    for collector in ["otel:99999", "none"] {
        let error = install(&["--set-string", &format!("proxy.traceCollector={collector}")]).unwrap_err().to_string();
        assert!(error.contains("host:port"), "{error}");
    }
}

#[test]
fn the_later_wins() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"registry: of.the/file\nproxy: {uid: 1111}\nconduitVersion: v1\n").unwrap();
    let file = file.path().to_str().unwrap();
    let text = install(&["--values", file, "-v", "v2", "--proxy-uid", "2222", "--set", "proxy.uid=3333"]).unwrap();
    assert!(text.contains("image: \"of.the/file/controller:v2\""));
    assert!(text.contains("proxyUid: 3333\n"));
}

#[test]
fn a_file_that_is_not_of_values_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "- a list").unwrap();
    let path = file.path().to_str().unwrap();
    let error = install(&["--values", path]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{path}: not the values of a chart: ")), "{error}");
}

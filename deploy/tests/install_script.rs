//! `install.sh`, with releases in a directory, as a user who is nobody in particular.

#![allow(clippy::unwrap_used, reason = "what fails in a test shall fail the test")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh");
const PROGRAM: &str = "#!/bin/sh\necho \"Client version: v9.8.7\"\n";

fn archive() -> String {
    format!("conduit-v9.8.7-linux-{}.tar.gz", env::consts::ARCH)
}

fn sh(directory: &Path, script: &str) {
    assert!(Command::new("sh").args(["-euc", script]).current_dir(directory).status().unwrap().success());
}

/// A release of `program`, and a home for it.
fn release(program: &str) -> (TempDir, TempDir) {
    let (release, home) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(release.path().join(program), PROGRAM).unwrap();
    let archive = archive();
    sh(release.path(), &format!("tar -czf {archive} {program}; sha256sum {archive} > {archive}.sha256; rm {program}"));
    (release, home)
}

fn run(release: &Path, home: &Path) -> Output {
    let mut command = Command::new("sh");
    command.arg(SCRIPT).env_clear().env("PATH", env::var_os("PATH").unwrap()).env("HOME", home);
    command.env("CONDUIT_VERSION", "v9.8.7").env("CONDUIT_RELEASE_URL", format!("file://{}", release.display()));
    command.output().unwrap()
}

fn refused(release: &Path, home: &Path) -> String {
    let output = run(release, home);
    assert_eq!(output.status.code(), Some(1));
    assert!(!home.join(".conduit/bin/conduit").exists());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_was_released_is_installed() {
    let (release, home) = release("conduit");
    let installed = home.path().join(".conduit/bin/conduit");
    // Twice: what is there is replaced.
    for _ in 0..2 {
        let output = run(release.path(), home.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let expected = format!(
            "Downloading {}...\n\n\
             Conduit was successfully installed to {path}.\n\n\
             Copy {path} into your PATH.  Then run\n\n    conduit install | kubectl apply -f -\n\n\
             to deploy Conduit to Kubernetes.  Once deployed, run\n\n    conduit dashboard\n\n\
             to view the Conduit UI.\n\n",
            archive(),
            path = installed.display(),
        );
        assert_eq!(said, expected);
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
        let version = Command::new(&installed).arg("version").output().unwrap();
        assert_eq!(version.stdout, b"Client version: v9.8.7\n");
    }
    let left = fs::read_dir(installed.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1);
}

#[test]
fn this_release_is_installed_if_no_other_is_named() {
    let line = concat!("version=\"${CONDUIT_VERSION:-v", env!("CARGO_PKG_VERSION"), "}\"\n");
    assert!(fs::read_to_string(SCRIPT).unwrap().contains(line));
}

#[test]
fn an_archive_that_was_changed_is_not() {
    let (release, home) = release("conduit");
    let archive = release.path().join(archive());
    let mut bytes = fs::read(&archive).unwrap();
    bytes.push(0);
    fs::write(archive, bytes).unwrap();
    assert!(refused(release.path(), home.path()).contains(" is not what was released: its SHA-256 is "));
}

#[test]
fn what_is_no_release_is_not() {
    let (release, home) = release("something");
    assert!(refused(release.path(), home.path()).contains("has no program conduit in it"));
    let nothing = TempDir::new().unwrap();
    assert!(refused(nothing.path(), home.path()).contains("error: cannot download file://"));
}

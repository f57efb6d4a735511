//! Measurements of identity: certificates that a replica signs, and handshakes that they make.

pub mod handshakes;
pub mod issue;
pub mod rotations;

use std::{process::Command, time::Duration};

/// ECDSA P-256 signatures a second of one core of this machine, as `openssl speed` measures them; `None` where there is no openssl.
pub(crate) fn openssl_signatures() -> Option<f64> {
    let output = Command::new("openssl").args(["speed", "-seconds", "2", "ecdsap256"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("256 bits ecdsa"))?;
    // The last two columns are signatures and verifications a second.
    line.split_whitespace().rev().nth(1)?.parse().ok()
}

/// Something that was done `count` times in `took`, by one core.
pub(crate) fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

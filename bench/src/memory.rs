//! What processes hold and use: any, and what those of a local mesh hold by their role.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use anyhow::Context as _;
use serde::Deserialize;

/// A field of the kernel's own account of a process, in bytes: `VmRSS`, what is resident, or `VmHWM`, the most that was (proc(5)). None when it has
/// ended.
pub fn of_process(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(value.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Processor time of all threads that a process has or had (proc(5)), in hundredths of a second.
///
/// # Errors
/// When it has ended.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name in parentheses may contain anything; utime and stime are the 12th and 13th after it.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or_default();
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

#[derive(Deserialize)]
struct Status {
    processes: Vec<Process>,
}

#[derive(Deserialize)]
struct Process {
    name: String,
    role: String,
    rss_bytes: u64,
}

/// Of each role: how many processes, and the largest of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Memory(BTreeMap<String, Role>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Role {
    processes: usize,
    total: u64,
    largest: u64,
    largest_name: String,
}

impl Memory {
    /// From what `conduit local status -o json` wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn of_status(json: &str) -> anyhow::Result<Self> {
        let status: Status =
            serde_json::from_str(json).context("this is not what `conduit local status -o json` writes")?;
        let mut roles = BTreeMap::<_, Role>::new();
        for process in status.processes {
            let role = roles.entry(process.role).or_default();
            role.processes += 1;
            role.total += process.rss_bytes;
            if process.rss_bytes >= role.largest {
                role.largest = process.rss_bytes;
                role.largest_name = process.name;
            }
        }
        Ok(Self(roles))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        writeln!(f, "{:<12}{:>10}{:>12}{:>12}   LARGEST_IS", "ROLE", "PROCESSES", "LARGEST", "TOTAL")?;
        for (name, role) in &self.0 {
            let (largest, total) = (megabytes(role.largest), megabytes(role.total));
            writeln!(f, "{name:<12}{:>10}{largest:>10.1}MB{total:>10.1}MB   {}", role.processes, role.largest_name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_largest_of_each_role_is_named() {
        let status = r#"{"ready": true, "processes": [
            {"name": "controller-0", "role": "controller", "rss_bytes": 31000000, "pid": 1},
            {"name": "web-0/proxy", "role": "proxy", "rss_bytes": 7200000, "pid": 2},
            {"name": "emoji-0/proxy", "role": "proxy", "rss_bytes": 8900000, "pid": 3},
            {"name": "web-0/app", "role": "app", "rss_bytes": 0, "pid": 0}
        ]}"#;
        expect![[r#"
            ROLE         PROCESSES     LARGEST       TOTAL   LARGEST_IS
            app                  1       0.0MB       0.0MB   web-0/app
            controller           1      31.0MB      31.0MB   controller-0
            proxy                2       8.9MB      16.1MB   emoji-0/proxy
        "#]]
        .assert_eq(&Memory::of_status(status).unwrap().to_string());
        assert!(Memory::of_status("no mesh").is_err());
    }
}

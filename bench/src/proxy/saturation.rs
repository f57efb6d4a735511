//! As many requests as go through: `h2load`, and what it says.

use std::{path::Path, process::Output, time::Duration};

use anyhow::{Context as _, ensure};

use super::{
    process::{LOAD_CORE, on_core},
    subject::{Protocol, Proxy, Shape},
};

/// More than any measurement takes, under callgrind as well.
const PATIENCE: Duration = Duration::from_secs(300);

/// One kind of request.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Through one proxy or two.
    pub shape: Shape,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: Protocol,
    /// Of each answer.
    pub body_bytes: usize,
}

/// What came back.
pub struct Answered {
    /// How many answers.
    pub requests: u64,
    /// How many of them a second.
    pub rate: f64,
}

impl Work {
    /// Sends `requests` requests to `proxy`, as fast as it answers them.
    ///
    /// # Errors
    /// When one was not answered, or not well.
    pub async fn send(&self, proxy: Proxy, requests: u64) -> anyhow::Result<Answered> {
        let mut command = on_core(LOAD_CORE, Path::new("h2load"));
        match self.protocol {
            Protocol::Http1 | Protocol::Tcp => command.args(["--h1", "-c", "64"]),
            Protocol::Http2 => command.args(["-c", "8", "-m", "8"]),
        };
        let entrance = proxy.entrance(self.shape, self.protocol);
        command.args(["-t", "1", "-n", &requests.to_string()]).arg(format!("http://{entrance}/{}", self.body_bytes));
        let output = tokio::process::Command::from(command).kill_on_drop(true).output();
        // Whatever holds this up, it has an end.
        let output = tokio::time::timeout(PATIENCE, output).await.context("h2load did not end")??;
        let answered = read(&output)?;
        ensure!(answered.requests == requests, "{} of {requests} requests were answered", answered.requests);
        Ok(answered)
    }
}

fn read(output: &Output) -> anyhow::Result<Answered> {
    let text = String::from_utf8_lossy(&output.stdout);
    let parsed = parse(&text);
    parsed.with_context(|| format!("h2load said: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// `finished in 1.00s, 1234.5 req/s, 1.2MB/s` and `status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx`
fn parse(text: &str) -> Option<Answered> {
    let line = |start| text.lines().find_map(|line| line.strip_prefix(start));
    let rate = line("finished in ")?.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()?;
    let requests = line("status codes: ")?.split(' ').next()?.parse().ok()?;
    Some(Answered { requests, rate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_says() {
        let text = "progress: 100% done\n\nfinished in 1.05s, 95238.10 req/s, 100.00MB/s\n\
            requests: 100000 total, 100000 started, 100000 done, 99999 succeeded, 1 failed, 1 errored, 0 timeout\n\
            status codes: 99999 2xx, 0 3xx, 0 4xx, 1 5xx\n";
        let answered = parse(text).unwrap();
        assert_eq!((answered.requests, answered.rate), (99_999, 95_238.1));
        assert!(parse("").is_none());
    }
}

//! What a proxy adds to requests that come at a constant rate, and what they cost it then.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;

use super::{
    running::Running,
    saturation::Work,
    subject::{Protocol, Proxy},
};
use crate::{
    load,
    report::{Percentiles, Report},
};

/// Requests before the first that is timed.
pub const WARMUP: Duration = Duration::from_secs(2);
/// From the beginning to the first look at the processor time: connections have been made by then, and requests are on their way.
const SETTLED: Duration = Duration::from_millis(1_500);

/// What was seen.
pub struct Paced {
    /// From the moment at which a request was due.
    pub latency_us: Percentiles,
    /// Of the proxy, for each request; none for none.
    pub cpu_us: Option<f64>,
}

/// Sends `rate` requests a second for so long.
///
/// # Errors
/// When one is not answered.
pub async fn measure(
    work: &Work,
    proxy: Proxy,
    running: &Running,
    rate: f64,
    duration: Duration,
) -> anyhow::Result<Paced> {
    let plan = plan(work, proxy, rate, duration);
    let (report, cpu) = tokio::join!(load::run(&plan), cpu(running, duration));
    let Report { latency_us, errors, .. } = report?;
    ensure!(errors == 0, "{errors} requests were not answered");
    let cpu_us = cpu?.as_secs_f64() * 1e6 / (rate * duration.as_secs_f64());
    Ok(Paced { latency_us, cpu_us: (proxy != Proxy::Direct).then_some(cpu_us) })
}

fn plan(work: &Work, proxy: Proxy, rate: f64, duration: Duration) -> load::Plan {
    let http2 = work.protocol == Protocol::Http2;
    let (connections, streams) = if http2 { (8, 8) } else { (64, 1) };
    let url = format!("http://{}/{}", proxy.entrance(work.shape, work.protocol), work.body_bytes);
    load::Plan { url, name: proxy.to_string(), rate, duration, warmup: WARMUP, connections, http2, streams }
}

/// Processor time while requests come at their rate: it does not begin before they do, nor end after them.
async fn cpu(running: &Running, duration: Duration) -> anyhow::Result<Duration> {
    sleep(SETTLED).await;
    let before = running.cpu()?;
    sleep(duration).await;
    Ok(running.cpu()? - before)
}

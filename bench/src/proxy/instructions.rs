//! Instructions of a proxy's own, without the kernel's: by callgrind, as the difference of two runs of different length, so that what
//! happens once is in neither.

use anyhow::Context as _;

use super::{
    running::{Launch, ORDINARY, Place},
    saturation::Work,
    subject::Proxy,
};

/// Requests of the shorter run; a multiple of the connections.
const SHORT: u64 = 640;
/// Requests of the longer run.
const LONG: u64 = 4 * SHORT;

/// Of each request.
///
/// # Errors
/// When it does not run under callgrind.
pub async fn per_request(place: &Place, proxy: Proxy, work: &Work) -> anyhow::Result<f64> {
    let (short, long) = (total(place, proxy, work, SHORT).await?, total(place, proxy, work, LONG).await?);
    Ok(long.saturating_sub(short) as f64 / (LONG - SHORT) as f64)
}

async fn total(place: &Place, proxy: Proxy, work: &Work, requests: u64) -> anyhow::Result<u64> {
    let mut running = place.start(proxy, work.shape, Launch { counted: true, ..ORDINARY })?;
    running.ready(proxy, work.shape).await?;
    work.send(proxy, requests).await?;
    let said = running.end().await?;
    said.iter().map(|said| collected(said).with_context(|| format!("callgrind did not say: {said}"))).sum()
}

/// `==1234== Collected : 5678`
fn collected(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("== Collected : "))?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callgrind_says() {
        assert_eq!(collected("==12== Events    : Ir\n==12== Collected : 345678\n==12== \n"), Some(345_678));
        assert_eq!(collected("==12== \n"), None);
    }
}

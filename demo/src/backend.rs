//! How `web` reaches its gRPC services.

use std::time::Duration;

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};

/// A service that cannot be reached by then is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A vote is two calls, one after the other: people wait that long for a page, and not longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// One long-lived HTTP/2 connection to `host`, e.g. `voting-svc.emojivoto:8080`: made at the first call, and made again,
/// with a new look-up of the name, when it broke. Must be called within a runtime.
///
/// # Errors
/// When `host` is not `name:port`.
pub fn channel(host: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{host}"))
        .with_context(|| format!("`{host}` is not a host and port, as in voting-svc.emojivoto:8080"))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT).connect_lazy())
}

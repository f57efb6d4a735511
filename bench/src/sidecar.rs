//! The proxy in a process of its own where nothing is redirected: it is told where connections were going to.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, sync::Arc};

use anyhow::Context as _;
use conduit_proxy::{app, config::Config, original::OriginalDestination};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Where connections to a listener's address were going to: `LISTEN=DESTINATION`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    listen: SocketAddr,
    destination: SocketAddr,
}

impl FromStr for Original {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> anyhow::Result<Self> {
        let (listen, destination) = s.split_once('=').context("it is written as LISTEN=DESTINATION")?;
        Ok(Self { listen: listen.parse()?, destination: destination.parse()? })
    }
}

/// Runs until SIGTERM what `conduit-proxy` runs, on the same runtime; its settings are the same variables.
///
/// # Errors
/// As the proxy's.
pub fn run(originals: &[Original]) -> anyhow::Result<()> {
    let filter: Targets =
        std::env::var("CONDUIT_PROXY_LOG").unwrap_or_else(|_| "warn,conduit_proxy=info".to_owned()).parse()?;
    tracing_subscriber::registry().with(filter).with(fmt::layer().with_ansi(false)).init();
    let config = Config::from_env(|name| std::env::var(name).ok())?;
    let originals: BTreeMap<_, _> = originals.iter().map(|original| (original.listen, original.destination)).collect();
    app::runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let stop = async move {
            terminate.recv().await;
        };
        app::run(config, OriginalDestination::Table(Arc::new(originals)), stop).await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn originals() {
        let original: Original = "127.0.0.1:4140=10.96.0.1:80".parse().unwrap();
        assert_eq!((original.listen.port(), original.destination.port()), (4140, 80));
        for bad in ["", "127.0.0.1:4140", "127.0.0.1=10.96.0.1:80"] {
            assert!(bad.parse::<Original>().is_err(), "{bad}");
        }
    }
}

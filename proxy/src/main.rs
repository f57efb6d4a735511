//! `conduit-proxy`, and `conduit-proxy init`, which redirects a pod's traffic to it, and `check-redirect`, which looks whether somebody did.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use conduit_proxy::{app, config::Config};
use conduit_redirect::{Rules, check::Check};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_local,
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The sidecar proxy of Conduit. Without a command it runs, and takes its settings from CONDUIT_PROXY_* variables.
#[derive(Parser)]
#[command(name = "conduit-proxy", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Redirects the TCP traffic of this network namespace to the proxy.
    Init(Rules),
    /// Makes sure that something else has done that, such as a CNI plugin: succeeds when connections come to where the proxy will listen.
    CheckRedirect(Check),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = std::env::var("CONDUIT_PROXY_LOG").unwrap_or_else(|_| "warn,conduit_proxy=info".to_owned());
    let filter = filter.parse().unwrap_or_else(|error| {
        eprintln!("CONDUIT_PROXY_LOG: {error}; logging warnings only");
        Targets::new().with_default(LevelFilter::WARN)
    });
    // Standard output is the access log's: whoever does not read that holds its lock up, and with it whoever had something to say.
    let diagnostics = fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(diagnostics).init();
    let result = match args.command {
        Some(Command::Init(rules)) => conduit_redirect::apply(&rules).map_err(Into::into),
        Some(Command::CheckRedirect(check)) => conduit_redirect::check::check(&check).map_err(Into::into),
        None => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let config = Config::from_env(|name| std::env::var(name).ok())?;
    // The control thread is this one: what is not traffic has it to itself.
    app::runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let stop = async move {
            terminate.recv().await;
            // Whoever asks twice does not want to wait.
            spawn_local(async move {
                terminate.recv().await;
                std::process::exit(0);
            });
        };
        app::run(config, stop).await
    })
}

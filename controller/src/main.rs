//! `conduit-controller`: arguments, then the app, then wait, then stop.

use anyhow::Context as _;
use clap::Parser as _;
use conduit_consensus::store;
use conduit_controller::{app::App, config::Config};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

fn main() -> std::process::ExitCode {
    let config = Config::parse();
    let filter: Targets = match config.log.parse() {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: --log: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    tracing_subscriber::registry().with(filter).with(fmt::layer().with_ansi(false)).init();
    abort_on_panic();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        error!("another TLS provider is installed");
    }
    // The actors live on this thread, everything that serves or copies on the runtime's workers.
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime needs threads and epoll")
    });
    match system.block_on(run(config)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stop);
    let mut app = tokio::select! {
        app = App::start(config) => app?,
        () = &mut stop => return Ok(()),
    };
    tokio::select! {
        failed = app.failed() => Err(failed.context("this replica cannot go on; it must be started again")),
        () = &mut stop => {
            info!("stopping");
            app.stop().await;
            Ok(())
        }
    }
}

/// A panicked actor's mailbox closes and nobody notices (actix/actix#158): the process ends instead, and its supervisor
/// starts it again.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() == Some(store::CHECKER) {
            // It is told as what it is: a damaged file.
            return;
        }
        report(panic);
        std::process::abort();
    }));
}

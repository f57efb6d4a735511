//! `conduit-demo`: one of the four processes of the demo application.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use conduit_demo::{
    emoji,
    shutdown::Shutdown,
    vote_bot::Bot,
    voting,
    web::{self, Backends},
};
use tokio::net::TcpListener;
use tracing::info;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// People, and a bot, vote for emoji.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    service: Service,
}

#[derive(Subcommand)]
enum Service {
    /// The page to vote on, and its API (HTTP/1.1)
    Web {
        /// Where to listen
        #[arg(long, env = "WEB_PORT", default_value_t = 8080)]
        port: u16,
        /// The emoji service
        #[arg(long, env = "EMOJISVC_HOST", default_value = "emoji-svc.emojivoto:8080")]
        emoji_host: String,
        /// The voting service
        #[arg(long, env = "VOTINGSVC_HOST", default_value = "voting-svc.emojivoto:8080")]
        voting_host: String,
    },
    /// What can be voted for (gRPC)
    Emoji {
        /// Where to listen
        #[arg(long, env = "GRPC_PORT", default_value_t = 8080)]
        port: u16,
    },
    /// Counts votes (gRPC); voting for :poop: fails on purpose
    Voting {
        /// Where to listen
        #[arg(long, env = "GRPC_PORT", default_value_t = 8080)]
        port: u16,
    },
    /// Votes all the time
    VoteBot {
        /// Where the page is
        #[arg(long, env = "WEB_HOST", default_value = "web-svc.emojivoto:80")]
        web_host: String,
        /// Requests a second, half of them votes
        #[arg(long, env = "VOTE_BOT_RPS", default_value_t = 2.0)]
        rps: f64,
    },
}

// One thread: a sidecar's application should show in the memory figures as little as it can.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter: Option<Targets> = std::env::var("RUST_LOG").ok().and_then(|filter| filter.parse().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let shutdown = Shutdown::on_signal()?;
    shutdown.clone().bound(run(cli.service, shutdown)).await?;
    Ok(())
}

async fn run(service: Service, shutdown: Shutdown) -> anyhow::Result<()> {
    match service {
        Service::Web { port, emoji_host, voting_host } => {
            let backends = Backends { emoji: emoji_host, voting: voting_host };
            web::serve(listen(port).await?, &backends, shutdown).await
        }
        Service::Emoji { port } => emoji::serve(listen(port).await?, shutdown).await,
        Service::Voting { port } => voting::serve(listen(port).await?, shutdown).await,
        Service::VoteBot { web_host, rps } => {
            info!(web_host, rps, "voting");
            let tally = Bot::new(&web_host).run(rps, shutdown).await?;
            info!(tally.counted, tally.refused, tally.lost, "voted");
            Ok(())
        }
    }
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let listener =
        TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on port {port}"))?;
    info!(port, "listening");
    Ok(listener)
}

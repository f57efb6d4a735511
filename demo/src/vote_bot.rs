//! Somebody who never stops voting: lists the emoji, votes for one of them, and again.

mod ballot;
mod client;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::StatusCode;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use self::{ballot::Ballot, client::Client};
use crate::shutdown::Shutdown;

/// So fast that a test is not slow, and so slow that a typing error does not take a machine down.
const RATE_MAX: f64 = 10_000.0;

/// What one bot did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Votes that were counted.
    pub counted: u64,
    /// Votes that were answered with an error.
    pub refused: u64,
    /// Requests that got no answer.
    pub lost: u64,
}

/// A bot and its connection.
pub struct Bot {
    client: Client,
    ballot: Ballot,
    tally: Tally,
}

#[derive(Deserialize)]
struct Emoji {
    shortcode: String,
}

impl Bot {
    /// A bot that votes at `web_host`, e.g. `web-svc.emojivoto:80`; connects at its first request.
    pub fn new(web_host: &str) -> Self {
        Self { client: Client::new(web_host), ballot: Ballot::default(), tally: Tally::default() }
    }

    /// Sends so many requests a second, half of them votes, until the shutdown. A request that gets no answer is counted,
    /// reported when it is the first in a row, and not sent again.
    ///
    /// # Errors
    /// When the rate is not above 0 and at most 10 000.
    pub async fn run(mut self, requests_per_second: f64, shutdown: Shutdown) -> anyhow::Result<Tally> {
        let rate = requests_per_second;
        ensure!(
            rate > 0.0 && rate <= RATE_MAX,
            "a rate is above 0 and at most {RATE_MAX} requests a second, not {rate}"
        );
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut choices = None;
        let mut answered = true;
        loop {
            tokio::select! {
                () = shutdown.clone().started() => return Ok(self.tally),
                _ = ticks.tick() => {}
            }
            let result = match choices.take() {
                None => self.list().await.map(|list| choices = Some(list)),
                Some(list) => self.vote(&list).await,
            };
            self.note(&result, &mut answered);
        }
    }

    async fn list(&mut self) -> anyhow::Result<Vec<String>> {
        let (status, body) = self.client.get("/api/list").await?;
        ensure!(status == StatusCode::OK, "the list of emoji was answered with {status}");
        let emojis: Vec<Emoji> = serde_json::from_slice(&body).context("the list of emoji is not one")?;
        ensure!(!emojis.is_empty(), "the list of emoji is empty");
        Ok(emojis.into_iter().map(|emoji| emoji.shortcode).collect())
    }

    async fn vote(&mut self, choices: &[String]) -> anyhow::Result<()> {
        let choice = self.ballot.choose(choices, &mut rand::rng());
        let (status, _) = self.client.get(&format!("/api/vote?choice={choice}")).await?;
        if status.is_success() {
            self.tally.counted += 1;
        } else {
            self.tally.refused += 1;
        }
        Ok(())
    }

    fn note(&mut self, result: &anyhow::Result<()>, answered: &mut bool) {
        match result {
            Ok(()) if !*answered => info!("requests are answered again"),
            Err(error) => {
                self.tally.lost += 1;
                if *answered {
                    warn!(error = format!("{error:#}"), "a request got no answer; going on");
                }
            }
            Ok(()) => {}
        }
        *answered = result.is_ok();
    }
}

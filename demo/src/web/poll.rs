//! The poll as `web` sees it: two gRPC services and what they answer.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Serialize;
use tonic::{Code, Status, transport::Channel};
use tracing::{debug, warn};

use super::{Answer, Backends};
use crate::{
    backend, catalog,
    proto::{
        FindByShortcodeRequest, ListAllRequest, ResultsRequest, VoteRequest, emoji_service_client::EmojiServiceClient,
        voting_service_client::VotingServiceClient,
    },
};

/// Clients of both services, on one connection each.
pub(super) struct Poll {
    emoji: EmojiServiceClient<Channel>,
    voting: VotingServiceClient<Channel>,
}

#[derive(Serialize)]
struct Emoji {
    shortcode: String,
    unicode: String,
}

#[derive(Serialize)]
struct Standing {
    shortcode: String,
    unicode: String,
    votes: u64,
}

macro_rules! vote_by_shortcode {
    ($($shortcode:literal $unicode:literal $method:ident;)*) => {
        /// Calls the method of this emoji.
        async fn vote_for(mut voting: VotingServiceClient<Channel>, shortcode: &str) -> Result<(), Status> {
            match shortcode {
                $($shortcode => voting.$method(VoteRequest {}).await.map(drop),)*
                _ => Err(Status::unimplemented(format!("this version cannot vote for {shortcode}"))),
            }
        }
    };
}
catalog::for_each_emoji!(vote_by_shortcode);

impl Poll {
    /// Clients that connect at their first call.
    pub(super) fn connect(backends: &Backends) -> anyhow::Result<Self> {
        Ok(Self {
            emoji: EmojiServiceClient::new(backend::channel(&backends.emoji)?),
            voting: VotingServiceClient::new(backend::channel(&backends.voting)?),
        })
    }

    /// What can be voted for.
    pub(super) async fn list(&self) -> Answer {
        match self.emojis().await {
            Ok(emojis) => Answer::json(&emojis),
            Err(status) => unavailable("emoji", &status),
        }
    }

    /// One vote.
    pub(super) async fn vote(&self, shortcode: &str) -> Answer {
        let request = FindByShortcodeRequest { shortcode: shortcode.to_owned() };
        match self.emoji.clone().find_by_shortcode(request).await {
            Err(status) => return unavailable("emoji", &status),
            Ok(found) if found.get_ref().emoji.is_none() => {
                return Answer::refusal(StatusCode::BAD_REQUEST, &format!("there is no emoji {shortcode}"));
            }
            Ok(_) => {}
        }
        match vote_for(self.voting.clone(), shortcode).await {
            Ok(()) => Answer::json(&serde_json::json!({})),
            Err(status) => unavailable("voting", &status),
        }
    }

    /// What was voted for so far, most votes first.
    pub(super) async fn leaderboard(&self) -> Answer {
        let emojis = match self.emojis().await {
            Ok(emojis) => emojis,
            Err(status) => return unavailable("emoji", &status),
        };
        let mut unicode: BTreeMap<_, _> = emojis.into_iter().map(|emoji| (emoji.shortcode, emoji.unicode)).collect();
        match self.voting.clone().results(ResultsRequest {}).await {
            Err(status) => unavailable("voting", &status),
            Ok(results) => {
                let standing = |result: crate::proto::VotingResult| {
                    let unicode = unicode.remove(&result.shortcode)?;
                    Some(Standing { unicode, shortcode: result.shortcode, votes: result.votes })
                };
                Answer::json(&results.into_inner().results.into_iter().filter_map(standing).collect::<Vec<_>>())
            }
        }
    }

    async fn emojis(&self) -> Result<Vec<Emoji>, Status> {
        let list = self.emoji.clone().list_all(ListAllRequest {}).await?.into_inner().list;
        Ok(list.into_iter().map(|emoji| Emoji { shortcode: emoji.shortcode, unicode: emoji.unicode }).collect())
    }
}

/// 500, whatever the reason, as people know it from emojivoto.
fn unavailable(service: &str, status: &Status) -> Answer {
    if status.code() == Code::Unknown {
        // What voting for the faulty emoji gives: nothing to look into.
        debug!(service, message = status.message(), "a call failed");
    } else {
        warn!(service, code = ?status.code(), message = status.message(), "a call failed");
    }
    let why = format!("the {service} service failed: {} ({:?})", status.message(), status.code());
    Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, &why)
}

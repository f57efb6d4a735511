//! The gRPC service that counts votes, in memory. One emoji it refuses, on purpose.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    catalog,
    proto::{
        ResultsRequest, ResultsResponse, VoteRequest, VoteResponse, VotingResult,
        voting_service_server::{VotingService, VotingServiceServer},
    },
    reflection,
    shutdown::Shutdown,
};

/// Votes by shortcode. Bounded by the catalog: only its shortcodes are ever counted.
#[derive(Default)]
struct Poll(Mutex<BTreeMap<&'static str, u64>>);

impl Poll {
    fn vote(&self, shortcode: &'static str) -> Result<Response<VoteResponse>, Status> {
        if shortcode == catalog::FAULTY {
            return Err(Status::unknown("this vote fails on purpose, so that the mesh has something to show"));
        }
        let mut votes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *votes.entry(shortcode).or_default() += 1;
        Ok(Response::new(VoteResponse {}))
    }

    fn results(&self) -> Vec<VotingResult> {
        let votes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = |(shortcode, votes): (&&str, &u64)| VotingResult { shortcode: (*shortcode).into(), votes: *votes };
        let mut results: Vec<_> = votes.iter().map(result).collect();
        // Stable: those with as many votes stay in the order of their shortcodes.
        results.sort_by_key(|result| std::cmp::Reverse(result.votes));
        results
    }
}

macro_rules! implement_voting_service {
    ($($shortcode:literal $unicode:literal $method:ident;)*) => {
        #[tonic::async_trait]
        impl VotingService for Poll {
            $(
                async fn $method(&self, _: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
                    self.vote($shortcode)
                }
            )*

            async fn results(&self, _: Request<ResultsRequest>) -> Result<Response<ResultsResponse>, Status> {
                Ok(Response::new(ResultsResponse { results: self.results() }))
            }
        }
    };
}
catalog::for_each_emoji!(implement_voting_service);

/// Serves until the shutdown, and what is under way then.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    Server::builder()
        .add_service(VotingServiceServer::new(Poll::default()))
        .add_service(reflection::service())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown.started())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_votes_come_first_and_ties_by_shortcode() {
        let poll = Poll::default();
        for shortcode in [":taco:", ":dog:", ":joy:", ":taco:"] {
            poll.vote(shortcode).unwrap();
        }
        let results: Vec<_> = poll.results().into_iter().map(|r| (r.shortcode, r.votes)).collect();
        assert_eq!(results, [(":taco:".to_owned(), 2), (":dog:".to_owned(), 1), (":joy:".to_owned(), 1)]);
    }

    #[test]
    fn the_faulty_one_is_refused_and_not_counted() {
        let poll = Poll::default();
        assert_eq!(poll.vote(catalog::FAULTY).unwrap_err().code(), tonic::Code::Unknown);
        assert_eq!(poll.results(), []);
    }
}

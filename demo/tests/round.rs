//! The whole application in one process: what is voted for is counted, and what must fail fails.

#![allow(clippy::unwrap_used, reason = "what fails in a test shall fail the test")]

use std::time::Duration;

use conduit_demo::{
    backend, emoji,
    proto::{ResultsRequest, VoteRequest, voting_service_client::VotingServiceClient},
    shutdown::{Shutdown, Trigger},
    vote_bot::Bot,
    voting,
    web::{self, Backends},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

struct Demo {
    web: String,
    voting: String,
    trigger: Trigger,
    services: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Demo {
    async fn start() -> Self {
        let (trigger, shutdown) = Shutdown::manual();
        let (emoji_listener, emoji) = listen().await;
        let (voting_listener, voting) = listen().await;
        let (web_listener, web) = listen().await;
        let backends = Backends { emoji, voting: voting.clone() };
        let services = vec![
            tokio::spawn(emoji::serve(emoji_listener, shutdown.clone())),
            tokio::spawn(voting::serve(voting_listener, shutdown.clone())),
            tokio::spawn(async move { web::serve(web_listener, &backends, shutdown).await }),
        ];
        Self { web, voting, trigger, services }
    }

    async fn stop(self) {
        self.trigger.start();
        for service in self.services {
            service.await.unwrap().unwrap();
        }
    }

    /// Status line and body.
    async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.web).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn votes_of_the_bot_are_counted() {
    let demo = Demo::start().await;
    let (trigger, shutdown) = Shutdown::manual();
    let bot = tokio::spawn(Bot::new(&demo.web).run(2_000.0, shutdown));
    let mut voting = VotingServiceClient::new(backend::channel(&demo.voting).unwrap());
    let enough = async {
        while votes(&mut voting).await < 40 {
            assert!(!bot.is_finished());
        }
    };
    timeout(Duration::from_secs(30), enough).await.expect("votes are counted");
    trigger.start();
    let tally = bot.await.unwrap().unwrap();
    assert_eq!(votes(&mut voting).await, tally.counted);
    assert_eq!(tally.lost, 0, "{tally:?}");
    let of_all = tally.refused as f64 / (tally.refused + tally.counted) as f64;
    assert!((0.15..0.25).contains(&of_all), "one vote in five is refused: {tally:?}");
    drop(voting);
    demo.stop().await;
}

async fn votes(voting: &mut VotingServiceClient<tonic::transport::Channel>) -> u64 {
    let results = voting.results(ResultsRequest {}).await.unwrap().into_inner().results;
    results.iter().map(|result| result.votes).sum()
}

#[tokio::test]
async fn voting_for_poop_fails_with_unknown() {
    let demo = Demo::start().await;
    let mut voting = VotingServiceClient::new(backend::channel(&demo.voting).unwrap());
    assert_eq!(voting.vote_poop(VoteRequest {}).await.unwrap_err().code(), tonic::Code::Unknown);
    voting.vote_doughnut(VoteRequest {}).await.unwrap();
    assert_eq!(votes(&mut voting).await, 1);
    drop(voting);

    let (status, body) = demo.get("/api/vote?choice=:poop:").await;
    assert_eq!(status, "HTTP/1.1 500 Internal Server Error");
    assert!(body.contains("voting") && body.contains("Unknown"), "{body}");
    demo.stop().await;
}

#[tokio::test]
async fn the_page_and_its_api_answer() {
    let demo = Demo::start().await;
    assert!(demo.get("/").await.1.contains("</html>"));
    assert!(demo.get("/api/list").await.1.contains(r#"{"shortcode":":doughnut:","unicode":"🍩"}"#));
    for _ in 0..2 {
        assert_eq!(demo.get("/api/vote?choice=%3Adoughnut%3A").await.0, "HTTP/1.1 200 OK");
    }
    assert_eq!(demo.get("/api/leaderboard").await.1, r#"[{"shortcode":":doughnut:","unicode":"🍩","votes":2}]"#);
    for (path, status) in [
        ("/api/vote", "HTTP/1.1 400 Bad Request"),
        ("/api/vote?choice=:none:", "HTTP/1.1 400 Bad Request"),
        ("/favicon.ico", "HTTP/1.1 404 Not Found"),
    ] {
        assert_eq!(demo.get(path).await.0, status, "{path}");
    }
    demo.stop().await;
}

#[tokio::test]
async fn web_finds_a_backend_that_comes_later_and_answers_500_until_then() {
    let (emoji_listener, emoji) = listen().await;
    drop(emoji_listener);
    let (web_listener, web) = listen().await;
    let (trigger, shutdown) = Shutdown::manual();
    let backends = Backends { emoji: emoji.clone(), voting: emoji.clone() };
    let serving = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { web::serve(web_listener, &backends, shutdown).await }
    });
    let demo = Demo { web, voting: emoji.clone(), trigger, services: vec![serving] };
    assert_eq!(demo.get("/api/list").await.0, "HTTP/1.1 500 Internal Server Error");

    let emoji_service = tokio::spawn(emoji::serve(TcpListener::bind(&emoji).await.unwrap(), shutdown));
    assert_eq!(demo.get("/api/list").await.0, "HTTP/1.1 200 OK");
    demo.stop().await;
    emoji_service.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_backend_that_stays_silent_is_not_waited_for() {
    // Nobody accepts, but the system lets clients connect and ask.
    let (_silent, emoji) = listen().await;
    let (web_listener, web) = listen().await;
    let (trigger, shutdown) = Shutdown::manual();
    let backends = Backends { emoji: emoji.clone(), voting: emoji.clone() };
    let serving = tokio::spawn(async move { web::serve(web_listener, &backends, shutdown).await });
    let demo = Demo { web, voting: emoji, trigger, services: vec![serving] };
    let answer = timeout(Duration::from_secs(30), demo.get("/api/vote?choice=:dog:")).await.unwrap();
    assert_eq!(answer.0, "HTTP/1.1 500 Internal Server Error");
    demo.stop().await;
}

#[tokio::test]
async fn a_bot_without_a_page_goes_on_and_says_what_was_lost() {
    let (listener, address) = listen().await;
    drop(listener);
    let (trigger, shutdown) = Shutdown::manual();
    let bot = tokio::spawn(Bot::new(&address).run(1_000.0, shutdown));
    // Somebody listens in the end, but does not speak HTTP: the bot has then come back after being refused.
    let listener = TcpListener::bind(&address).await.unwrap();
    drop(listener.accept().await.unwrap());
    drop(listener.accept().await.unwrap());
    trigger.start();
    drop(listener);
    let tally = bot.await.unwrap().unwrap();
    assert!(tally.lost >= 1 && tally.counted == 0, "{tally:?}");
    let refused = Bot::new(&address).run(0.0, Shutdown::manual().1).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("rate")));
}

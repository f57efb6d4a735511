//! The stream on which the control plane orders taps and is told what they see.

use std::time::Duration;

use conduit_api::proto::tap::{
    AttachRequest, Hello, attach_request, attach_response,
    tap_client::TapClient,
    tap_event::{Kind, PayloadsDisabled},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::debug;

use super::{
    Taps, reflection,
    schemas::{Files, Question, Schemas, about_this_pod},
};
use crate::{
    connect::Connector,
    control::{Controllers, backoff},
};

/// A replica that has not answered by then is not waited for.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);
/// What was lost is told so often, if no event tells it sooner.
const LOST_INTERVAL: Duration = Duration::from_secs(5);
/// Events between the queue and the stream: the queue is the one that is bounded on purpose.
const IN_FLIGHT: usize = 16;

/// Keeps the stream.
pub struct TapTask {
    /// What is ordered.
    pub taps: Taps,
    /// What is seen.
    pub events: mpsc::Receiver<AttachRequest>,
    /// Who orders.
    pub controllers: Controllers,
    /// How the application is asked what its messages mean.
    pub connector: Connector,
    /// Of the pod.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
}

impl TapTask {
    /// Runs until the proxy ends.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            self.controllers.certified().await;
            if let Err(error) = self.attach(&mut failures).await {
                debug!(error = %format_args!("{error:#}"), "cannot be tapped for a moment");
            }
            self.taps.stop_all();
            sleep(backoff(failures, rand::random())).await;
            failures += 1;
        }
    }

    async fn attach(&mut self, failures: &mut u32) -> anyhow::Result<()> {
        let shared = timeout(ATTACH_TIMEOUT, self.controllers.shared()).await??;
        let attached = self.attach_over(shared.channel.clone(), failures).await;
        self.controllers.give_up(&shared).await;
        attached
    }

    /// They are of taps of the replica before: this one must not be told what others asked for.
    fn forget_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.taps.taken(&event);
        }
    }

    async fn attach_over(&mut self, channel: Channel, failures: &mut u32) -> anyhow::Result<()> {
        let (requests, stream) = mpsc::channel(IN_FLIGHT);
        let hello = Hello { namespace: self.namespace.clone(), pod: self.pod.clone(), payloads: true };
        requests.send(AttachRequest { kind: Some(attach_request::Kind::Hello(hello)) }).await?;
        let mut client = TapClient::new(channel);
        let mut orders = timeout(ATTACH_TIMEOUT, client.attach(ReceiverStream::new(stream))).await??.into_inner();
        *failures = 0;
        self.forget_events();
        let mut known = Schemas::default();
        // Whoever is asked is asked no longer when this ends.
        let mut asking = JoinSet::new();
        let mut lost = interval(LOST_INTERVAL);
        loop {
            while let Some(question) = known.next(asking.len()) {
                asking.spawn_local(ask(self.connector.clone(), question));
            }
            tokio::select! {
                order = orders.message() => match order?.and_then(|order| order.kind) {
                    Some(attach_response::Kind::Start(start)) => {
                        match (start.payloads, self.taps.payloads().is_enabled()) {
                            (true, true) => known.start(start.tap),
                            (true, false) => requests.send(payloads_disabled(start.tap)).await?,
                            (false, _) => {}
                        }
                        self.taps.start(start);
                    }
                    Some(attach_response::Kind::Stop(tap)) => {
                        self.taps.stop(tap);
                        if known.stop(tap) {
                            asking = JoinSet::new();
                        }
                    }
                    None => return Ok(()),
                },
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.taps.taken(&event);
                        let schema = known.saw(&event, Instant::now());
                        requests.send(event).await?;
                        if let Some(schema) = schema {
                            requests.send(schema).await?;
                        }
                    }
                    None => return Ok(()),
                },
                _ = lost.tick() => {
                    for lost in self.taps.lost() {
                        requests.send(lost).await?;
                    }
                }
                Some(answer) = asking.join_next() => {
                    let (question, files) = answer?;
                    for schema in known.answered(&question, files, Instant::now()) {
                        requests.send(schema).await?;
                    }
                }
            }
        }
    }
}

/// Nobody who carries requests waits for it.
async fn ask(connector: Connector, question: Question) -> (Question, Files) {
    let files = reflection::files(&connector, question.application, &question.service).await;
    (question, files)
}

fn payloads_disabled(tap: u64) -> AttachRequest {
    about_this_pod(tap, Kind::PayloadsDisabled(PayloadsDisabled { is_old: false }))
}

//! The shell of the [`Directory`]: one stream to whichever replica takes it, and the data threads' questions.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use conduit_api::{
    Revision, Target,
    proto::discovery::{
        Certified, WatchRequest, WatchResponse, discovery_client::DiscoveryClient, observed::First, watch_request,
    },
};
use conduit_ca::{TrustBundle, WorkloadTls};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::{Instant, interval, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::{Directory, TARGETS_MAX, Watched, Zone};
use crate::{
    cache::{Cache, GRACE},
    control::{Controllers, backoff},
    live::Denied,
};

/// Questions of the data threads that wait to be taken; a thread that meets a full queue waits for its turn.
const QUESTIONS_MAX: usize = 1024;
/// Requests to the control plane that wait for the stream: every destination once more than there may be.
const REQUESTS_MAX: usize = 2 * TARGETS_MAX;
/// Between two looks for destinations that nobody uses.
const SWEEP: Duration = Duration::from_secs(10);
/// The largest response: a service of a hundred thousand endpoints is a fifth of it.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A replica that has not answered a new stream by then is not waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Asks the control thread to follow a target.
#[derive(Clone)]
pub struct Discovery {
    questions: mpsc::Sender<Question>,
    status: Arc<ArcSwap<DiscoveryStatus>>,
}

/// What a data thread has for the control thread.
enum Question {
    Follow { target: Target, answer: oneshot::Sender<Option<Watched>> },
    Observed { target: Target, first: First },
}

/// How discovery is, for readiness and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryStatus {
    /// Some replica has answered since the start.
    pub answered: bool,
    /// None has since the start, and what is in force was known when this proxy last ran.
    pub stale: bool,
    /// There is a stream now.
    pub connected: bool,
    /// What is in force.
    pub revision: Revision,
}

impl Discovery {
    /// What is known of `target`, now and from now on; `None` when this proxy follows as many as it may.
    pub async fn follow(&self, target: Target) -> Option<Watched> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question::Follow { target, answer }).await.ok()?;
        answered.await.ok().flatten()
    }

    /// Some replica is there, and will answer what it is asked.
    pub fn is_connected(&self) -> bool {
        self.status.load().connected
    }

    /// A connection to `target` has shown who speaks first there. It is not told when there is too much to tell.
    pub fn observed(&self, target: &Target, first: First) {
        let _ = self.questions.try_send(Question::Observed { target: target.clone(), first });
    }
}

/// Keeps the stream.
pub struct DiscoveryTask {
    directory: Rc<RefCell<Directory>>,
    questions: mpsc::Receiver<Question>,
    controllers: Controllers,
    tls: WorkloadTls,
    cache: Rc<Cache>,
    status: Arc<ArcSwap<DiscoveryStatus>>,
    /// Identities whose connections the data threads close.
    denied: Rc<watch::Sender<Denied>>,
    /// The present stream's requests; none while there is no stream.
    requests: Rc<RefCell<Option<mpsc::Sender<WatchRequest>>>>,
    /// Addresses at which an application of this pod's name has ended.
    application_ended: Rc<watch::Sender<Vec<u8>>>,
}

impl DiscoveryTask {
    /// The task, to be run on the control thread, and its handle.
    pub fn new(
        directory: Directory,
        controllers: Controllers,
        tls: WorkloadTls,
        cache: Rc<Cache>,
    ) -> (Self, Discovery, Arc<ArcSwap<DiscoveryStatus>>) {
        let (sender, questions) = mpsc::channel(QUESTIONS_MAX);
        let status = Arc::new(ArcSwap::default());
        let directory = Rc::new(RefCell::new(directory));
        let requests = Rc::default();
        let denied = Rc::new(watch::Sender::default());
        let application_ended = Rc::new(watch::Sender::default());
        let task = Self {
            directory,
            questions,
            controllers,
            tls,
            cache,
            status: status.clone(),
            denied,
            requests,
            application_ended,
        };
        (task, Discovery { questions: sender, status: status.clone() }, status)
    }

    /// Where this proxy runs, now and from now on.
    pub fn zone(&self) -> watch::Receiver<Zone> {
        self.directory.borrow().zone()
    }

    /// Where the control plane has seen that an application of this pod's name has ended for good: empty until then.
    pub fn application_ended(&self) -> watch::Receiver<Vec<u8>> {
        self.application_ended.subscribe()
    }

    /// Identities whose connections are to be closed, now and from now on.
    pub fn denied(&self) -> watch::Receiver<Denied> {
        self.denied.subscribe()
    }

    /// Runs until the proxy ends.
    pub async fn run(mut self) {
        let stream = Stream {
            directory: self.directory.clone(),
            controllers: self.controllers.clone(),
            tls: self.tls.clone(),
            cache: self.cache.clone(),
            status: self.status.clone(),
            denied: self.denied.clone(),
            requests: self.requests.clone(),
            application_ended: self.application_ended.clone(),
        };
        spawn_local(self.cache.clone().keep(self.directory.clone()));
        let mut sweep = interval(SWEEP);
        let (grace, mut in_grace) = (Instant::now() + GRACE, true);
        let keep_streaming = stream.keep();
        tokio::pin!(keep_streaming);
        loop {
            tokio::select! {
                () = &mut keep_streaming => return,
                question = self.questions.recv() => match question {
                    Some(question) => self.answer(question).await,
                    None => return,
                },
                () = sleep_until(grace), if in_grace => {
                    in_grace = false;
                    self.restore().await;
                }
                _ = sweep.tick() => {
                    let requests = self.directory.borrow_mut().sweep(Instant::now());
                    for request in requests {
                        self.send(request).await;
                    }
                }
            }
        }
    }

    /// Goes on from what was known, if nobody has said anything since the start.
    async fn restore(&self) {
        if self.status.load().answered {
            return;
        }
        let restored = self.cache.restore(&mut self.directory.borrow_mut(), &self.tls);
        let Some(requests) = restored else { return };
        self.controllers.bundle_changed();
        let revision = self.directory.borrow().revision();
        self.status.store(Arc::new(DiscoveryStatus { stale: true, revision, ..**self.status.load() }));
        for request in requests {
            self.send(request).await;
        }
    }

    async fn answer(&self, question: Question) {
        let request = match question {
            Question::Follow { target, answer } => {
                let (watched, request) = self.directory.borrow_mut().want(target);
                // The one who asked may have gone.
                let _ = answer.send(watched);
                request
            }
            Question::Observed { target, first } => self.directory.borrow_mut().observe(Instant::now(), &target, first),
        };
        if let Some(request) = request {
            self.send(request).await;
        }
    }

    async fn send(&self, request: WatchRequest) {
        let requests = self.requests.borrow().clone();
        if let Some(requests) = requests {
            // A stream that has ended resumes with everything that is wanted.
            let _ = requests.send(request).await;
        }
    }
}

/// The stream's side of the task.
struct Stream {
    directory: Rc<RefCell<Directory>>,
    controllers: Controllers,
    tls: WorkloadTls,
    cache: Rc<Cache>,
    status: Arc<ArcSwap<DiscoveryStatus>>,
    denied: Rc<watch::Sender<Denied>>,
    requests: Rc<RefCell<Option<mpsc::Sender<WatchRequest>>>>,
    /// Addresses at which an application of this pod's name has ended.
    application_ended: Rc<watch::Sender<Vec<u8>>>,
}

impl Stream {
    async fn keep(self) {
        let mut failures = 0;
        loop {
            self.controllers.certified().await;
            let ended = self.stream(&mut failures).await;
            self.requests.replace(None);
            self.directory.borrow_mut().disconnect();
            self.tell(|status| status.connected = false);
            let pause = backoff(failures, rand::random());
            failures += 1;
            if let Err(error) = ended {
                warn!(error = %format_args!("{error:#}"), retry_in = ?pause, "discovery is interrupted; the last state stays in force");
            }
            sleep(pause).await;
        }
    }

    /// One stream, until it ends.
    async fn stream(&self, failures: &mut u32) -> anyhow::Result<()> {
        let shared = timeout(FIRST_ANSWER, self.controllers.shared()).await??;
        let ended = self.stream_over(shared.channel.clone(), failures).await;
        self.controllers.give_up(&shared).await;
        ended
    }

    async fn stream_over(&self, channel: Channel, failures: &mut u32) -> anyhow::Result<()> {
        let (requests, stream) = mpsc::channel(REQUESTS_MAX);
        let hello = self.directory.borrow_mut().connect(self.certified());
        requests.send(hello).await?;
        self.requests.replace(Some(requests.clone()));
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let mut responses = timeout(FIRST_ANSWER, client.watch(ReceiverStream::new(stream))).await??.into_inner();
        let mut response = timeout(FIRST_ANSWER, responses.message()).await??;
        info!(revision = %self.directory.borrow().revision(), "discovery is connected");
        while let Some(update) = response {
            self.take(&update, &requests).await?;
            *failures = 0;
            response = loop {
                tokio::select! {
                    response = responses.message() => break response?,
                    () = self.controllers.until_renewed() => {
                        let kind = self.certified().map(watch_request::Kind::Certified);
                        requests.send(WatchRequest { kind }).await?;
                    }
                }
            };
        }
        Ok(())
    }

    fn certified(&self) -> Option<Certified> {
        let identity = self.tls.identity()?;
        let not_after = identity.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(Certified {
            root: identity.root.as_ref().map(|root| root.as_bytes().to_vec()).unwrap_or_default(),
            not_after_ms: u64::try_from(not_after.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn take(&self, update: &WatchResponse, requests: &mpsc::Sender<WatchRequest>) -> anyhow::Result<()> {
        let bundle = update.bundle.clone().map(TrustBundle::try_from).transpose()?;
        let taken = self.directory.borrow_mut().update(update);
        match taken {
            Ok(ack) => {
                // Not before the revision is known to be no older than what is in force: a root that was dropped stays dropped.
                if let Some(bundle) = bundle {
                    self.tls.set_bundle(bundle);
                    let bundle = self.tls.bundle();
                    let denied = bundle.policy.denied.iter().filter(|(_, drop_connections)| **drop_connections);
                    let denied: Denied = Arc::new(denied.map(|(id, _)| id.clone()).collect());
                    self.cache.trusts(&(&*bundle).into());
                    // After that: what is refused from here on is not in the list of connections, and what is not, is.
                    self.denied.send_if_modified(|known| {
                        *known != denied && {
                            *known = denied;
                            true
                        }
                    });
                    self.controllers.bundle_changed();
                }
                requests.send(ack).await?;
                if !update.application_ended_at.is_empty() {
                    self.application_ended.send_replace(update.application_ended_at.clone());
                }
                let revision = self.directory.borrow().revision();
                self.cache.changed();
                self.tell(|status| {
                    *status = DiscoveryStatus { answered: true, stale: false, connected: true, revision };
                });
                Ok(())
            }
            Err(refused) => {
                let (error, nack) = *refused;
                requests.send(nack).await?;
                Err(error.into())
            }
        }
    }

    fn tell(&self, change: impl Fn(&mut DiscoveryStatus)) {
        let mut status = **self.status.load();
        change(&mut status);
        self.status.store(Arc::new(status));
    }
}

//! Tokens for the application: fetched from any replica, and handed out again while most of their life is ahead of them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conduit_api::proto::identity::{IssueJwtRequest, IssueJwtResponse, identity_client::IdentityClient};
use conduit_ca::{
    WorkloadTls,
    jwt::{self, JWT_LIFETIME},
};
use prost_types::{ListValue, Struct, value::Kind};
use serde_json::{Map, Value};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_local,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};

use crate::{connect::Who, control::Controllers};

/// Questions that wait to be taken; who meets a full queue waits for its turn.
const QUESTIONS_MAX: usize = 64;
/// Audiences whose tokens are remembered; with more, all are fetched anew.
const REMEMBERED_MAX: usize = 256;
/// One that has not come by then is not waited for: longer than an election, and than a new replica's key needs to be known.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the next replica is asked.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A token is handed out again as long as it lives this long, ...
const FRESH: Duration = Duration::from_secs(JWT_LIFETIME.as_secs() / 2);
/// ... and, when there is nobody to ask, as long as it is of any use.
const USEFUL: Duration = Duration::from_secs(10);

/// Asks the control thread for tokens. Clones are the same.
#[derive(Clone)]
pub struct Tokens {
    questions: mpsc::Sender<Question>,
}

struct Question {
    audience: Vec<String>,
    answer: oneshot::Sender<Result<String, Status>>,
}

/// Gets them, until the last handle is gone; to be run on the control thread.
pub struct TokenTask {
    questions: mpsc::Receiver<Question>,
    controllers: Controllers,
    tls: WorkloadTls,
    remembered: RefCell<BTreeMap<Vec<String>, IssueJwtResponse>>,
    /// A connection for tokens alone, once the shared one is of no use: it lasts longer than the certificate that it was made with.
    own: RefCell<Option<Channel>>,
}

impl Tokens {
    /// A token for these audiences, in order and each once.
    ///
    /// # Errors
    /// What the control plane says, or that it says nothing.
    pub async fn fetch(&self, audience: Vec<String>) -> Result<String, Status> {
        let (answer, answered) = oneshot::channel();
        let gone = || Status::unavailable("this proxy is about to end");
        self.questions.send(Question { audience, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl TokenTask {
    /// The task and its handle.
    pub fn new(controllers: Controllers, tls: WorkloadTls) -> (Self, Tokens) {
        let (sender, questions) = mpsc::channel(QUESTIONS_MAX);
        let task = Self { questions, controllers, tls, remembered: RefCell::default(), own: RefCell::default() };
        (task, Tokens { questions: sender })
    }

    /// Runs until the proxy ends.
    pub async fn run(mut self) {
        let (_, nothing) = mpsc::channel(1);
        let mut questions = std::mem::replace(&mut self.questions, nothing);
        let task = Rc::new(self);
        while let Some(Question { audience, answer }) = questions.recv().await {
            let task = task.clone();
            spawn_local(async move {
                // The one who asked may have gone.
                let _ = answer.send(task.token(audience).await);
            });
        }
    }

    async fn token(&self, audience: Vec<String>) -> Result<String, Status> {
        // What is signed by a key that was revoked is believed by nobody.
        let bundle = self.tls.bundle();
        let is_believed =
            |token: &IssueJwtResponse| jwt::key_id(&token.token).is_some_and(|id| bundle.own().jwt.contains_key(&id));
        let remembered = self.remembered.borrow().get(&audience).cloned().filter(is_believed);
        let lives = |token: &&IssueJwtResponse, at_least: Duration| {
            let ends = UNIX_EPOCH + Duration::from_millis(token.not_after_ms);
            ends.duration_since(SystemTime::now()).is_ok_and(|left| left >= at_least)
        };
        if let Some(fresh) = remembered.as_ref().filter(|token| lives(token, FRESH)) {
            return Ok(fresh.token.clone());
        }
        match self.issue(&audience).await {
            Ok(issued) => {
                let mut remembered = self.remembered.borrow_mut();
                if remembered.len() >= REMEMBERED_MAX {
                    remembered.clear();
                }
                let token = issued.token.clone();
                remembered.insert(audience, issued);
                Ok(token)
            }
            Err(error) => match remembered.as_ref().filter(|token| is_retryable(&error) && lives(token, USEFUL)) {
                Some(useful) => Ok(useful.token.clone()),
                None => Err(error),
            },
        }
    }

    /// By one replica after the other, until one does; or what the last one that said anything said.
    async fn issue(&self, audience: &[String]) -> Result<IssueJwtResponse, Status> {
        let mut last = Status::unavailable("no replica of the control plane answers");
        let issued = timeout(PATIENCE, async {
            // The one that worked last; or the one that everything else uses, until its certificate is over.
            let own = self.own.take();
            let mut is_own = own.is_some();
            let mut channel = match own {
                Some(own) => Some(own),
                None => self.controllers.shared().await.ok().map(|shared| shared.channel),
            };
            loop {
                if let Some(channel) = &channel {
                    let request = IssueJwtRequest { audience: audience.to_owned() };
                    match IdentityClient::new(channel.clone()).issue_jwt(request).await {
                        Ok(issued) => {
                            if is_own {
                                self.own.replace(Some(channel.clone()));
                            }
                            return Ok(issued.into_inner());
                        }
                        Err(error) if !is_retryable(&error) => return Err(error),
                        Err(error) => last = error,
                    }
                }
                // A connection that was made with a certificate that is over: the next one is made with what there is now.
                if is_own || last.code() != Code::Unauthenticated {
                    sleep(RETRY_PAUSE).await;
                }
                (channel, is_own) = (self.controllers.connect(Who::Workload).await.ok(), true);
            }
        });
        let issued = issued.await;
        issued.unwrap_or(Err(last))
    }
}

/// Whether another replica, or the same one later, may say something else.
fn is_retryable(error: &Status) -> bool {
    !matches!(error.code(), Code::InvalidArgument | Code::PermissionDenied)
}

/// As protobuf has JSON.
pub fn claims(claims: Map<String, Value>) -> Struct {
    Struct { fields: claims.into_iter().map(|(name, value)| (name, protobuf(value))).collect() }
}

fn protobuf(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(bool) => Kind::BoolValue(bool),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(string) => Kind::StringValue(string),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(protobuf).collect() }),
        Value::Object(fields) => Kind::StructValue(claims(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

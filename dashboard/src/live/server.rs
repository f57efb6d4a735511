//! `GET api/v1/live`: Server-Sent Events with what a page shows, so that it does not poll.
//!
//! Each event's data is `{"at": milliseconds, "parts": {…}, "errors": {…}}`: the answers that are not what they were in the
//! event before, and those that there are none of, by their reasons. The first event has all of them.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension,
    extract::{Query, State, rejection::QueryRejection},
    response::sse::{Event, Sse},
};
use bytes::Bytes;
use futures::{Stream, future::join_all, stream};
use serde_json::{Map, Value, value::RawValue};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Interval, MissedTickBehavior, interval},
};
use tonic::Status;

use super::{PERIOD, Question, View};
use crate::{
    Shared, Upstream,
    failure::{self, Failure},
    methods::Method,
    transcode,
};

/// Pages that are open at the same time: more than a person looks at, and each asks all replicas every period.
const PAGES_MAX: usize = 32;
/// The same of everybody's, on one replica: a team's, and its screens on walls. Whoever lets them in sees to it that nobody has all of it.
const PAGES_OF_ALL_MAX: usize = 128;

/// Room for pages.
#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    /// For one person's pages.
    pub(crate) fn of_one() -> Self {
        Self(Arc::new(Semaphore::new(PAGES_MAX)))
    }

    /// For those of all who are let in.
    pub(crate) fn of_all() -> Self {
        Self(Arc::new(Semaphore::new(PAGES_OF_ALL_MAX)))
    }
}

/// Streams until nobody reads it any more.
pub(crate) async fn serve(
    State(shared): State<Shared>,
    Extension(upstream): Extension<Arc<Upstream>>,
    view: Result<Query<View>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let Query(view) = view.map_err(|error| Status::invalid_argument(error.body_text()))?;
    let questions = view.questions().map_err(Status::invalid_argument)?;
    let place = shared.live.0.clone().try_acquire_owned();
    let place = place.map_err(|_| {
        Status::resource_exhausted(
            "as many pages are open already as there may be: close some, and load this one again",
        )
    })?;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asked = questions.into_iter().filter_map(|question| Asked::new(&shared, question)).collect();
    let page = Page { upstream, asked, ticks, tick: 0, said: HashMap::new(), _place: place };
    Ok(Sse::new(stream::unfold(page, async |mut page| Some((page.next().await, page)))))
}

struct Page {
    upstream: Arc<Upstream>,
    asked: Vec<Asked>,
    ticks: Interval,
    /// How many there were.
    tick: u64,
    /// What was answered last, by part.
    said: HashMap<&'static str, Bytes>,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone)]
struct Asked {
    question: Question,
    method: Method,
    message: Bytes,
}

impl Asked {
    fn new(shared: &Shared, question: Question) -> Option<Self> {
        // Of a view's questions both hold; a test asks them all.
        let method = shared.methods.find(question.method)?.clone();
        let message = transcode::to_message(question.request.to_string().as_bytes(), method.descriptor.input()).ok()?;
        Some(Self { question, method, message })
    }
}

impl Page {
    async fn next(&mut self) -> Result<Event, Infallible> {
        self.ticks.tick().await;
        let upstream = &self.upstream;
        let is_asked = |asked: &&Asked| asked.question.is_asked(self.tick, self.said.contains_key(asked.question.part));
        let now: Vec<_> = self.asked.iter().filter(is_asked).cloned().collect();
        self.tick += 1;
        let questions = now.iter().map(|asked| {
            let (upstream, asked) = (upstream.clone(), asked.clone());
            async move { upstream.ask(&asked.method, asked.message).await }
        });
        let answers = join_all(questions).await;
        let mut parts: HashMap<&str, Box<RawValue>> = HashMap::new();
        let mut errors = Map::new();
        for (asked, answer) in now.iter().zip(answers) {
            let part = asked.question.part;
            let changed = answer.and_then(|answer| {
                if self.said.get(part) == Some(&answer) {
                    return Ok(None);
                }
                let json = to_raw(transcode::to_json(answer.clone(), asked.method.descriptor.output())?)?;
                self.said.insert(part, answer);
                Ok(Some(json))
            });
            match changed {
                Ok(json) => parts.extend(json.map(|json| (part, json))),
                Err(status) => {
                    // What comes after an error is news, also when it is what was said before.
                    self.said.remove(part);
                    errors.insert(part.to_owned(), failure::to_json(&status));
                }
            }
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let said = Said { at, parts, errors };
        Ok(Event::default().data(serde_json::to_string(&said).expect("all of it is JSON already")))
    }
}

#[derive(serde::Serialize)]
struct Said {
    at: u64,
    parts: HashMap<&'static str, Box<RawValue>>,
    errors: Map<String, Value>,
}

fn to_raw(json: Vec<u8>) -> Result<Box<RawValue>, Status> {
    let unreadable = |_| Status::internal("an answer is no JSON");
    let json = String::from_utf8(json).map_err(|_| Status::internal("an answer is no JSON"))?;
    RawValue::from_string(json).map_err(unreadable)
}

//! HTTP/1 from its clients to whoever answers: one request after the other, both ways at once.
//!
//! ```text
//!   client ──► head ──► who gets it ──► head, and as much of the body as there is, in one write ──► server
//!          ◄──────────────── head and body, likewise ◄────────────────────────────────────────────
//! ```
//!
//! There is no task and no channel within: one future drives both sides of an exchange, so that a request's body may be on its way
//! while the response has begun, `100 Continue` waits for nobody, and whoever goes is noticed.

mod flight;
mod pump;

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use self::{
    flight::{Broken, Client, Flight, Uploading},
    pump::{Pump, take},
};
use super::{
    ATTEMPTS_MAX, Failure, Forward, Protocol, Refusal,
    body::{Body, Passing},
    exchange::{Asked, Exchange},
    head::{self, EndOfHead, Ending, RequestHead},
};
use crate::{buffer::Buffer, buffered::Buffered, policy::Policy};

/// From the first byte of a head to its last: a client that takes longer is let go (slowloris). Between two requests a client may
/// take its time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long, and how much, is still read of a client that is told to go: a reset would take the answer from it (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// What comes after an exchange.
enum After {
    /// Another request.
    Next,
    /// The end of the connection.
    Close,
    /// The end, at once: the response says how long it should have been.
    Cut,
    /// The end, as a reset: nothing else says that the response is not whole.
    Reset,
    /// Bytes, to this server.
    Tunnel(Box<Buffered>),
}

/// Answers the requests of `client`.
///
/// # Errors
/// When the connection breaks.
pub async fn serve<F: Forward>(forward: &F, mut client: Buffered) -> io::Result<()> {
    let mut stream = 0;
    loop {
        let mut head = Buffer::small();
        let mut request = match next(&mut client, &mut head).await? {
            Some(Ok(request)) => request,
            Some(Err(refusal)) => {
                forward.refused(refusal);
                let response = Failure::Refused(refusal).response(false);
                say(&mut client, &response, Ending::Close, true).await?;
                return linger(client).await;
            }
            None => return poll_fn(|cx| client.poll_end(cx)).await,
        };
        let asked = forward.client().asks(stream);
        stream += 1;
        match exchange(forward, &mut client, &mut request, head, asked).await? {
            After::Next => {}
            After::Close => return linger(client).await,
            After::Cut => return Ok(()),
            After::Reset => {
                crate::forward::reset(client.tcp());
                return Ok(());
            }
            After::Tunnel(server) => {
                let _busy = forward.client().worker.busy();
                crate::forward::copy(client, *server).await;
                return Ok(());
            }
        }
    }
}

/// The next request, and its head as it goes on in `out`; `None` when there is none to come.
async fn next(client: &mut Buffered, out: &mut Buffer) -> io::Result<Option<Result<RequestHead, Refusal>>> {
    loop {
        let lines = head::empty_lines(client.input.filled());
        client.input.consume(lines);
        if !client.input.is_empty() && client.input.filled() != b"\r" {
            break;
        }
        let is_idle = client.input.is_empty();
        let come = poll_fn(|cx| client.poll_fill(cx));
        let come = if is_idle { come.await? } else { timeout(HEAD_TIMEOUT, come).await.unwrap_or(Ok(0))? };
        if come == 0 {
            return Ok(None);
        }
    }
    let mut end = EndOfHead::of_request();
    let length = match end.find(client.input.filled()) {
        Ok(Some(length)) => Ok(length),
        Ok(None) => match timeout(HEAD_TIMEOUT, rest_of_head(client, &mut end)).await {
            Ok(Ok(length)) => length,
            Ok(Err(error)) => return Err(error),
            Err(_) => Err(Refusal::HeadTimeout),
        },
        Err(refusal) => Err(refusal),
    };
    let request = length.and_then(|length| {
        let request = head::request(&client.input.filled()[..length], out)?;
        client.input.consume(length);
        Ok(request)
    });
    Ok(Some(request))
}

async fn rest_of_head(client: &mut Buffered, end: &mut EndOfHead) -> io::Result<Result<usize, Refusal>> {
    loop {
        if client.input.is_full() && client.input.grow().is_err() {
            return Ok(Err(Refusal::HeadTooLarge));
        }
        if poll_fn(|cx| client.poll_fill(cx)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match end.find(client.input.filled()) {
            Ok(Some(length)) => return Ok(Ok(length)),
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
}

/// One request, to whoever gets it, until its response has ended.
async fn exchange<F: Forward>(
    forward: &F,
    client: &mut Buffered,
    request: &mut RequestHead,
    mut head: Buffer,
    asked: Asked,
) -> io::Result<After> {
    let worker = &forward.client().worker;
    let _busy = worker.busy();
    let entry = worker.setup.journal.as_ref().and_then(|journal| {
        let (entry, edit) = journal.begin(forward.client(), &request.view(head.filled()), request.version());
        if !edit.is_empty() {
            request.edit(&mut head, &edit);
        }
        entry
    });
    let head_length = head.filled().len();
    // What of the body is here already goes in the same write.
    let mut body = Body::new(request.framing);
    let taken = take(&mut body, &mut client.input, &mut head);
    let mut upload = Pump::new(&head, head_length, body, *taken.as_ref().unwrap_or(&Passing::default()));
    upload.entry = entry;
    deliver(forward, client, request, &mut upload, taken, asked).await
}

/// Sends `upload`, of whose body `taken` was here with its head, to whoever gets it.
async fn deliver<F: Forward>(
    forward: &F,
    client: &mut Buffered,
    request: &RequestHead,
    upload: &mut Pump<'_>,
    taken: Result<Passing, Refusal>,
    asked: Asked,
) -> io::Result<After> {
    let worker = &forward.client().worker;
    let view = request.view(upload.head());
    let resolved = match taken {
        Ok(_) => forward.resolve(&view).await,
        Err(refusal) => {
            forward.refused(refusal);
            Err(Failure::Refused(refusal))
        }
    };
    let service = match resolved {
        Ok(service) => service,
        Err(failure) => {
            forward.failed(None, &view, failure);
            return fail(client, request, upload, failure).await;
        }
    };
    if let Some(entry) = &upload.entry {
        entry.is_for(forward.meant(&service));
    }
    let policy = forward.policy(&service).map(Arc::as_ref);
    let deadline = policy.and_then(|policy| policy.deadline(Instant::now()));
    if let Some(response) = policy.and_then(|policy| policy.redirect(&view)) {
        forward.answered(Some(&service), &view, response.status().as_u16());
        if let Some(entry) = &upload.entry {
            entry.answer(&response);
        }
        return answer(client, request, upload, &response).await;
    }
    if let Some(edits) = policy.and_then(Policy::of_requests)
        && upload.edit(edits).is_err()
    {
        let failure = Failure::Refused(Refusal::HeadTooLarge);
        forward.failed(Some(&service), &view, failure);
        return fail(client, request, upload, failure).await;
    }

    let (mut tried, mut failure, mut was_sent) = (Vec::new(), Failure::NoEndpoints, false);
    for attempt in 0..ATTEMPTS_MAX {
        let hop = match forward.pick(&service, &view, &tried) {
            Ok(hop) => hop,
            Err(nobody) => {
                if attempt == 0 {
                    failure = nobody;
                }
                break;
            }
        };
        let mut recorded = Exchange::begin(&view, &hop, &worker.setup.taps, asked, upload.entry.as_ref());
        if let Some(balancer) = forward.balancer(&service) {
            recorded.loads(balancer);
        }
        // One that was closed meanwhile costs a request that may be sent again nothing; of any other it is looked at twice.
        let idle = if was_sent { None } else { hop.connections.idle(!request.is_idempotent) };
        let is_reused = idle.is_some();
        let attempt_deadline = policy.and_then(|policy| policy.deadline_of_attempt(Instant::now(), deadline));
        let server = match idle {
            Some(server) => server,
            None => match within(attempt_deadline, worker.pool.connect(&hop.upstream, Protocol::Http1)).await {
                Some(Ok(server)) => Buffered::new(server, Buffer::default()),
                None => {
                    // Nobody has it: as long as the request has time, another one may.
                    recorded.unreachable();
                    tried.push(hop.upstream.endpoint.address);
                    failure = Failure::Timeout;
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        break;
                    }
                    continue;
                }
                Some(Err(error)) => {
                    let address = hop.upstream.endpoint.address;
                    debug!(dst.addr = %address, %error, "an endpoint cannot be connected to");
                    recorded.unreachable();
                    tried.push(address);
                    failure = undelivered(was_sent);
                    continue;
                }
            },
        };
        let flight = Flight {
            client: &mut *client,
            server,
            request,
            upload: &mut *upload,
            uploading: Uploading::Going,
            ends: Client::Waits,
            has_answered: false,
            is_mesh: hop.upstream.peer().is_some(),
            policy,
            deadline: attempt_deadline,
        };
        match flight.run(forward, &hop, &mut recorded).await {
            Ok(after) => return Ok(after),
            Err(Broken::Client(error)) => return Err(error),
            Err(Broken::Refused(refusal)) => {
                failure = Failure::Refused(refusal);
                forward.refused(refusal);
            }
            Err(Broken::BadResponse(refusal)) => {
                failure = Failure::BadResponse;
                forward.refused(refusal);
            }
            Err(Broken::Late) => failure = Failure::Timeout,
            Err(Broken::Undelivered) => {
                recorded.unreachable();
                tried.push(hop.upstream.endpoint.address);
                upload.again();
                failure = undelivered(was_sent);
                continue;
            }
            Err(Broken::Server { error, is_silent }) => {
                debug!(dst.addr = %hop.upstream.endpoint.address, %error, "an endpoint did not answer");
                failure = Failure::Broken;
                // It was closing the connection when the request came to it: nobody has answered, nobody has gone, and it is all here
                // still.
                if is_reused && is_silent && (upload.sent == 0 || (upload.is_whole && request.is_idempotent)) {
                    recorded.abandon();
                    upload.again();
                    was_sent = true;
                    continue;
                }
            }
        }
        recorded.fail(failure);
        return fail(client, request, upload, failure).await;
    }
    forward.failed(Some(&service), &view, failure);
    fail(client, request, upload, failure).await
}

/// What `done` comes to by then; nothing, if that is later. What has no bound has no timer and no memory for one.
async fn within<F: Future>(deadline: Option<Instant>, done: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => Box::pin(timeout_at(deadline, done)).await.ok(),
        None => Some(done.await),
    }
}

/// Not "nobody got it", if somebody may have.
fn undelivered(was_sent: bool) -> Failure {
    if was_sent { Failure::Broken } else { Failure::Connect }
}

/// This proxy's own answer, because there is no other.
async fn fail(client: &mut Buffered, request: &RequestHead, upload: &Pump<'_>, failure: Failure) -> io::Result<After> {
    if let Some(entry) = &upload.entry {
        entry.fail(failure);
    }
    answer(client, request, upload, &failure.response(request.is_grpc)).await
}

/// This proxy's own answer.
async fn answer(
    client: &mut Buffered,
    request: &RequestHead,
    upload: &Pump<'_>,
    response: &Response<Bytes>,
) -> io::Result<After> {
    let keep = request.keep_alive && !request.is_old && upload.body.is_end() && upload.passing == 0;
    let ending = if keep { Ending::Silent } else { Ending::Close };
    say(client, response, ending, !request.is_head).await?;
    Ok(if keep { After::Next } else { After::Close })
}

async fn say(client: &mut Buffered, response: &Response<Bytes>, ending: Ending, with_body: bool) -> io::Result<()> {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let text = format!("HTTP/1.1 {} {reason}\r\ncontent-length: {}\r\n", status.as_str(), response.body().len());
    let mut bytes = text.into_bytes();
    for (name, value) in response.headers() {
        // All of them are this proxy's own words, or its route's.
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(ending.lines());
    if with_body {
        bytes.extend_from_slice(response.body());
    }
    let mut written = 0;
    poll_fn(|cx| {
        while written < bytes.len() {
            written += ready!(client.poll_write(cx, &bytes[written..]))?;
        }
        client.poll_flush(cx)
    })
    .await
}

/// Ends the connection, when its client has had the time to read what was sent last.
async fn linger(mut client: Buffered) -> io::Result<()> {
    poll_fn(|cx| client.poll_end(cx)).await?;
    let mut left = LINGER_BYTES_MAX;
    let until_the_end = poll_fn(|cx| {
        loop {
            client.input.clear();
            match ready!(client.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(read) if read > left => return Poll::Ready(()),
                Ok(read) => left -= read,
            }
        }
    });
    let _ = timeout(LINGER, until_the_end).await;
    Ok(())
}

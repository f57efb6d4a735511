//! A request of HTTP/1 and its response, between two connections.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, timeout};

use super::{
    After,
    pump::{Pump, Side, take},
    within,
};
use crate::{
    buffer::Buffer,
    buffered::Buffered,
    http::{
        Forward, Headers, INTERIM_MAX, REST_TIMEOUT, Refusal,
        body::Body,
        exchange::{Exchange, Hop},
        head::{self, EndOfHead, Ending, Framing, RequestHead, ResponseHead},
    },
    policy::{Policy, edit_lines},
};

/// Why there is no response that could be passed on. None of one has been, then.
pub(super) enum Broken {
    /// Nobody waits for it any longer.
    Client(io::Error),
    /// The request's body is not what its head promised.
    Refused(Refusal),
    /// The server's proxy says that its application never got it. All of it is here still.
    Undelivered,
    /// The server has gone. `is_silent` is whether it has said nothing, to a client that waits.
    Server { error: io::Error, is_silent: bool },
    /// The response is none.
    BadResponse(Refusal),
    /// It did not come in time.
    Late,
}

/// How far the request is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Uploading {
    Going,
    Done,
    /// The server takes no more of it. It may answer all the same.
    Stopped,
}

/// What the client has done since it sent its request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// It waits.
    Waits,
    /// It says that it sends nothing more, which the server is to know as it would without this proxy.
    Ends,
    /// The server knows.
    HasEnded,
}

/// A request and its response between two connections.
pub(super) struct Flight<'a, 'b> {
    pub(super) client: &'a mut Buffered,
    pub(super) server: Buffered,
    pub(super) request: &'a RequestHead,
    pub(super) upload: &'a mut Pump<'b>,
    pub(super) uploading: Uploading,
    pub(super) ends: Client,
    /// Something has come from the server.
    pub(super) has_answered: bool,
    /// The server is a proxy of this mesh, and may speak for it.
    pub(super) is_mesh: bool,
    /// What the request's route says of it besides.
    pub(super) policy: Option<&'a Policy>,
    /// When all of the response is to be here.
    pub(super) deadline: Option<Instant>,
}

impl Flight<'_, '_> {
    /// Until the response has ended.
    pub(super) async fn run<F: Forward>(
        mut self,
        forward: &F,
        hop: &Hop,
        recorded: &mut Exchange,
    ) -> Result<After, Broken> {
        let mut out = Buffer::small();
        let head = self.final_head(&mut out).await?;
        if self.is_mesh && head.is_undelivered && self.upload.is_whole {
            return Err(Broken::Undelivered);
        }
        let headers = Headers::Http1(out.filled());
        recorded.head(head.status, head.grpc_status, self.is_mesh && head.is_proxy_error, headers);
        if let Some(edits) = self.policy.and_then(Policy::of_responses) {
            let lines = std::mem::replace(&mut out, Buffer::small());
            edit_lines(edits, lines.filled(), &mut out).map_err(|error| Broken::BadResponse(error.into()))?;
        }
        if head.starts_tunnel {
            // The request first, whole; what follows it is the tunnel's.
            let uploaded = poll_fn(|cx| {
                self.poll_upload(cx)?;
                if self.uploading == Uploading::Going { Poll::Pending } else { Poll::Ready(Ok(())) }
            });
            let late = |_| Broken::Server { error: io::ErrorKind::TimedOut.into(), is_silent: false };
            timeout(REST_TIMEOUT, uploaded).await.map_err(late)??;
            self.say(&mut out, Ending::Silent).await.map_err(Broken::Client)?;
            recorded.end(None);
            return Ok(After::Tunnel(Box::new(self.server)));
        }
        // A client that goes on sending to a server which has closed, or waits to be asked for what is not wanted, is told to end.
        let is_done = self.uploading == Uploading::Done;
        let stays = self.request.keep_alive
            && head.framing != Framing::UntilClose
            && (is_done || (head.keep_alive && !self.request.expects_continue))
            && !forward.is_leaving();
        let ending = match (stays, self.request.is_old) {
            (true, false) => Ending::Silent,
            (true, true) => Ending::KeepAlive,
            (false, _) => Ending::Close,
        };
        out.append_all(ending.lines()).map_err(|error| Broken::BadResponse(error.into()))?;
        let mut body = Body::new(head.framing);
        let taken = take(&mut body, &mut self.server.input, &mut out).map_err(Broken::BadResponse)?;
        let mut download = Pump::new(&out, out.filled().len(), body, taken);
        let deadline = self.deadline;
        let downloaded = poll_fn(|cx| {
            self.poll_upload(cx)?;
            let polled = download.poll(cx, &mut self.server, self.client);
            recorded.data(std::mem::take(&mut download.payload));
            match polled {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(true)),
                Poll::Ready(Err(Side::To(error))) => Poll::Ready(Err(Broken::Client(error))),
                Poll::Ready(Err(Side::From(_) | Side::Refused(_))) => Poll::Ready(Ok(false)),
                Poll::Pending => {
                    self.poll_watch(cx)?;
                    Poll::Pending
                }
            }
        });
        // A request whose body goes wrong now gets no other answer than this one, cut short.
        let is_complete = match within(deadline, downloaded).await {
            Some(Err(Broken::Client(error))) => return Err(Broken::Client(error)),
            Some(downloaded) => downloaded.unwrap_or(false),
            None => false,
        };
        if !is_complete {
            recorded.reset();
            return Ok(if head.framing == Framing::UntilClose { After::Reset } else { After::Cut });
        }
        recorded.end(None);
        if stays && head.keep_alive && self.uploading == Uploading::Going {
            // It has its response: whatever goes wrong now only ends the connection.
            let _ = timeout(REST_TIMEOUT, self.rest_of_upload()).await;
        }
        let is_done = self.uploading == Uploading::Done;
        if is_done && head.keep_alive && self.ends == Client::Waits && self.server.input.is_empty() {
            hop.connections.give_back(self.server);
        }
        Ok(if stays && is_done { After::Next } else { After::Close })
    }

    /// The head of the final response; interim ones are passed on as they come.
    async fn final_head(&mut self, out: &mut Buffer) -> Result<ResponseHead, Broken> {
        for _ in 0..INTERIM_MAX {
            let head = within(self.deadline, self.response_head(out)).await.unwrap_or(Err(Broken::Late))?;
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
            if self.request.is_old {
                // HTTP/1.0 does not know them.
                out.clear();
            } else {
                self.say(out, Ending::Silent).await.map_err(Broken::Client)?;
            }
        }
        Err(Broken::BadResponse(Refusal::TooManyInterim))
    }

    /// One head, while the request goes on.
    async fn response_head(&mut self, out: &mut Buffer) -> Result<ResponseHead, Broken> {
        let mut end = EndOfHead::of_response();
        let read = poll_fn(|cx| {
            self.poll_upload(cx)?;
            loop {
                if let Some(length) = end.find(self.server.input.filled()).map_err(Broken::BadResponse)? {
                    return Poll::Ready(Ok(length));
                }
                if self.server.input.is_full() && self.server.input.grow().is_err() {
                    return Poll::Ready(Err(Broken::BadResponse(Refusal::HeadTooLarge)));
                }
                match self.server.poll_fill(cx).map_err(|error| self.gone(error))? {
                    Poll::Ready(0) => return Poll::Ready(Err(self.gone(io::ErrorKind::UnexpectedEof.into()))),
                    Poll::Ready(_) => self.has_answered = true,
                    Poll::Pending => {
                        self.poll_watch(cx)?;
                        return Poll::Pending;
                    }
                }
            }
        });
        let length = read.await?;
        let bytes = &self.server.input.filled()[..length];
        let head = head::response(bytes, &end, self.request, self.is_mesh, out).map_err(Broken::BadResponse)?;
        self.server.input.consume(length);
        Ok(head)
    }

    fn gone(&self, error: io::Error) -> Broken {
        Broken::Server { error, is_silent: !self.has_answered && self.ends == Client::Waits }
    }

    /// Sends what is in `out`, with `ending` behind it, to the client.
    async fn say(&mut self, out: &mut Buffer, ending: Ending) -> io::Result<()> {
        out.append_all(ending.lines())?;
        poll_fn(|cx| {
            while !out.is_empty() {
                let written = ready!(self.client.poll_write(cx, out.filled()))?;
                out.consume(written);
            }
            self.client.poll_flush(cx)
        })
        .await
    }

    /// Sends what there is of the request.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.uploading == Uploading::Going {
            match self.upload.poll(cx, self.client, &mut self.server) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.uploading = Uploading::Done,
                Poll::Ready(Err(Side::From(error))) => return Err(Broken::Client(error)),
                Poll::Ready(Err(Side::Refused(refusal))) => return Err(Broken::Refused(refusal)),
                // Nothing of it was taken.
                Poll::Ready(Err(Side::To(error))) if self.upload.sent == 0 => return Err(self.gone(error)),
                // It may have answered before it closed.
                Poll::Ready(Err(Side::To(_))) => self.uploading = Uploading::Stopped,
            }
        }
        Ok(())
    }

    /// Notices when the client goes, while there is nothing else to do. What it sends instead is its next request, and waits.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.uploading == Uploading::Done && self.ends == Client::Waits && self.client.input.is_empty() {
            match self.client.poll_fill(cx).map_err(Broken::Client)? {
                Poll::Ready(0) => self.ends = Client::Ends,
                Poll::Ready(_) | Poll::Pending => {}
            }
        }
        if self.ends == Client::Ends && self.server.poll_end(cx).is_ready() {
            self.ends = Client::HasEnded;
        }
        Ok(())
    }

    /// The response has ended before the request: a server that keeps the connection reads the rest of it.
    async fn rest_of_upload(&mut self) -> Result<(), Broken> {
        poll_fn(|cx| {
            self.poll_upload(cx)?;
            if self.uploading == Uploading::Going {
                if self.server.poll_fill(cx).is_pending() {
                    return Poll::Pending;
                }
                self.uploading = Uploading::Stopped;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

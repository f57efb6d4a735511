//! A request of HTTP/2 and its response, between two streams.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use ::h2::{Reason, RecvStream, SendStream, client::ResponseFuture, server};
use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::time::timeout;

use crate::http::{
    ERROR_HEADER, Failure, INTERIM_MAX, REST_TIMEOUT, Refusal,
    exchange::{Exchange, Hop},
    grpc_status, strip_reserved,
};

/// A body on its way, and its trailers.
pub(super) struct Pump {
    from: RecvStream,
    to: SendStream<Bytes>,
    /// What was received, and has no room at the receiver's yet.
    data: Bytes,
    /// Nothing comes after `data`.
    is_last: bool,
    /// Bytes that were passed since that was last asked.
    passed: usize,
    /// Whether the sender may speak for this mesh.
    is_mesh: bool,
}

/// How a body ended.
enum Ended {
    /// With these trailers.
    Well(Option<u32>),
    /// The sender has reset it, or is gone.
    From(::h2::Error),
    /// The receiver takes no more.
    To(Reason),
}

impl Pump {
    pub(super) fn new(from: RecvStream, to: SendStream<Bytes>, is_mesh: bool) -> Self {
        Self { from, to, data: Bytes::new(), is_last: false, passed: 0, is_mesh }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            while !self.data.is_empty() {
                self.to.reserve_capacity(self.data.len());
                let capacity = match self.to.capacity() {
                    0 => match ready!(self.to.poll_capacity(cx)) {
                        Some(Ok(capacity)) => capacity,
                        Some(Err(error)) => return Poll::Ready(Ended::To(error.reason().unwrap_or(Reason::CANCEL))),
                        None => return Poll::Ready(Ended::To(Reason::CANCEL)),
                    },
                    capacity => capacity,
                };
                let now = self.data.split_to(capacity.min(self.data.len()));
                let count = now.len();
                let ends = self.data.is_empty() && self.is_last;
                if self.to.send_data(now, ends).is_err() {
                    return Poll::Ready(Ended::To(Reason::CANCEL));
                }
                // The sender may send as much again.
                let _ = self.from.flow_control().release_capacity(count);
                self.passed += count;
                if ends {
                    return Poll::Ready(Ended::Well(None));
                }
            }
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.is_last = self.from.is_end_stream();
                    self.data = data;
                    if self.data.is_empty() && self.is_last {
                        return Poll::Ready(self.end(None));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Ended::From(error)),
                None => {
                    return match ready!(self.from.poll_trailers(cx)) {
                        Ok(trailers) => Poll::Ready(self.end(trailers)),
                        Err(error) => Poll::Ready(Ended::From(error)),
                    };
                }
            }
        }
    }

    fn end(&mut self, mut trailers: Option<HeaderMap>) -> Ended {
        if let Some(trailers) = trailers.as_mut().filter(|_| !self.is_mesh) {
            strip_reserved(trailers);
        }
        let status = trailers.as_ref().and_then(grpc_status);
        let sent = match trailers {
            Some(trailers) => self.to.send_trailers(trailers),
            None => self.to.send_data(Bytes::new(), true),
        };
        sent.map_or(Ended::To(Reason::CANCEL), |()| Ended::Well(status))
    }

    /// Whether the receiver has said that it wants no more.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        self.to.poll_reset(cx).map(|reset| reset.unwrap_or(Reason::CANCEL))
    }
}

/// Why there is no response that could be passed on. None of one has been, then.
pub(super) enum Broken {
    /// Nobody waits for it any longer.
    Client,
    /// The server did not begin to process the request; its body, of which nothing was sent.
    Unprocessed(RecvStream),
    /// The server's proxy says that its application never got the request, which has no body.
    Undelivered(RecvStream),
    /// The same, but some of its body was sent, and is not here any more.
    Refused,
    /// The response is none.
    BadResponse(Refusal),
    /// It did, perhaps.
    Server(::h2::Error),
}

/// The request's body.
pub(super) enum Upload {
    /// There is none.
    Nothing(RecvStream),
    /// It is on its way.
    Going(Pump),
    /// All of it was sent that will be.
    Done,
}

/// A request and its response between two streams.
pub(super) struct Flight<'a> {
    pub(super) respond: &'a mut server::SendResponse<Bytes>,
    pub(super) response: ResponseFuture,
    pub(super) upload: Upload,
}

impl Flight<'_> {
    pub(super) async fn run(mut self, hop: &Hop, recorded: &mut Exchange) -> Result<(), Broken> {
        let response = self.head().await?;
        let (mut parts, from) = response.into_parts();
        let is_mesh = hop.upstream.peer().is_some();
        let proxy_error = parts.headers.get(ERROR_HEADER).filter(|_| is_mesh);
        let is_proxy_error = proxy_error.is_some();
        if proxy_error.is_some_and(|reason| reason == Failure::Connect.reason()) {
            match std::mem::replace(&mut self.upload, Upload::Done) {
                Upload::Nothing(body) => return Err(Broken::Undelivered(body)),
                upload => self.upload = upload,
            }
        }
        if !is_mesh {
            // Only a proxy of this mesh, which has proved to be one, speaks for it.
            strip_reserved(&mut parts.headers);
        }
        recorded.head(parts.status.as_u16(), grpc_status(&parts.headers), is_proxy_error);
        let ends = from.is_end_stream();
        let sent = self.respond.send_response(Response::from_parts(parts, ()), ends);
        let Ok(to) = sent else { return Err(Broken::Client) };
        let mut download = Pump::new(from, to, is_mesh);
        let ended = poll_fn(|cx| {
            self.poll_upload(cx);
            if ends {
                return Poll::Ready(Ended::Well(None));
            }
            let polled = download.poll(cx);
            recorded.data(std::mem::take(&mut download.passed));
            if polled.is_pending()
                && let Poll::Ready(reason) = download.poll_reset(cx)
            {
                return Poll::Ready(Ended::To(reason));
            }
            polled
        });
        match ended.await {
            Ended::Well(trailer) => recorded.end(trailer),
            Ended::To(reason) => {
                recorded.reset();
                self.cancel(reason);
                return Ok(());
            }
            Ended::From(error) => {
                recorded.reset();
                // What is said of a connection is not said of its streams.
                let reason = error.reason().filter(|_| error.is_reset());
                download.to.send_reset(reason.unwrap_or(Reason::INTERNAL_ERROR));
                self.cancel(Reason::CANCEL);
                return Ok(());
            }
        }
        // A response may end before its request: the rest of that goes on, as far as both sides want it.
        let rest = poll_fn(|cx| {
            self.poll_upload(cx);
            match &mut self.upload {
                Upload::Nothing(_) | Upload::Done => Poll::Ready(()),
                Upload::Going(pump) => match pump.poll_reset(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => download.poll_reset(cx).map(|_| ()),
                },
            }
        });
        // Both sides are told that it is over, if it is not.
        let _ = timeout(REST_TIMEOUT, rest).await;
        Ok(())
    }

    /// The head of the final response, while the request goes on; interim ones are passed on as they come.
    async fn head(&mut self) -> Result<Response<RecvStream>, Broken> {
        let mut interim_left = INTERIM_MAX;
        let received = poll_fn(|cx| {
            self.poll_upload(cx);
            while let Poll::Ready(Some(Ok(mut interim))) = self.response.poll_informational(cx) {
                let Some(left) = interim_left.checked_sub(1) else {
                    return Poll::Ready(Err(Broken::BadResponse(Refusal::TooManyInterim)));
                };
                interim_left = left;
                strip_reserved(interim.headers_mut());
                // A client that has gone does not hear it.
                let _ = self.respond.send_informational(interim);
            }
            if let Poll::Ready(response) = Pin::new(&mut self.response).poll(cx) {
                return Poll::Ready(response.map_err(Broken::Server));
            }
            self.respond.poll_reset(cx).map(|_| Err(Broken::Client))
        });
        match received.await {
            Err(Broken::Server(error)) => {
                let refused =
                    error.reason() == Some(Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
                match std::mem::replace(&mut self.upload, Upload::Done) {
                    Upload::Nothing(body) if refused => Err(Broken::Unprocessed(body)),
                    // Nothing of the body was taken: it may be sent elsewhere.
                    Upload::Going(pump) if refused && pump.passed == 0 && pump.data.is_empty() => {
                        Err(Broken::Unprocessed(pump.from))
                    }
                    _ if refused => Err(Broken::Refused),
                    _ => Err(Broken::Server(error)),
                }
            }
            received => received,
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Upload::Going(pump) = &mut self.upload {
            match pump.poll(cx) {
                Poll::Pending => return,
                // What the client has reset is seen where its answer is.
                Poll::Ready(Ended::From(error)) => pump.to.send_reset(error.reason().unwrap_or(Reason::CANCEL)),
                Poll::Ready(Ended::Well(_) | Ended::To(_)) => {}
            }
            self.upload = Upload::Done;
        }
    }

    /// The server's side of a stream that nobody wants.
    fn cancel(&mut self, reason: Reason) {
        if let Upload::Going(pump) = &mut self.upload {
            pump.to.send_reset(reason);
        }
    }
}

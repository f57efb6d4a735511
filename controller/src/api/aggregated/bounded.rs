//! Answers end, and are asked for again: the API server looks at rights when something is asked, and at no other time.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use conduit_api::access::ASK_AGAIN;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status, body::Body};
use tower::Service;

/// As long as rights that were taken away may still be used, by whoever goes on reading what was asked before.
pub const ANSWER_MAX: Duration = Duration::from_secs(30 * 60);

/// Ends all answers of `S` in time.
#[derive(Clone)]
pub struct Bounded<S>(pub S);

impl<S> Service<http::Request<Body>> for Bounded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        let end = Box::pin(sleep(ANSWER_MAX));
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Ending { body: Some(body), end }))) })
    }
}

/// A body of gRPC that ends with `end`, if not before.
struct Ending {
    /// Nothing when it has ended.
    body: Option<Body>,
    end: Pin<Box<Sleep>>,
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, end } = &mut *self;
        let Some(going_on) = body else { return Poll::Ready(None) };
        // First: one that always has something would never end. Between two frames no message is cut.
        if end.as_mut().poll(cx).is_pending() {
            return Pin::new(going_on).poll_frame(cx);
        }
        *body = None;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(Code::Unavailable as i32));
        trailers.insert("grpc-message", HeaderValue::from_static(ASK_AGAIN));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, StreamBody};
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    /// Says something all the time.
    async fn chatter(_: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
        let frames = futures::stream::repeat_with(|| Ok::<_, Status>(Frame::data(Bytes::from_static(b"x"))));
        Ok(http::Response::new(Body::new(StreamBody::new(frames))))
    }

    async fn silence(_: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
        let frames = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
        Ok(http::Response::new(Body::new(StreamBody::new(frames))))
    }

    async fn body_of<S>(service: S) -> Body
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
    {
        Bounded(service).oneshot(http::Request::new(Body::empty())).await.unwrap().into_body()
    }

    fn says_why(frame: Option<Result<Frame<Bytes>, Status>>) {
        let trailers = frame.unwrap().unwrap().into_trailers().expect("the end");
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"14".parse().unwrap(), &ASK_AGAIN.parse().unwrap())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_end_gets_one() {
        let mut body = body_of(service_fn(chatter)).await;
        assert!(body.frame().await.unwrap().unwrap().is_data());
        tokio::time::advance(ANSWER_MAX - Duration::from_secs(1)).await;
        assert!(body.frame().await.unwrap().unwrap().is_data(), "not before");
        tokio::time::advance(Duration::from_secs(1)).await;
        says_why(body.frame().await);
        assert!(body.frame().await.is_none());
        // The clock goes on by itself while nothing else happens.
        says_why(body_of(service_fn(silence)).await.frame().await);
    }
}

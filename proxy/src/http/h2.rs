//! HTTP/2 from its clients to whoever answers, on connections that many share.
//!
//! ```text
//!   socket ─► connection ─► event ─► flight ─► connection ─► socket      each line: one task, no other
//!             (frames, HPACK, windows)         (what it is to write)
//! ```
//!
//! A request has no task and no channel: what comes of it on one connection is written at once to what the other has to say, and what
//! that has no room for stays where it came, until flow control lets it go on.

mod clients;
pub mod connection;
pub mod fields;
mod flight;
pub mod frame;
pub mod hpack;
mod line;
mod servers;

use std::{future::poll_fn, io, rc::Rc, time::Duration};

use tokio::{task::spawn_local, time::timeout};
use tracing::debug;

pub use self::line::Line;
use self::{
    clients::Clients,
    connection::Role,
    flight::{Flight, Outcome},
    frame::Reason,
    line::{Driver, Ended},
    servers::Servers,
};
use super::Forward;
use crate::{buffer::Buffer, buffered::Buffered, telemetry::transport::Counted};

/// For the last words of a connection.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers the requests of `client`, until it ends; one that is told to leave may finish what it has begun.
///
/// # Errors
/// When the connection breaks, or is not HTTP/2.
pub async fn serve<F: Forward>(forward: Rc<F>, client: Buffered) -> io::Result<()> {
    let asks = forward.client();
    let line = Line::new(Role::Server, asks.is_mesh());
    let idle = asks.worker.idle(asks.number);
    // Lives as long as this does, however that ends: a proxy that leaves drops it with requests under way.
    let _abandoned = Abandoned(line.clone());
    let mut driver = Driver::new(client, line.clone());
    let mut side = Clients { forward: forward.clone(), line: line.clone() };
    let mut is_leaving = false;
    let ended = poll_fn(|cx| {
        if !is_leaving {
            idle.watch(cx);
            if forward.is_leaving() {
                is_leaving = true;
                line.connection.borrow_mut().leave();
            }
        }
        driver.poll(cx, &mut side)
    })
    .await;
    if let Ended::Broken(broken) = &ended {
        forward.refused(broken.refusal);
    }
    end(&mut driver, &line, ended).await
}

/// A client's connection. When it is dropped, nobody waits for its requests: lines and flights, which hold each other, let go.
struct Abandoned(Rc<Line>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        let begun = self.0.connection.borrow_mut().abandon();
        begun.iter().for_each(|flight| flight.cancelled(Reason::CANCEL));
        self.0.outcomes.take();
    }
}

/// The peer is told why, if there is a reason.
async fn end(driver: &mut Driver, line: &Line, ended: Ended) -> io::Result<()> {
    let (reason, result) = match ended {
        Ended::Closed => (Reason::NO_ERROR, Ok(())),
        Ended::Broken(broken) => (broken.reason, Err(io::Error::other(broken.refusal.reason()))),
        Ended::Io(error) => return Err(error),
    };
    line.connection.borrow_mut().go_away(reason);
    // A peer that has gone does not hear it, and one that does not listen is not waited for.
    let _ = timeout(END_TIMEOUT, poll_fn(|cx| driver.poll_end(cx))).await;
    result
}

/// A client's side of `stream`, which is driven by a task of its own from here on.
pub fn client(stream: Counted, is_mesh: bool) -> Rc<Line> {
    let line = Line::new(Role::Client, true);
    let mut driver = Driver::new(Buffered::new(stream, Buffer::default()), line.clone());
    let mut side = Servers::new(line.clone(), is_mesh);
    let driven = line.clone();
    spawn_local(async move {
        let ended = poll_fn(|cx| driver.poll(cx, &mut side)).await;
        if let Err(error) = end(&mut driver, &driven, ended).await {
            debug!(%error, "a connection to a server ended badly");
        }
        let begun = driven.connection.borrow_mut().abandon();
        begun.iter().for_each(Flight::broken);
        let waiting = std::mem::take(&mut *driven.waiting.borrow_mut());
        waiting.iter().for_each(|flight| flight.fails(Outcome::Unprocessed));
    });
    line
}

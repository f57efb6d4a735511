//! A connection of HTTP/2 and its socket: one task reads, hands what has come to whom it concerns, and writes.
//!
//! What is to be written waits until all that was readable has been handed over, and whoever has something to say has said it: so the
//! frames of many streams leave in one write, and in one TLS record.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future as _,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    connection::{Broken, Connection, Event, Role},
    flight::{Flight, Outcome},
};
use crate::{buffered::Buffered, http::Refusal};

/// From the first byte of a preface or a head to its last, as with HTTP/1.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How exactly time is kept: nothing here is measured in less.
const TICK: Duration = Duration::from_secs(1);
/// Read in a turn, at most; then others have theirs, and what has come of it is written.
const TURN_BYTES: usize = 64 * 1024;

/// A connection, as those see it who have something to write to it.
pub struct Line {
    pub(super) connection: RefCell<Connection<Rc<Flight>>>,
    /// The task that drives it, while that waits.
    task: Cell<Option<Waker>>,
    /// Requests for which the server has no room yet.
    pub(super) waiting: RefCell<VecDeque<Rc<Flight>>>,
    /// The client's requests that somebody else is to answer, or nobody.
    pub(super) outcomes: RefCell<Vec<(Rc<Flight>, Outcome)>>,
    /// A request of the client goes on after its response.
    pub(super) has_rest: Cell<bool>,
}

/// What one side does with what has come.
pub(super) trait Side {
    /// It has come.
    fn event(&mut self, event: Event<'_, Rc<Flight>>, now: Instant) -> Result<(), Broken>;
    /// There is room for more of this one's stream.
    fn pass(&mut self, flight: &Rc<Flight>, now: Instant);
    /// Everything that was readable has come.
    fn settle(&mut self, now: Instant);
    /// Something was read.
    fn heard(&mut self, _now: Instant) {}
    /// Whether [`Side::tick`] is to be called.
    fn needs_time(&self) -> bool;
    /// Called now and then; whether the peer is there.
    fn tick(&mut self, now: Instant) -> bool;
    /// Whether nothing is to come any more.
    fn is_over(&self) -> bool;
}

/// Why a connection has ended.
pub(super) enum Ended {
    /// As it should, or the peer has gone.
    Closed,
    /// The peer does not keep to the rules.
    Broken(Broken),
    /// It broke.
    Io(io::Error),
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Line {
    pub(super) fn new(role: Role, is_shared: bool) -> Rc<Self> {
        Rc::new(Self {
            connection: RefCell::new(Connection::new(role, is_shared, Instant::now())),
            task: Cell::default(),
            waiting: RefCell::default(),
            outcomes: RefCell::default(),
            has_rest: Cell::default(),
        })
    }

    /// Whether the first of the requests that wait can begin.
    pub(super) fn next_fits(&self) -> bool {
        self.waiting.borrow().front().is_some_and(|flight| flight.fits(self))
    }

    /// Something is to be written to it, or decided.
    pub(super) fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Requests that it carries, or will.
    pub fn requests(&self) -> usize {
        self.connection.borrow().streams() + self.waiting.borrow().len()
    }

    /// How many the server allows.
    pub fn requests_max(&self) -> usize {
        self.connection.borrow().streams_max()
    }

    /// Whether it takes requests.
    pub fn is_open(&self) -> bool {
        self.connection.borrow().is_open()
    }

    /// It takes no more of them, and ends with the last that it has.
    pub fn close(&self) {
        self.connection.borrow_mut().close();
        self.wake();
    }
}

/// Drives a line.
pub(super) struct Driver {
    io: Buffered,
    line: Rc<Line>,
    tick: Option<Pin<Box<Sleep>>>,
    was_full: bool,
    /// Nothing that was written is still under TLS.
    is_flushed: bool,
}

impl Driver {
    pub(super) fn new(io: Buffered, line: Rc<Line>) -> Self {
        Self { io, line, tick: None, was_full: false, is_flushed: true }
    }

    /// Until the connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, side: &mut impl Side) -> Poll<Ended> {
        let now = Instant::now();
        self.line.task.set(Some(cx.waker().clone()));
        let turn = self.turn(cx, side, now);
        match turn {
            Ok(()) if side.is_over() && self.has_written() => Poll::Ready(Ended::Closed),
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(ended),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, side: &mut impl Side, now: Instant) -> Result<(), Ended> {
        let read = self.read(cx, side, now);
        side.settle(now);
        let may_read = self.line.connection.borrow().may_read();
        self.write(cx, side, now).map_err(Ended::Io)?;
        read?;
        let may_read_again = !may_read && self.line.connection.borrow().may_read();
        if may_read_again || self.line.next_fits() {
            // For what the peer makes this side write, or for requests that wait.
            cx.waker().wake_by_ref();
        }
        self.keep_time(cx, side, now)
    }

    /// All that there is to write is with the kernel.
    fn has_written(&self) -> bool {
        self.is_flushed && self.line.connection.borrow().unwritten().is_empty()
    }

    /// Reads what there is, as long as the peer takes what is written.
    fn read(&mut self, cx: &mut Context<'_>, side: &mut impl Side, now: Instant) -> Result<(), Ended> {
        let mut left = TURN_BYTES;
        while self.line.connection.borrow().may_read() {
            self.hand_over(side, now)?;
            if self.io.input.is_full() {
                // The longest frame fits.
                self.io.input.grow().map_err(|error| Ended::Io(error.into()))?;
            } else if self.was_full {
                self.io.input.widen();
            }
            if left == 0 {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            match self.io.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Err(Ended::Closed),
                Poll::Ready(Ok(count)) => {
                    side.heard(now);
                    left = left.saturating_sub(count);
                    self.was_full = self.io.input.is_full();
                }
                Poll::Ready(Err(error)) => return Err(Ended::Io(error)),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, side: &mut impl Side, now: Instant) -> Result<(), Broken> {
        while !self.io.input.is_empty() {
            let (used, event) = self.line.connection.borrow_mut().input(self.io.input.filled(), now)?;
            let Some(event) = event else {
                self.io.input.consume(used);
                break;
            };
            side.event(event, now)?;
            self.io.input.consume(used);
        }
        Ok(())
    }

    /// Writes what there is, and what there is room for then.
    fn write(&mut self, cx: &mut Context<'_>, side: &mut impl Side, now: Instant) -> io::Result<()> {
        loop {
            while let Some(flight) = self.next_blocked() {
                side.pass(&flight, now);
            }
            let mut connection = self.line.connection.borrow_mut();
            if connection.unwritten().is_empty() {
                connection.rest();
                break;
            }
            match self.io.poll_write(cx, connection.unwritten()) {
                Poll::Ready(written) => connection.wrote(written?),
                Poll::Pending => break,
            }
            self.is_flushed = false;
        }
        // Not only after a write: TLS keeps what the socket did not take.
        if !self.is_flushed
            && let Poll::Ready(flushed) = self.io.poll_flush(cx)
        {
            flushed?;
            self.is_flushed = true;
        }
        Ok(())
    }

    fn next_blocked(&self) -> Option<Rc<Flight>> {
        let mut connection = self.line.connection.borrow_mut();
        let stream = connection.next_blocked()?;
        connection.owner(stream)
    }

    fn keep_time(&mut self, cx: &mut Context<'_>, side: &mut impl Side, now: Instant) -> Result<(), Ended> {
        let unfinished = self.line.connection.borrow().unfinished();
        if self.tick.as_ref().is_some_and(|tick| tick.deadline() <= now) {
            self.tick = None;
            if unfinished.is_some_and(|since| now - since >= HEAD_TIMEOUT) {
                let reason = super::frame::Reason::PROTOCOL_ERROR;
                return Err(Broken { reason, refusal: Refusal::HeadTimeout }.into());
            }
            if !side.tick(now) {
                return Err(Ended::Io(io::ErrorKind::TimedOut.into()));
            }
            // It may have something to say.
            cx.waker().wake_by_ref();
        }
        if self.tick.is_none() && (unfinished.is_some() || side.needs_time()) {
            let tick = self.tick.insert(Box::pin(sleep_until(now + TICK)));
            // Once is enough: the task is always the same.
            if tick.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Ok(())
    }

    /// The last words.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.line.connection.borrow_mut();
        while !connection.unwritten().is_empty() {
            let written = ready!(self.io.poll_write(cx, connection.unwritten()))?;
            connection.wrote(written);
        }
        ready!(self.io.poll_flush(cx))?;
        self.io.poll_end(cx)
    }
}

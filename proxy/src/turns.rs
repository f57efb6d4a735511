//! Turns: what takes long is done one at a time, and whoever has something quick to do comes in between.
//!
//! A TLS handshake is half a millisecond of arithmetic. A thread that finds a hundred clients beginning at once would do a hundred of
//! them before it looks at its sockets again, and each request that came meanwhile would have waited for all.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
};

/// Those who have not begun, at most: at half a millisecond to a turn, whoever comes next would wait for a second, and others behind it
/// longer than a handshake may take. They would all be begun, and none of them done.
const WAITING_MAX: usize = 1024;

/// Of one thread.
pub struct Turns {
    one: Semaphore,
    /// One of those who have not begun waits with those who have.
    door: Semaphore,
    room: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { one: Semaphore::new(1), door: Semaphore::new(1), room: Semaphore::new(WAITING_MAX) }
    }
}

impl Turns {
    /// Carries `work` out, each step of it when it is its turn; none of it if too many wait for their first. Turns are had in the order
    /// in which they were asked for, but that whoever has begun waits for one at most who has not. What only waits, as for an answer from
    /// the network, holds nobody up.
    pub async fn take<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        let mut turn = self.first().await?;
        loop {
            let step = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            drop(turn);
            match step {
                Poll::Ready(done) => return Some(done),
                Poll::Pending => woken().await,
            }
            turn = self.next().await;
        }
    }

    async fn first(&self) -> Option<SemaphorePermit<'_>> {
        let _room = self.room.try_acquire().ok()?;
        let _door = self.door.acquire().await.expect("it is never closed");
        Some(self.next().await)
    }

    /// Sockets are looked at, and what came is served, between one turn and the next.
    async fn next(&self) -> SemaphorePermit<'_> {
        let turn = self.one.acquire().await.expect("it is never closed");
        yield_now().await;
        turn
    }
}

/// Until the task is woken, which the last step has seen to.
async fn woken() {
    let mut is_asleep = false;
    poll_fn(|_| match std::mem::replace(&mut is_asleep, true) {
        false => Poll::Pending,
        true => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        io::Write as _,
        os::unix::net::UnixStream,
        rc::Rc,
    };

    use tokio::{
        io::AsyncReadExt as _,
        sync::Notify,
        task::{JoinSet, spawn_local},
    };

    use super::*;

    fn on_a_thread(test: impl Future<Output = ()>) {
        crate::app::runtime().unwrap().block_on(test);
    }

    /// Without turns all hundred would be done before the neighbour is heard.
    #[test]
    fn sockets_are_looked_at_between_any_two() {
        on_a_thread(async {
            let (turns, done) = (Rc::new(Turns::default()), Rc::new(Cell::new(0_u32)));
            let (mut neighbour, served) = UnixStream::pair().unwrap();
            served.set_nonblocking(true).unwrap();
            let mut served = tokio::net::UnixStream::from_std(served).unwrap();
            let heard = spawn_local({
                let done = done.clone();
                async move {
                    served.read_u8().await.unwrap();
                    done.get()
                }
            });
            // It waits for its byte from here on.
            yield_now().await;
            let mut handshakes = JoinSet::new();
            for _ in 0..100 {
                let (turns, done) = (turns.clone(), done.clone());
                handshakes.spawn_local(async move { turns.take(async { done.set(done.get() + 1) }).await });
            }
            neighbour.write_all(b"x").unwrap();
            let before = heard.await.unwrap();
            assert!(before <= 2, "{before} of 100 came before the neighbour");
            handshakes.join_all().await;
            assert_eq!(done.get(), 100);
        });
    }

    #[test]
    fn who_waits_holds_nobody_up() {
        on_a_thread(async {
            let (turns, answer) = (Rc::new(Turns::default()), Rc::new(Notify::new()));
            let waits = spawn_local({
                let (turns, answer) = (turns.clone(), answer.clone());
                async move { turns.take(answer.notified()).await }
            });
            yield_now().await;
            turns.take(async {}).await;
            assert!(!waits.is_finished());
            answer.notify_one();
            waits.await.unwrap();
        });
    }

    #[test]
    fn who_has_begun_is_not_behind_all_who_have_not() {
        on_a_thread(async {
            let (turns, done, answer) = (Rc::new(Turns::default()), Rc::new(Cell::new(0_u32)), Rc::new(Notify::new()));
            let begun = spawn_local({
                let (turns, done, answer) = (turns.clone(), done.clone(), answer.clone());
                async move {
                    turns
                        .take(async {
                            answer.notified().await;
                            done.get()
                        })
                        .await
                }
            });
            while turns.one.available_permits() == 0 || turns.room.available_permits() < WAITING_MAX {
                yield_now().await;
            }
            let mut others = JoinSet::new();
            for _ in 0..100 {
                let (turns, done) = (turns.clone(), done.clone());
                others.spawn_local(async move { turns.take(async { done.set(done.get() + 1) }).await });
            }
            yield_now().await;
            answer.notify_one();
            let before = begun.await.unwrap().unwrap();
            assert!(before < 10, "{before} of 100 came before it");
            others.join_all().await;
        });
    }

    #[test]
    fn there_is_room_for_so_many_who_have_not_begun() {
        on_a_thread(async {
            let turns = Rc::new(Turns::default());
            let held = turns.next().await;
            let mut all = JoinSet::new();
            for _ in 0..WAITING_MAX + 3 {
                let turns = turns.clone();
                all.spawn_local(async move { turns.take(async {}).await });
            }
            for _ in 0..3 {
                assert_eq!(all.join_next().await.unwrap().unwrap(), None);
            }
            drop(held);
            assert!(all.join_all().await.iter().all(Option::is_some));
        });
    }

    #[test]
    fn the_first_is_the_first() {
        on_a_thread(async {
            let (turns, order) = (Rc::new(Turns::default()), Rc::new(RefCell::new(Vec::new())));
            let mut all = JoinSet::new();
            for number in 0..10 {
                let (turns, order) = (turns.clone(), order.clone());
                all.spawn_local(async move { turns.take(async { order.borrow_mut().push(number) }).await });
            }
            all.join_all().await;
            assert_eq!(*order.borrow(), (0..10).collect::<Vec<_>>());
        });
    }
}

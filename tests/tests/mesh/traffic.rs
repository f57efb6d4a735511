//! Somebody who uses the demo's page all the time, and remembers what went wrong.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use super::harness::eventually;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(20);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests that all go through three services, so that one that fails has failed in the mesh.
const PATH: &str = "/api/vote?choice=:doughnut:";

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    answered: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

pub struct Traffic {
    seen: Arc<Seen>,
    user: JoinHandle<()>,
}

impl Traffic {
    pub fn start(address: String) -> Self {
        Self::of(address, &[PATH])
    }

    /// The same, with these requests by turns.
    pub fn of(address: String, paths: &'static [&'static str]) -> Self {
        let seen = Arc::new(Seen::default());
        let user = thread::spawn({
            let seen = seen.clone();
            move || {
                for path in paths.iter().cycle().take_while(|_| !seen.stop.load(Ordering::Relaxed)) {
                    match request(&address, path) {
                        Ok(()) => drop(seen.answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => seen.failed.lock().unwrap().push(error),
                    }
                    sleep(PAUSE);
                }
            }
        });
        Self { seen, user }
    }

    /// Until so many more requests were answered.
    pub fn wait_for(&self, more: usize) {
        let goal = self.seen.answered.load(Ordering::Relaxed) + more;
        eventually(Duration::from_secs(60), "requests are answered", || {
            (self.seen.answered.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// How many were answered, and how the others failed.
    pub fn stop(self) -> (usize, Vec<String>) {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.user.join().unwrap();
        let failed = std::mem::take(&mut *self.seen.failed.lock().unwrap());
        (self.seen.answered.load(Ordering::Relaxed), failed)
    }
}

fn request(address: &str, path: &str) -> Result<(), String> {
    let answer = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = answer().map_err(|error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
}

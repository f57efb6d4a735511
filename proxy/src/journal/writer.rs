//! Writes the access log: one thread, since whoever reads its end may be slow.

use std::{
    io::{self, Write},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use conduit_api::journal::AccessLog;
use tokio::sync::mpsc;
use tracing::warn;

use super::{Counts, QUEUE_MAX, Record, access_log::line};

/// Requests of so long are written together. Nobody who follows a log notices, and a proxy that is busy is not woken for each of them.
const GATHER: Duration = Duration::from_millis(20);
/// It formats, and writes.
const STACK_BYTES: usize = 128 * 1024;

/// Starts the thread, which writes to `out` until the journal has ended.
///
/// # Errors
/// When the system gives no thread.
pub fn start(
    format: AccessLog,
    records: mpsc::Receiver<Arc<Record>>,
    counts: Arc<Counts>,
    out: Box<dyn Write + Send>,
) -> io::Result<thread::JoinHandle<()>> {
    let write = move || write(format, records, &counts, out);
    thread::Builder::new().name("access-log".to_owned()).stack_size(STACK_BYTES).spawn(write)
}

fn write(format: AccessLog, mut records: mpsc::Receiver<Arc<Record>>, counts: &Counts, mut out: Box<dyn Write + Send>) {
    let (mut some, mut text, mut told) = (Vec::new(), String::new(), false);
    while records.blocking_recv_many(&mut some, QUEUE_MAX) > 0 {
        let lines = some.len();
        if told {
            // The last attempt may have ended within a line, which is nobody's then.
            text.push('\n');
        }
        some.drain(..).for_each(|record| text.push_str(&line(format, &record)));
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => told = false,
            Err(error) => {
                counts.lines_dropped.fetch_add(lines as u64, Ordering::Relaxed);
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "cannot write the access log");
                }
            }
        }
        text.clear();
        // The largest batch's memory is not kept.
        text.shrink_to(QUEUE_MAX * 64);
        if lines < QUEUE_MAX {
            thread::sleep(GATHER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(out: Box<dyn Write + Send>) -> Arc<Counts> {
        let counts = Arc::<Counts>::default();
        let (sender, records) = mpsc::channel(QUEUE_MAX);
        let thread = start(AccessLog::Text, records, counts.clone(), out).unwrap();
        for _ in 0..3 {
            sender.try_send(Arc::new(super::super::tests::record())).unwrap();
        }
        drop(sender);
        thread.join().unwrap();
        counts
    }

    #[test]
    fn all_that_was_begun_is_written_before_it_ends() {
        let out = Shared::default();
        let counts = written(Box::new(out.clone()));
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!((text.lines().count(), counts.lines_dropped.load(Ordering::Relaxed)), (3, 0));
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        assert_eq!(written(Box::new(Broken)).lines_dropped.load(Ordering::Relaxed), 3);
    }
}

//! Standard output, whose reader may leave (`conduit tap … | head -3`) without that being an error.

use std::io::{self, Write};

/// Each line goes out at its end, also into a pipe, so that `conduit tap … | grep …` shows what happens when it happens.
#[derive(Debug, Default)]
pub struct Stdout;

/// Whoever read standard output has left.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
struct Closed;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The standard library buffers by line.
        io::stdout().write(bytes).map_err(name_closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(name_closed)
    }
}

fn name_closed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, Closed),
        _ => error,
    }
}

/// Whether a command ended because nobody reads it any more: a success. A broken connection to the control plane is a
/// broken pipe, too, but not this one.
pub fn was_closed(error: &anyhow::Error) -> bool {
    let closed = |io: &io::Error| io.get_ref().is_some_and(|inner| inner.is::<Closed>());
    error.chain().any(|cause| cause.downcast_ref().is_some_and(closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_output_counts() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(was_closed(&anyhow::Error::from(name_closed(broken())).context("cannot write")));
        assert!(!was_closed(&anyhow::Error::from(broken())));
        assert!(!was_closed(&anyhow::Error::from(name_closed(io::Error::other("disk full")))));
    }
}

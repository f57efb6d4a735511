//! What a client of the Workload API sends: no length changes, however it is split, and what is mended needs no mending.

#![no_main]

use std::{
    io,
    pin::Pin,
    slice::Chunks,
    task::{Context, Poll, Waker},
};

use conduit_proxy::workload_api::authority::WithAuthority;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client whose bytes come in pieces.
struct Client<'a>(Chunks<'a, u8>);

impl AsyncRead for Client<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(self.0.next().unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

/// What comes out of it.
fn passed(sent: &[u8], piece: u8) -> Vec<u8> {
    let mut client = WithAuthority::new(Client(sent.chunks(usize::from(piece).max(1))));
    let (mut passed, mut chunk) = (Vec::new(), [0; 1000]);
    loop {
        let mut chunk = ReadBuf::new(&mut chunk);
        let read = Pin::new(&mut client).poll_read(&mut Context::from_waker(Waker::noop()), &mut chunk);
        assert!(matches!(read, Poll::Ready(Ok(()))));
        if chunk.filled().is_empty() {
            return passed;
        }
        passed.extend_from_slice(chunk.filled());
    }
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (piece, bytes) = input;
    let sent = [PREFACE, &bytes].concat();
    let mended = passed(&sent, u8::MAX);
    assert_eq!(mended.len(), sent.len());
    assert_eq!(passed(&sent, piece), mended);
    assert_eq!(passed(&mended, piece), mended);
});

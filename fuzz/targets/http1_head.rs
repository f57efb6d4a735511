//! Heads of HTTP/1: what goes on is understood as what came was, and goes on as it is the next time.

#![no_main]

use conduit_proxy::{
    buffer::Buffer,
    http::head::{EndOfHead, Ending, Tunnel, request, response},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut end = EndOfHead::of_request();
    if let Ok(Some(length)) = end.find(bytes) {
        let mut once = Buffer::default();
        if let Ok(head) = request(&bytes[..length], &mut once) {
            let mut twice = Buffer::default();
            let again = request(once.filled(), &mut twice).expect("what goes on is in order");
            assert_eq!(once.filled(), twice.filled());
            assert_eq!((head.framing, head.tunnel, head.is_head), (again.framing, again.tunnel, again.is_head));
            let (first, second) = (head.view(once.filled()), again.view(twice.filled()));
            assert_eq!((first.method, first.authority, first.path), (second.method, second.authority, second.path));
        }
    }
    let asked: &[u8] = match bytes.first().map(|byte| byte % 4) {
        Some(0) => b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        Some(1) => b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        Some(2) => b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        _ => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    };
    let asked = request(asked, &mut Buffer::default()).expect("it is in order");
    let answer = bytes.get(1..).unwrap_or_default();
    let mut end = EndOfHead::of_response();
    let Ok(Some(length)) = end.find(answer) else { return };
    let mut once = Buffer::default();
    let Ok(head) = response(&answer[..length], &end, &asked, false, &mut once) else { return };
    assert!(head.status != 101 || asked.tunnel == Some(Tunnel::Upgrade));
    if once.append_all(Ending::Silent.lines()).is_ok() {
        let (mut end, mut twice) = (EndOfHead::of_response(), Buffer::default());
        let found = end.find(once.filled()).expect("a response is read leniently");
        assert_eq!(found, Some(once.filled().len()));
        let again = response(once.filled(), &end, &asked, false, &mut twice).expect("what goes on is in order");
        assert_eq!((head.status, head.framing), (again.status, again.framing));
    }
});

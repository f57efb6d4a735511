//! A server whose own time does not show in the figures.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// Room for the heads of a few requests.
const HEADS_BYTES: usize = 2 * 1024;
/// Of what is read and forgotten at once.
const SINK_BYTES: usize = 256 * 1024;

/// Answers every request on every connection with `body_bytes` bytes, or with as many as its path says (`/65536`), for ever;
/// over HTTP/1.1 also as late as its path says (`/65536/2000`: after two seconds).
///
/// A connection says by its first bytes what it carries: HTTP/1.1 requests (GET without a body, POST with one that says how long it is), HTTP/2 with prior knowledge, or anything
/// else: that is read to its end, and answered by how many bytes it was (as 8 bytes, the highest first).
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, body_bytes: usize) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks is the client's to count.
        tokio::spawn(async move { answer(stream, body_bytes).await.ok() });
    }
}

async fn answer(stream: TcpStream, body_bytes: usize) -> io::Result<()> {
    let mut first = [0; 4];
    stream.peek(&mut first).await?;
    match &first {
        b"GET " | b"POST" => http1(stream, body_bytes).await,
        b"PRI " => http2(stream, body_bytes).await,
        _ => sink(stream).await,
    }
}

/// The other side, once: what `address` answers to a GET of `path`, its head included.
///
/// # Errors
/// When it does not answer.
pub async fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Without a parser: all it takes to know of a request is where its head ends, and how much follows it.
async fn http1(mut stream: TcpStream, body_bytes: usize) -> io::Result<()> {
    let mut heads = BytesMut::with_capacity(HEADS_BYTES);
    let (mut length, mut answer) = (body_bytes, whole_answer(body_bytes));
    while stream.read_buf(&mut heads).await? > 0 {
        while let Some(end) = heads.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = heads.split_to(end + 4);
            skip(&mut stream, &mut heads, sent_up(&head)).await?;
            let path = path(&head);
            let asked = asked(path).unwrap_or(body_bytes);
            if asked != length {
                (length, answer) = (asked, whole_answer(asked));
            }
            if let Some(late) = late(path) {
                sleep(late).await;
            }
            stream.write_all(&answer).await?;
        }
    }
    Ok(())
}

/// How many bytes follow the head of a request.
fn sent_up(head: &[u8]) -> usize {
    if !head.starts_with(b"POST") {
        return 0;
    }
    let length = str::from_utf8(head).ok().and_then(|head| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?.1.trim().parse().ok()
    });
    length.unwrap_or_default()
}

/// Reads so many bytes and forgets them; some are read already.
async fn skip(stream: &mut TcpStream, read: &mut BytesMut, mut bytes: usize) -> io::Result<()> {
    loop {
        let here = read.len().min(bytes);
        read.advance(here);
        bytes -= here;
        if bytes == 0 {
            return Ok(());
        }
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The second word of a request.
fn path(head: &[u8]) -> &str {
    let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    str::from_utf8(path).unwrap_or_default()
}

/// `/65536` asks for so many bytes; other paths for no number in particular.
fn asked(path: &str) -> Option<usize> {
    path.split('/').nth(1)?.parse().ok()
}

/// `/65536/2000` asks for it two seconds later.
fn late(path: &str) -> Option<Duration> {
    path.split('/').nth(2)?.parse().ok().map(Duration::from_millis)
}

fn whole_answer(body_bytes: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {body_bytes}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + body_bytes, b'x');
    answer
}

async fn http2(stream: TcpStream, body_bytes: usize) -> io::Result<()> {
    let body = Bytes::from(vec![b'x'; body_bytes]);
    let answer = service_fn(move |request: Request<Incoming>| {
        let body = match asked(request.uri().path()) {
            Some(asked) if asked != body.len() => Bytes::from(vec![b'x'; asked]),
            _ => body.clone(),
        };
        async move {
            if !request.body().is_end_stream() {
                let _ = request.into_body().collect().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
    connection.await.map_err(io::Error::other)
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; SINK_BYTES];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => total += read as u64,
        }
    }
    stream.write_all(&total.to_be_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_what_follows_them() {
        for (head, bytes) in [
            ("POST /1 HTTP/1.1\r\nhost: a\r\nContent-Length: 12\r\n\r\n", 12),
            ("POST /1 HTTP/1.1\r\nhost: a\r\n\r\n", 0),
            ("GET /1 HTTP/1.1\r\ncontent-length: 12\r\n\r\n", 0),
        ] {
            assert_eq!(sent_up(head.as_bytes()), bytes, "{head}");
        }
    }

    #[test]
    fn paths_say_what_is_asked_for() {
        for (head, length, after) in [
            ("GET /65536 HTTP/1.1\r\n\r\n", Some(65_536), None),
            ("GET /1024/2000 HTTP/1.1\r\n\r\n", Some(1024), Some(2000)),
            ("GET / HTTP/1.1\r\n\r\n", None, None),
            ("GET /a/b HTTP/1.1\r\n\r\n", None, None),
            ("GET", None, None),
        ] {
            let path = path(head.as_bytes());
            assert_eq!((asked(path), late(path)), (length, after.map(Duration::from_millis)), "{head}");
        }
    }
}

//! Tells a webhook: one request over one connection, which is not kept.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    fs,
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::message::{SIGNATURE, signature};

/// A webhook that takes longer is tried again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a secret: less can be guessed, and more is a file of something else.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `http://host/path`, `https://host/path`
    Url(Uri),
    /// `unix:/path`: where controllers have a network of their own, as in a local mesh.
    Unix(PathBuf),
    /// `file:/path`: as it is in there, since it may have something secret in it. Read each time.
    File(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        if let Some(path) = text.strip_prefix("file:").filter(|path| path.starts_with('/')) {
            return Ok(Self::File(path.into()));
        }
        // Without what it is: it may be from such a file.
        let wrong =
            || "that is not a webhook: write http://HOST/PATH, https://HOST/PATH, unix:/PATH or file:/PATH".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
            return Err(wrong());
        }
        Ok(Self::Url(uri))
    }
}

/// Who is told, and how they know us. Files are read each time: they are replaced while we run.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where.
    pub address: Address,
    /// What messages are signed with.
    pub secret: PathBuf,
    /// What its certificate is verified by, PEM, instead of what the system trusts, if there is such a file.
    pub authorities: Option<PathBuf>,
}

impl Webhook {
    /// Tells it `body`, signed at `time_seconds`.
    ///
    /// # Errors
    /// When it has not taken it, as far as is known.
    pub async fn tell(&self, body: Vec<u8>, time_seconds: u64) -> anyhow::Result<()> {
        let secret = secret(&self.secret).await?;
        let signature = signature(&secret, time_seconds, &body);
        let told = async {
            match &self.address().await? {
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path).await.context("cannot connect")?;
                    exchange(stream, request("/", "localhost", signature, body)?).await
                }
                Address::Url(uri) => self.tell_url(uri, signature, body).await,
                Address::File(_) => bail!("the file of the webhook has the name of another file in it"),
            }
        };
        timeout(ANSWER_TIMEOUT, told).await.map_err(|_| anyhow::anyhow!("no answer within {ANSWER_TIMEOUT:?}"))?
    }

    /// Where it is now.
    async fn address(&self) -> anyhow::Result<Address> {
        let Address::File(path) = &self.address else { return Ok(self.address.clone()) };
        let text = fs::read_to_string(path).await.with_context(|| format!("cannot read {}", path.display()))?;
        text.trim().parse().map_err(|error: String| anyhow::anyhow!("{}: {error}", path.display()))
    }

    async fn tell_url(&self, uri: &Uri, signature: String, body: Vec<u8>) -> anyhow::Result<()> {
        let (authority, host) = (uri.authority().context("no host")?, uri.host().context("no host")?);
        let is_tls = uri.scheme_str() == Some("https");
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = request(path, authority.as_str(), signature, body)?;
        let (host, port) = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }));
        let stream = TcpStream::connect((host, port)).await.context("cannot connect")?;
        if !is_tls {
            return exchange(stream, request).await;
        }
        let roots = self.roots().await?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("no TLS connection")?;
        exchange(stream, request).await
    }

    async fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match self.own_authorities().await? {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    roots.add(certificate?)?;
                }
            }
            None => {
                let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?;
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            bail!("there is nothing to verify its certificate by: give --alert-webhook-ca-file a file of certificates");
        }
        Ok(roots)
    }

    /// None where there is no such file: a Secret may have one.
    async fn own_authorities(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(path) = &self.authorities else { return Ok(None) };
        match fs::read(path).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

async fn secret(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let text = Zeroizing::new(fs::read(path).await.with_context(|| format!("cannot read {}", path.display()))?);
    // As people write files: with a line end.
    let secret = Zeroizing::new(text.trim_ascii_end().to_vec());
    if !SECRET_BYTES.contains(&secret.len()) {
        let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
        bail!("the secret in {} has {} bytes, and must have {least} to {most}", path.display(), secret.len());
    }
    Ok(secret)
}

fn request(path: &str, host: &str, signature: String, body: Vec<u8>) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("conduit/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .header(SIGNATURE, signature);
    Ok(request.body(Full::from(body))?)
}

/// Redirects are not followed: where they lead to, nobody has said that it may be told.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<()> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    connection.abort();
    let status = answer.context("no answer")?.status();
    if !status.is_success() {
        bail!("the answer is {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, UnixListener},
    };

    use super::*;

    const SECRET: &[u8] = b"sixteen bytes at least";

    #[test]
    fn webhooks_are_urls_or_sockets() {
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        for url in ["http://hooks.example.org/a?b=c", "https://[fd00::1]:8443/"] {
            assert_eq!(url.parse(), Ok(Address::Url(url.parse().unwrap())));
        }
        for bad in
            ["", "/x", "hooks.example.org", "ftp://x/", "unix:x", "file:x", "https://user:password@x/", "http:///x"]
        {
            assert!(bad.parse::<Address>().unwrap_err().contains("write http://HOST"), "{bad}");
        }
    }

    fn webhook(directory: &TempDir, address: Address, secret: &[u8]) -> Webhook {
        let path = directory.path().join("secret");
        std::fs::write(&path, [secret, b"\n"].concat()).unwrap();
        Webhook { address, secret: path, authorities: None }
    }

    /// Answers one request, and says what it was.
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str, body: &str) -> String {
        let mut read = String::new();
        while !read.ends_with(body) {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            assert_ne!(count, 0, "{read}");
            read.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
        read
    }

    #[tokio::test]
    async fn what_is_not_answered_well_is_not_told() {
        let directory = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?team=a", listener.local_addr().unwrap());
        let hook = webhook(&directory, url.parse().unwrap(), SECRET);
        for (status, says) in [("204 No Content", None), ("500 Oh", Some("500")), ("302 Found", Some("302"))] {
            let (told, heard) = tokio::join!(hook.tell(b"{\"a\":1}".to_vec(), 7), async {
                answer(listener.accept().await.unwrap().0, status, "{\"a\":1}").await
            });
            assert_eq!(
                told.err().map(|error| error.to_string().contains(says.unwrap_or("?"))),
                says.map(|_| true),
                "{status}"
            );
            assert!(heard.starts_with("POST /hook?team=a HTTP/1.1\r\n"), "{heard}");
            let expected = format!("conduit-signature: {}\r\n", signature(SECRET, 7, b"{\"a\":1}"));
            assert!(heard.contains(&expected) && heard.contains("content-type: application/json"), "{heard}");
        }
        drop(listener);
        assert!(hook.tell(Vec::new(), 7).await.unwrap_err().to_string().contains("cannot connect"));
    }

    #[tokio::test]
    async fn a_socket_is_told_and_a_short_secret_is_none() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("hook.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let hook = webhook(&directory, Address::Unix(path), SECRET);
        let (told, _) = tokio::join!(hook.tell(b"{}".to_vec(), 7), async {
            answer(listener.accept().await.unwrap().0, "200 OK", "{}").await
        });
        told.unwrap();
        let error = webhook(&directory, hook.address.clone(), b"short").tell(Vec::new(), 7).await.unwrap_err();
        assert!(error.to_string().contains("has 5 bytes"), "{error}");
    }

    #[tokio::test]
    async fn an_address_that_is_secret_is_in_a_file_and_in_no_message() {
        let directory = TempDir::new().unwrap();
        let (path, socket) = (directory.path().join("url"), directory.path().join("hook.sock"));
        let hook = webhook(&directory, format!("file:{}", path.display()).parse().unwrap(), SECRET);
        assert!(hook.tell(b"{}".to_vec(), 7).await.unwrap_err().to_string().contains("cannot read"));
        for bad in ["hooks.example.org/token".to_owned(), format!("file:{}", path.display())] {
            std::fs::write(&path, &bad).unwrap();
            let error = format!("{:#}", hook.tell(b"{}".to_vec(), 7).await.unwrap_err());
            assert!(error.contains("webhook") && !error.contains("token"), "{error}");
        }
        std::fs::write(&path, format!("unix:{}\n", socket.display())).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let (told, _) = tokio::join!(hook.tell(b"{}".to_vec(), 7), async {
            answer(listener.accept().await.unwrap().0, "200 OK", "{}").await
        });
        told.unwrap();
    }

    #[tokio::test]
    async fn a_certificate_that_nobody_trusts_is_told_nothing() {
        let directory = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let mut hook = webhook(&directory, url.parse().unwrap(), SECRET);
        let none = directory.path().join("ca.pem");
        std::fs::write(&none, "").unwrap();
        hook.authorities = Some(none);
        let error = hook.tell(Vec::new(), 7).await.unwrap_err();
        assert!(error.to_string().contains("--alert-webhook-ca-file"), "{error}");
    }
}

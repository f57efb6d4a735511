//! What a TLS client says first (RFC 8446 section 4.1.2): whom it wants to speak with; and another proxy, what it is about to send. Pure.

use rustls::server::Acceptor;

use crate::http::Protocol;

/// What is in the clear of a handshake's beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name in the Server Name Indication (RFC 6066 section 3), if it is one that DNS may have.
    pub server_name: Option<String>,
    /// Another proxy of this mesh says so by its ALPN.
    pub protocol: Option<Protocol>,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Not all of one.
    Partial,
    /// All of one, and perhaps more.
    Whole(ClientHello),
    /// None that is understood here; perhaps the application does.
    None,
}

/// Reads the first bytes of a connection. What is no TLS needs no more of them than it takes to see that.
pub fn read(mut bytes: &[u8]) -> Read {
    if !matches!(bytes, [] | [0x16] | [0x16, 0x03, ..]) {
        return Read::None;
    }
    let mut acceptor = Acceptor::default();
    // It takes some kilobytes at a time, and is asked after each: one that is whole is not held up by what follows it.
    loop {
        match acceptor.read_tls(&mut bytes) {
            Ok(0) => return Read::Partial,
            Ok(_) => {}
            Err(_) => return Read::None,
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Read::Whole(ClientHello {
                    server_name: hello.server_name().map(ToOwned::to_owned),
                    protocol: hello.alpn().into_iter().flatten().find_map(Protocol::from_alpn),
                });
            }
            Ok(None) => {}
            Err(_) => return Read::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn names_are_found_wherever_the_bytes_are_split() {
        let mut bytes = hello("example.com", &[b"h2"]);
        let found = Read::Whole(ClientHello { server_name: Some("example.com".into()), protocol: None });
        for split in 0..bytes.len() {
            assert_eq!(read(&bytes[..split]), Read::Partial, "{split}");
        }
        assert_eq!(read(&bytes), found);
        bytes.extend([0; 20_000]);
        assert_eq!(read(&bytes), found, "what follows does not matter");
    }

    #[test]
    fn other_proxies_are_told_from_applications() {
        let mesh = hello("10.0.0.1", &[b"conduit/h2"]);
        assert_eq!(read(&mesh), Read::Whole(ClientHello { server_name: None, protocol: Some(Protocol::Http2) }));
        for nothing in [&b"GET / HTTP/1.1\r\n"[..], &[0x16, 3, 1, 0, 5, 2, 0, 0, 1, 0], &[0x15, 3, 3, 0, 2, 2, 40]] {
            assert_eq!(read(nothing), Read::None, "{nothing:?}");
        }
    }
}

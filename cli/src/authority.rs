//! A service as clients say it. Pure.

use std::str::FromStr;

use conduit_api::ServiceName;

/// `web-svc.emojivoto.svc.cluster.local:80`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its name.
    pub service: String,
    /// As the command line says, if it is not said here.
    pub namespace: Option<String>,
    /// All of its ports, if none is said.
    pub port: Option<u16>,
}

/// Something else.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a service as clients say it: write NAME.NAMESPACE:PORT, as in web-svc.emojivoto:80")]
pub struct NoAuthority(String);

impl FromStr for Authority {
    type Err = NoAuthority;

    fn from_str(text: &str) -> Result<Self, NoAuthority> {
        let wrong = || NoAuthority(text.to_owned());
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?)),
            None => (text, None),
        };
        let mut labels = host.trim_end_matches('.').split('.');
        let service = labels.next().unwrap_or_default().to_owned();
        let namespace = labels.next().map(str::to_owned);
        let is_service = labels.next().is_none_or(|label| label == "svc");
        let named = ServiceName::new(namespace.as_deref().unwrap_or("default"), &service);
        if named.is_err() || !is_service {
            return Err(wrong());
        }
        Ok(Self { service, namespace, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_as_in_dns() {
        for (text, service, namespace, port) in [
            ("web", "web", None, None),
            ("web:80", "web", None, Some(80)),
            ("web.shop", "web", Some("shop"), None),
            ("web.shop.svc:80", "web", Some("shop"), Some(80)),
            ("web.shop.svc.cluster.local.:80", "web", Some("shop"), Some(80)),
        ] {
            let authority: Authority = text.parse().unwrap();
            assert_eq!(
                (authority.service.as_str(), authority.namespace.as_deref(), authority.port),
                (service, namespace, port)
            );
        }
        for bad in ["", ":80", "web:0", "web:http", "www.example.org", "web_1.shop", "10.0.0.1:80:90", "web..svc"] {
            assert!(bad.parse::<Authority>().is_err(), "{bad}");
        }
    }
}

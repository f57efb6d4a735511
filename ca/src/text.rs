//! Certificates for people.

use std::fmt::Write as _;

use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::X509Certificate,
    public_key::PublicKey,
};

use crate::key_id::KeyId;

/// What the certificate `der` says, in lines; `None` of what is none. Names in it are whatever their issuer wrote.
pub fn describe(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    line("Serial", &certificate.raw_serial_as_string());
    line("Issuer", &name(&certificate.issuer().to_string()));
    line("Subject", &name(&certificate.subject().to_string()));
    line("Not before", &time(certificate.validity().not_before.to_datetime()));
    line("Not after", &time(certificate.validity().not_after.to_datetime()));
    for uri in uris(&certificate) {
        line("URI", &uri);
    }
    line("Public key", &key(&certificate));
    if let Some(constraints) = certificate.basic_constraints().ok().flatten().filter(|found| found.value.ca) {
        let below = constraints.value.path_len_constraint.map(|max| format!(", at most {max} authorities below"));
        line("Authority", &format!("yes{}", below.unwrap_or_default()));
    }
    if let Some(usage) = certificate.key_usage().ok().flatten() {
        line("Key usage", &usage.value.to_string());
    }
    if let Some(id) = KeyId::subject(&certificate) {
        line("Key id", &id.to_string());
    }
    if let Some(id) = KeyId::issuer(&certificate) {
        line("Issuer's key", &id.to_string());
    }
    Some(text)
}

fn name(name: &str) -> String {
    if name.is_empty() { "(none)".to_owned() } else { name.to_owned() }
}

fn time(time: time::OffsetDateTime) -> String {
    time.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| time.to_string())
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut uris = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            uris.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            }));
        }
    }
    uris
}

fn key(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::EC(point)) => format!("ECDSA, {} bits", point.key_size()),
        Ok(PublicKey::RSA(key)) => format!("RSA, {} bits", key.key_size()),
        _ => certificate.public_key().algorithm.algorithm.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use conduit_api::NodeId;

    use super::*;
    use crate::{Issuer, KeyPair, ROOT_LIFETIME, Root};

    #[test]
    fn says_who_it_is_for_and_until_when() {
        let (now, lifetime) = (SystemTime::UNIX_EPOCH + ROOT_LIFETIME, ROOT_LIFETIME / 3650);
        let root = Root::generate(&"cluster.local".parse().unwrap(), now, ROOT_LIFETIME).unwrap();
        let issuer = Issuer::new(&root, None, NodeId::new(7), now, lifetime).unwrap();
        let id = "spiffe://cluster.local/ns/emojivoto/sa/web".parse().unwrap();
        let csr = KeyPair::generate().unwrap().csr().unwrap();
        let leaf = describe(&issuer.issue(&csr, &id, now, lifetime).unwrap().chain[0]).unwrap();
        for part in [
            "Issuer        CN=Conduit intermediate of replica 0000000000000007\n",
            "Subject       (none)\n",
            "Not before    1979-12-29T23:59:00Z\n",
            "Not after     1979-12-31T00:00:00Z\n",
            "URI           spiffe://cluster.local/ns/emojivoto/sa/web\n",
            "Public key    ECDSA, 256 bits\n",
            "Key usage     Digital Signature\n",
        ] {
            assert!(leaf.contains(part), "{part} in\n{leaf}");
        }
        assert!(!leaf.contains("Authority"));
        let authority = describe(issuer.certificate()).unwrap();
        assert!(authority.contains("Authority     yes, at most 0 authorities below\n"), "{authority}");
        assert_eq!(describe(b"junk"), None);
    }
}

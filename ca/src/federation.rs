//! What other trust domains are believed by, as they publish it and as ours does: the SPIFFE bundle format.
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md>

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::public_key::PublicKey;

use crate::{
    bundle::{Authorities, BundleError, TrustBundle},
    jwt::{self, JwtKeys},
    svid,
};

/// The largest bundle read: sixteen certificates of two kilobytes, and as many keys.
pub const BUNDLE_BYTES_MAX: usize = 128 * 1024;
/// Keys of tokens in a bundle.
pub const JWT_KEYS_MAX: usize = 64;
/// What a key of a bundle says that it is for (section 4.2.2).
const X509_USE: &str = "x509-svid";
/// Seconds after which whoever has imported ours should look again: a rotation waits for those who are connected, and not for them.
const REFRESH_HINT_SECONDS: u64 = 300;

/// Why a bundle is of no use.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FederationError {
    /// Too large.
    #[error("a bundle of {0} bytes is larger than the {BUNDLE_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// Not the format.
    #[error("this is not a bundle in the SPIFFE format, a JSON Web Key Set: {0}")]
    Format(String),
    /// A key that cannot be what it says.
    #[error("key number {0} of the bundle cannot be used: {1}")]
    Key(usize, String),
    /// Nobody could be verified with it.
    #[error("the bundle has keys, and none for X.509-SVIDs or JWT-SVIDs that could be used here")]
    Empty,
    /// Of the roots in it.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Reads a trust domain's authorities; of those who publish no bundle, its roots in PEM.
///
/// # Errors
/// When it is not a bundle, or one that nobody could be verified with.
pub fn parse(text: &str) -> Result<Authorities, FederationError> {
    if text.len() > BUNDLE_BYTES_MAX {
        return Err(FederationError::TooLarge(text.len()));
    }
    if text.trim_start().starts_with("-----BEGIN") {
        return Ok(TrustBundle::from_pem(text)?.own().clone());
    }
    let format = |why: &str| FederationError::Format(why.to_owned());
    let bundle: Value = serde_json::from_str(text).map_err(|error| FederationError::Format(error.to_string()))?;
    let keys = bundle.get("keys").and_then(Value::as_array).ok_or_else(|| format("there is no list of `keys`"))?;
    let (mut roots, mut jwt) = (Vec::new(), JwtKeys::new());
    for (number, key) in (1..).zip(keys) {
        let wrong = |why: &str| FederationError::Key(number, why.to_owned());
        match key.get("use").and_then(Value::as_str) {
            Some(X509_USE) => {
                // Exactly one: a bundle has roots, and no chains to them.
                let certificate = match key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
                    Some([Value::String(certificate)]) => certificate,
                    _ => return Err(wrong("`x5c` must be one certificate")),
                };
                let der = STANDARD.decode(certificate).map_err(|_| wrong("its certificate is not base64"))?;
                roots.push(CertificateDer::from(der));
            }
            Some(jwt::KEY_USE) => {
                let id = key.get("kid").and_then(Value::as_str).ok_or_else(|| wrong("it has no `kid`"))?;
                // Section 4.2.1: a kind of key that is not known here is no reason to leave the others out.
                if let Ok(usable) = jwt::usable(key) {
                    jwt.insert(id.to_owned(), usable.to_string());
                }
            }
            // Section 4.2.2: to be ignored.
            _ => {}
        }
    }
    // Without any keys at all it says that everything was revoked (section 4.1): then nobody is believed.
    if roots.is_empty() && jwt.is_empty() && !keys.is_empty() {
        return Err(FederationError::Empty);
    }
    if jwt.len() > JWT_KEYS_MAX {
        return Err(format("there are too many keys for JWT-SVIDs"));
    }
    Ok(Authorities::new(roots)?.with_jwt(jwt))
}

/// What other trust domains need to believe in ours. `sequence` grows whenever it changes.
///
/// # Errors
/// When a root is not a certificate, or has a key of an unknown kind.
pub fn export(authorities: &Authorities, sequence: u64) -> Result<String, FederationError> {
    let root = |(number, root)| x509_key(root).map_err(|why| FederationError::Key(number, why));
    let mut keys = (1..).zip(authorities.roots()).map(root).collect::<Result<Vec<_>, _>>()?;
    keys.extend(jwt_keys(&authorities.jwt));
    let bundle = json!({ "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": REFRESH_HINT_SECONDS });
    serde_json::to_string_pretty(&bundle).map_err(|error| FederationError::Format(error.to_string()))
}

/// The keys of tokens alone, as a JSON Web Key Set (RFC 7517 section 5).
pub fn jwt_key_set(keys: &JwtKeys) -> String {
    json!({ "keys": jwt_keys(keys).collect::<Vec<_>>() }).to_string()
}

fn jwt_keys(keys: &JwtKeys) -> impl Iterator<Item = Value> {
    keys.values().filter_map(|jwk| serde_json::from_str(jwk).ok())
}

/// A root as a key (RFC 7518 section 6): readers of the format look at `x5c`, and want the rest to agree.
fn x509_key(root: &CertificateDer<'_>) -> Result<Value, String> {
    let certificate = svid::parse(root).map_err(|error| error.to_string())?;
    let encode = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    let mut key = Map::new();
    key.insert("use".to_owned(), X509_USE.into());
    match certificate.public_key().parsed().map_err(|error| error.to_string())? {
        PublicKey::EC(point) => {
            // SEC 1 section 2.3.3: 4, and two coordinates of the same length.
            let coordinates = point.data().get(1..).unwrap_or_default();
            let (curve, (x, y)) = match coordinates.len() {
                64 => ("P-256", coordinates.split_at(32)),
                96 => ("P-384", coordinates.split_at(48)),
                _ => return Err("its curve is neither P-256 nor P-384".to_owned()),
            };
            key.extend([("kty", "EC".into()), ("crv", curve.into()), ("x", encode(x)), ("y", encode(y))].map(named));
        }
        PublicKey::RSA(rsa) => {
            let number = |bytes: &[u8]| encode(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
            key.extend([("kty", "RSA".into()), ("n", number(rsa.modulus)), ("e", number(rsa.exponent))].map(named));
        }
        _ => return Err("its key is neither EC nor RSA".to_owned()),
    }
    key.insert("x5c".to_owned(), json!([STANDARD.encode(root)]));
    Ok(key.into())
}

fn named((name, value): (&str, Value)) -> (String, Value) {
    (name.to_owned(), value)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        jwt::JwtIssuer,
        root::{ROOT_LIFETIME, Root},
    };

    fn authorities() -> Authorities {
        let root = Root::generate(&"example.org".parse().unwrap(), SystemTime::now(), ROOT_LIFETIME).unwrap();
        let issuer = JwtIssuer::generate().unwrap();
        let jwt = [(issuer.id().to_owned(), issuer.jwk().to_owned())].into();
        Authorities::new(vec![root.anchor().clone()]).unwrap().with_jwt(jwt)
    }

    #[test]
    fn what_is_exported_is_imported() {
        let ours = authorities();
        let text = export(&ours, 7).unwrap();
        let theirs = parse(&text).unwrap();
        assert_eq!(theirs.roots(), ours.roots());
        assert!(theirs.jwt.keys().eq(ours.jwt.keys()));
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (document["spiffe_sequence"].as_u64(), document["keys"][0]["crv"].as_str()),
            (Some(7), Some("P-256"))
        );
    }

    #[test]
    fn roots_in_pem_are_enough() {
        let ours = authorities();
        let pem = crate::bundle::to_pem(ours.roots());
        assert_eq!(parse(&pem).unwrap().roots(), ours.roots());
        assert!(matches!(parse("-----BEGIN CERTIFICATE-----\n"), Err(FederationError::Bundle(_))));
    }

    #[test]
    fn what_nobody_could_be_verified_with_is_refused() {
        let good: Value = serde_json::from_str(&export(&authorities(), 1).unwrap()).unwrap();
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut bad = good.clone();
            change(&mut bad);
            parse(&bad.to_string()).unwrap_err()
        };
        assert!(matches!(parse("junk"), Err(FederationError::Format(_))));
        assert!(matches!(parse("{}"), Err(FederationError::Format(_))));
        assert!(parse("{\"keys\": []}").unwrap().roots().is_empty(), "everything was revoked");
        assert_eq!(parse("{\"keys\": [{\"use\": \"sig\"}]}"), Err(FederationError::Empty));
        assert_eq!(
            refused(&|bad| bad["keys"][0]["x5c"] = json!(["!"])),
            FederationError::Key(1, "its certificate is not base64".to_owned())
        );
        assert!(matches!(refused(&|bad| bad["keys"][0]["x5c"] = json!([])), FederationError::Key(1, _)));
        assert!(matches!(
            refused(&|bad| bad["keys"][0]["x5c"] = json!([STANDARD.encode("junk")])),
            FederationError::Bundle(_)
        ));
        assert!(matches!(refused(&|bad| bad["keys"][1]["kid"] = Value::Null), FederationError::Key(2, _)));
        let mut unknown = good.clone();
        unknown["keys"][1]["kty"] = "oct".into();
        assert!(parse(&unknown.to_string()).unwrap().jwt.is_empty(), "and the root is taken");
        let mut careless = good.clone();
        careless["keys"][1]["d"] = "secret".into();
        assert!(!format!("{:?}", parse(&careless.to_string()).unwrap().jwt).contains("secret"));
        assert!(matches!(parse(&" ".repeat(BUNDLE_BYTES_MAX + 1)), Err(FederationError::TooLarge(_))));
        let mut others = good.clone();
        others["keys"][1]["use"] = "something else".into();
        assert!(parse(&others.to_string()).unwrap().jwt.is_empty());
    }
}

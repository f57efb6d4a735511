//! What the certificates of a local mesh are made of, as `up` takes it and controllers are told it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use conduit_api::TrustDomain;
use conduit_ca::{OwnIssuer, Root};

/// Lifetimes, and a root of one's own.
#[derive(Clone, Debug, clap::Args)]
pub struct AuthorityArgs {
    /// How long a workload's certificate is valid; it is renewed at 70 % of that
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    leaf_lifetime: Duration,
    /// How long the trust root is valid; it is replaced by itself at 80 % of that
    #[arg(long, default_value = "87600h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    root_lifetime: Duration,
    /// Issue under your own issuer: its certificate, and those between it and a trust anchor, PEM
    #[arg(long, value_name = "FILE", requires = "identity_issuer_key_file")]
    identity_issuer_certificate_file: Option<PathBuf>,
    /// The key of your own issuer: ECDSA P-256, PEM
    #[arg(long, value_name = "FILE", requires = "identity_issuer_certificate_file")]
    identity_issuer_key_file: Option<PathBuf>,
    /// What is to be trusted, if your own issuer is not a root itself: certificates, PEM
    #[arg(long, value_name = "FILE", requires = "identity_issuer_certificate_file")]
    identity_trust_anchors_file: Option<PathBuf>,
}

impl AuthorityArgs {
    /// Before anything is started: whether certificates can be issued under one's own issuer.
    ///
    /// # Errors
    /// When a file cannot be read, or the issuer is of no use.
    pub fn check(&self, trust_domain: &TrustDomain) -> anyhow::Result<()> {
        let (Some(certificates), Some(key)) = (&self.identity_issuer_certificate_file, &self.identity_issuer_key_file)
        else {
            return Ok(());
        };
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let anchors = self.identity_trust_anchors_file.as_deref().map(read).transpose()?;
        let own = OwnIssuer { certificates: &read(certificates)?, key: &read(key)?, anchors: anchors.as_deref() };
        Root::import(own, trust_domain, SystemTime::now())?;
        Ok(())
    }

    /// The same, as flags.
    pub fn to_flags(&self) -> Vec<String> {
        let duration = |duration: Duration| humantime::format_duration(duration).to_string().replace(' ', "");
        let path = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string();
        let flags = [
            ("--leaf-lifetime", Some(duration(self.leaf_lifetime))),
            ("--root-lifetime", Some(duration(self.root_lifetime))),
            ("--identity-issuer-certificate-file", self.identity_issuer_certificate_file.as_ref().map(path)),
            ("--identity-issuer-key-file", self.identity_issuer_key_file.as_ref().map(path)),
            ("--identity-trust-anchors-file", self.identity_trust_anchors_file.as_ref().map(path)),
        ];
        flags.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?])).flatten().collect()
    }
}

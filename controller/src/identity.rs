//! Certificates for workloads: attest, then sign. Any replica can, without leader and without quorum.
//!
//! ```text
//!   CSR, token ──► attested identity ──► denied? clock? ──► limits ──► issuer ──► certificate
//! ```

pub mod limits;
pub mod metrics;
pub mod server;

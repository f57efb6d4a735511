//! Certificates and tokens for workloads: attest, then sign. Any replica can, without leader and without quorum.
//!
//! ```text
//!   CSR, token ──► attested identity ─────────┐               ┌──► issuer ────► X.509-SVID
//!                                             ├──► denied? limits? clock?
//!   client certificate ──► proved identity ───┘               └──► token key ─► JWT-SVID
//! ```

pub mod attest;
pub mod limits;
pub mod metrics;
pub mod server;
pub mod service_accounts;
pub mod tokens;

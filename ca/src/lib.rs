//! Identity: who may speak in the mesh, how it is proved, and the TLS that enforces it. No I/O but the seed's file.
//!
//! ```text
//!  seed ──► replica   control-plane membership: an authority of its own, so that Raft never depends on the mesh's CA
//!    │
//!    ├────► attest    launch token ──► namespace, service account ─┐ identity
//!    │                                                             ▼
//!    └────► root ────► issuer  (an intermediate per replica) ──► leaf, for the key of a `key` ──► workload
//!             └──────► bundle ───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`seed`]: the mesh's one secret, from which every other long-lived key is derived or under which it is sealed.
//! - [`root`], [`issuer`], [`key`]: the chain from the sealed root to a workload's certificate. [`renewal`]: when to
//!   ask for the next.
//! - [`bundle`], [`workload`]: what a workload trusts and presents, exchanged under live configurations.
//! - [`jwt`]: the same identities where there is no TLS to carry them. [`federation`]: what other trust domains are believed by.
//! - [`cache`]: what a workload keeps for the day when there is nobody to ask.
//! - [`front_proxy`]: who may speak for people, in Kubernetes.
//! - [`refusal`]: why a handshake was refused, for logs and counters.
//!
//! Everything is TLS 1.3 on aws-lc-rs. Identities are X.509-SVIDs, of whose names only the one URI counts:
//! <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>.

pub mod attest;
pub mod bundle;
pub mod cache;
mod certificate;
pub mod federation;
pub mod front_proxy;
pub mod import;
pub mod issuer;
pub mod jwt;
pub mod key;
mod key_id;
pub mod refusal;
pub mod renewal;
pub mod replica;
pub mod root;
mod seal;
pub mod seed;
mod sessions;
mod svid;
mod text;
mod tls;
mod verifier;
pub mod workload;

pub use attest::{AttestError, LaunchToken};
pub use bundle::{Authorities, BundleError, TrustBundle, TrustPolicy};
pub use certificate::lifetime;
pub use front_proxy::{FrontProxies, FrontProxyError};
pub use import::{ImportError, OwnIssuer};
pub use issuer::{IssueError, Issued, Issuer, IssuerError};
pub use jwt::{JwtError, JwtIssuer, JwtKeys, JwtSvid};
pub use key::{CryptoError, KeyPair, warm};
pub use key_id::KeyId;
pub use refusal::Refusal;
pub use renewal::renew_at;
pub use replica::{ReplicaTls, peer_node};
pub use root::{ROOT_LIFETIME, Root, RootError, SealedKey, SealedRoot};
pub use seed::{Seed, SeedError, Turn};
pub use svid::NotSvid;
pub use text::describe;
pub use workload::{AuthenticatedPeer, ClientAuth, Identity, IdentityError, Standing, WorkloadTls, X509Svid};

//! Adds the proxy to pods: to manifests, for `conduit inject`, and to pods that are being admitted, for the webhook. No I/O.
//!
//! ```text
//!   manifest ─► workload ─┐                                   ┌─► manifest: text with splices
//!                         ├─► injection::plan ─► [Operation] ─┤
//!   admitted pod ─────────┘    (or removal::plan)             └─► webhook: JSON patch
//! ```
//!
//! - [`settings`]: what the proxy is to be like; [`settings::annotations`]: what namespaces and pods say of it.
//! - [`injection`] decides, on a pod template as JSON, what is to be added; [`containers`] has the containers and volumes.
//!   [`removal`] decides what is to be taken away again.
//! - [`operation`]: what both decide, as changes of a JSON value.
//! - [`manifest`] carries them out in the text of a file, whose other bytes stay what they are; [`webhook`] says them in the
//!   API server's words.
//! - [`redirection`]: what of a pod's traffic goes to the proxy, as an init container or a CNI plugin is told.
//! - [`workload`]: which kinds have pods, and where. [`report`]: what a person is told.

pub mod containers;
pub mod injection;
pub mod manifest;
pub mod operation;
pub mod redirection;
pub mod removal;
pub mod report;
pub mod settings;
pub mod webhook;
pub mod workload;

pub use injection::{Decision, Injection, Origin, Skip, Warning};
pub use manifest::{Manifest, ManifestError, Namespaces, Output};
pub use operation::{Operation, Path, Step};
pub use redirection::{Redirection, RedirectionError};
pub use report::{Outcome, Report};
pub use settings::{Settings, annotations::AnnotationError, annotations::Annotations};

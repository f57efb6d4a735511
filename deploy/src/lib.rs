//! What Conduit is on Kubernetes. The chart in `chart/` is the one source: helm renders it, and so does [`Install`], with equal objects
//! for equal values.
//!
//! ```text
//! flags ─► install ─► values (values.yaml, values-ha.yaml, --values, --set; checked by values.schema.json)
//!                        └─► render ─► chart/templates, by functions ─► Manifest: YAML with its comments, or a List in JSON
//! ```
//!
//! Nothing here knows a cluster, a clock or chance: the same flags render the same bytes, so what is installed can be kept in git,
//! and applying it again changes nothing. What has to be secret, the controllers make themselves.

mod assignment;
mod functions;
mod install;
mod kept;
mod render;
mod values;

pub use assignment::AssignmentError;
pub use install::{Install, InstallError, Output};
pub use kept::{Kept, KeptError};
pub use render::{Manifest, RenderError, render};
pub use values::{Values, ValuesError};

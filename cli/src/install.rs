//! `conduit install`: the whole control plane, to be given to `kubectl apply -f -`. It asks nobody, and prints nothing secret.

use std::io::Write;

use anyhow::bail;
use conduit_deploy::Install;

use crate::global::Global;

/// Prints the manifests.
///
/// # Errors
/// When a flag or a value makes no sense; nothing is printed then.
pub fn run(args: &Install, global: &Global, out: &mut impl Write) -> anyhow::Result<()> {
    // It has been both: of the control plane everywhere, and here of what is about to be made.
    let namespace = global.namespace.as_deref().unwrap_or(global.conduit_namespace());
    if !is_namespace(namespace) {
        bail!("{namespace} is not a valid namespace");
    }
    out.write_all(args.print(namespace)?.as_bytes())?;
    Ok(())
}

/// RFC 1123, as Kubernetes reads it.
fn is_namespace(name: &str) -> bool {
    conduit_api::PodName::new(name, "pod").is_ok()
}

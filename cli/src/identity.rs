//! `conduit identity`: the certificates that proxies present.

use std::io::Write;

use anyhow::bail;
use conduit_api::{
    access::about,
    proto::public::{IdentityRequest, PodsRequest},
};
use conduit_ca::{bundle::to_pem, describe};

use crate::{control_plane::ControlPlane, global::Global, printable::printable};

/// Of whom.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pods; all that have a proxy if none is named
    #[arg(value_name = "POD")]
    pods: Vec<String>,
}

/// Asks each, and writes its chain, the leaf first, for people and as PEM.
///
/// # Errors
/// When no control plane answers, a pod cannot be asked, or `out` cannot be written.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let namespace = global.one_namespace()?;
    let pods = match args.pods.is_empty() {
        false => args.pods.clone(),
        true => {
            let request = PodsRequest { namespace: namespace.clone(), skip_connected: true };
            let pods = control_plane.ask(async |client| client.pods(about(request.clone())).await).await?.pods;
            pods.into_iter().filter(|pod| pod.meshed).map(|pod| pod.name).collect()
        }
    };
    if pods.is_empty() {
        bail!("no pod in namespace {} has a proxy; name another one with -n", printable(&namespace));
    }
    let mut failed = 0;
    for (number, pod) in pods.iter().enumerate() {
        let request = IdentityRequest { namespace: namespace.clone(), pod: pod.clone() };
        let header = format!("POD {} ({} of {})", printable(pod), number + 1, pods.len());
        match control_plane.ask(async |client| client.identity(about(request.clone())).await).await {
            Ok(identity) => {
                writeln!(out, "{header}")?;
                for certificate in identity.chain {
                    let text = describe(&certificate).unwrap_or_else(|| "not a certificate\n".to_owned());
                    for line in text.lines() {
                        writeln!(out, "{}", printable(line))?;
                    }
                    write!(out, "{}", to_pem(&[certificate.into()]))?;
                }
            }
            Err(error) if pods.len() == 1 => return Err(error),
            Err(error) => {
                failed += 1;
                writeln!(out, "{header}\n  {}", printable(&format!("{error:#}")))?;
            }
        }
        writeln!(out)?;
    }
    if failed > 0 {
        bail!("{failed} of {} pods could not be asked", pods.len());
    }
    Ok(())
}

//! `conduit ca`: whom the mesh trusts.

mod federation;
mod seed;

use std::{
    fs,
    io::{IsTerminal as _, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use conduit_api::proto::public::{
    CaDenyRequest, CaRotateRequest, CaStatusRequest, CaStatusResponse, MemberRequest, OwnIssuer, TrustRoot,
};
use conduit_ca::bundle::to_pem;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::{Instant, sleep};

use self::{
    federation::{DefederateArgs, ExportArgs, FederateArgs, Format},
    seed::RotateSeedArgs,
};
use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{TableOrJson, write_json},
    printable::printable,
    table::{Align, Table},
    time::{rfc3339, until},
    wait::{self, By},
};

/// Between two looks at a rotation.
const POLL: Duration = Duration::from_millis(100);
/// Of an identifier of 40 digits, so many tell it from the others.
const ID_DIGITS: usize = 16;
/// A key or a chain is some kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show roots, issuers, what a rotation waits for, and who is denied
    Status(StatusArgs),
    /// Replace the trust root by a new one; nothing is restarted, and no request fails
    Rotate(RotateArgs),
    /// Replace the secret that the replicas of the control plane share by a new one; nothing is restarted
    RotateSeed(RotateSeedArgs),
    /// Write what the mesh's identities are believed by
    ExportBundle(ExportArgs),
    /// Believe another trust domain's identities as well
    Federate(FederateArgs),
    /// Believe another trust domain's identities no longer
    Defederate(DefederateArgs),
    /// Refuse an identity, whatever certificate it has, and give it none
    Deny(DenyArgs),
    /// Refuse an identity no longer
    Allow(AllowArgs),
    /// Believe no longer what a replica of the control plane has issued
    Revoke(RevokeArgs),
}

/// How it is shown.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// How it is done.
#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    /// Return when the old root is not trusted any more
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Wait for nobody: what has not taken over the new root will be refused until it has. Also for a rotation in progress
    #[arg(long)]
    force: bool,
    /// Go on with an issuer of your own: its certificate, and those between it and a trust anchor, PEM
    #[arg(long, value_name = "FILE", requires = "issuer_key_file")]
    issuer_certificate_file: Option<PathBuf>,
    /// The key of that issuer: ECDSA P-256, PEM
    #[arg(long, value_name = "FILE", requires = "issuer_certificate_file")]
    issuer_key_file: Option<PathBuf>,
    /// What is to be trusted, if the issuer is not a root itself: certificates, PEM
    #[arg(long, value_name = "FILE", requires = "issuer_certificate_file")]
    trust_anchors_file: Option<PathBuf>,
}

/// Who, and how.
#[derive(Debug, clap::Args)]
pub struct DenyArgs {
    #[command(flatten)]
    identity: Identity,
    /// Close the connections that it has
    #[arg(long)]
    drop_connections: bool,
}

/// Who, and how.
#[derive(Debug, clap::Args)]
pub struct AllowArgs {
    #[command(flatten)]
    identity: Identity,
}

/// An identity.
#[derive(Debug, clap::Args)]
pub struct Identity {
    /// A service account in the namespace of -n, or spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT
    #[arg(value_name = "IDENTITY")]
    identity: String,
    /// Return when it is in force in every proxy
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Which.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Name or id, as `conduit raft status` shows them; the id of one that was removed, as `conduit history` does
    #[arg(value_name = "REPLICA")]
    replica: String,
}

/// Does it.
///
/// # Errors
/// When no control plane answers, it refuses, or `out` cannot be written.
pub async fn run(
    command: &Command,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        Command::Status(StatusArgs { output }) => {
            let status = status(control_plane).await?;
            match output {
                TableOrJson::Table => out.write_all(text(&status, SystemTime::now()).as_bytes())?,
                TableOrJson::Json => write_json(out, &json(&status))?,
            }
            Ok(())
        }
        Command::Rotate(args) => rotate(args, control_plane, out).await,
        Command::ExportBundle(args) if args.format() == Format::Spiffe => federation::export(control_plane, out).await,
        Command::RotateSeed(args) => seed::rotate(args, control_plane, out).await,
        Command::Federate(args) => federation::federate(args, control_plane, out).await,
        Command::Defederate(args) => federation::defederate(args, control_plane, out).await,
        Command::ExportBundle(_) => {
            let roots = status(control_plane).await?.roots;
            let mut anchors = Vec::new();
            for anchor in roots.into_iter().map(|root| root.anchor.into()) {
                if !anchors.contains(&anchor) {
                    anchors.push(anchor);
                }
            }
            Ok(out.write_all(to_pem(&anchors).as_bytes())?)
        }
        Command::Deny(DenyArgs { identity, drop_connections }) => {
            deny(identity, *drop_connections, false, global, control_plane, out).await
        }
        Command::Allow(AllowArgs { identity }) => deny(identity, false, true, global, control_plane, out).await,
        Command::Revoke(RevokeArgs { replica }) => {
            let request = MemberRequest { member: replica.clone() };
            control_plane.ask(async |client| client.ca_revoke(request.clone()).await).await?;
            Ok(writeln!(
                out,
                "what {} has issued is not believed any more; it issues under a new certificate",
                printable(replica)
            )?)
        }
    }
}

async fn status(control_plane: &ControlPlane) -> anyhow::Result<CaStatusResponse> {
    control_plane.ask(async |client| client.ca_status(CaStatusRequest {}).await).await
}

async fn deny(
    Identity { identity, wait, timeout }: &Identity,
    drop_connections: bool,
    allow: bool,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let spiffe_id = match identity.starts_with("spiffe://") {
        true => identity.clone(),
        false => {
            let namespace = global.one_namespace()?;
            format!("spiffe://{}/ns/{namespace}/sa/{identity}", status(control_plane).await?.trust_domain)
        }
    };
    let request = CaDenyRequest { spiffe_id: spiffe_id.clone(), drop_connections, allow };
    let answer = control_plane.ask(async |client| client.ca_deny(request.clone()).await).await?;
    let what = match (allow, answer.changed) {
        (false, true) => "denied",
        (false, false) => "denied (unchanged)",
        (true, true) => "allowed",
        (true, false) => "was not denied",
    };
    writeln!(out, "{} {what} at revision {}", printable(&spiffe_id), answer.revision)?;
    if *wait { wait::until(answer.revision, By::Ack, *timeout, control_plane, out).await } else { Ok(()) }
}

async fn rotate(args: &RotateArgs, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let own = match (&args.issuer_certificate_file, &args.issuer_key_file) {
        (Some(certificates), Some(key)) => Some(OwnIssuer {
            certificates: read(certificates)?,
            key: read(key)?,
            anchors: args.trust_anchors_file.as_deref().map(read).transpose()?.unwrap_or_default(),
        }),
        _ => None,
    };
    let request = CaRotateRequest { own, force: args.force };
    let root = control_plane.ask(async |client| client.ca_rotate(request.clone()).await).await?.root;
    if args.force {
        return Ok(writeln!(out, "certificates are issued under root {}, and no other is trusted", short(&root))?);
    }
    if !args.wait {
        writeln!(out, "root {} takes over when every proxy trusts it; see `conduit ca status`", short(&root))?;
        return Ok(());
    }
    let began = Instant::now();
    let progress = spinner();
    let mut told = String::new();
    loop {
        // No answer is no reason to give up: the replica that was asked may have been the one that ended.
        let answer = status(control_plane).await;
        if let Ok(status) = &answer {
            let is_active = status.roots.iter().any(|known| known.id == root && known.state == "active");
            if is_active && status.roots.len() == 1 {
                progress.finish_and_clear();
                let took = humantime::format_duration(Duration::from_millis(began.elapsed().as_millis() as u64));
                return Ok(writeln!(out, "root {} is the only one that is trusted, after {took}", short(&root))?);
            }
            let line = waiting(status);
            progress.set_message(line.clone());
            if progress.is_hidden() && line != told {
                eprintln!("{line}");
                told = line;
            }
        }
        if began.elapsed() >= args.timeout {
            progress.finish_and_clear();
            let status =
                answer.context("the rotation goes on without this command, and nobody can be asked how far it is")?;
            bail!("after {:?}: {}; it goes on, or say --force", args.timeout, waiting(&status));
        }
        sleep(POLL).await;
    }
}

/// Shows that something goes on, to a person.
fn spinner() -> ProgressBar {
    let progress = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    progress.enable_steady_tick(POLL);
    progress
}

fn read(path: &Path) -> anyhow::Result<String> {
    let length = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if length > FILE_BYTES_MAX {
        bail!("{} is larger than any certificate or key", path.display());
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What a rotation is about, in a line.
fn waiting(status: &CaStatusResponse) -> String {
    let Some(rotation) = &status.rotation else { return "nothing is in progress".to_owned() };
    let what = match rotation.step.as_str() {
        "activate" => "until it is trusted everywhere",
        _ => "until nobody holds a certificate under the old one",
    };
    let examples: Vec<_> = rotation.examples.iter().map(|name| printable(name)).collect();
    match rotation.waiting_for {
        0 => format!("to {} root {}: nobody is missing any more", rotation.step, short(&rotation.root)),
        count => format!(
            "to {} root {}: waiting for {count} {what}: {}",
            rotation.step,
            short(&rotation.root),
            examples.join(", ")
        ),
    }
}

fn short(id: &str) -> &str {
    id.get(..ID_DIGITS).unwrap_or(id)
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { short(text).to_owned() }
}

fn expiry(ms: u64, now: SystemTime) -> String {
    if ms == 0 { "-".to_owned() } else { until(ms, now) }
}

fn text(status: &CaStatusResponse, now: SystemTime) -> String {
    let mut roots = Table::new(&["ROOT", "STATE", "SINCE", "EXPIRES IN", "ORIGIN"].map(|name| (name, Align::Left)));
    for root in &status.roots {
        let origin = if root.imported { "imported" } else { "made here" };
        let cells = [short(&root.id), &root.state, &rfc3339(root.since_ms), &until(soonest(root), now), origin];
        roots.row(cells.map(str::to_owned));
    }
    let mut issuers = Table::new(&["REPLICA", "ISSUER", "ROOT", "EXPIRES IN", "CLOCK"].map(|name| (name, Align::Left)));
    for issuer in &status.issuers {
        let clock = match issuer.reachable {
            true => format!("{:+.1}s", issuer.clock_offset_ms as f64 / 1000.0),
            false => "unreachable".to_owned(),
        };
        let expires = expiry(issuer.not_after_ms, now);
        issuers.row([issuer.replica.clone(), or_dash(&issuer.id), or_dash(&issuer.root), expires, clock]);
    }
    let mut text = format!("trust domain {}\n\n{roots}\n{issuers}\n", printable(&status.trust_domain));
    let first = expiry(status.first_proxy_expires_ms, now);
    text += &format!("{} proxies are connected; the first of their certificates expires in {first}\n", status.proxies);
    if status.rotation.is_some() {
        text += &format!("{}\n", waiting(status));
    } else if status.rotates_at_ms > 0 {
        text += &format!("the root is replaced by itself in {}\n", until(status.rotates_at_ms, now));
    }
    if status.revoked > 0 {
        text += &format!("{} issuing certificates were revoked\n", status.revoked);
    }
    for foreign in &status.federated {
        let expires = expiry(foreign.first_root_expires_ms, now);
        let (domain, roots, keys) = (printable(&foreign.trust_domain), foreign.roots, foreign.jwt_keys);
        text += &format!(
            "trust domain {domain} is believed: {roots} roots (expires in {expires}), {keys} keys for tokens\n"
        );
    }
    for denied in &status.denied {
        let connections = if denied.drop_connections { ", and its connections" } else { "" };
        text += &format!("denied since {}: {}{connections}\n", rfc3339(denied.since_ms), printable(&denied.spiffe_id));
    }
    text
}

/// Its own certificate, or that of what is trusted.
fn soonest(root: &TrustRoot) -> u64 {
    root.not_after_ms.min(root.issues_until_ms)
}

fn json(status: &CaStatusResponse) -> serde_json::Value {
    let time = |ms: u64| (ms > 0).then(|| rfc3339(ms));
    let roots = status.roots.iter().map(|root| {
        json!({
            "id": root.id,
            "state": root.state,
            "since": rfc3339(root.since_ms),
            "expires": rfc3339(soonest(root)),
            "imported": root.imported,
            "sealedUnder": root.sealed_under,
            "certificate": to_pem(&[root.anchor.clone().into()]),
        })
    });
    let issuers = status.issuers.iter().map(|issuer| {
        json!({
            "replica": issuer.replica,
            "id": issuer.id,
            "root": issuer.root,
            "expires": time(issuer.not_after_ms),
            "reachable": issuer.reachable,
            "clockOffsetMs": issuer.clock_offset_ms,
            "seed": issuer.seed,
        })
    });
    let denied = status.denied.iter().map(|denied| {
        json!({
            "identity": denied.spiffe_id,
            "dropConnections": denied.drop_connections,
            "since": rfc3339(denied.since_ms),
        })
    });
    let federated = status.federated.iter().map(|foreign| {
        json!({
            "trustDomain": foreign.trust_domain,
            "roots": foreign.roots,
            "jwtKeys": foreign.jwt_keys,
            "firstRootExpires": time(foreign.first_root_expires_ms),
        })
    });
    json!({
        "trustDomain": status.trust_domain,
        "roots": roots.collect::<Vec<_>>(),
        "issuers": issuers.collect::<Vec<_>>(),
        "rotation": status.rotation.as_ref().map(|rotation| json!({
            "step": rotation.step,
            "root": rotation.root,
            "waitingFor": rotation.waiting_for,
            "examples": rotation.examples,
        })),
        "rotatesAt": time(status.rotates_at_ms),
        "proxies": status.proxies,
        "firstProxyExpires": time(status.first_proxy_expires_ms),
        "revoked": status.revoked,
        "denied": denied.collect::<Vec<_>>(),
        "federated": federated.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use conduit_api::proto::public::{DeniedIdentity, Federation, Issuer, Rotation};
    use expect_test::expect;

    use super::*;

    #[test]
    fn says_who_is_trusted_and_what_is_waited_for() {
        let root = |id: &str, state: &str, expires: u64| TrustRoot {
            id: id.repeat(20),
            state: state.to_owned(),
            since_ms: 1_525_000_000_000,
            not_after_ms: expires,
            issues_until_ms: expires,
            ..TrustRoot::default()
        };
        let issuer = Issuer {
            replica: "controller-0".to_owned(),
            id: "0a".repeat(20),
            root: "ab".repeat(20),
            not_after_ms: 1_525_000_600_000,
            reachable: true,
            clock_offset_ms: -1_240,
            ..Issuer::default()
        };
        let status = CaStatusResponse {
            trust_domain: "cluster.local".to_owned(),
            roots: vec![root("ab", "active", 1_840_000_000_000), root("cd", "prepared", 1_840_000_000_000)],
            issuers: vec![issuer, Issuer { replica: "controller-1".to_owned(), ..Issuer::default() }],
            rotation: Some(Rotation {
                step: "activate".to_owned(),
                root: "cd".repeat(20),
                waiting_for: 1,
                examples: vec!["emojivoto/web-0".to_owned()],
            }),
            denied: vec![DeniedIdentity {
                spiffe_id: "spiffe://cluster.local/ns/emojivoto/sa/web".to_owned(),
                drop_connections: true,
                since_ms: 1_525_000_000_000,
            }],
            revoked: 1,
            federated: vec![Federation {
                trust_domain: "example.org".to_owned(),
                roots: 2,
                jwt_keys: 1,
                first_root_expires_ms: 1_525_050_000_000,
            }],
            proxies: 5,
            first_proxy_expires_ms: 1_525_050_000_000,
            ..CaStatusResponse::default()
        };
        expect![[r"
            trust domain cluster.local

            ROOT               STATE      SINCE                  EXPIRES IN   ORIGIN
            abababababababab   active     2018-04-29T11:06:40Z   3645d20h     made here
            cdcdcdcdcdcdcdcd   prepared   2018-04-29T11:06:40Z   3645d20h     made here

            REPLICA        ISSUER             ROOT               EXPIRES IN   CLOCK
            controller-0   0a0a0a0a0a0a0a0a   abababababababab   10m0s        -1.2s
            controller-1   -                  -                  -            unreachable

            5 proxies are connected; the first of their certificates expires in 13h53m
            to activate root cdcdcdcdcdcdcdcd: waiting for 1 until it is trusted everywhere: emojivoto/web-0
            1 issuing certificates were revoked
            trust domain example.org is believed: 2 roots (expires in 13h53m), 1 keys for tokens
            denied since 2018-04-29T11:06:40Z: spiffe://cluster.local/ns/emojivoto/sa/web, and its connections
        "]]
        .assert_eq(&text(&status, UNIX_EPOCH + Duration::from_secs(1_525_000_000)));
    }
}

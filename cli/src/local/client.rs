//! `conduit local down`, `status` and `scale`: questions to the supervisor.

use std::{fs::File, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use conduit_api::proto::local::{
    AddControllerRequest, DownRequest, RemoveControllerRequest, ScaleRequest, StatusRequest, local_client::LocalClient,
};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use super::{DirectoryArgs, directory::MeshDirectory};
use crate::{
    output::{TableOrJson, write_json},
    stdout::Stdout,
    table::{Align, Table},
};

/// What `down` is told.
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    #[command(flatten)]
    directory: DirectoryArgs,
    /// Forget the trust root and everything else as well
    #[arg(long)]
    purge: bool,
}

/// What `status` is told.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    directory: DirectoryArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// What `scale` is told.
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    directory: DirectoryArgs,
    /// DEPLOYMENT=INSTANCES, as in voting=3
    #[arg(value_parser = parse_scale, value_name = "DEPLOYMENT=INSTANCES")]
    scale: Scale,
}

/// A deployment, and how many instances it is to have.
#[derive(Clone, Debug)]
pub struct Scale {
    namespace: Option<String>,
    deployment: String,
    replicas: u32,
}

/// After everything has ended, the supervisor has nothing left to do.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// More would need more addresses and memory than one machine has.
const REPLICAS_MAX: u32 = 100;

fn parse_scale(text: &str) -> Result<Scale, String> {
    let (name, replicas) = text.split_once('=').ok_or("DEPLOYMENT=INSTANCES is expected, as in voting=3")?;
    let replicas = replicas.parse().ok().filter(|replicas| *replicas <= REPLICAS_MAX);
    let replicas = replicas.ok_or_else(|| format!("a number from 0 to {REPLICAS_MAX} is expected after `=`"))?;
    let (namespace, deployment) =
        name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    Ok(Scale { namespace: namespace.map(ToOwned::to_owned), deployment: deployment.to_owned(), replicas })
}

/// Stops the mesh.
///
/// # Errors
/// When none is running.
pub fn down(args: &DownArgs) -> anyhow::Result<()> {
    let directory = args.directory.resolve()?;
    if directory.is_running() {
        block_on(async {
            let mut supervisor = connect(&directory).await?;
            let asked = supervisor.down(DownRequest {}).await;
            // It may end before its answer is out.
            asked.map(drop).or_else(|status| if directory.is_running() { Err(said(&status)) } else { Ok(()) })?;
            supervisor_gone(&directory).await
        })?;
    } else if !(args.purge && directory.path().exists()) {
        bail!(not_running(&directory));
    }
    if args.purge {
        directory.purge()?;
    }
    Ok(())
}

/// Shows the processes.
///
/// # Errors
/// When no mesh is running.
pub fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let directory = args.directory.resolve()?;
    let status = block_on(async {
        let mut supervisor = connect(&directory).await?;
        Ok(supervisor.status(StatusRequest {}).await.map_err(|status| said(&status))?.into_inner())
    })?;
    if args.output == TableOrJson::Json {
        let processes: Vec<_> = status
            .processes
            .iter()
            .map(|p| {
                json!({
                    "name": p.name, "role": p.role, "namespace": p.namespace, "pod": p.pod, "pid": p.pid, "address": p.address,
                    "state": p.state, "restarts": p.restarts, "rss_bytes": p.rss_bytes, "log_file": p.log_file,
                })
            })
            .collect();
        return Ok(write_json(
            &mut Stdout,
            &json!({ "ready": status.ready, "web_address": status.web_address, "processes": processes }),
        )?);
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("NAMESPACE", Align::Left),
        ("ROLE", Align::Left),
        ("PID", Align::Right),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("RESTARTS", Align::Right),
        ("MEMORY", Align::Right),
    ]);
    for p in status.processes {
        let memory = format!("{:.1}MB", p.rss_bytes as f64 / 1e6);
        let namespace = if p.namespace.is_empty() { "-".to_owned() } else { p.namespace };
        table.row([p.name, namespace, p.role, p.pid.to_string(), p.address, p.state, p.restarts.to_string(), memory]);
    }
    use std::io::Write as _;
    Ok(Stdout.write_all(table.to_string().as_bytes())?)
}

/// Sets the number of instances of a deployment.
///
/// # Errors
/// When there is no such deployment, or it does not become ready.
pub fn scale(args: &ScaleArgs, namespace: Option<&str>) -> anyhow::Result<()> {
    let directory = args.directory.resolve()?;
    let Scale { namespace: named, deployment, replicas } = &args.scale;
    let namespace = named.as_deref().or(namespace).unwrap_or("default").to_owned();
    block_on(async {
        let mut supervisor = connect(&directory).await?;
        let request = ScaleRequest { namespace, deployment: deployment.clone(), replicas: *replicas };
        supervisor.scale(request).await.map(drop).map_err(|status| said(&status))
    })?;
    println!("deployment/{deployment} scaled");
    Ok(())
}

/// Starts one more replica of the control plane, and returns its name when it votes.
///
/// # Errors
/// When no mesh is running, or the replica cannot join.
pub async fn add_controller(directory: &DirectoryArgs) -> anyhow::Result<String> {
    let mut supervisor = connect(&directory.resolve()?).await?;
    let added = supervisor.add_controller(AddControllerRequest {}).await.map_err(|status| said(&status))?;
    Ok(added.into_inner().name)
}

/// Removes a replica from the control plane, with its process and its data.
///
/// # Errors
/// When no mesh is running, or the control plane refuses.
pub async fn remove_controller(directory: &DirectoryArgs, member: &str) -> anyhow::Result<()> {
    let mut supervisor = connect(&directory.resolve()?).await?;
    let request = RemoveControllerRequest { member: member.to_owned() };
    supervisor.remove_controller(request).await.map(drop).map_err(|status| said(&status))
}

/// The supervisor of the mesh in `directory`.
///
/// # Errors
/// When there is none.
pub async fn connect(directory: &MeshDirectory) -> anyhow::Result<LocalClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", directory.supervisor_socket().display()))?;
    let channel = endpoint.connect().await.map_err(|_| anyhow!(not_running(directory)))?;
    Ok(LocalClient::new(channel))
}

/// Its lock is the last thing that it gives up.
async fn supervisor_gone(directory: &MeshDirectory) -> anyhow::Result<()> {
    let gone = async {
        while File::open(directory.lock()).is_ok_and(|lock| lock.try_lock().is_err()) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(END_TIMEOUT, gone).await.context("the supervisor does not end; kill it, and everything ends with it")
}

fn not_running(directory: &MeshDirectory) -> String {
    format!("no local mesh is running in {}; start one with `conduit local up --demo`", directory.path().display())
}

fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(work)
}

//! What people configure: `conduit apply`, `conduit delete`, `conduit get httproutes`, `conduit diff` and `conduit rollback`.

use std::{collections::BTreeMap, io::Write, path::PathBuf, time::Duration};

use anyhow::bail;
use conduit_api::proto::{
    public::{ApplyRequest, RollbackRequest, RoutesRequest, apply_response::Outcome},
    route::{HttpRoute, RouteRef},
};
use similar::TextDiff;

use crate::{
    control_plane::ControlPlane,
    gateway,
    get::Output,
    global::Global,
    output::write_json,
    printable::printable,
    table::{Align, Table},
    wait,
};

/// Whether a command waits until what it has changed is in force.
#[derive(Debug, clap::Args)]
pub struct Wait {
    /// Return when every connected proxy has it: from then on no request sees anything older
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration, requires = "wait")]
    timeout: Duration,
}

/// What is configured.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// HTTPRoutes of the Gateway API, in YAML; - for standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filenames: Vec<PathBuf>,
    /// When to return.
    #[command(flatten)]
    wait: Wait,
}

/// What is configured no longer.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Only httproute is known
    #[arg(required_unless_present = "filenames")]
    resource: Option<String>,
    /// Which
    #[arg(requires = "resource")]
    names: Vec<String>,
    /// Those that are in these files; - for standard input
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "resource")]
    filenames: Vec<PathBuf>,
    /// When to return.
    #[command(flatten)]
    wait: Wait,
}

/// Between what is looked for differences.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// From this revision
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// To this revision [default: the latest]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

/// What is to be again.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// What was configured at this revision
    revision: u64,
    /// When to return.
    #[command(flatten)]
    wait: Wait,
}

/// Whether `resource` is a spelling of HTTPRoute.
pub fn is_route(resource: &str) -> bool {
    ["httproute", "httproutes", "route", "routes"].contains(&resource.to_ascii_lowercase().as_str())
}

/// Configures what files say.
///
/// # Errors
/// When a file cannot be read or is not allowed (nothing has changed then), no control plane answers, or the time is over.
pub async fn apply(
    args: &ApplyArgs,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let namespace = &global.one_namespace()?;
    let routes: Vec<_> = gateway::read(&args.filenames, namespace)?.iter().map(HttpRoute::from).collect();
    change(ApplyRequest { routes, removals: Vec::new() }, &args.wait, control_plane, out).await
}

/// Takes away what files or names say.
///
/// # Errors
/// As [`apply`]; and when there is nothing of that name, with the others deleted.
pub async fn delete(
    args: &DeleteArgs,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let namespace = &global.one_namespace()?;
    let reference = |namespace: &str, name: &str| RouteRef { namespace: namespace.to_owned(), name: name.to_owned() };
    let removals: Vec<_> = match &args.resource {
        None => {
            let routes = gateway::read(&args.filenames, namespace)?;
            routes.iter().map(|route| reference(route.name.namespace(), route.name.name())).collect()
        }
        Some(resource) if !is_route(resource) => {
            bail!("invalid resource type {}, only httproute can be deleted", printable(resource))
        }
        Some(_) if args.names.is_empty() => bail!("say which: `conduit delete httproute NAME`"),
        Some(_) => args.names.iter().map(|name| reference(namespace, name)).collect(),
    };
    change(ApplyRequest { routes: Vec::new(), removals }, &args.wait, control_plane, out).await
}

async fn change(
    request: ApplyRequest,
    wait: &Wait,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let answer = control_plane.ask(async |client| client.apply(request.clone()).await).await?;
    let set = request.routes.iter().map(|route| (&route.namespace, &route.name));
    let removed = request.removals.iter().map(|route| (&route.namespace, &route.name));
    let mut missing = Vec::new();
    for ((namespace, name), outcome) in set.chain(removed).zip(answer.outcomes()) {
        let done = match outcome {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged | Outcome::Unspecified => "unchanged",
            Outcome::Deleted => "deleted",
            Outcome::NotFound => {
                missing.push(format!("{namespace}/{name}"));
                continue;
            }
        };
        writeln!(out, "httproute/{name} {done}")?;
    }
    in_force(answer.revision, wait, control_plane, out).await?;
    if !missing.is_empty() {
        bail!("there is no httproute {}", missing.join(", "));
    }
    Ok(())
}

async fn in_force(
    revision: u64,
    wait: &Wait,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if !wait.wait {
        return Ok(writeln!(out, "revision {revision}")?);
    }
    wait::until(revision, wait::By::Ack, wait.timeout, control_plane, out).await
}

/// Lists routes.
///
/// # Errors
/// When no control plane answers.
pub async fn get(
    output: Output,
    all_namespaces: bool,
    names: &[String],
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let scope = global.scope(all_namespaces)?;
    let mut routes = control_plane.ask(async |client| client.routes(RoutesRequest { revision: 0 }).await).await?.routes;
    routes.retain(|route| scope.namespace().is_none_or(|namespace| namespace == route.namespace));
    routes.retain(|route| names.is_empty() || names.contains(&route.name));
    if let Some(missing) = names.iter().find(|name| !routes.iter().any(|route| route.name == **name)) {
        bail!("there is no httproute {}", printable(missing));
    }
    match output {
        Output::Json => {
            let routes = routes.iter().map(gateway::to_json).collect::<Result<Vec<_>, _>>()?;
            write_json(out, &routes)?;
        }
        Output::Yaml => {
            let routes = routes.iter().map(gateway::to_yaml).collect::<Result<Vec<_>, _>>()?;
            out.write_all(routes.join("---\n").as_bytes())?;
        }
        _ if routes.is_empty() => writeln!(notes, "No resources found.")?,
        Output::Table | Output::Wide => {
            let columns = ["NAMESPACE", "NAME", "PARENTS", "RULES"];
            let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
            for route in &routes {
                let parents: Vec<_> = route.parents.iter().map(|parent| parent.service.as_str()).collect();
                let cells = [&route.namespace, &route.name, &parents.join(","), &route.rules.len().to_string()];
                table.row(cells.map(|cell| printable(cell).to_string()));
            }
            out.write_all(table.to_string().as_bytes())?;
        }
    }
    Ok(())
}

/// Shows what is configured differently at two revisions.
///
/// # Errors
/// When no control plane answers, or one of them is not remembered.
pub async fn diff(args: &DiffArgs, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let (from, before) = at(args.from, control_plane).await?;
    let (to, after) = at(args.to.unwrap_or_default(), control_plane).await?;
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let text = |routes: &BTreeMap<String, String>| routes.get(name).cloned().unwrap_or_default();
        let (old, new) = (text(&before), text(&after));
        if old != new {
            let (old_name, new_name) = (format!("httproute/{name}@{from}"), format!("httproute/{name}@{to}"));
            let diff = TextDiff::from_lines(&old, &new);
            write!(out, "{}", diff.unified_diff().header(&old_name, &new_name))?;
        }
    }
    Ok(())
}

/// The revision, and its routes as text, by namespace and name.
async fn at(revision: u64, control_plane: &ControlPlane) -> anyhow::Result<(u64, BTreeMap<String, String>)> {
    let answer = control_plane.ask(async |client| client.routes(RoutesRequest { revision }).await).await?;
    let named = |route: &HttpRoute| Ok((format!("{}/{}", route.namespace, route.name), gateway::to_yaml(route)?));
    Ok((answer.revision, answer.routes.iter().map(named).collect::<anyhow::Result<_>>()?))
}

/// Configures what was configured.
///
/// # Errors
/// As [`diff`]; or when the time is over.
pub async fn rollback(args: &RollbackArgs, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let request = RollbackRequest { revision: args.revision };
    let answer = control_plane.ask(async |client| client.rollback(request).await).await?;
    match answer.changed {
        true => writeln!(out, "rolled back to revision {}", args.revision)?,
        false => writeln!(out, "nothing has to be changed: it is so already")?,
    }
    in_force(answer.revision, &args.wait, control_plane, out).await
}

//! `conduit slo`: what is promised of services, and how it is kept.

mod view;

use std::io::Write;

use anyhow::{Context as _, bail};
use conduit_api::{
    Objective,
    access::about,
    objective::{Percentile, Share, Threshold},
    proto::{
        common::ResourceRef,
        public::{ListObjectivesRequest, RemoveObjectiveRequest, SetObjectiveRequest},
    },
};

pub(crate) use self::view::{assessment_json, burn_columns, cells, name_cells, note_missing, resource_json, state};
use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{TableOrJson, write_json},
    resource::Selection,
};

/// What to do with objectives.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Promise something of a resource, instead of what was promised of it before: conduit slo set deploy/web --success 99.9 --p99 100ms
    Set(SetArgs),
    /// Show what is promised, and how it is kept
    List(ListArgs),
    /// Promise nothing of a resource any more
    Remove(RemoveArgs),
}

/// Of what, and what.
#[derive(Debug, clap::Args)]
pub struct SetArgs {
    /// TYPE/NAME or TYPE NAME, of any type that `conduit stat` has
    #[arg(value_name = "RESOURCE", required = true, num_args = 1..=2)]
    resource: Vec<String>,
    /// So many of a hundred requests succeed: 99.9
    #[arg(long, value_name = "PERCENT")]
    success: Option<Share>,
    /// Half of the requests take no longer: 20ms
    #[arg(long, value_name = "DURATION", value_parser = threshold)]
    p50: Option<Threshold>,
    /// 95 of a hundred requests take no longer
    #[arg(long, value_name = "DURATION", value_parser = threshold)]
    p95: Option<Threshold>,
    /// 99 of a hundred requests take no longer
    #[arg(long, value_name = "DURATION", value_parser = threshold)]
    p99: Option<Threshold>,
}

/// Where, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// Of what.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// TYPE/NAME or TYPE NAME
    #[arg(value_name = "RESOURCE", required = true, num_args = 1..=2)]
    resource: Vec<String>,
}

fn threshold(text: &str) -> Result<Threshold, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}, as in 100ms"))?;
    Threshold::try_from(duration).map_err(|error| error.to_string())
}

impl SetArgs {
    /// What to ask, before anybody is asked.
    fn request(&self, global: &Global) -> anyhow::Result<(SetObjectiveRequest, Objective)> {
        let latencies = [(Percentile::P50, self.p50), (Percentile::P95, self.p95), (Percentile::P99, self.p99)];
        let latencies = latencies.into_iter().filter_map(|(percentile, threshold)| Some((percentile, threshold?)));
        let objective = Objective::new(self.success, latencies.collect())?;
        let resource = one(&self.resource, global)?;
        Ok((SetObjectiveRequest { resource: Some(resource), goals: Some((&objective).into()) }, objective))
    }
}

/// Objectives are of resources one by one: what is promised of all deployments is promised of their namespace.
fn one(words: &[String], global: &Global) -> anyhow::Result<ResourceRef> {
    let selection = Selection::parse(words, &global.scope(false)?)?;
    if selection.name.is_none() {
        bail!(
            "an objective is of one resource: write {}/NAME, or ns/NAME for all of a namespace",
            selection.kind.short()
        );
    }
    Ok(selection.to_reference())
}

/// Does it.
///
/// # Errors
/// When the arguments are wrong, no control plane answers, or `out` cannot be written.
pub async fn run(
    command: &Command,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        Command::Set(args) => {
            let (request, objective) = args.request(global)?;
            let answer = control_plane.ask(async |client| client.set_objective(request.clone()).await).await?;
            let resource = request.resource.context("an objective has a resource")?;
            let became = if answer.changed { "set" } else { "unchanged" };
            writeln!(out, "objective of {}/{} {became}: {objective}", resource.kind, resource.name)?;
        }
        Command::List(args) => list(args, global, control_plane, out, notes).await?,
        Command::Remove(args) => {
            let resource = one(&args.resource, global)?;
            let request = RemoveObjectiveRequest { resource: Some(resource.clone()) };
            control_plane.ask(async |client| client.remove_objective(request.clone()).await).await?;
            writeln!(out, "objective of {}/{} removed", resource.kind, resource.name)?;
        }
    }
    Ok(())
}

async fn list(
    args: &ListArgs,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let namespace = global.scope(args.all_namespaces)?.namespace().unwrap_or_default().to_owned();
    let request = ListObjectivesRequest { namespace };
    let answer = control_plane.ask(async |client| client.list_objectives(about(request.clone())).await).await?;
    if args.output == TableOrJson::Json {
        return Ok(write_json(out, &view::json(&answer))?);
    }
    if answer.objectives.is_empty() {
        writeln!(notes, "No objectives found.")?;
    } else {
        out.write_all(view::table(&answer, args.all_namespaces).to_string().as_bytes())?;
    }
    note_missing(answer.replicas_answered, answer.replicas_total, notes)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command as Typed};

    fn request(args: &str) -> anyhow::Result<String> {
        let cli = Cli::try_parse_from(args.split(' '))?;
        let Typed::Slo { command: Command::Set(args) } = &cli.command else { panic!("{args} is another command") };
        let (request, objective) = args.request(&cli.global)?;
        let ResourceRef { kind, namespace, name } = request.resource.unwrap();
        Ok(format!("{kind} {namespace} {name}: {objective}"))
    }

    #[test]
    fn what_is_promised_and_what_is_refused() {
        for (args, expected) in [
            ("conduit slo set deploy/voting --success 99", "deployment default voting: success 99%"),
            (
                "conduit -n emojivoto slo set deploy voting --success 99.95% --p99 100ms --p50 5ms",
                "deployment emojivoto voting: success 99.95%, p50 5ms, p99 100ms",
            ),
            ("conduit slo set svc emojivoto/web-svc --p95 1s500ms", "service emojivoto web-svc: p95 1.5s"),
            ("conduit slo set ns/emojivoto --success 90", "namespace  emojivoto: success 90%"),
        ] {
            assert_eq!(request(args).unwrap(), expected, "{args}");
        }
        for (args, says) in [
            ("conduit slo set deploy/voting", "promises something: a share of success"),
            ("conduit slo set deploy/voting --success 100", "above 0 and below 100"),
            ("conduit slo set deploy/voting --p99 2m", "counted from 1ms to 60s"),
            ("conduit slo set deploy/voting --p99 100", "as in 100ms"),
            ("conduit slo set deploy --success 99", "write deploy/NAME"),
            ("conduit slo set nonsense/x --success 99", "no resource type `nonsense`"),
        ] {
            let error = request(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}

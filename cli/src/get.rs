//! `conduit get`: what there is.

use std::io::Write;

use anyhow::bail;

use crate::{control_plane::ControlPlane, global::Global, output, pods, printable::printable, routes};

/// What, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// pods or httproutes
    resource: String,
    /// Which; all if none is named
    names: Vec<String>,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `-o` of this command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// For people who want to know more
    Wide,
    /// As it could have been written, if people write it
    Yaml,
    /// For programs
    Json,
}

/// Asks, and writes.
///
/// # Errors
/// When it is something else, or no control plane answers.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let Args { resource, names, all_namespaces, output } = args;
    match resource.as_str() {
        "pods" | "pod" | "po" => {
            if !names.is_empty() {
                bail!("pods cannot be chosen by name: `conduit get pods` lists all of a namespace");
            }
            let output = match output {
                Output::Table => output::Output::Table,
                Output::Wide => output::Output::Wide,
                Output::Json => output::Output::Json,
                Output::Yaml => bail!("pods are not written by people: choose table, wide or json"),
            };
            pods::run(&pods::Args { all_namespaces: *all_namespaces, output }, global, control_plane, out, notes).await
        }
        route if routes::is_route(route) => {
            routes::get(*output, *all_namespaces, names, global, control_plane, out, notes).await
        }
        other => bail!("invalid resource type {}, only pods and httproutes are allowed", printable(other)),
    }
}

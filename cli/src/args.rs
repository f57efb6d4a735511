//! What can be typed.

use clap::{Parser, Subcommand};

use crate::{
    alerts, ca, check, completion, dashboard, diagnostics, edges, explain, get,
    global::Global,
    history, identity,
    inject::{InjectArgs, UninjectArgs},
    local::LocalCommand,
    pods, profile, raft, routes, slo, stat, tap, top, uninstall, upgrade, version, wait,
};

/// Conduit, a service mesh
#[derive(Debug, Parser)]
#[command(name = "conduit", version = conduit_api::VERSION, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// What holds for all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show which objectives are not kept, and which were not lately
    Alerts(alerts::Args),
    /// Configure what files say: HTTPRoutes of the Gateway API
    Apply(routes::ApplyArgs),
    /// Look at whom the mesh trusts, and change it
    Ca {
        /// What to do.
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Check that the control plane works
    Check(check::Args),
    /// Write the completion script of a shell
    Completion(completion::Args),
    /// Open the dashboard in the browser, and serve it until this command is ended
    Dashboard(dashboard::Args),
    /// Configure something no longer
    Delete(routes::DeleteArgs),
    /// Show what controllers and proxies know and count, as they say it themselves
    Diagnostics {
        /// What to ask
        #[command(subcommand)]
        command: diagnostics::Command,
    },
    /// Show what is configured differently at two revisions
    Diff(routes::DiffArgs),
    /// Show who speaks with whom, and whether it is secured
    Edges(edges::Args),
    /// Show why a connection or a request goes where it goes
    Explain(explain::Args),
    /// List resources of the mesh
    Get(get::Args),
    /// List pods (short for `get pods`)
    Pods(pods::Args),
    /// Show who changed what, and when
    History(history::Args),
    /// Show the certificates that proxies present
    Identity(identity::Args),
    /// Add the proxy to manifests: conduit inject FILE | kubectl apply -f -
    Inject(Box<InjectArgs>),
    /// Print what makes up the control plane on Kubernetes: conduit install | kubectl apply -f -
    Install(Box<conduit_deploy::Install>),
    /// Run a mesh on this machine
    Local {
        /// What to do with it.
        #[command(subcommand)]
        command: LocalCommand,
    },
    /// Look at the replicas of the control plane, and change who they are
    Raft {
        /// What to do.
        #[command(subcommand)]
        command: raft::Command,
    },
    /// Print routes for the calls of a service, by its definition or by what it is asked: conduit profile web:80 --tap deploy/web | kubectl apply -f -
    Profile(profile::Args),
    /// Print what earlier releases have installed and this one does not: conduit prune | kubectl delete -f -
    Prune,
    /// Configure again what was configured at a revision
    Rollback(routes::RollbackArgs),
    /// Show which routes requests to services took, and how they fared
    Routes(stat::routes::Args),
    /// Promise which share of requests succeeds and how long they take, and see how that is kept
    Slo {
        /// What to do.
        #[command(subcommand)]
        command: slo::Command,
    },
    /// Show traffic: success rate, requests per second, latencies
    Stat(stat::Args),
    /// Watch requests as they pass
    Tap(tap::Args),
    /// Show which requests are the most frequent, and how they go
    Top(top::Args),
    /// Take the proxy away from manifests
    Uninject(UninjectArgs),
    /// Print what makes up the control plane in a cluster: conduit uninstall | kubectl delete -f -
    Uninstall(uninstall::Args),
    /// Print what an installed control plane is to become: conduit upgrade | kubectl apply -f -
    Upgrade(Box<upgrade::Args>),
    /// Print the versions of this command and of the control plane
    Version(version::Args),
    /// Wait until a change is in force everywhere
    Wait(wait::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::resource::Scope;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_namespace_may_stand_before_and_after_the_command() {
        for args in
            ["-n emojivoto stat deployment", "stat -n emojivoto deployment", "stat deployment --namespace=emojivoto"]
        {
            let cli = Cli::try_parse_from(["conduit"].into_iter().chain(args.split(' '))).unwrap();
            assert_eq!(cli.global.scope(false), Ok(Scope::Namespace("emojivoto".into())), "{args}");
        }
    }
}

//! What can be typed.

use clap::{Parser, Subcommand};

use crate::{
    address::Address,
    ca, check, completion, dashboard, edges, explain, get, history, identity,
    inject::{InjectArgs, UninjectArgs},
    kubernetes,
    local::LocalCommand,
    pods, raft,
    resource::{DEFAULT_NAMESPACE, ResourceError, Scope},
    routes, stat, tap, uninstall, version, wait,
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

/// Flags that may stand before and after the command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Namespace of the resources that a command is about [default: default]
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Namespace that the control plane runs in, on Kubernetes
    #[arg(short, long, global = true, env = "CONDUIT_NAMESPACE", default_value = "conduit")]
    pub conduit_namespace: String,
    /// Where the control plane is: host:port or unix:/path, several with commas between [default: the mesh on this machine, or else in the cluster]
    #[arg(long, global = true, value_name = "ADDRESS", value_delimiter = ',')]
    pub api_addr: Vec<Address>,
    /// Which cluster of Kubernetes.
    #[command(flatten)]
    pub kubernetes: kubernetes::Options,
    /// Tell on standard error what happens
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
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
    Inject(InjectArgs),
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
    /// Configure again what was configured at a revision
    Rollback(routes::RollbackArgs),
    /// Show traffic: success rate, requests per second, latencies
    Stat(stat::Args),
    /// Watch requests as they pass
    Tap(tap::Args),
    /// Take the proxy away from manifests
    Uninject(UninjectArgs),
    /// Print what makes up the control plane in a cluster: conduit uninstall | kubectl delete -f -
    Uninstall(uninstall::Args),
    /// Print the versions of this command and of the control plane
    Version(version::Args),
    /// Wait until a change is in force everywhere
    Wait(wait::Args),
}

impl Global {
    /// Which namespaces are meant; `all` is the command's `-A`.
    ///
    /// # Errors
    /// When one of them cannot be a namespace.
    pub fn scope(&self, all: bool) -> Result<Scope, ResourceError> {
        Scope::new(Some(&self.conduit_namespace), false)?;
        Scope::new(self.namespace.as_deref(), all)
    }

    /// The one namespace that is meant.
    ///
    /// # Errors
    /// When it cannot be a namespace.
    pub fn one_namespace(&self) -> Result<String, ResourceError> {
        Ok(self.scope(false)?.namespace().unwrap_or(DEFAULT_NAMESPACE).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

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

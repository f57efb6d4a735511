//! What holds for all commands.

use crate::{
    address::Address,
    kubernetes,
    resource::{DEFAULT_NAMESPACE, ResourceError, Scope},
};

/// Flags that may stand before and after the command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Namespace of the resources that a command is about [default: default]
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Namespace that the control plane runs in, on Kubernetes [default: conduit]
    #[arg(short, long, global = true, env = "CONDUIT_NAMESPACE", value_name = "CONDUIT_NAMESPACE")]
    conduit_namespace: Option<String>,
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

/// Unless somebody says otherwise.
const CONDUIT_NAMESPACE: &str = "conduit";

impl Global {
    /// The namespace that the control plane runs in, on Kubernetes.
    pub fn conduit_namespace(&self) -> &str {
        self.conduit_namespace.as_deref().unwrap_or(CONDUIT_NAMESPACE)
    }

    /// A cluster was named, or a control plane in the one that there is, and no other will do.
    pub fn names_a_cluster(&self) -> bool {
        self.kubernetes.is_given() || (self.conduit_namespace.is_some() && self.kubernetes.is_there())
    }

    /// Which namespaces are meant; `all` is the command's `-A`.
    ///
    /// # Errors
    /// When one of them cannot be a namespace.
    pub fn scope(&self, all: bool) -> Result<Scope, ResourceError> {
        Scope::new(Some(self.conduit_namespace()), false)?;
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

//! The cluster that people mean, found as kubectl finds it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// Where kubectl looks, beside its flag.
const KUBECONFIG: &str = "KUBECONFIG";
/// Every pod has it.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// An API server that does not accept a connection by then is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// ... or does not answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Which cluster, and who one is there.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Options {
    /// Kubeconfig file that tells of clusters [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use [default: its current one]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// User to be, for those whom the cluster lets
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// Groups of that user
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "as_user")]
    pub as_group: Vec<String>,
}

impl Options {
    /// A cluster was named, and nothing else will do.
    pub fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.as_user.is_some()
    }

    /// Something tells of a cluster.
    pub fn is_there(&self) -> bool {
        let default = std::env::home_dir().map(|home| home.join(".kube/config"));
        self.is_given()
            || std::env::var_os(KUBECONFIG).is_some_and(|paths| !paths.is_empty())
            || default.is_some_and(|path| path.exists())
            || std::env::var_os(SERVICE_HOST).is_some()
    }

    /// For what is answered soon or never. Connects to nothing yet.
    ///
    /// # Errors
    /// When what tells of the cluster cannot be read, or does not.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut config = self.config().await?;
        config.read_timeout = Some(READ_TIMEOUT);
        // That a connection was idle is no sign of the next answer.
        config.reset_reader_on_write = true;
        Ok(Client::try_from(config)?)
    }

    /// For streams, which may say nothing for hours: whoever asks has a time limit of its own.
    ///
    /// # Errors
    /// As [`Options::client`].
    pub async fn streaming_client(&self) -> anyhow::Result<Client> {
        let mut config = self.config().await?;
        config.read_timeout = None;
        Ok(Client::try_from(config)?)
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let cannot = || format!("cannot use the kubeconfig {}", path.display());
                let read = Kubeconfig::read_from(path).with_context(cannot)?;
                Config::from_custom_kubeconfig(read, &options).await.with_context(cannot)?
            }
            None => match Config::from_kubeconfig(&options).await {
                Err(error) if self.context.is_none() && is_missing(&error) => {
                    Config::incluster().context("there is neither a kubeconfig nor a cluster around this process")?
                }
                read => read.context("cannot use the kubeconfig")?,
            },
        };
        if self.as_user.is_some() {
            config.auth_info.impersonate.clone_from(&self.as_user);
            config.auth_info.impersonate_groups = (!self.as_group.is_empty()).then(|| self.as_group.clone());
        }
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // Who waits for an answer is told at once why there is none.
        config.default_retry = false;
        Ok(config)
    }
}

fn is_missing(error: &KubeconfigError) -> bool {
    let is_no_file = |path: &Path| !path.exists();
    match error {
        KubeconfigError::ReadConfig(_, path) => is_no_file(path),
        KubeconfigError::FindPath => true,
        _ => false,
    }
}

/// As Kubernetes calls many of a kind: of those that an installation has.
pub fn plural(kind: &str) -> String {
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}

/// An error as a person reads it: the API server's own words, or what is behind all wrappings.
pub fn said(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error
        && !status.message.is_empty()
    {
        return status.message.clone();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_of_a_kind() {
        let kinds = ["NetworkPolicy", "APIService", "ConfigMap"];
        assert_eq!(kinds.map(plural), ["NetworkPolicies", "APIServices", "ConfigMaps"]);
    }
}

//! A Kubernetes whose kubelets are played.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tempfile::TempDir;

/// Dropping it ends it, and removes its files.
pub struct Cluster {
    /// Who may do everything.
    pub client: Client,
    /// For whatever is to be gone with it.
    pub directory: TempDir,
    process: Child,
    orders: Option<ChildStdin>,
    kubectl: PathBuf,
}

impl Cluster {
    /// Returns when pods can be made.
    ///
    /// # Errors
    /// When it does not start, as where there is no network of one's own.
    pub async fn start(built: &Path) -> anyhow::Result<Self> {
        let built = std::fs::canonicalize(built).with_context(|| format!("there is no {}", built.display()))?;
        let directory = TempDir::with_prefix("conduit-bench-")?;
        let mut command = Command::new(built.join("conduit-test-cluster"));
        command.args(["up", "--nodes", "3", "--dir"]).arg(directory.path().join("cluster"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (orders, answers) = (process.stdin.take(), process.stdout.take());
        let mut line = String::new();
        BufReader::new(answers.context("it is piped")?).read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("the cluster says {line:?}"))?;
        if answer["ready"] != true {
            bail!("the cluster does not start: {answer}");
        }
        let kubeconfig = Kubeconfig::read_from(directory.path().join("cluster/kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        Ok(Self { client, directory, process, orders, kubectl: built.join("kubectl") })
    }

    /// Where its kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("cluster/kubeconfig")
    }

    /// Runs kubectl, given `stdin`; what it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn kubectl(&self, args: &str, stdin: Stdio) -> anyhow::Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args.split_whitespace()).stdin(stdin);
        let output = command.output()?;
        if !output.status.success() {
            bail!("kubectl {args}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.process.wait();
    }
}

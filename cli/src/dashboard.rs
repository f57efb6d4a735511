//! `conduit dashboard`: serves the web application on this machine, over the control plane that commands use.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use axum::Router;
use conduit_dashboard::{Connect, Hosts, Options, Upstream};
use futures::FutureExt as _;
use tokio::{net::TcpListener, process::Command};
use tonic::Status;
use tower::{ServiceExt as _, util::BoxCloneSyncService};
use tracing::debug;

use crate::{control_plane::ControlPlane, global::Global};

/// Where, and what of it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port to serve it on; 0 for one that is free
    #[arg(short, long, default_value_t = 0, allow_negative_numbers = true)]
    port: i64,
    /// What to open: conduit, grafana, or url for nothing
    #[arg(long, value_name = "WHAT", default_value = "conduit")]
    show: String,
    /// Address to serve it on. Whoever reaches it sees what you see
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

/// `--show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Conduit,
    Grafana,
    Url,
}

impl Args {
    fn port(&self) -> anyhow::Result<u16> {
        ensure!(self.port >= 0, "port must be greater than or equal to zero, was {}", self.port);
        self.port.try_into().with_context(|| format!("port must be at most {}, was {}", u16::MAX, self.port))
    }

    fn show(&self) -> anyhow::Result<Show> {
        Ok(match self.show.as_str() {
            "conduit" => Show::Conduit,
            "grafana" => Show::Grafana,
            "url" => Show::Url,
            other => bail!("unknown value for 'show' param, was: {other}, must be one of: conduit, grafana, url"),
        })
    }
}

/// Serves until the process is ended. False when there is no control plane to look at, of which `notes` tells.
///
/// # Errors
/// When the arguments are wrong, a control plane that was named does not answer, or the port cannot be had.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<bool> {
    let (port, show) = (args.port()?, args.show()?);
    if let Err(error) = control_plane.connect(0).await {
        if !global.api_addr.is_empty() || matches!(control_plane, ControlPlane::Cluster { .. }) {
            return Err(error);
        }
        debug!(error = format!("{error:#}"), "no control plane");
        notes.write_all(not_running(global.conduit_namespace()).as_bytes())?;
        return Ok(false);
    }
    let address = SocketAddr::new(args.address, port);
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| {
        format!("cannot serve the dashboard at {address}: choose another port with -p, or 0 for one that is free")
    })?;
    let urls = Urls::new(listener.local_addr()?, global.conduit_namespace());
    writeln!(
        out,
        "Conduit dashboard available at:\n{}\nGrafana dashboard available at:\n{}",
        urls.conduit, urls.grafana
    )?;
    if !args.address.is_loopback() {
        writeln!(notes, "note: whoever reaches {} sees what you see of the mesh", urls.address)?;
    }
    match show {
        Show::Conduit => {
            writeln!(out, "Opening Conduit dashboard in the default browser")?;
            open(&urls.conduit, notes)?;
        }
        Show::Grafana => {
            writeln!(out, "Opening Grafana dashboard in the default browser")?;
            open(&urls.grafana, notes)?;
        }
        Show::Url => {}
    }
    out.flush()?;
    axum::serve(listener, router(control_plane, args.address, global.conduit_namespace())).await?;
    Ok(true)
}

fn router(control_plane: &ControlPlane, address: IpAddr, namespace: &str) -> Router {
    let control_plane = control_plane.clone();
    let connect: Connect = Arc::new(move |lost| {
        let control_plane = control_plane.clone();
        let connect = async move { control_plane.connect(lost).await };
        connect
            .map(|transport| {
                transport
                    .map(|transport| BoxCloneSyncService::new(transport.map_err(Status::from_error)))
                    .map_err(|error| Status::unavailable(format!("{error:#}")))
            })
            .boxed()
    });
    let hosts = if address.is_loopback() { Hosts::Loopback } else { Hosts::Addresses };
    let grafana = format!("{}/", proxy_path(namespace, "grafana"));
    let pages = vec![(grafana, NO_GRAFANA)];
    let options = Options { prefixes: vec![proxy_path(namespace, "web")], hosts, writes: false, pages };
    conduit_dashboard::router(Upstream::new(connect), &options)
}

/// As the API server of Kubernetes would proxy it, so that links are the same wherever the mesh is.
fn proxy_path(namespace: &str, service: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/services/{service}:http/proxy")
}

/// What is behind the second URL: Grafana finds what its pages name only at the address that it was told, so that it is not handed on from here.
const NO_GRAFANA: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Grafana</title><h1>Grafana is not served here</h1>\
    <p>In Kubernetes, <code>kubectl -n conduit port-forward service/grafana 3000</code> serves the one that was installed, at \
    <a href=\"http://127.0.0.1:3000/\">127.0.0.1:3000</a>. A mesh on one machine has none: the dashboard of Conduit shows what happened in the last six hours; for longer, have Prometheus read \
    <code>/metrics</code> on the admin ports of proxies (4191) and controllers, and give that to a Grafana of yours.</p></html>";

struct Urls {
    address: SocketAddr,
    conduit: String,
    grafana: String,
}

impl Urls {
    fn new(address: SocketAddr, namespace: &str) -> Self {
        let url = |service| format!("http://{address}{}/", proxy_path(namespace, service));
        Self { address, conduit: url("web"), grafana: url("grafana") }
    }
}

fn not_running(namespace: &str) -> String {
    format!(
        "Conduit is not running in the \"{namespace}\" namespace\n\
         Install with: conduit install --conduit-namespace {namespace} | kubectl apply -f -\n\
         Or run a mesh on this machine: conduit local up --demo\n"
    )
}

/// Has whatever opens addresses on this machine open one. That there is nothing is a note: the person can do it.
fn open(url: &str, notes: &mut impl Write) -> anyhow::Result<()> {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(opener);
    let command = command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // It ends by itself; tokio reaps it.
        Ok(_) => Ok(()),
        Err(error) => {
            Ok(writeln!(notes, "note: no browser was opened ({opener}: {error}); open the address above in one")?)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use expect_test::expect;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &str) -> Args {
        let Command::Dashboard(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("{line}") };
        args
    }

    #[test]
    fn what_is_refused() {
        let refused = |line: &str| {
            let args = args(line);
            args.port().err().or(args.show().err()).map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refused("conduit dashboard -p -1"), "port must be greater than or equal to zero, was -1");
        assert_eq!(refused("conduit dashboard --port=70000"), "port must be at most 65535, was 70000");
        assert_eq!(
            refused("conduit dashboard --show prometheus"),
            "unknown value for 'show' param, was: prometheus, must be one of: conduit, grafana, url"
        );
        assert_eq!(refused("conduit dashboard -p 8084 --show url --address ::1"), "");
    }

    #[test]
    fn where_it_is() {
        let urls = Urls::new(([127, 0, 0, 1], 50750).into(), "conduit");
        assert_eq!(urls.conduit, "http://127.0.0.1:50750/api/v1/namespaces/conduit/services/web:http/proxy/");
        assert_eq!(urls.grafana, "http://127.0.0.1:50750/api/v1/namespaces/conduit/services/grafana:http/proxy/");
    }

    #[test]
    fn when_there_is_nothing_to_look_at() {
        expect![[r#"
            Conduit is not running in the "conduit" namespace
            Install with: conduit install --conduit-namespace conduit | kubectl apply -f -
            Or run a mesh on this machine: conduit local up --demo
        "#]]
        .assert_eq(&not_running("conduit"));
    }
}

//! `conduit explain`: why a connection or a request goes where it goes.

use std::io::Write;

use anyhow::{Context as _, bail, ensure};
use conduit_api::proto::public::{ExplainRequest, ExplainResponse, explain_request::To, explain_response::Step};
use serde_json::json;

use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{TableOrJson, write_json},
    printable::printable,
    resource::{Scope, Selection},
    table::{Align, Table},
};

/// From where to where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who sends: TYPE/NAME, as in deploy/web
    from: String,
    /// Where to: TYPE/NAME:PORT, as in deploy/voting:8080 or svc/voting-svc:8080, or HOST:PORT as the sender says it
    #[arg(required_unless_present = "destination", value_name = "TO")]
    to: Option<String>,
    /// The same
    #[arg(long = "to", value_name = "TO", conflicts_with = "to")]
    destination: Option<String>,
    /// The request's method
    #[arg(long, default_value = "GET", value_name = "METHOD")]
    method: String,
    /// The request's path
    #[arg(long, default_value = "/", value_name = "PATH")]
    path: String,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

impl Args {
    fn request(&self, global: &Global) -> anyhow::Result<ExplainRequest> {
        let scope = global.scope(false)?;
        let from = selection(&self.from, &scope)?;
        let to = self.to.as_ref().or(self.destination.as_ref()).context("clap requires one of them")?;
        let (host, port) = to
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok().filter(|port| *port > 0)?)))
            .with_context(|| format!("`{to}` does not end with a port: write svc/NAME:PORT or HOST:PORT"))?;
        let to = match host.contains('/') {
            true => To::Resource(selection(host, &scope)?.to_wire()),
            false => To::Host(host.trim_start_matches('[').trim_end_matches(']').to_owned()),
        };
        Ok(ExplainRequest {
            from: Some(from.to_wire()),
            to: Some(to),
            port: port.into(),
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.iter().map(|header| split(header)).collect::<anyhow::Result<_>>()?,
        })
    }
}

/// One resource by its name.
fn selection(words: &str, scope: &Scope) -> anyhow::Result<Selection> {
    let selection = Selection::parse(&[words], scope)?;
    ensure!(selection.name.is_some(), "`{words}` names no single resource: write TYPE/NAME, as in deploy/web");
    Ok(selection)
}

fn split(header: &str) -> anyhow::Result<(String, String)> {
    match header.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => bail!("`{header}` is not a header: write NAME:VALUE"),
    }
}

/// Asks, and writes the decisions in their order.
///
/// # Errors
/// When the arguments are wrong, no control plane answers, or `out` cannot be written.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let request = args.request(global)?;
    let answer = control_plane.ask(async |client| client.explain(request.clone()).await).await?;
    match args.output {
        TableOrJson::Json => write_json(out, &json(&answer))?,
        TableOrJson::Table => out.write_all(text(&answer).as_bytes())?,
    }
    Ok(())
}

fn text(answer: &ExplainResponse) -> String {
    let ExplainResponse { revision, from, address, authority, steps, proxies, behind, examples } = answer;
    let named = if authority == address { String::new() } else { format!(" ({authority})") };
    let mut table = Table::new(&[("", Align::Left), ("DECISION", Align::Left), ("WHY", Align::Left)]);
    for Step { about, decision, reason } in steps {
        table.row([about.clone(), decision.clone(), reason.clone()]);
    }
    let in_force = match (proxies, behind) {
        (0, _) => String::new(),
        (_, 0) => format!("Revision {revision} is in force in {proxies} of {proxies} proxies that send."),
        _ => format!(
            "Revision {revision} is not yet in force in {behind} of {proxies} proxies that send: {}.",
            printable(&examples.join(", "))
        ),
    };
    let header = format!("pod/{from} to {address}{named}, at revision {revision}");
    format!("{}\n\n{table}\n{in_force}", printable(&header)).trim_end().to_owned() + "\n"
}

fn json(answer: &ExplainResponse) -> serde_json::Value {
    let step = |step: &Step| json!({ "about": step.about, "decision": step.decision, "reason": step.reason });
    json!({
        "revision": answer.revision,
        "from": answer.from,
        "address": answer.address,
        "authority": answer.authority,
        "steps": answer.steps.iter().map(step).collect::<Vec<_>>(),
        "proxies": answer.proxies,
        "proxiesBehind": answer.behind,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser as _;
    use conduit_api::proto::public::ResourceSelection;

    use super::*;
    use crate::args::{Cli, Command};

    fn request(args: &str) -> anyhow::Result<ExplainRequest> {
        let cli = Cli::try_parse_from(["conduit", "-n", "shop", "explain"].into_iter().chain(args.split(' ')))?;
        let Command::Explain(args) = &cli.command else { panic!("{:?}", cli.command) };
        args.request(&cli.global)
    }

    #[test]
    fn destinations_are_resources_or_hosts_with_a_port() {
        let asked = request("deploy/web deploy/cart:8080 --path /x -H a:b:c").unwrap();
        let selected =
            |name: &str| ResourceSelection { kind: "deployment".into(), namespace: "shop".into(), name: name.into() };
        assert_eq!(asked.from, Some(selected("web")));
        assert_eq!((asked.to, asked.port), (Some(To::Resource(selected("cart"))), 8080));
        assert_eq!(asked.headers, BTreeMap::from([("a".to_owned(), "b:c".to_owned())]));
        for (to, host) in
            [("--to cart.shop:80", "cart.shop"), ("[fd00::1]:80", "fd00::1"), ("10.96.0.1:80", "10.96.0.1")]
        {
            assert_eq!(request(&format!("deploy/web {to}")).unwrap().to, Some(To::Host(host.to_owned())));
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (args, says) in [
            ("deploy/web", "<TO>"),
            ("deploy cart:80", "names no single resource"),
            ("deploy/web cart", "does not end with a port"),
            ("deploy/web cart:0", "does not end with a port"),
            ("deploy/web deploy:80 -H x", "`x` is not a header"),
            ("box/web cart:80", "no resource type `box`"),
        ] {
            let error = request(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}

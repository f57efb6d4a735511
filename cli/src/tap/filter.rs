//! Which requests are wanted: what `tap` and `top` have in common.

use std::net::{IpAddr, SocketAddr};

use anyhow::{bail, ensure};
use clap::value_parser;
use conduit_api::proto::{common::SocketAddress, public::TapRequest, tap::Match};

use crate::{
    global::Global,
    resource::{Kind, Selection},
};

/// Which requests.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// TYPE, TYPE NAME, TYPE/NAME or TYPE NAMESPACE/NAME; TYPE is pod, namespace, or a kind of workload as deployment
    #[arg(required = true, num_args = 1.., value_name = "RESOURCE")]
    resource: Vec<String>,
    /// Only requests to this workload, pod or namespace: TYPE/NAME
    #[arg(long, value_name = "RESOURCE")]
    to: Option<String>,
    /// Namespace of the resource in --to
    #[arg(long, value_name = "NAMESPACE", requires = "to")]
    to_namespace: Option<String>,
    /// Only requests to this port, of whoever gets them: as in dst=
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    to_port: Option<u16>,
    /// Only requests to this address, as in dst=
    #[arg(long, value_name = "IP")]
    to_ip: Option<IpAddr>,
    /// Only requests from this port, as in src=
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    from_port: Option<u16>,
    /// Only requests from this address, as in src=
    #[arg(long, value_name = "IP")]
    from_ip: Option<IpAddr>,
    /// Only requests of this method
    #[arg(long)]
    method: Option<String>,
    /// Only requests whose path begins with this
    #[arg(long)]
    path: Option<String>,
    /// Only requests for this host, e.g. voting-svc.emojivoto:8080
    #[arg(long)]
    authority: Option<String>,
    /// Only requests of this scheme
    #[arg(long)]
    scheme: Option<String>,
    /// Requests per second at most, over all proxies; the others pass unseen
    #[arg(long, value_name = "RPS", default_value_t = 100.0)]
    max_rps: f32,
}

impl Filter {
    /// What to ask, before anybody is asked.
    pub(crate) fn request(&self, global: &Global) -> anyhow::Result<TapRequest> {
        let scope = global.scope(false)?;
        let target = Selection::parse(&self.resource, &scope)?;
        proxies_know(target.kind)?;
        let to = self.to.as_ref().map(|to| {
            let to = Selection::parse(&[to], &scope.or_given(self.to_namespace.as_deref())?)?;
            proxies_know(to.kind)?;
            ensure!(to.name.is_some(), "--to needs a name, as in --to {}/NAME", to.kind.as_str());
            Ok(to.to_reference())
        });
        ensure!(self.max_rps > 0.0 && self.max_rps.is_finite(), "--max-rps must be above 0, not {}", self.max_rps);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let matches = Match {
            method: text(&self.method).to_uppercase(),
            scheme: text(&self.scheme).to_lowercase(),
            authority: text(&self.authority),
            path_prefix: text(&self.path),
            to: to.transpose()?,
            to_address: address(self.to_ip, self.to_port),
            from_address: address(self.from_ip, self.from_port),
            ..Match::default()
        };
        let (target, max_rps) = (Some(target.to_wire()), self.max_rps);
        Ok(TapRequest { target, r#match: Some(matches), max_rps, headers: false })
    }
}

/// Nothing, if anything will do.
fn address(ip: Option<IpAddr>, port: Option<u16>) -> Option<SocketAddress> {
    let port = port.unwrap_or_default();
    match ip {
        Some(ip) => Some(SocketAddr::new(ip, port).into()),
        None => (port > 0).then(|| SocketAddress { ip: Vec::new(), port: port.into() }),
    }
}

/// Proxies see pods and what owns them. A tap for anything else would stay silent for ever.
fn proxies_know(kind: Kind) -> anyhow::Result<()> {
    match kind {
        Kind::Service | Kind::Authority => bail!(
            "a tap is by workload, pod or namespace, not by {}; --authority selects requests by the host they ask for",
            kind.as_str()
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use conduit_api::proto::common::ResourceRef;

    use super::*;
    use crate::{
        args::{Cli, Command},
        tap,
    };

    fn request(args: &str) -> anyhow::Result<TapRequest> {
        let cli = Cli::try_parse_from(args.split(' '))?;
        let Command::Tap(tap::Args { filter, .. }) = &cli.command else { panic!("{args} is another command") };
        filter.request(&cli.global)
    }

    #[test]
    fn what_is_asked() {
        let forms = [
            "conduit tap deploy emojivoto/voting",
            "conduit -n emojivoto tap deploy voting",
            "conduit tap deploy/voting -n emojivoto",
        ];
        let [first, others @ ..] = forms.map(|args| request(args).unwrap());
        let target = first.target.as_ref().unwrap();
        assert_eq!(
            (target.kind.as_str(), target.namespace.as_str(), target.name.as_str()),
            ("deployment", "emojivoto", "voting")
        );
        assert_eq!((first.max_rps, &first.r#match), (100.0, &Some(Match::default())));
        assert!(others.iter().all(|other| *other == first));

        let matches =
            request("conduit tap ns/a --method get --scheme HTTP --path /x --authority y --to po/z --to-namespace b");
        let to = ResourceRef { kind: "pod".into(), namespace: "b".into(), name: "z".into() };
        let expected = Match {
            method: "GET".into(),
            scheme: "http".into(),
            path_prefix: "/x".into(),
            authority: "y".into(),
            to: Some(to),
            ..Match::default()
        };
        assert_eq!(matches.unwrap().r#match, Some(expected));

        let matches = request("conduit tap ns/a --to-port 8080 --from-ip 10.0.0.1 --from-port 40000").unwrap().r#match;
        let expected = Match {
            to_address: Some(SocketAddress { ip: Vec::new(), port: 8080 }),
            from_address: Some(SocketAddress { ip: vec![10, 0, 0, 1], port: 40000 }),
            ..Match::default()
        };
        assert_eq!(matches, Some(expected));
    }

    #[test]
    fn what_is_refused() {
        for (args, says) in [
            ("conduit tap svc/web-svc", "not by service; --authority selects"),
            ("conduit tap deploy/web --to svc/voting-svc", "not by service; --authority selects"),
            ("conduit tap deploy/web --to deploy", "--to deployment/NAME"),
            ("conduit tap deploy/web --max-rps 0", "above 0"),
            ("conduit tap deploy/web --max-rps inf", "above 0"),
            ("conduit tap deploy/web --to-namespace a", "--to"),
            ("conduit tap deploy/web --to-port 0", "--to-port <PORT>"),
            ("conduit tap deploy/web --from-ip web", "invalid IP address"),
        ] {
            let error = request(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}

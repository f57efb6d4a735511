//! `conduit profile`: routes for the calls of a service, so that `conduit routes` tells them apart.

mod calls;
mod learned;
mod open_api;
mod proto;

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use conduit_api::{
    ServiceName,
    proto::{
        common::Direction,
        public::TapRequest,
        tap::{Match, TapEvent, tap_event::Kind},
    },
};
use tokio::time::timeout;

use self::calls::{Call, Calls, routes};
use crate::{
    authority::Authority,
    control_plane::ControlPlane,
    gateway,
    global::Global,
    resource::Selection,
    tap::{self, Sees},
    yaml,
};

/// Events of a tap, of each pod: a route needs one request to be seen.
const TAP_RPS: f32 = 100.0;

/// Of which service, and where its calls are found.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct Args {
    /// NAME[.NAMESPACE]:PORT of the service whose requests are routed
    #[arg(value_name = "SERVICE")]
    service: Authority,
    /// The gRPC services that a file defines
    #[arg(long, value_name = "FILE", group = "source")]
    proto: Option<PathBuf>,
    /// The operations that an OpenAPI or Swagger file describes, in YAML or JSON; - for standard input
    #[arg(long, value_name = "FILE", group = "source")]
    open_api: Option<PathBuf>,
    /// What a resource is asked for, as TYPE/NAME, while it is watched
    #[arg(long, value_name = "RESOURCE", group = "source")]
    tap: Option<String>,
    /// An example, to be changed by hand
    #[arg(long, group = "source")]
    template: bool,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, requires = "tap")]
    tap_duration: Duration,
    /// So many routes at most
    #[arg(long, value_name = "COUNT", default_value_t = 20, requires = "tap")]
    tap_route_limit: usize,
}

/// Prints them, for `kubectl apply` or `conduit apply`.
///
/// # Errors
/// When a file cannot be read, nothing is found, no control plane answers, or `out` cannot be written.
pub async fn run<N: Write>(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut N,
) -> anyhow::Result<()> {
    let Authority { service, namespace, port } = &args.service;
    let namespace = match namespace {
        Some(namespace) => namespace.clone(),
        None => global.one_namespace()?,
    };
    let service = ServiceName::new(&namespace, service)?;
    let port = port.with_context(|| format!("say which port requests go to, as in {}:80", service.name()))?;
    let calls = if let Some(file) = &args.proto {
        let (name, text) = one(file)?;
        proto::calls(&name, &text)?
    } else if let Some(file) = &args.open_api {
        let (name, text) = one(file)?;
        open_api::calls(&text).with_context(|| name)?
    } else if let Some(resource) = &args.tap {
        learn(args, resource, global, control_plane, notes).await?
    } else {
        [Call::exact(Some("GET"), "/example"), Call::below(None, "/v1/items")].into_iter().collect()
    };
    if calls.routable.is_empty() {
        bail!("no calls are found, of which there could be routes");
    }
    let shared = calls.routable.iter().filter(|call| call.is_prefix).count();
    for route in routes(&service, port, &calls.routable)? {
        write!(out, "---\n{}", gateway::to_yaml(&(&route).into())?)?;
    }
    if calls.unroutable > 0 {
        let count = calls.unroutable;
        writeln!(
            notes,
            "note: {count} were left out, since no route can be for such a path or method; they go the way of all others"
        )?;
    }
    if shared > 0 && !args.template {
        writeln!(
            notes,
            "note: {shared} routes take everything below a path, because what follows there differs from request to request"
        )?;
    }
    Ok(())
}

fn one(file: &std::path::Path) -> anyhow::Result<(String, String)> {
    let mut read = yaml::read(&[file.to_owned()])?;
    read.pop().context("one file is one text")
}

/// What `resource` is asked for in the meantime.
async fn learn<N: Write>(
    args: &Args,
    resource: &str,
    global: &Global,
    control_plane: &ControlPlane,
    notes: &mut N,
) -> anyhow::Result<Calls> {
    let target = Selection::parse(&[resource], &global.scope(false)?)?;
    let request = TapRequest {
        target: Some(target.to_wire()),
        r#match: Some(Match::default()),
        max_rps: TAP_RPS,
        headers: false,
    };
    let (mut calls, mut left_out, mut was_asked) = (Calls::default(), 0_u64, false);
    let mut learn = |event: &TapEvent, _: &mut N| {
        if let Some(Kind::RequestInit(request)) = &event.kind
            && event.direction() == Direction::Inbound
        {
            let call = learned::call(&request.method, &request.path);
            let is_new = call.as_ref().is_some_and(|call| !call.is_any() && !calls.routable.contains(call));
            was_asked = true;
            if is_new && calls.routable.len() >= args.tap_route_limit {
                left_out += 1;
            } else {
                calls.add(call);
            }
        }
        Ok(())
    };
    let watched = tap::follow(&request, Sees::Requests, control_plane, notes, &mut learn);
    if let Ok(ended) = timeout(args.tap_duration, watched).await {
        ended?;
    }
    if !was_asked {
        bail!("{resource} was asked nothing within {:?}; watch it for longer by --tap-duration", args.tap_duration);
    }
    if left_out > 0 {
        let limit = args.tap_route_limit;
        writeln!(notes, "note: it was asked for more than {limit} calls; --tap-route-limit says how many are taken")?;
    }
    Ok(calls)
}

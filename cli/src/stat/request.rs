//! What is typed, as questions to the control plane. Pure.

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use conduit_api::{
    proto::public::{
        StatRequest,
        stat_request::{By, Other},
    },
    window,
};

use super::{labelled, prometheus::Prometheus, view::Columns};
use crate::{
    global::Global,
    output::OutputOrCsv as Output,
    resource::{Kind, Scope, Selection},
};

/// What `all` is, where there is any traffic of it.
const ALL: [Kind; 10] = [
    Kind::Deployment,
    Kind::DaemonSet,
    Kind::StatefulSet,
    Kind::ReplicaSet,
    Kind::ReplicationController,
    Kind::Job,
    Kind::CronJob,
    Kind::Pod,
    Kind::Service,
    Kind::Authority,
];
/// How far people look back unless they say so.
const TIME_WINDOW: &str = "1m";

/// Which traffic, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME or TYPE/NAME, several of them, or all; TYPE is pod, namespace, service, authority, or a kind of workload as deployment
    #[arg(required = true, num_args = 1.., value_name = "RESOURCE")]
    resource: Vec<String>,
    /// How far to look back: 15s to 6h; of what a Prometheus keeps with --prometheus-url
    #[arg(short, long, default_value = TIME_WINDOW, value_name = "DURATION")]
    time_window: String,
    /// A row for each path, method, status or class of what they are asked; several with commas between
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with_all = ["to", "from", "unmeshed"])]
    by: Vec<GroupBy>,
    /// Only traffic that they send to this resource: TYPE or TYPE/NAME
    #[arg(long, value_name = "RESOURCE", conflicts_with = "from")]
    to: Option<String>,
    /// Namespace of the resource in --to
    #[arg(long, value_name = "NAMESPACE", requires = "to")]
    to_namespace: Option<String>,
    /// Only traffic that they get from this resource: TYPE or TYPE/NAME
    #[arg(long, value_name = "RESOURCE")]
    from: Option<String>,
    /// Namespace of the resource in --from
    #[arg(long, value_name = "NAMESPACE", requires = "from")]
    from_namespace: Option<String>,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only what has these labels, as kubectl selects it: app=web,tier!=cache
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(super) selector: Option<String>,
    /// Only what has pods, none of which is part of the mesh
    #[arg(long)]
    pub(super) unmeshed: bool,
    /// Take the figures of this Prometheus, which scrapes the mesh, for windows that are longer: http://localhost:9090
    #[arg(long, value_name = "URL", conflicts_with_all = ["by", "watch"])]
    pub(super) prometheus_url: Option<String>,
    /// Again every two seconds
    #[arg(short, long)]
    pub(super) watch: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// What `--by` tells apart, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum GroupBy {
    /// Without query; numbers and ids in it are `*`
    Path,
    /// As GET
    Method,
    /// HTTP's, or gRPC's by name
    Status,
    /// Success or failure
    Class,
}

/// Resources of one kind.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) kind: Kind,
    pub(super) requests: Vec<StatRequest>,
}

impl Args {
    /// What to ask, before anybody is asked.
    pub(super) fn blocks(&self, global: &Global) -> anyhow::Result<Vec<Block>> {
        let mut blocks: Vec<Block> = Vec::new();
        for selection in self.selections(&global.scope(self.all_namespaces)?)? {
            if self.selector.is_some() {
                labelled::check(&selection)?;
            }
            let request = self.request(global, &selection)?;
            match blocks.iter_mut().find(|block| block.kind == selection.kind) {
                Some(block) => block.requests.push(request),
                None => blocks.push(Block { kind: selection.kind, requests: vec![request] }),
            }
        }
        Ok(blocks)
    }

    fn selections(&self, scope: &Scope) -> anyhow::Result<Vec<Selection>> {
        if !self.is_all() {
            return Ok(Selection::parse_all(&self.resource, scope)?);
        }
        // Who asks for these does not know what becomes of paths.
        let is_told_by_clients = |kind: &Kind| matches!(kind, Kind::Service | Kind::Authority);
        let kinds = ALL.iter().filter(|kind| self.by.is_empty() || !is_told_by_clients(kind));
        let kinds = kinds.filter(|kind| self.selector.is_none() || labelled::can_be(**kind));
        Ok(kinds.map(|kind| Selection::parse(&[kind.as_str()], scope)).collect::<Result<_, _>>()?)
    }

    /// Who is asked for figures instead of the control plane.
    pub(super) fn prometheus(&self) -> anyhow::Result<Option<Prometheus>> {
        self.prometheus_url.as_ref().map(|url| Prometheus::new(url, &self.time_window)).transpose()
    }

    pub(super) fn is_all(&self) -> bool {
        self.resource == ["all"]
    }

    fn request(&self, global: &Global, selection: &Selection) -> anyhow::Result<StatRequest> {
        let scope = global.scope(self.all_namespaces)?;
        let other = |words: &str, namespace: &Option<String>| {
            let scope = scope.clone().or_given(namespace.as_deref())?;
            anyhow::Ok(Selection::parse(&[words], &scope)?.to_wire())
        };
        let to = self.to.as_ref().map(|to| other(to, &self.to_namespace).map(Other::To));
        let from = self.from.as_ref().map(|from| other(from, &self.from_namespace).map(Other::From));
        Ok(StatRequest {
            selector: Some(selection.to_wire()),
            // What there is, is asked for all the same.
            window_ms: window_ms(if self.prometheus_url.is_some() { TIME_WINDOW } else { &self.time_window })?,
            other: to.or(from).transpose()?,
            by: self.by().into_iter().map(i32::from).collect(),
        })
    }

    pub(super) fn by(&self) -> Vec<By> {
        let mut by = self.by.clone();
        by.sort_unstable();
        by.dedup();
        let by = by.into_iter().map(|by| match by {
            GroupBy::Path => By::Path,
            GroupBy::Method => By::Method,
            GroupBy::Status => By::Status,
            GroupBy::Class => By::Class,
        });
        by.collect()
    }

    pub(super) fn columns(&self, kind: Kind, several: bool) -> Columns {
        Columns {
            // A namespace is its own name.
            namespace: self.all_namespaces && kind != Kind::Namespace,
            wide: self.output == Output::Wide,
            by: self.by(),
            prefix: several.then(|| kind.short()),
        }
    }
}

/// How long a command looks back, in milliseconds.
///
/// # Errors
/// When it is no duration, or one that nothing is known of.
pub(crate) fn window_ms(text: &str) -> anyhow::Result<u32> {
    let window = humantime::parse_duration(text)
        .with_context(|| format!("`{text}` is not a duration, as in 30s or 5m, for --time-window"))?;
    window::check(window).map_err(|error| anyhow!("{error}, and {text} is not"))?;
    u32::try_from(window.as_millis()).context("the time window is bounded")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use conduit_api::proto::public::ResourceSelection;

    use super::*;
    use crate::args::{Cli, Command};

    fn blocks(args: &str) -> anyhow::Result<Vec<Block>> {
        let cli = Cli::try_parse_from(args.split(' '))?;
        let Command::Stat(args) = &cli.command else { panic!("{args} is another command") };
        args.blocks(&cli.global)
    }

    fn request(args: &str) -> anyhow::Result<StatRequest> {
        Ok(blocks(args)?.remove(0).requests.remove(0))
    }

    fn selection(kind: &str, namespace: &str, name: &str) -> ResourceSelection {
        ResourceSelection { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn what_is_asked() {
        let plain = request("conduit -n emojivoto stat deploy").unwrap();
        assert_eq!(plain.selector, Some(selection("deployment", "emojivoto", "")));
        assert_eq!((plain.window_ms, plain.other), (60_000, None));

        let to =
            request("conduit stat deploy emojivoto/web --to deploy/voting --to-namespace emojivoto -t 5m").unwrap();
        assert_eq!(to.window_ms, 300_000);
        assert_eq!(to.other, Some(Other::To(selection("deployment", "emojivoto", "voting"))));

        assert_eq!(request("conduit stat deploy -t 6h").unwrap().window_ms, 21_600_000);
        let from = request("conduit stat po -A --from deploy/web").unwrap();
        assert_eq!(from.selector, Some(selection("pod", "", "")));
        assert_eq!(from.other, Some(Other::From(selection("deployment", "", "web"))));
    }

    #[test]
    fn several_are_asked_for_by_kind() {
        let shape = |args: &str| {
            let block = |block: &Block| format!("{}*{}", block.kind.short(), block.requests.len());
            blocks(args).unwrap().iter().map(block).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shape("conduit stat deploy/web po deploy/voting"), "deploy*2 po*1");
        assert_eq!(shape("conduit stat all"), "deploy*1 ds*1 sts*1 rs*1 rc*1 job*1 cj*1 po*1 svc*1 au*1");
        assert_eq!(shape("conduit stat all --by path"), "deploy*1 ds*1 sts*1 rs*1 rc*1 job*1 cj*1 po*1");
        assert_eq!(shape("conduit stat all -l a=b"), "deploy*1 ds*1 sts*1 rs*1 rc*1 job*1 cj*1 po*1 svc*1");
        let by = request("conduit stat deploy/web --by status,path,status").unwrap();
        assert_eq!(by.by().collect::<Vec<_>>(), [By::Path, By::Status]);
    }

    #[test]
    fn what_is_refused() {
        for (args, says) in [
            ("conduit stat deploy -t 14s", "at least 15s"),
            ("conduit stat deploy -t 7h", "at most 6h"),
            ("conduit stat deploy -t soon", "`soon` is not a duration"),
            ("conduit stat deploy --to nothing", "no resource type `nothing`"),
            ("conduit -n not_valid stat deploy", "not_valid is not a valid namespace"),
            ("conduit stat deploy --to svc/a --from svc/b", "cannot be used with"),
            ("conduit stat deploy --to deploy/a --by path", "cannot be used with"),
            ("conduit stat deploy --by path --prometheus-url http://a", "cannot be used with"),
            ("conduit stat deploy/web -l app=web", "deploy/web is one resource"),
            ("conduit stat au -l app=web", "an authority has no labels"),
            ("conduit stat deploy --by colour", "invalid value 'colour'"),
        ] {
            let error = request(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}

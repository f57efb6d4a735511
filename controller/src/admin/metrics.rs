//! What a scrape is told. Everything is read off at that moment: nothing is counted twice, in two places.

use std::{fmt, fs, sync::atomic::AtomicU64, time::SystemTime};

use conduit_api::{exposition::Format, process::Account};
use conduit_ca::lifetime;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::format::in_format;
use crate::{authority::rotation::pending, peer::server::Own, propose::unix_ms};

/// Gauges that are not whole numbers.
type Fraction = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Role {
    role: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Members {
    voter: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Root {
    root: String,
    state: String,
}

/// All that `own` knows, and what its process uses.
///
/// # Errors
/// Never, of text that is written into memory.
pub fn scrape(own: &Own, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    process(&mut registry, own.started);
    let controller = registry.sub_registry_with_prefix("conduit_controller");
    raft(controller, own);
    discovery(controller, own);
    authority(controller, own);
    own.identity_metrics.register(controller);
    own.platform_metrics.register(controller);
    own.refusals.register(controller);
    let state = own.cluster.state().borrow().clone();
    own.alerts.register(controller, state.firing(), state.alert_events_dropped());
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(in_format(format, text))
}

fn raft(registry: &mut Registry, own: &Own) {
    let status = own.cluster.status().borrow().clone();
    gauge(registry, "raft_term", "Raft's current term", status.term);
    gauge(registry, "raft_applied_index", "Last log index applied to the state", status.applied_index);
    gauge(registry, "raft_last_log_index", "Last log index in this replica's log", status.last_log_index);
    gauge(registry, "raft_has_leader", "Whether this replica knows a leader", status.leader.is_some().into());
    let help = "Whether what this replica is asked to write can be committed, as far as it can tell";
    gauge(registry, "raft_has_quorum", help, own.cluster.has_quorum().into());
    let help = "For how long this replica has not been in touch with a majority";
    fraction(registry, "raft_out_of_touch_seconds", help, own.cluster.out_of_touch().as_secs_f64());
    let role = Family::<Role, Gauge>::default();
    role.get_or_create(&Role { role: status.role.to_string() }).set(1);
    registry.register("raft_role", "This replica's role in Raft", role);
    let members = Family::<Members, Gauge>::default();
    for (voter, wanted) in [("true", true), ("false", false)] {
        let count = status.members.values().filter(|member| member.voter == wanted).count();
        members.get_or_create(&Members { voter }).set(integer(count as u64));
    }
    registry.register("raft_members", "Members that this replica knows, by whether their vote counts", members);
}

fn discovery(registry: &mut Registry, own: &Own) {
    let state = own.cluster.state().borrow().clone();
    let revision = state.revision();
    gauge(registry, "discovery_revision", "Revision of the discovery state served", revision.as_u64());
    gauge(registry, "discovery_streams", "Proxies connected to this replica", own.registry.len() as u64);
    let behind = own.registry.connected().into_values().filter(|proxy| proxy.revision < revision).count();
    let help = "Proxies connected to this replica that do not hold the revision that it serves";
    gauge(registry, "discovery_proxies_behind", help, behind as u64);
    gauge(registry, "discovery_services", "Services in the replicated state", state.services().len() as u64);
    gauge(registry, "discovery_pods", "Pods in the replicated state", state.pods().len() as u64);
    let (reports, dropped) = {
        let telemetry = own.telemetry.lock();
        (telemetry.reports(), telemetry.crowded_rows())
    };
    counter(registry, "telemetry_reports", "Proxies' reports that this replica has taken", reports);
    counter(
        registry,
        "telemetry_dropped_rows",
        "Rows of reports that were counted among others for the number of their names",
        dropped,
    );
}

fn authority(registry: &mut Registry, own: &Own) {
    let issuer = own.issuer.load_full().map_or(0, |issuer| unix_ms(issuer.not_after()));
    let help = "When this replica's issuing certificate expires, since the Unix epoch; 0 while there is none";
    gauge(registry, "issuer_expiry_timestamp_seconds", help, issuer / 1000);
    let help = "How far this replica's clock is ahead of the one in the middle";
    fraction(registry, "clock_offset_seconds", help, own.clock.offset_ms() as f64 / 1_000.0);
    let state = own.cluster.state().borrow().clone();
    let Some(ca) = state.ca() else { return };
    let roots = Family::<Root, Gauge>::default();
    for record in &ca.roots {
        let not_after = lifetime(&record.root.certificate).map_or(0, |(_, not_after)| unix_ms(not_after));
        let labels = Root { root: record.root.id.to_string(), state: record.state.to_string() };
        roots.get_or_create(&labels).set(integer(not_after / 1000));
    }
    registry.register("trust_root_expiry_timestamp_seconds", "When a trust root expires, since the Unix epoch", roots);
    let since = pending(ca).map_or(0, |pending| pending.root.since_ms / 1000);
    let help = "Since when the step of a root's rotation that is to be taken next is waited for, since the Unix epoch; 0 while \
                there is none";
    gauge(registry, "ca_rotation_pending_since_timestamp_seconds", help, since);
    gauge(registry, "ca_denied_identities", "Identities that are refused everywhere", ca.denied.len() as u64);
}

fn process(registry: &mut Registry, started: SystemTime) {
    let read = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let account = Account {
        stat: &read("stat"),
        status: &read("status"),
        limits: &read("limits"),
        open_fds: fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
        started_seconds: started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
    };
    for measure in account.measures() {
        // The registry puts the ends of names and of sentences there itself.
        let help = measure.help.trim_end_matches('.');
        if measure.is_counter {
            let counter = Counter::<f64, AtomicU64>::default();
            counter.inc_by(measure.value);
            registry.register(measure.name.trim_end_matches("_total"), help, counter);
        } else {
            fraction(registry, measure.name, help, measure.value);
        }
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(integer(value));
    registry.register(name, help, gauge);
}

fn fraction(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Fraction::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

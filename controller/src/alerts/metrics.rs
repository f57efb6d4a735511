//! What a scrape is told of promises.

use std::sync::Arc;

use conduit_api::{Indicator, ResourceName};
use conduit_consensus::{Delivery, Firing};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::measured::{AllFiring, Assessed};

/// Clones are the same.
#[derive(Clone, Default)]
pub struct AlertMetrics {
    /// Of this replica as a leader: as it has last looked.
    burn_rates: Arc<Mutex<Vec<(BurnRate, f64)>>>,
    messages: Family<Message, Counter>,
}

/// The word `namespace` is Prometheus' for that of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BurnRate {
    resource_kind: String,
    resource_namespace: String,
    resource_name: String,
    objective: String,
    window: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Alert {
    resource_kind: String,
    resource_namespace: String,
    resource_name: String,
    objective: String,
    severity: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Message {
    outcome: &'static str,
}

impl AlertMetrics {
    /// How fast budgets are used up, by now; nothing is said of them by a replica that does not lead.
    pub fn assessed(&self, assessed: &[Assessed]) {
        let rates = assessed.iter().flat_map(|assessed| {
            let rates = assessed.burn_rates().filter_map(|(window, rate)| Some((window, rate?)));
            rates.map(|(window, rate)| {
                let [resource_kind, resource_namespace, resource_name] = labels(&assessed.resource);
                let objective = assessed.goal.indicator().to_string();
                let window = humantime::format_duration(window).to_string();
                (BurnRate { resource_kind, resource_namespace, resource_name, objective, window }, rate)
            })
        });
        *self.burn_rates.lock() = rates.collect();
    }

    /// A message was taken by the webhook, or was not.
    pub fn attempted(&self, taken: bool) {
        let outcome = if taken { Delivery::Told.as_str() } else { Delivery::Failed.as_str() };
        self.messages.get_or_create(&Message { outcome }).inc();
    }

    /// Into what is scraped. What fires, every replica says: a leader that goes leaves no gap.
    pub fn register(&self, registry: &mut Registry, firing: &AllFiring, dropped: u64) {
        let burn_rates = Family::<BurnRate, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for (labels, rate) in self.burn_rates.lock().iter() {
            burn_rates.get_or_create(labels).set(*rate);
        }
        let help =
            "How many times as fast as it may a budget is used up, within a time before now, as the leader sees it";
        registry.register("objective_burn_rate", help, burn_rates);
        let alerts = Family::<Alert, Gauge>::default();
        let firing = firing.iter().flat_map(|(resource, firing)| firing.iter().map(move |(i, f)| (resource, i, f)));
        for (resource, indicator, Firing { severity, .. }) in firing {
            let [resource_kind, resource_namespace, resource_name] = labels(resource);
            let (objective, severity) = (Indicator::to_string(indicator), severity.as_str());
            let labels = Alert { resource_kind, resource_namespace, resource_name, objective, severity };
            alerts.get_or_create(&labels).set(1);
        }
        registry.register("alert_firing", "1 for each objective that is not kept", alerts);
        let help = "Attempts of this replica to tell the webhook, by what became of them";
        registry.register("alert_messages", help, self.messages.clone());
        let forgotten = Counter::<u64>::default();
        forgotten.inc_by(dropped);
        let help = "Alerts that were forgotten before the webhook was told of them, by all replicas";
        registry.register("alert_messages_dropped", help, forgotten);
    }
}

fn labels(resource: &ResourceName) -> [String; 3] {
    [resource.kind(), resource.namespace(), resource.name()].map(ToOwned::to_owned)
}

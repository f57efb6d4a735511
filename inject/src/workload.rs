//! Which kinds of objects have pods, where in them those are described, and what proxies call their owners.

use serde_json::Value;

/// A kind of Kubernetes that has pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `CronJob`
    CronJob,
    /// `DaemonSet`
    DaemonSet,
    /// `Deployment`
    Deployment,
    /// `Job`
    Job,
    /// `Pod`
    Pod,
    /// `ReplicaSet`
    ReplicaSet,
    /// `ReplicationController`
    ReplicationController,
    /// `StatefulSet`
    StatefulSet,
}

/// API groups that have them, or had them once. Others call other things by the same names.
const GROUPS: [&str; 4] = ["", "apps", "batch", "extensions"];
/// A label's value is no longer.
const LABEL_BYTES_MAX: usize = 63;
/// What a Deployment's name is followed by in the names of its ReplicaSets.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

impl WorkloadKind {
    /// The kind of an object that says these of itself, if it has pods.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if !GROUPS.contains(&group) {
            return None;
        }
        match kind {
            "CronJob" => Some(Self::CronJob),
            "DaemonSet" => Some(Self::DaemonSet),
            "Deployment" => Some(Self::Deployment),
            "Job" => Some(Self::Job),
            "Pod" => Some(Self::Pod),
            "ReplicaSet" => Some(Self::ReplicaSet),
            "ReplicationController" => Some(Self::ReplicationController),
            "StatefulSet" => Some(Self::StatefulSet),
            _ => None,
        }
    }

    /// Where the pod's own `metadata` and `spec` are, from the object.
    pub fn template(self) -> &'static str {
        match self {
            Self::CronJob => "spec.jobTemplate.spec.template",
            Self::Pod => "",
            _ => "spec.template",
        }
    }

    /// Pods of this kind are to end by themselves.
    pub fn ends(self) -> bool {
        matches!(self, Self::Job | Self::CronJob)
    }

    /// The label of a pod that has its owner's name.
    fn label(self) -> Option<&'static str> {
        match self {
            Self::CronJob => Some("conduit.io/proxy-cron-job"),
            Self::DaemonSet => Some("conduit.io/proxy-daemon-set"),
            Self::Deployment => Some("conduit.io/proxy-deployment"),
            Self::Job => Some("conduit.io/proxy-job"),
            Self::Pod => None,
            Self::ReplicaSet => Some("conduit.io/proxy-replica-set"),
            Self::ReplicationController => Some("conduit.io/proxy-replication-controller"),
            Self::StatefulSet => Some("conduit.io/proxy-stateful-set"),
        }
    }
}

/// All labels that [`Owner::label`] may give.
pub(crate) const OWNER_LABELS: [&str; 7] = [
    "conduit.io/proxy-cron-job",
    "conduit.io/proxy-daemon-set",
    "conduit.io/proxy-deployment",
    "conduit.io/proxy-job",
    "conduit.io/proxy-replica-set",
    "conduit.io/proxy-replication-controller",
    "conduit.io/proxy-stateful-set",
];

/// Whose pods they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Of this kind.
    pub kind: WorkloadKind,
    /// Empty where the API server is to think of one.
    pub name: String,
}

impl Owner {
    /// Of a pod that is being admitted, as its controller says. A ReplicaSet that has its name from a Deployment, and a hash, is
    /// that Deployment.
    pub fn of_pod(pod: &Value) -> Option<Self> {
        let references = pod.pointer("/metadata/ownerReferences")?.as_array()?;
        let controller = references.iter().find(|reference| reference["controller"] == true)?;
        let kind = WorkloadKind::of(controller["apiVersion"].as_str()?, controller["kind"].as_str()?)?;
        let name = controller["name"].as_str()?;
        if kind == WorkloadKind::ReplicaSet
            && let Some(hash) = pod["metadata"]["labels"][POD_TEMPLATE_HASH].as_str()
            && let Some(deployment) = name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'))
        {
            return Some(Self { kind: WorkloadKind::Deployment, name: deployment.to_owned() });
        }
        Some(Self { kind, name: name.to_owned() })
    }

    /// What its pods are labelled with, where the name fits into a label.
    pub(crate) fn label(&self) -> Option<(&'static str, &str)> {
        let fits = (1..=LABEL_BYTES_MAX).contains(&self.name.len());
        self.kind.label().filter(|_| fits).map(|label| (label, self.name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_known_by_their_groups() {
        for version in ["apps/v1", "apps/v1beta2", "extensions/v1beta1"] {
            assert_eq!(WorkloadKind::of(version, "Deployment"), Some(WorkloadKind::Deployment), "{version}");
        }
        assert_eq!(WorkloadKind::of("batch/v1beta1", "CronJob"), Some(WorkloadKind::CronJob));
        assert_eq!(WorkloadKind::of("v1", "Pod"), Some(WorkloadKind::Pod));
        assert_eq!(WorkloadKind::of("batch.volcano.sh/v1alpha1", "Job"), None);
        assert_eq!(WorkloadKind::of("v1", "Service"), None);
    }

    #[test]
    fn a_pod_belongs_to_the_deployment_behind_its_replica_set() {
        let pod = |labels: Value| {
            let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "controller": true});
            json!({"metadata": {"labels": labels, "ownerReferences": [owner]}})
        };
        let owner = |pod| Owner::of_pod(&pod).and_then(|o| o.label().map(|(label, name)| format!("{label}={name}")));
        assert_eq!(owner(pod(json!({"pod-template-hash": "5d4f"}))).unwrap(), "conduit.io/proxy-deployment=web");
        assert_eq!(owner(pod(json!({}))).unwrap(), "conduit.io/proxy-replica-set=web-5d4f");
        assert_eq!(owner(json!({"metadata": {}})), None);
        let long = Owner { kind: WorkloadKind::Deployment, name: "x".repeat(64) };
        assert_eq!(long.label(), None);
    }
}

//! Objects of Kubernetes as far as anything of them is read: the rest is skipped where it comes, and never takes memory. Most of a pod is what its
//! containers are, and who has written which field of it (`managedFields`). Pure.
//!
//! Fields are called as in [`k8s_openapi`], and mean the same.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::{core::v1, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube::Resource;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// An instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

/// What is written on an instance: the API server is asked for no more of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodLabels {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    pub init_containers: Option<Vec<Container>>,
    pub host_network: Option<bool>,
    pub node_name: Option<String>,
    pub service_account_name: Option<String>,
    pub restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Instead of the pod's (Kubernetes 1.34, KEP-5307).
    pub restart_policy: Option<String>,
    /// Which of its exits are none (the same).
    pub restart_policy_rules: Option<Vec<IgnoredAny>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    pub conditions: Option<Vec<PodCondition>>,
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
    pub container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub image: Option<String>,
    pub state: Option<ContainerState>,
    pub last_state: Option<ContainerState>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub waiting: Option<Waiting>,
    pub terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    pub reason: Option<String>,
    pub message: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Terminated {
    #[serde(deserialize_with = "or_default")]
    pub exit_code: i32,
    pub reason: Option<String>,
    pub message: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub type_: String,
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
}

/// A name and its ports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    pub spec: Option<v1::ServiceSpec>,
}

/// Where a service's requests may go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "or_default")]
    pub address_type: String,
    #[serde(deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
    pub ports: Option<Vec<discovery::EndpointPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    pub conditions: Option<EndpointConditions>,
    pub target_ref: Option<TargetRef>,
    pub zone: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

/// What is read of any object's.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

/// What is not there is `null` now and then: a slice's endpoints while it has none.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read: Metadata = or_default(deserializer)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        labels: read.labels,
        annotations: read.annotations,
        owner_references: read.owner_references,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

macro_rules! excerpt {
    ($excerpt:ident, $whole:ty) => {
        excerpt!($excerpt, $whole, false);
    };
    ($excerpt:ident, $whole:ty, $metadata_alone:expr) => {
        impl Resource for $excerpt {
            type DynamicType = <$whole as Resource>::DynamicType;
            type Scope = <$whole as Resource>::Scope;

            fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
                <$whole as Resource>::kind(of)
            }

            fn group(of: &Self::DynamicType) -> Cow<'_, str> {
                <$whole as Resource>::group(of)
            }

            fn version(of: &Self::DynamicType) -> Cow<'_, str> {
                <$whole as Resource>::version(of)
            }

            fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
                <$whole as Resource>::plural(of)
            }

            fn metadata_api() -> bool {
                $metadata_alone
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

excerpt!(Pod, v1::Pod);
excerpt!(PodLabels, v1::Pod, true);
excerpt!(Service, v1::Service);
excerpt!(EndpointSlice, discovery::EndpointSlice);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_means_what_it_means_in_the_whole_object() {
        let fields = json!([{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {"f:phase": {}}}}]);
        let owners =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "x", "controller": true}]);
        let metadata = json!({
            "name": "web-1", "namespace": "shop", "uid": "y", "resourceVersion": "7", "generation": 3, "labels": {"a": "1"},
            "annotations": {"b": "2"}, "ownerReferences": owners, "managedFields": fields,
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
        });
        let container = json!({"name": "web", "image": "web:1", "resources": {"limits": {"cpu": "1"}}});
        let pod = json!({
            "metadata": metadata,
            "spec": {"containers": [container], "initContainers": [container], "hostNetwork": true, "nodeName": "n", "serviceAccountName": "s"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let (read, whole): (Pod, v1::Pod) =
            (serde_json::from_value(pod.clone()).unwrap(), serde_json::from_value(pod).unwrap());
        let expected = ObjectMeta { managed_fields: None, generation: None, ..whole.metadata.clone() };
        assert_eq!(read.metadata, expected);
        let (read, whole) = ((read.spec.unwrap(), read.status.unwrap()), (whole.spec.unwrap(), whole.status.unwrap()));
        assert_eq!(read.0.containers[0].name, whole.0.containers[0].name);
        assert_eq!(read.0.init_containers.unwrap()[0].name, whole.0.init_containers.unwrap()[0].name);
        assert_eq!((read.0.host_network, read.0.node_name), (whole.0.host_network, whole.0.node_name));
        assert_eq!(read.0.service_account_name, whole.0.service_account_name);
        assert_eq!((read.1.phase, read.1.pod_ip), (whole.1.phase, whole.1.pod_ip));
        let (read, whole) = (read.1.conditions.unwrap(), whole.1.conditions.unwrap());
        assert_eq!((&read[0].type_, &read[0].status), (&whole[0].type_, &whole[0].status));
    }

    #[test]
    fn what_is_missing_is_no_reason_to_read_nothing() {
        for text in
            [r#"{"metadata": {"name": "web"}, "spec": {"containers": null}}"#, r#"{"metadata": null, "status": {}}"#]
        {
            let pod: Pod = serde_json::from_str(text).unwrap();
            assert!(pod.spec.unwrap_or_default().containers.is_empty());
        }
        let slice: EndpointSlice =
            serde_json::from_str(r#"{"addressType": "IPv4", "endpoints": null, "ports": null}"#).unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports.is_none());
        let slice = r#"{"endpoints": [{"addresses": null, "conditions": {"ready": true, "serving": true}, "deprecatedTopology": {}}]}"#;
        let slice: EndpointSlice = serde_json::from_str(slice).unwrap();
        assert_eq!(slice.endpoints[0].conditions.as_ref().unwrap().ready, Some(true));
    }

    #[test]
    fn the_api_server_is_asked_for_the_kind_that_it_is_of() {
        assert_eq!(Pod::url_path(&(), None), "/api/v1/pods");
        assert_eq!(Service::url_path(&(), Some("shop")), "/api/v1/namespaces/shop/services");
        assert_eq!(EndpointSlice::url_path(&(), None), "/apis/discovery.k8s.io/v1/endpointslices");
        assert!(PodLabels::metadata_api() && !Pod::metadata_api());
    }
}

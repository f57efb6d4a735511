//! Which kinds a cluster has, by what it says of itself. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};

/// Every API server has it, and what is watched is of it: a list without it is not that of all groups.
const WITNESS: &str = "discovery.k8s.io";

/// Whether a list of all groups has `version` of `group`; nothing, if it is not one of all groups.
pub fn has_version(groups: &APIGroupList, group: &str, version: &str) -> Option<bool> {
    if !groups.groups.iter().any(|known| known.name == WITNESS) {
        return None;
    }
    let mut versions = groups.groups.iter().filter(|known| known.name == group).flat_map(|known| &known.versions);
    Some(versions.any(|known| known.version == version))
}

/// Whether a list of what a group has contains `kind`.
pub fn has_kind(resources: &APIResourceList, kind: &str) -> bool {
    resources.resources.iter().any(|resource| resource.kind == kind)
}

#[cfg(test)]
mod tests {
    use conduit_api::gateway::{GROUP, KIND, VERSION};
    use serde_json::json;

    use super::*;

    fn groups(names: &[(&str, &str)]) -> APIGroupList {
        let group = |(name, version): &(&str, &str)| json!({"name": name, "versions": [{"groupVersion": format!("{name}/{version}"), "version": version}]});
        let groups: Vec<_> = names.iter().map(group).collect();
        serde_json::from_value(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})).unwrap()
    }

    #[test]
    fn a_group_is_missing_if_the_list_is_one_of_all_groups() {
        for (names, expected) in [
            (&[("discovery.k8s.io", "v1"), (GROUP, "v1")][..], Some(true)),
            (&[("discovery.k8s.io", "v1"), (GROUP, "v1beta1")], Some(false)),
            (&[("discovery.k8s.io", "v1")], Some(false)),
            (&[("metrics.k8s.io", "v1")], None),
            (&[], None),
        ] {
            assert_eq!(has_version(&groups(names), GROUP, VERSION), expected, "{names:?}");
        }
    }

    #[test]
    fn a_group_may_be_there_without_the_kind() {
        let of = |kind: &str| {
            let resource = json!({"kind": kind, "name": "x", "namespaced": true, "singularName": "", "verbs": []});
            let list =
                json!({"kind": "APIResourceList", "groupVersion": format!("{GROUP}/v1"), "resources": [resource]});
            serde_json::from_value::<APIResourceList>(list).unwrap()
        };
        assert!(has_kind(&of(KIND), KIND));
        assert!(!has_kind(&of("Gateway"), KIND));
    }
}

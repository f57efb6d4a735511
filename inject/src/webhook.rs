//! What the API server is told of a pod that is being admitted.

use serde_json::{Value, json};

use crate::{
    injection::{self, CONTROL_PLANE_COMPONENT, Decision, InjectionError, Origin, Pods, annotations_of},
    operation::{Operation, Step},
    settings::{
        Settings,
        annotations::{self, AnnotationError, Annotations},
    },
    workload::Owner,
};

/// What a cluster needs for itself is in it. No webhook is asked about its pods.
const SYSTEM: &str = "kube-system";

/// Whether `pod` is to have a proxy: as it says itself, else as its namespace says, else not.
///
/// # Errors
/// When the one that is asked says neither `enabled` nor `disabled`.
pub fn is_wanted(pod: &Value, namespace: &Annotations) -> Result<bool, AnnotationError> {
    match annotations::inject(&annotations_of(pod))? {
        Some(wanted) => Ok(wanted),
        None => Ok(annotations::inject(namespace)?.unwrap_or(false)),
    }
}

/// Decides what is added to `pod`. Nothing is, if it is not wanted; then there is no decision.
///
/// # Errors
/// When an annotation of either is malformed, or the pod has not a pod's shape.
pub fn admit(pod: &Value, namespace: &Annotations, settings: &Settings) -> Result<Option<Decision>, InjectionError> {
    if !is_wanted(pod, namespace)? {
        return Ok(None);
    }
    let owner = Owner::of_pod(pod);
    let pods = Pods { template: pod, owner: owner.as_ref(), namespace, origin: Origin::Webhook };
    injection::plan(pods, settings).map(Some)
}

/// Whether `pod`, which was made already, has no proxy and would get one if it were made now, in a namespace with these annotations. One that
/// is over, or on its way out, does not count, nor where the webhook is not asked.
pub fn lacks_proxy(pod: &Value, namespace: &Annotations, settings: &Settings) -> bool {
    let (metadata, phase) = (&pod["metadata"], pod["status"]["phase"].as_str());
    let is_going = !metadata["deletionTimestamp"].is_null() || matches!(phase, Some("Succeeded" | "Failed"));
    let place = metadata["namespace"].as_str().unwrap_or_default();
    let is_component = !metadata["labels"][CONTROL_PLANE_COMPONENT].is_null();
    let is_exempt = place == SYSTEM || place == settings.control_plane_namespace || is_component;
    !is_going && !is_exempt && matches!(admit(pod, namespace, settings), Ok(Some(Decision::Inject(_))))
}

/// `operations` as a JSON patch ([RFC 6902](https://www.rfc-editor.org/rfc/rfc6902)), to be applied to the pod that they were
/// planned for.
pub fn patch(operations: &[Operation]) -> Vec<Value> {
    let mut firsts = std::collections::BTreeMap::<&[Step], usize>::new();
    let mut patch = Vec::new();
    let mut removals = Vec::new();
    for operation in operations {
        match operation {
            Operation::Entry { object, key, value } => {
                patch.push(
                    json!({"op": "add", "path": format!("{}/{}", pointer(object), escaped(key)), "value": value}),
                );
            }
            Operation::First { array, value } => {
                let index = firsts.entry(array).or_default();
                patch.push(json!({"op": "add", "path": format!("{}/{index}", pointer(array)), "value": value}));
                *index += 1;
            }
            Operation::Last { array, value } => {
                patch.push(json!({"op": "add", "path": format!("{}/-", pointer(array)), "value": value}));
            }
            Operation::Remove(path) => removals.push(path),
        }
    }
    // From the end, so that those before it stay where they were.
    removals.sort();
    patch.splice(0..0, removals.into_iter().rev().map(|path| json!({"op": "remove", "path": pointer(path)})));
    patch
}

/// [RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)
fn pointer(path: &[Step]) -> String {
    let step = |step: &Step| match step {
        Step::Key(key) => format!("/{}", escaped(key)),
        Step::Index(index) => format!("/{index}"),
    };
    path.iter().map(step).collect()
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

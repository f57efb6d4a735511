//! Why a pod does not run as it should, in the words of its kubelet. Pure.

use conduit_api::{proto::public::FailingContainer, text::cut};

use super::excerpts::{ContainerStatus, PodStatus, Terminated};

/// Of one message: the rest is in what `kubectl describe` says.
const MESSAGE_BYTES_MAX: usize = 512;
/// Of one pod.
const CONTAINERS_MAX: usize = 4;
/// Reasons for which every container waits at first.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Containers that do not start, or have ended badly, or that the pod has no place to run; none if all is well.
pub fn of(status: &PodStatus) -> Box<[FailingContainer]> {
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let all = containers.into_iter().flatten().flatten();
    let mut failing: Vec<_> = all.filter_map(container).take(CONTAINERS_MAX).collect();
    if failing.is_empty() {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let unscheduled = conditions.iter().find(|known| known.type_ == "PodScheduled" && known.status == "False");
        failing.extend(unscheduled.map(|condition| FailingContainer {
            reason: text(condition.reason.as_deref()),
            message: text(condition.message.as_deref()),
            ..FailingContainer::default()
        }));
    }
    failing.into()
}

fn container(status: &ContainerStatus) -> Option<FailingContainer> {
    let state = status.state.as_ref()?;
    let (reason, message) = match (&state.waiting, &state.terminated) {
        (Some(waiting), _) => {
            let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
            let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref()).map(ended);
            let said = [waiting.message.clone(), last].into_iter().flatten().collect::<Vec<_>>().join("; ");
            (reason.to_owned(), said)
        }
        (None, Some(terminated)) if terminated.exit_code != 0 => {
            (terminated.reason.clone().unwrap_or_else(|| "Error".to_owned()), ended(terminated))
        }
        (None, _) => return None,
    };
    let (name, image) = (status.name.clone(), text(status.image.as_deref()));
    Some(FailingContainer { name, image, reason: text(Some(&reason)), message: text(Some(&message)) })
}

/// How it was the last time.
fn ended(terminated: &Terminated) -> String {
    let reason = terminated.reason.as_deref().filter(|reason| *reason != "Error");
    let said = [reason, terminated.message.as_deref().map(str::trim)];
    let said: String =
        said.into_iter().flatten().filter(|text| !text.is_empty()).map(|text| format!(": {text}")).collect();
    format!("it ended with exit code {}{said}", terminated.exit_code)
}

/// As much of it as is told.
fn text(text: Option<&str>) -> String {
    cut(text.unwrap_or_default(), MESSAGE_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn failing(status: Value) -> Vec<(String, String, String, String)> {
        let status: PodStatus = serde_json::from_value(status).unwrap();
        let all = of(&status).into_vec();
        all.into_iter().map(|found| (found.name, found.image, found.reason, found.message)).collect()
    }

    fn told(name: &str, image: &str, reason: &str, message: &str) -> Vec<(String, String, String, String)> {
        vec![(name.into(), image.into(), reason.into(), message.into())]
    }

    #[test]
    fn what_starts_runs_or_has_done_its_work_does_not_fail() {
        for state in [
            json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
            json!({"waiting": {"reason": "ContainerCreating"}}),
            json!({"waiting": {"reason": "PodInitializing"}}),
            json!({"waiting": {}}),
            json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
        ] {
            assert_eq!(failing(json!({"containerStatuses": [{"name": "main", "state": state}]})), []);
        }
        assert_eq!(failing(json!({"conditions": [{"type": "PodScheduled", "status": "True"}]})), []);
    }

    #[test]
    fn what_does_not_start_says_why_and_how_it_ended_before() {
        let waiting = |message: &str, last: Value| {
            let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}});
            json!({"name": "conduit-proxy", "image": "proxy:1", "state": state, "lastState": last})
        };
        let last = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        assert_eq!(
            failing(json!({"initContainerStatuses": [waiting("back-off 5m0s", last)]})),
            told(
                "conduit-proxy",
                "proxy:1",
                "CrashLoopBackOff",
                "back-off 5m0s; it ended with exit code 137: OOMKilled"
            )
        );
        let last = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "no config\n"}});
        assert_eq!(
            failing(json!({"containerStatuses": [waiting("back-off", last)]}))[0].3,
            "back-off; it ended with exit code 1: no config"
        );
        let ended = json!({"name": "main", "image": "a", "state": {"terminated": {"exitCode": 2}}});
        assert_eq!(
            failing(json!({"containerStatuses": [ended]})),
            told("main", "a", "Error", "it ended with exit code 2")
        );
    }

    #[test]
    fn a_pod_without_a_place_says_why() {
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"});
        assert_eq!(failing(json!({"conditions": [condition]})), told("", "", "Unschedulable", "0/3 nodes"));
    }

    #[test]
    fn what_is_told_has_a_bound() {
        let status = |message: &str| json!({"name": "main", "image": "a", "state": {"waiting": {"reason": "ImagePullBackOff", "message": message}}});
        let many = json!({"containerStatuses": vec![status(&"é".repeat(1000)); CONTAINERS_MAX + 1]});
        let found = failing(many);
        assert_eq!((found.len(), found[0].3.len()), (CONTAINERS_MAX, MESSAGE_BYTES_MAX));
    }
}

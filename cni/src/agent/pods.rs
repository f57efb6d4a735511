//! What the API server says of a pod.

use std::time::Duration;

use conduit_inject::Redirection;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::question::{Answer, Question};

/// How often an agent that is told to go asks whether that is for good ...
const DELETED_TRIES: u32 = 5;
/// ... with so long between: API servers that have just started, or rotate keys, refuse everybody for a moment ...
const DELETED_PAUSE: Duration = Duration::from_secs(2);
/// ... and how long in all: the kubelet gives half a minute.
const DELETED_TIMEOUT: Duration = Duration::from_secs(25);
/// On a pod that the API server has only been told of: what the kubelet calls it.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) struct Pods {
    client: Client,
}

impl Pods {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) async fn answer(&self, question: &Question) -> Answer {
        let Question { namespace, name, .. } = question;
        match Api::<Pod>::namespaced(self.client.clone(), namespace).get_opt(name).await {
            Ok(Some(pod)) => match serde_json::to_value(&pod) {
                Ok(pod) => decide(question, &pod),
                Err(error) => Answer::Unknown(format!("pod {namespace}/{name} is not understood: {error}")),
            },
            Ok(None) => Answer::Unknown(format!("the API server knows of no pod {namespace}/{name}")),
            Err(error) => {
                Answer::Unknown(format!("the API server does not say what pod {namespace}/{name} is: {error}"))
            }
        }
    }

    /// Whether the DaemonSet has gone, or goes. Rights go with it, and nothing but its removal takes them away for long; an API server that is
    /// away says nothing, and then the plugin stays.
    pub(super) async fn is_deleted(&self, namespace: &str, name: &str) -> bool {
        let api = Api::<DaemonSet>::namespaced(self.client.clone(), namespace);
        let ask = async {
            let mut is_refused = false;
            for _ in 0..DELETED_TRIES {
                match api.get_opt(name).await {
                    Ok(found) => return found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()),
                    Err(kube::Error::Api(status)) if [401, 403].contains(&status.code) => is_refused = true,
                    Err(error) => {
                        is_refused = false;
                        warn!("it is not known whether DaemonSet {namespace}/{name} is there: {error}");
                    }
                }
                sleep(DELETED_PAUSE).await;
            }
            is_refused
        };
        timeout(DELETED_TIMEOUT, ask).await.unwrap_or(false)
    }
}

fn decide(question: &Question, pod: &Value) -> Answer {
    let Question { namespace, name, uid } = question;
    let metadata = &pod["metadata"];
    let is_same = |uid: &String| metadata["uid"] == **uid || metadata["annotations"][MIRROR] == **uid;
    if !uid.as_ref().is_none_or(is_same) {
        return Answer::Unknown(format!("pod {namespace}/{name} is another one by now than that which is to start"));
    }
    match Redirection::of_pod(pod) {
        Ok(Some(redirection)) => Answer::Redirect(redirection.arguments()),
        Ok(None) => Answer::Leave,
        Err(error) => Answer::Unknown(format!("the traffic of pod {namespace}/{name} cannot be redirected: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_asked_about_by_what_it_is() {
        let question = |uid: Option<&str>| Question {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: uid.map(ToOwned::to_owned),
        };
        let pod =
            json!({"metadata": {"uid": "1", "annotations": {MIRROR: "2"}}, "spec": {"containers": [{"name": "web"}]}});
        for uid in [None, Some("1"), Some("2")] {
            assert_eq!(decide(&question(uid), &pod), Answer::Leave);
        }
        let Answer::Unknown(reason) = decide(&question(Some("3")), &pod) else { panic!("it is another pod") };
        assert!(reason.contains("shop/web is another one"), "{reason}");
        let broken = json!({"metadata": {}, "spec": {"containers": [{"name": "conduit-proxy"}]}});
        let Answer::Unknown(reason) = decide(&question(None), &broken) else { panic!("nobody knows its ports") };
        assert!(reason.contains("CONDUIT_PROXY_PUBLIC_LISTENER"), "{reason}");
    }
}

//! What of a pod's traffic goes to its proxy: as the settings want it before the pod is made, and as a pod that is there says it.

use conduit_api::PortRange;
use serde_json::Value;

use crate::{
    containers::{INIT, PROXY},
    injection::annotations_of,
    settings::{
        Settings,
        annotations::{AnnotationError, SKIP_INBOUND_PORTS, SKIP_OUTBOUND_PORTS},
        port_list,
    },
};

/// Not redirected besides the admin port: where proxies of the first generation listened, which may still be asked.
const CONTROL_PORT: u16 = 4190;
/// Connections to it are seen to be redirected, unless they are left alone.
const CHECKED_PORT: u16 = 80;

/// Where connections go, and which are left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    incoming: u16,
    outgoing: u16,
    admin: u16,
    proxy_uid: u32,
    skip_inbound: Vec<PortRange>,
    skip_outbound: Vec<PortRange>,
}

/// A pod with a proxy, of which it cannot be said what is to be redirected to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectionError {
    /// See [`AnnotationError`].
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// Somebody has changed the container.
    #[error("its container `{PROXY}` does not say {0}, as that of an injected pod does")]
    Missing(&'static str),
}

impl Redirection {
    pub(crate) fn wanted(settings: &Settings) -> Self {
        Self {
            incoming: settings.inbound_port,
            outgoing: settings.outbound_port,
            admin: settings.admin_port,
            proxy_uid: settings.proxy_uid,
            skip_inbound: settings.skip_inbound_ports.clone(),
            skip_outbound: settings.skip_outbound_ports.clone(),
        }
    }

    /// What `pod` wants of a CNI plugin: nothing, if it has no proxy, or redirects by itself.
    ///
    /// # Errors
    /// When it has a proxy that does not say where it listens, or as whom, or an annotation is malformed.
    pub fn of_pod(pod: &Value) -> Result<Option<Self>, RedirectionError> {
        let containers = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
        let named = |name: &str| containers.clone().flatten().find(|container| container["name"] == name);
        let Some(proxy) = named(PROXY).filter(|_| named(INIT).is_none() && pod["spec"]["hostNetwork"] != true) else {
            return Ok(None);
        };
        let port = |variable: &'static str| {
            let mut env = proxy["env"].as_array().into_iter().flatten();
            let said = env.find(|said| said["name"] == variable).and_then(|said| said["value"].as_str());
            let port = said.and_then(|said| said.rsplit_once(':')).and_then(|(_, port)| port.parse().ok());
            port.ok_or(RedirectionError::Missing(variable))
        };
        let uid = proxy["securityContext"]["runAsUser"].as_u64().and_then(|uid| uid.try_into().ok());
        let annotations = annotations_of(pod);
        let ports = |name: &str| {
            let text = annotations.get(name).map_or("", String::as_str);
            PortRange::list(text).map_err(|reason| AnnotationError::new(name, text, reason))
        };
        Ok(Some(Self {
            incoming: port("CONDUIT_PROXY_PUBLIC_LISTENER")?,
            outgoing: port("CONDUIT_PROXY_PRIVATE_LISTENER")?,
            admin: port("CONDUIT_PROXY_METRICS_LISTENER")?,
            proxy_uid: uid.ok_or(RedirectionError::Missing("runAsUser"))?,
            skip_inbound: ports(SKIP_INBOUND_PORTS)?,
            skip_outbound: ports(SKIP_OUTBOUND_PORTS)?,
        }))
    }

    /// As `conduit-proxy init` is told.
    pub fn arguments(&self) -> Vec<String> {
        let mut inbound = self.skip_inbound.iter().map(ToString::to_string).collect::<Vec<_>>();
        inbound.extend([CONTROL_PORT, self.admin].map(|port| port.to_string()));
        let mut arguments = vec![
            "--incoming-proxy-port".to_owned(),
            self.incoming.to_string(),
            "--outgoing-proxy-port".to_owned(),
            self.outgoing.to_string(),
            "--proxy-uid".to_owned(),
            self.proxy_uid.to_string(),
            "--inbound-ports-to-ignore".to_owned(),
            inbound.join(","),
        ];
        if !self.skip_outbound.is_empty() {
            arguments.extend(["--outbound-ports-to-ignore".to_owned(), port_list(&self.skip_outbound)]);
        }
        arguments
    }

    /// As `conduit-proxy check-redirect` is told; nothing, if no connection would be redirected.
    pub(crate) fn check_arguments(&self) -> Option<Vec<String>> {
        let left_alone = |port: &u16| PortRange::any_contains(&self.skip_outbound, *port);
        let port = [CHECKED_PORT].into_iter().chain(1..=u16::MAX).find(|port| !left_alone(port))?;
        let outgoing = self.outgoing.to_string();
        Some(["--outgoing-proxy-port".to_owned(), outgoing, "--to-port".to_owned(), port.to_string()].into())
    }
}

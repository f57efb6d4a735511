//! What is to run: Kubernetes Deployments and Services, as a cluster takes them.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow, bail};
use conduit_api::{Balancing, PodName, PodPorts, PortRange, ServiceName};
use conduit_inject::{
    Settings,
    settings::annotations::{INJECT, OPAQUE_PORTS, SKIP_INBOUND_PORTS, SKIP_OUTBOUND_PORTS},
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment as KubeDeployment,
        core::v1::{Container, PodTemplateSpec, Service as KubeService},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Deserialize;

use crate::yaml::{self, Document};

/// On a Service: how its requests are shared out.
const BALANCER_ANNOTATION: &str = "config.conduit.io/load-balancer";
/// On a pod template: where its pods are said to run. In a cluster their nodes say so.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// On a pod template: what its proxies write down of requests, and may show of them.
const RECORD_ANNOTATIONS: [&str; 5] = [
    "config.conduit.io/access-log",
    "config.conduit.io/trace-collector",
    "config.conduit.io/trace-sampling",
    "config.conduit.io/tap-payloads",
    "config.conduit.io/tap-redact",
];
/// The demo, which this command brings along.
const DEMO: &str = include_str!("../../../demo/emojivoto.yml");

/// Everything that the files describe.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Sorted by namespace and name.
    pub deployments: BTreeMap<(String, String), Deployment>,
    /// In the order of the files.
    pub services: Vec<Service>,
    /// What was left out, for the person who wrote it.
    pub warnings: Vec<String>,
}

/// Instances of a program.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// How many.
    pub replicas: u32,
    /// What services select them by.
    pub labels: BTreeMap<String, String>,
    /// What they run as.
    pub service_account: String,
    /// A proxy beside each.
    pub meshed: bool,
    /// Program, then arguments.
    pub command: Vec<String>,
    /// Set for it, in this order.
    pub env: Vec<(String, String)>,
    /// The ports it listens on, with their names.
    pub ports: Vec<(Option<String>, u16)>,
    /// What annotations say of them.
    pub pod_ports: PodPorts,
    /// What their proxies write down of requests, and may show of them; a reader of [`Settings::journal`] is told it.
    pub records: Settings,
}

impl Deployment {
    /// Where its instances are said to run.
    pub fn zone(&self) -> Option<&String> {
        self.labels.get(ZONE_LABEL)
    }
}

/// A name for instances.
#[derive(Clone, Debug)]
pub struct Service {
    /// `namespace/name`
    pub name: ServiceName,
    /// Without an address of its own.
    pub headless: bool,
    /// Of type LoadBalancer: the first of these is what the browser is shown.
    pub load_balancer: bool,
    /// What it selects.
    pub selector: BTreeMap<String, String>,
    /// Port, name, and where it leads to.
    pub ports: Vec<(u16, String, TargetPort)>,
    /// Those whose connections are carried as bytes.
    pub opaque_ports: Vec<PortRange>,
    /// How its requests are shared out.
    pub balancing: Balancing,
}

/// Of an instance.
#[derive(Clone, Debug)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name that the container gives it.
    Name(String),
}

impl Manifest {
    /// Reads `files` (`-` is standard input), and the demo if asked for.
    ///
    /// # Errors
    /// With file and line.
    pub fn read(files: &[std::path::PathBuf], demo: bool) -> anyhow::Result<Self> {
        let mut manifest = Self::default();
        if demo {
            manifest.add("emojivoto.yml", DEMO)?;
        }
        for (name, text) in yaml::read(files)? {
            manifest.add(&name, &text)?;
        }
        Ok(manifest)
    }

    fn add(&mut self, file: &str, text: &str) -> anyhow::Result<()> {
        for document in Document::all(file, text) {
            let Some(head) = document.parse::<Option<Head>>()? else { continue };
            let object = match head.kind.as_str() {
                "Deployment" => self.deployment(document.parse()?),
                "Service" => self.service(document.parse()?),
                "Namespace" | "ServiceAccount" => Ok(()),
                kind => {
                    self.warnings.push(format!("{}: {kind} is left out: a local mesh has none", document.place()));
                    Ok(())
                }
            };
            object.map_err(|error| anyhow!("{}: {} {error:#}", document.place(), head.kind))?;
        }
        Ok(())
    }

    fn deployment(&mut self, object: KubeDeployment) -> anyhow::Result<()> {
        let name = object.metadata.name.context("has no name")?;
        let namespace = object.metadata.namespace.unwrap_or_else(|| "default".to_owned());
        // An instance's name is the longest made of it.
        PodName::new(&namespace, &format!("{name}-0"))?;
        let spec = object.spec.with_context(|| format!("`{name}` has no spec"))?;
        let replicas = u32::try_from(spec.replicas.unwrap_or(1)).with_context(|| format!("`{name}`: replicas"))?;
        let deployment = Deployment { replicas, ..template(spec.template).with_context(|| format!("`{name}`"))? };
        if self.deployments.insert((namespace, name.clone()), deployment).is_some() {
            bail!("`{name}` is described twice");
        }
        Ok(())
    }

    fn service(&mut self, object: KubeService) -> anyhow::Result<()> {
        let name = object.metadata.name.context("has no name")?;
        let namespace = object.metadata.namespace.unwrap_or_else(|| "default".to_owned());
        let spec = object.spec.with_context(|| format!("`{name}` has no spec"))?;
        let mut ports = Vec::new();
        for port in spec.ports.unwrap_or_default() {
            if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
                self.warnings.push(format!("service {namespace}/{name}: only TCP ports are carried"));
                continue;
            }
            let number = u16::try_from(port.port).with_context(|| format!("`{name}`: port {}", port.port))?;
            let target = match port.target_port {
                None => TargetPort::Number(number),
                Some(IntOrString::Int(target)) => {
                    TargetPort::Number(u16::try_from(target).with_context(|| format!("`{name}`: port {target}"))?)
                }
                Some(IntOrString::String(target)) => TargetPort::Name(target),
            };
            ports.push((number, port.name.unwrap_or_default(), target));
        }
        let strategy =
            object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(BALANCER_ANNOTATION));
        let strategy = strategy.map(|text| text.parse()).transpose();
        let balancing = Balancing {
            strategy: strategy.with_context(|| format!("annotation {BALANCER_ANNOTATION}"))?.unwrap_or_default(),
            prefer_own_zone: match spec.traffic_distribution.as_deref() {
                None => false,
                Some("PreferClose" | "PreferSameZone") => true,
                Some(other) => bail!("`{name}`: trafficDistribution {other} is not carried out; PreferClose is"),
            },
        };
        self.services.push(Service {
            balancing,
            opaque_ports: annotated_ports(object.metadata.annotations.as_ref(), OPAQUE_PORTS)?,
            name: ServiceName::new(&namespace, &name)?,
            headless: spec.cluster_ip.as_deref() == Some("None"),
            load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
            selector: spec.selector.unwrap_or_default(),
            ports,
        });
        Ok(())
    }
}

fn template(template: PodTemplateSpec) -> anyhow::Result<Deployment> {
    let metadata = template.metadata.unwrap_or_default();
    let spec = template.spec.context("has no pod spec")?;
    let [container] = spec.containers.as_slice() else {
        bail!("has {} containers; a local mesh runs one beside each proxy", spec.containers.len());
    };
    let annotations = metadata.annotations.as_ref();
    let inject = annotations.and_then(|annotations| annotations.get(INJECT));
    let env = environment(container)?;
    let words = container.command.iter().chain(&container.args).flatten();
    let command: Vec<_> = words.map(|word| expand(word, &env)).collect();
    if command.is_empty() {
        bail!("has no command: images are not run here, so say with `command` what to run");
    }
    let mut ports = Vec::new();
    for port in container.ports.iter().flatten() {
        let number = u16::try_from(port.container_port).with_context(|| format!("port {}", port.container_port))?;
        ports.push((port.name.clone(), number));
    }
    Ok(Deployment {
        replicas: 1,
        labels: metadata.labels.unwrap_or_default(),
        service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
        meshed: inject.map(String::as_str) != Some("disabled"),
        command,
        env,
        ports,
        pod_ports: PodPorts {
            opaque: annotated_ports(annotations, OPAQUE_PORTS)?,
            skip_inbound: annotated_ports(annotations, SKIP_INBOUND_PORTS)?,
            skip_outbound: annotated_ports(annotations, SKIP_OUTBOUND_PORTS)?,
        },
        records: records(annotations)?,
    })
}

/// Of a proxy's settings, those that say what it writes down; the others are for clusters.
fn records(annotations: Option<&BTreeMap<String, String>>) -> anyhow::Result<Settings> {
    let annotations = annotations.into_iter().flatten().filter(|(name, _)| RECORD_ANNOTATIONS.contains(&name.as_str()));
    let annotations = annotations.map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(Settings::default().with(&annotations)?.0.into_owned())
}

fn annotated_ports(annotations: Option<&BTreeMap<String, String>>, name: &str) -> anyhow::Result<Vec<PortRange>> {
    let text = annotations.and_then(|annotations| annotations.get(name));
    text.map_or(Ok(Vec::new()), |text| PortRange::list(text)).with_context(|| format!("annotation {name}"))
}

fn environment(container: &Container) -> anyhow::Result<Vec<(String, String)>> {
    let mut env: Vec<(String, String)> = Vec::new();
    for variable in container.env.iter().flatten() {
        if variable.value_from.is_some() {
            bail!("{}: only plain values can be set in a local mesh, not `valueFrom`", variable.name);
        }
        let value = expand(variable.value.as_deref().unwrap_or_default(), &env);
        env.push((variable.name.clone(), value));
    }
    Ok(env)
}

/// `$(NAME)` is replaced by a variable that is set, `$$` by one dollar, as Kubernetes does.
fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        let reference = rest.strip_prefix("$(").and_then(|reference| reference.split_once(')'));
        let value = reference.and_then(|(name, after)| Some((&env.iter().rev().find(|(n, _)| n == name)?.1, after)));
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some((value, after)) = value {
            expanded.push_str(value);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded + rest
}

#[derive(Deserialize)]
struct Head {
    kind: String,
}

#[cfg(test)]
mod tests {
    use conduit_api::mesh::Strategy;

    use super::*;

    fn parse(text: &str) -> anyhow::Result<Manifest> {
        let mut manifest = Manifest::default();
        manifest.add("mesh.yml", text)?;
        Ok(manifest)
    }

    fn deployment(spec: &str) -> String {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: ns}}\nspec:\n  selector: {{}}\n{spec}"
        )
    }

    #[test]
    fn the_demo_is_understood() {
        let manifest = Manifest::read(&[], true).unwrap();
        let names: Vec<_> = manifest.deployments.keys().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["emoji", "vote-bot", "voting", "web"]);
        assert_eq!(manifest.services.len(), 3);
        assert!(manifest.services[0].headless && manifest.services[2].load_balancer);
        assert_eq!(manifest.warnings, Vec::<String>::new());
    }

    #[test]
    fn mistakes_are_told_by_file_and_line() {
        for (text, says) in [
            ("kind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: many\n", "mesh.yml:5: "),
            ("kind: Namespace\n---\nkind: Deployment\nmetadata:\n  name: [\n", "mesh.yml:6: "),
            (&deployment("  template: {spec: {containers: []}}"), "mesh.yml:1: Deployment `web`: has 0 containers"),
            (&deployment("  template: {spec: {containers: [{name: a}]}}"), "has no command"),
            ("kind: Service\nmetadata: {name: Web}\nspec: {}\n", "mesh.yml:1: Service"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error} does not say {says}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_with_a_word() {
        let manifest = parse("kind: ConfigMap\n").unwrap();
        assert_eq!(manifest.warnings, ["mesh.yml:1: ConfigMap is left out: a local mesh has none"]);
    }

    #[test]
    fn variables_are_replaced_as_kubernetes_does() {
        let env = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())];
        for (text, expanded) in
            [("$(A)-$(B)", "1-2"), ("$$(A)", "$(A)"), ("$(C)", "$(C)"), ("$", "$"), ("a$(A", "a$(A"), ("$A", "$A")]
        {
            assert_eq!(expand(text, &env), expanded);
        }
    }

    #[test]
    fn ports_are_said_to_be_opaque_or_skipped_by_annotations() {
        let spec = |ports| {
            format!(
                "  template:\n    metadata: {{annotations: {{config.conduit.io/opaque-ports: '{ports}'}}}}\n    \
                 spec: {{containers: [{{name: a, command: [x]}}]}}"
            )
        };
        let manifest = parse(&deployment(&spec("25,7000-7100"))).unwrap();
        let web = &manifest.deployments[&("ns".to_owned(), "web".to_owned())];
        assert!(web.pod_ports.opaque[1].contains(7050) && web.pod_ports.skip_inbound.is_empty());
        let error = parse(&deployment(&spec("smtp"))).unwrap_err().to_string();
        assert!(error.contains("config.conduit.io/opaque-ports") && error.contains("`smtp` is not a port"), "{error}");
    }

    #[test]
    fn services_say_how_they_are_balanced() {
        let service = |metadata: &str, spec: &str| {
            parse(&format!("kind: Service\nmetadata: {{name: web{metadata}}}\nspec: {{ports: [{{port: 80}}]{spec}}}\n"))
        };
        let annotated = ", annotations: {config.conduit.io/load-balancer: least-request}";
        let balancing = service(annotated, ", trafficDistribution: PreferClose").unwrap().services[0].balancing;
        assert_eq!(balancing, Balancing { strategy: Strategy::LeastRequest, prefer_own_zone: true });
        assert_eq!(service("", "").unwrap().services[0].balancing, Balancing::default());
        let error = service(&annotated.replace("least-request", "fair"), "").unwrap_err().to_string();
        assert!(error.contains("`fair` is no way to balance"), "{error}");
        assert!(service("", ", trafficDistribution: PreferSameNode").is_err());
    }

    #[test]
    fn proxies_write_down_what_annotations_ask_for() {
        let spec = |annotations| {
            format!(
                "  template:\n    metadata: {{annotations: {{{annotations}}}}}\n    spec: {{containers: [{{name: a, command: [x]}}]}}"
            )
        };
        let annotations = "config.conduit.io/access-log: json, config.conduit.io/trace-collector: 'otel:4317', \
                           config.conduit.io/trace-sampling: '1.0', config.conduit.io/tap-payloads: enabled, \
                           config.conduit.io/tap-redact: 'password,card.number', config.conduit.io/proxy-uid: '0'";
        let manifest = parse(&deployment(&spec(annotations))).unwrap();
        let variables = manifest.deployments[&("ns".to_owned(), "web".to_owned())].records.journal(Some("web"));
        let expected = [
            ("ACCESS_LOG", "json"),
            ("TRACE_COLLECTOR", "otel:4317"),
            ("TRACE_SAMPLING", "1"),
            ("WORKLOAD", "web"),
            ("TAP_PAYLOADS", "enabled"),
            ("TAP_REDACT", "password,card.number"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name, value.to_owned())));
        let error = parse(&deployment(&spec("config.conduit.io/access-log: all"))).unwrap_err();
        assert!(format!("{error:#}").contains("must be one of: text (or apache), json, none"), "{error:#}");
    }

    #[test]
    fn proxies_can_be_left_out() {
        let spec = "  template:\n    metadata: {annotations: {conduit.io/inject: disabled}}\n    \
                    spec: {containers: [{name: a, command: [x]}]}";
        let manifest = parse(&deployment(spec)).unwrap();
        assert!(!manifest.deployments[&("ns".to_owned(), "web".to_owned())].meshed);
    }
}

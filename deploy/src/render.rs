//! Templates and values become objects.

use std::collections::BTreeMap;

use conduit_inject::settings::Settings;
use gtmpl_ng::{Context, Template, TemplateError, Value};
use serde::Deserialize as _;
use serde_json::json;
use thiserror::Error;

use crate::{Values, functions::FUNCTIONS};

/// The templates in the order in which what they make is applied: nothing waits for what comes behind it.
const TEMPLATES: [(&str, &str); 14] = [
    ("namespace.yaml", include_str!("../chart/templates/namespace.yaml")),
    ("objectives.yaml", include_str!("../chart/templates/objectives.yaml")),
    ("controller-rbac.yaml", include_str!("../chart/templates/controller-rbac.yaml")),
    ("people-rbac.yaml", include_str!("../chart/templates/people-rbac.yaml")),
    ("prometheus-rbac.yaml", include_str!("../chart/templates/prometheus-rbac.yaml")),
    ("services.yaml", include_str!("../chart/templates/services.yaml")),
    ("config.yaml", include_str!("../chart/templates/config.yaml")),
    ("controller.yaml", include_str!("../chart/templates/controller.yaml")),
    ("cni.yaml", include_str!("../chart/templates/cni.yaml")),
    ("webhook.yaml", include_str!("../chart/templates/webhook.yaml")),
    ("api.yaml", include_str!("../chart/templates/api.yaml")),
    ("network-policies.yaml", include_str!("../chart/templates/network-policies.yaml")),
    ("prometheus.yaml", include_str!("../chart/templates/prometheus.yaml")),
    ("grafana.yaml", include_str!("../chart/templates/grafana.yaml")),
];

/// What is in the chart for others than its own engine: it may have templates of theirs in it, and is taken as it is. The names are helm's,
/// which hands templates everything but `values.yaml` itself: so that has a second name.
const FILES: [(&str, &str); 12] = [
    ("files/values.yaml", include_str!("../chart/files/values.yaml")),
    ("files/rules.yml", include_str!("../chart/files/rules.yml")),
    ("files/dashboards/top-line.json", include_str!("../chart/files/dashboards/top-line.json")),
    ("files/dashboards/namespace.json", include_str!("../chart/files/dashboards/namespace.json")),
    ("files/dashboards/deployment.json", include_str!("../chart/files/dashboards/deployment.json")),
    ("files/dashboards/pod.json", include_str!("../chart/files/dashboards/pod.json")),
    ("files/dashboards/service.json", include_str!("../chart/files/dashboards/service.json")),
    ("files/dashboards/route.json", include_str!("../chart/files/dashboards/route.json")),
    ("files/dashboards/authority.json", include_str!("../chart/files/dashboards/authority.json")),
    ("files/dashboards/health.json", include_str!("../chart/files/dashboards/health.json")),
    ("files/dashboards/proxy.json", include_str!("../chart/files/dashboards/proxy.json")),
    ("files/dashboards/prometheus.json", include_str!("../chart/files/dashboards/prometheus.json")),
];

/// What the templates share.
const SHARED: (&str, &str) = ("_metadata.tpl", include_str!("../chart/templates/_metadata.tpl"));

/// As Kubernetes has it (RFC 1123).
const NAMESPACE_LENGTH_MAX: usize = 63;

/// All objects of an installation.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    yaml: String,
    objects: Vec<serde_json::Value>,
}

/// Why nothing is rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    /// Kubernetes would not have it.
    #[error("{0} is not a valid namespace")]
    Namespace(String),
    /// The chart itself is wrong.
    #[error("cannot render {template} of the chart: {source}")]
    Template {
        /// Its file.
        template: &'static str,
        /// Where in it, and what.
        source: TemplateError,
    },
    /// A value has ended what it stands in.
    #[error("what was rendered is not YAML ({0}): look at the values for something that YAML reads as its own")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// What the webhook is to inject, it could not: pods would come up without a proxy.
    #[error("proxies could not be injected with these values of proxy: {0}")]
    Injection(serde_yaml_ng::Error),
    /// The values cannot be handed to templates.
    #[error("cannot use the values: {0}")]
    Values(#[from] serde_json::Error),
}

impl Manifest {
    /// The documents, with comments that say why each of the control plane's rights is needed.
    pub fn yaml(&self) -> &str {
        &self.yaml
    }

    /// One `List` of all objects.
    pub fn json(&self) -> String {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": self.objects});
        format!("{list:#}\n")
    }

    /// The objects, in the order in which they are applied.
    pub fn objects(&self) -> &[serde_json::Value] {
        &self.objects
    }
}

/// The control plane, with `values`, in `namespace`.
///
/// # Errors
/// When `namespace` cannot be one, or proxies could not be injected with these values; what [`Values::check`] accepts does not fail otherwise.
pub fn render(values: &Values, namespace: &str) -> Result<Manifest, RenderError> {
    if !is_namespace(namespace) {
        return Err(RenderError::Namespace(namespace.to_owned()));
    }
    let files = BTreeMap::from(FILES);
    let data = json!({"Values": values.as_json(), "Release": {"Namespace": namespace}, "Files": files});
    let context = Context::from(serde_json::from_value::<Value>(data)?);
    let mut files = Vec::with_capacity(TEMPLATES.len());
    for (template, text) in TEMPLATES {
        let text =
            render_file(template, text, &context).map_err(|source| RenderError::Template { template, source })?;
        files.push(text.trim().to_owned());
    }
    files.retain(|text| !text.is_empty());
    let yaml = files.join("\n---\n") + "\n";
    let documents = serde_yaml_ng::Deserializer::from_str(&yaml);
    let objects = documents.map(serde_json::Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    for injection in objects.iter().filter_map(|object| object["data"]["injection.yaml"].as_str()) {
        serde_yaml_ng::from_str::<Settings>(injection).map_err(RenderError::Injection)?;
    }
    Ok(Manifest { yaml, objects })
}

fn render_file(name: &str, text: &str, context: &Context) -> Result<String, TemplateError> {
    let mut engine = Template::with_name(name);
    engine.add_funcs(&FUNCTIONS);
    engine.add_template(SHARED.0, SHARED.1)?;
    engine.parse(text)?;
    Ok(engine.render(context)?)
}

fn is_namespace(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= NAMESPACE_LENGTH_MAX
        && !name.is_empty()
        && name.bytes().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn no_template_of_the_chart_is_left_out() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/chart/templates");
        let there = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let known = TEMPLATES.iter().map(|(name, _)| (*name).to_owned()).chain([SHARED.0.to_owned()]);
        assert_eq!(there.collect::<BTreeSet<_>>(), known.collect::<BTreeSet<_>>());
    }

    #[test]
    fn no_file_of_the_chart_is_left_out() {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/chart");
        let mut there = BTreeSet::new();
        for directory in ["files", "files/dashboards"] {
            let entries = fs::read_dir(format!("{chart}/{directory}")).unwrap().map(Result::unwrap);
            let files = entries.filter(|entry| entry.path().is_file());
            there.extend(files.map(|entry| format!("{directory}/{}", entry.file_name().into_string().unwrap())));
        }
        assert_eq!(there, FILES.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        for name in ["", "-a", "a-", "A", "a.b", "a: b", "a\n---", &"a".repeat(64)] {
            let error = render(&Values::defaults(), name).unwrap_err();
            assert_eq!(error.to_string(), format!("{name} is not a valid namespace"));
        }
        assert!(render(&Values::defaults(), &"a".repeat(63)).is_ok());
    }
}

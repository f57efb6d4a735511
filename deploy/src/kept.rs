//! What an installation keeps of itself in its cluster, for the day of its upgrade.
//!
//! The ConfigMap `conduit-config` has the values that were rendered, and those that their chart has by itself. What is otherwise in one
//! than in the other was chosen, and is chosen again; all else is as the next release has it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::Values;

/// The keys of the ConfigMap.
const VALUES: &str = "values.yaml";
const DEFAULTS: &str = "defaults.yaml";
const INJECTION: &str = "injection.yaml";

/// What an installation says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What was chosen, by itself; nothing, if a release has installed it that did not keep it.
    chosen: Option<Value>,
    /// Of the chart that was rendered: `v1.2.3`. Before values were kept, the tag of the images.
    pub release: String,
    /// Of every identity in the mesh.
    pub trust_domain: String,
}

/// Why that is not understood.
#[derive(Debug, Error)]
pub enum KeptError {
    /// A key is missing.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// A key is something else than it was made as.
    #[error("its `{0}` is not what an installation writes: {1}")]
    Yaml(&'static str, serde_yaml_ng::Error),
}

impl Kept {
    /// Reads the data of the ConfigMap.
    ///
    /// # Errors
    /// Names the key that is missing or wrong.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, KeptError> {
        let injection = parse(INJECTION, data.get(INJECTION).ok_or(KeptError::Missing(INJECTION))?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let trust_domain = text(&injection["trustDomain"]);
        let Some(values) = data.get(VALUES) else {
            return Ok(Self { chosen: None, release: text(&injection["proxyVersion"]), trust_domain });
        };
        let values = parse(VALUES, values)?;
        let mut defaults = parse(DEFAULTS, data.get(DEFAULTS).ok_or(KeptError::Missing(DEFAULTS))?)?;
        let release = defaults.as_object_mut().and_then(|defaults| defaults.remove("conduitVersion"));
        let chosen = difference(&defaults, &values).unwrap_or_else(|| Value::Object(Map::new()));
        Ok(Self { chosen: Some(chosen), release: text(&release.unwrap_or_default()), trust_domain })
    }

    /// What this release's chart has by itself, with what was chosen laid over it; nothing, if nobody knows what that was.
    pub fn values(&self) -> Option<Values> {
        self.chosen.clone().map(Values::with)
    }
}

fn parse(key: &'static str, text: &str) -> Result<Value, KeptError> {
    serde_yaml_ng::from_str(text).map_err(|error| KeptError::Yaml(key, error))
}

/// What is to be laid over `under` so that it becomes `over`: null takes a value away.
fn difference(under: &Value, over: &Value) -> Option<Value> {
    let (Value::Object(was), Value::Object(is)) = (under, over) else {
        return (under != over).then(|| over.clone());
    };
    let gone = was.keys().filter(|key| !is.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let other = is.iter().filter_map(|(key, value)| {
        let difference = was.get(key).map_or_else(|| Some(value.clone()), |was| difference(was, value));
        Some((key.clone(), difference?))
    });
    let all: Map<_, _> = gone.chain(other).collect();
    (!all.is_empty()).then_some(Value::Object(all))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::render;

    /// The data of `conduit-config`, as these values make it.
    fn kept(values: &Values) -> BTreeMap<String, String> {
        let manifest = render(values, "mesh").unwrap();
        let config = manifest.objects().iter().find(|object| object["metadata"]["name"] == "conduit-config").unwrap();
        serde_json::from_value(config["data"].clone()).unwrap()
    }

    fn set(assignments: &str) -> Values {
        let mut values = Values::defaults();
        values.assign(assignments).unwrap();
        values
    }

    #[test]
    fn what_was_chosen_comes_back() {
        for assignments in [
            "createNamespace=true",
            "registry=localhost:5000/x,controller.replicas=3,highAvailability=true,controller.storage=emptydir",
            "controller.resources.limits=null,controller.tolerations[0].key=a,identity.trustDomain=example.org",
            r#"proxy.logLevel=a"b\\c,proxy.resources.cpuLimit=1"#,
        ] {
            let values = set(assignments);
            let kept = Kept::read(&kept(&values)).unwrap();
            assert_eq!(kept.values().unwrap(), values, "{assignments}");
            assert_eq!(kept.release, concat!("v", env!("CARGO_PKG_VERSION")));
        }
    }

    #[test]
    fn what_was_not_chosen_is_as_the_next_release_has_it() {
        let mut data = kept(&set("proxy.uid=3000,conduitVersion=mine"));
        let defaults = data.get_mut(DEFAULTS).unwrap();
        *defaults = defaults
            .replace("logLevel: info", "logLevel: warn")
            .replace(concat!("v", env!("CARGO_PKG_VERSION")), "v0.0.9")
            + "old: {a: 1}\n";
        let values = data.get_mut(VALUES).unwrap();
        *values = values.replace("logLevel: info", "logLevel: warn") + "old: {a: 1}\n";
        let kept = Kept::read(&data).unwrap();
        assert_eq!(kept.release, "v0.0.9");
        // The release is the one that is upgraded to, and what it does not have any more and nobody has chosen is not asked for.
        assert_eq!(kept.values().unwrap(), set("proxy.uid=3000"));
    }

    #[test]
    fn no_key_is_kept_and_its_secret_stays_in_use() {
        let own = "identity: {issuerCertificate: '-----BEGIN CERTIFICATE-----', trustAnchors: '-----BEGIN CERTIFICATE-----', \
                   issuerKey: '-----BEGIN PRIVATE KEY----- hidden'}";
        let mut values = Values::defaults();
        values.merge(own).unwrap();
        values.check().unwrap();
        let data = kept(&values);
        assert!(!data.values().any(|text| text.contains("hidden")), "{data:?}");
        let again = Kept::read(&data).unwrap().values().unwrap();
        again.check().unwrap();
        let controller = |values: &Values| {
            let manifest = render(values, "mesh").unwrap();
            assert!(!again.eq(values) || !manifest.yaml().contains("kind: Secret\n"));
            manifest.objects().iter().find(|object| object["kind"] == "StatefulSet").unwrap().clone()
        };
        assert_eq!(controller(&again), controller(&values));
    }

    #[test]
    fn an_installation_from_before_says_what_it_can() {
        let injection = "trustDomain: example.org\nproxyVersion: v0.0.1\n".to_owned();
        let kept = Kept::read(&[(INJECTION.to_owned(), injection)].into()).unwrap();
        assert_eq!((kept.release.as_str(), kept.trust_domain.as_str()), ("v0.0.1", "example.org"));
        assert_eq!(kept.values(), None);
        assert_eq!(Kept::read(&BTreeMap::new()).unwrap_err().to_string(), "it has no `injection.yaml`");
    }

    #[test]
    fn differences_are_the_least() {
        let under = json!({"a": 1, "b": {"c": [1], "d": 2}, "e": {}});
        let over = json!({"a": 1, "b": {"c": [2], "f": 3}, "e": {}});
        assert_eq!(difference(&under, &over), Some(json!({"b": {"c": [2], "d": null, "f": 3}})));
        assert_eq!(difference(&under, &under), None);
    }
}

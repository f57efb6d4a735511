//! What can be set: the chart's defaults, and what is laid over them.

use boon::{Compiler, ErrorKind, InstanceToken, Schemas, ValidationError};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::assignment::{self, AssignmentError, Typing};

const DEFAULTS: &str = include_str!("../chart/values.yaml");
const HIGH_AVAILABILITY: &str = include_str!("../chart/values-ha.yaml");
const SCHEMA: &str = include_str!("../chart/values.schema.json");

/// What the schema is called. An address, which nobody asks: a mere name would be one of the current directory, and that may be gone.
const SCHEMA_NAME: &str = "https://conduit.io/values.schema.json";

/// The values that templates are rendered with. Whatever is laid over others is merged as helm does it: maps by their keys, lists and
/// everything else as a whole, and null takes a value away.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(Value);

/// Why values are refused.
#[derive(Debug, Error)]
pub enum ValuesError {
    /// The text is not YAML, or not a map.
    #[error("not the values of a chart: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// Nobody would read it.
    #[error("there is no value `{path}`: the chart's values.yaml says which there are")]
    Unknown {
        /// Its keys, with dots between.
        path: String,
    },
    /// It is there, and wrong.
    #[error("the value `{path}` is not what it may be: {reason}")]
    Invalid {
        /// Its keys, with dots between.
        path: String,
        /// What the schema says.
        reason: String,
    },
}

impl Values {
    /// What the chart has by itself.
    pub fn defaults() -> Self {
        Self(serde_yaml_ng::from_str(DEFAULTS).expect("the chart's values.yaml is YAML, by a test"))
    }

    /// Lays what high availability takes over them: three replicas on different nodes.
    pub fn make_highly_available(&mut self) {
        self.merge(HIGH_AVAILABILITY).expect("the chart's values-ha.yaml is a map, by a test");
    }

    /// Lays a file of values over them.
    ///
    /// # Errors
    /// When it is not a map in YAML; whether its keys exist is for [`check`](Self::check) to say.
    pub fn merge(&mut self, yaml: &str) -> Result<(), ValuesError> {
        let over = serde_yaml_ng::from_str::<Option<Map<String, Value>>>(yaml)?;
        merge(&mut self.0, Value::Object(over.unwrap_or_default()));
        Ok(())
    }

    /// Sets the value at `path`, whose keys have dots between them.
    pub fn put(&mut self, path: &str, value: impl Into<Value>) {
        let over =
            path.rsplit('.').fold(value.into(), |value, key| Value::Object(Map::from_iter([(key.to_owned(), value)])));
        merge(&mut self.0, over);
    }

    /// What `--set` says: `a.b=c,d[0]=e,f={g,h}`. Integers, `true`, `false` and `null` are what they look like, all else is text.
    ///
    /// # Errors
    /// Names what cannot be understood.
    pub fn assign(&mut self, assignments: &str) -> Result<(), AssignmentError> {
        assignment::apply(&mut self.0, assignments, Typing::Guess)
    }

    /// The same for `--set-string`: everything is text.
    ///
    /// # Errors
    /// Names what cannot be understood.
    pub fn assign_text(&mut self, assignments: &str) -> Result<(), AssignmentError> {
        assignment::apply(&mut self.0, assignments, Typing::Text)
    }

    /// Whether the chart's schema has them, as helm checks it.
    ///
    /// # Errors
    /// Names the first that it does not have.
    pub fn check(&self) -> Result<(), ValuesError> {
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON, by a test");
        compiler.add_resource(SCHEMA_NAME, schema).expect("the schema's name is one, by a test");
        let schema = compiler.compile(SCHEMA_NAME, &mut schemas).expect("the schema is one, by a test");
        schemas.validate(&self.0, schema).map_err(|error| refusal(&error))
    }

    /// The chart's own, with `over` laid over them.
    pub(crate) fn with(over: Value) -> Self {
        let mut values = Self::defaults();
        merge(&mut values.0, over);
        values
    }

    /// As templates see them.
    pub fn as_json(&self) -> &Value {
        &self.0
    }
}

pub(crate) fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.remove(&key);
                } else {
                    merge(under.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (under, over) => *under = over,
    }
}

/// The first of all reasons that has none itself.
fn refusal(error: &ValidationError) -> ValuesError {
    if let Some(cause) = error.causes.first() {
        return refusal(cause);
    }
    let mut path = error.instance_location.tokens.iter().map(key).collect::<Vec<_>>();
    match &error.kind {
        ErrorKind::AdditionalProperties { got } => {
            path.extend(got.first().map(ToString::to_string));
            ValuesError::Unknown { path: path.join(".") }
        }
        ErrorKind::Required { want } => {
            path.extend(want.first().map(ToString::to_string));
            ValuesError::Invalid { path: path.join("."), reason: "it is missing".to_owned() }
        }
        kind => ValuesError::Invalid { path: path.join("."), reason: kind.to_string() },
    }
}

fn key(token: &InstanceToken) -> String {
    match token {
        InstanceToken::Prop(name) => name.to_string(),
        InstanceToken::Item(index) => index.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(yaml: &str) -> String {
        let mut values = Values::defaults();
        values.merge(yaml).unwrap();
        values.check().unwrap_err().to_string()
    }

    #[test]
    fn the_charts_own_values_are_in_its_schema() {
        let mut values = Values::defaults();
        values.check().unwrap();
        values.make_highly_available();
        values.check().unwrap();
        assert_eq!(values.as_json()["controller"]["replicas"], 3);
        assert_eq!(values.as_json()["controller"]["storage"], "pvc");
    }

    #[test]
    fn the_chart_is_this_release() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(Values::defaults().as_json()["conduitVersion"], format!("v{version}"));
        let chart: Value = serde_yaml_ng::from_str(include_str!("../chart/Chart.yaml")).unwrap();
        assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    }

    #[test]
    fn a_value_that_does_not_exist_is_named() {
        assert!(refused("registri: x").starts_with("there is no value `registri`: "));
        assert!(refused("proxy: {resources: {cpu: 1}}").starts_with("there is no value `proxy.resources.cpu`: "));
    }

    #[test]
    fn a_value_that_cannot_be_is_named() {
        for (yaml, path) in [
            ("controller: {replicas: 2}", "controller.replicas"),
            ("controller: {storage: disk}", "controller.storage"),
            ("proxy: {uid: 0}", "proxy.uid"),
            ("registry: null", "registry"),
            ("proxy: {uid: null}", "proxy.uid"),
            ("registry: 'a\" b'", "registry"),
            ("conduitVersion: 'v1\nkind: x'", "conduitVersion"),
            ("identity: {trustDomain: 'a b'}", "identity.trustDomain"),
            ("identity: {issuerCertificate: '-----BEGIN CERTIFICATE-----'}", "identity.issuerKey"),
        ] {
            let error = refused(yaml);
            assert!(error.starts_with(&format!("the value `{path}` is not what it may be: ")), "{error}");
        }
    }

    #[test]
    fn maps_are_merged_and_lists_replaced() {
        let mut values = Values::defaults();
        values.merge("controller: {tolerations: [{key: a}], resources: {limits: {memory: null}}}").unwrap();
        values.merge("controller: {tolerations: [{key: b}]}").unwrap();
        let controller = &values.as_json()["controller"];
        assert_eq!(controller["tolerations"], json!([{"key": "b"}]));
        assert_eq!(controller["resources"], json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {}}));
        values.merge("").unwrap();
        assert!(values.merge("just text").is_err());
    }
}

//! What the annotations of a namespace and of a pod say of the proxy.

use std::{borrow::Cow, collections::BTreeMap, fmt::Display, str::FromStr};

use conduit_api::{PortRange, journal::AccessLog};

use super::{Settings, quantity::Quantity};

/// Whether pods get a proxy at all: `enabled` or `disabled`.
pub const INJECT: &str = "conduit.io/inject";
/// What all annotations begin with that say what the proxy is to be like.
pub const PREFIX: &str = "config.conduit.io/";
/// Ports of the pod that the proxy has nothing to do with. The control plane reads this one, and the two after it, of pods.
pub const SKIP_INBOUND_PORTS: &str = "config.conduit.io/skip-inbound-ports";
/// Ports elsewhere.
pub const SKIP_OUTBOUND_PORTS: &str = "config.conduit.io/skip-outbound-ports";
/// Ports of the pod whose connections are carried as bytes.
pub const OPAQUE_PORTS: &str = "config.conduit.io/opaque-ports";

/// Of one object: names and values.
pub type Annotations = BTreeMap<String, String>;

/// An annotation that does not say what it could.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("the annotation `{name}: {value}` cannot be carried out: {reason}")]
pub struct AnnotationError {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

impl AnnotationError {
    pub(crate) fn new(name: &str, value: &str, reason: impl Display) -> Self {
        Self { name: name.to_owned(), value: value.to_owned(), reason: reason.to_string() }
    }
}

/// Whether `annotations` ask for a proxy or refuse one, if they say anything of it.
///
/// # Errors
/// When it is neither.
pub fn inject(annotations: &Annotations) -> Result<Option<bool>, AnnotationError> {
    annotations.get(INJECT).map(|value| enabled(INJECT, value)).transpose()
}

impl Settings {
    /// These, but for what `annotations` want to be different. Returned as well: the annotations that this proxy cannot carry out,
    /// by name, which somebody should be told.
    ///
    /// # Errors
    /// For the first that is malformed.
    pub fn with(&self, annotations: &Annotations) -> Result<(Cow<'_, Self>, Vec<String>), AnnotationError> {
        let mut settings = Cow::Borrowed(self);
        let mut left_out = Vec::new();
        for (name, value) in annotations.range(PREFIX.to_owned()..) {
            let Some(setting) = name.strip_prefix(PREFIX) else { break };
            if !settings.to_mut().set(setting, name, value)? {
                left_out.push(name.clone());
            }
        }
        Ok((settings, left_out))
    }

    /// Whether there is such a setting.
    fn set(&mut self, setting: &str, name: &str, value: &str) -> Result<bool, AnnotationError> {
        let quantity = || parse::<Quantity>(name, value).map(Some);
        let resources = &mut self.resources;
        match setting {
            "proxy-image" => self.proxy_image = word(name, value)?,
            "proxy-version" => self.set_version(&word(name, value)?),
            "image-pull-policy" => self.image_pull_policy = parse(name, value)?,
            "inbound-port" => self.inbound_port = port(name, value)?,
            "outbound-port" => self.outbound_port = port(name, value)?,
            "admin-port" => self.admin_port = port(name, value)?,
            "proxy-uid" => self.proxy_uid = uid(name, value)?,
            "proxy-gid" => self.proxy_gid = Some(parse(name, value)?),
            "proxy-log-level" => self.proxy_log_level = word(name, value)?,
            "proxy-cpu-request" => resources.cpu_request = quantity()?,
            "proxy-cpu-limit" => resources.cpu_limit = quantity()?,
            "proxy-memory-request" => resources.memory_request = quantity()?,
            "proxy-memory-limit" => resources.memory_limit = quantity()?,
            "proxy-ephemeral-storage-request" => resources.ephemeral_storage_request = quantity()?,
            "proxy-ephemeral-storage-limit" => resources.ephemeral_storage_limit = quantity()?,
            "skip-inbound-ports" => self.skip_inbound_ports = port_ranges(name, value)?,
            "skip-outbound-ports" => self.skip_outbound_ports = port_ranges(name, value)?,
            "opaque-ports" => self.opaque_ports = port_ranges(name, value)?,
            "proxy-enable-native-sidecar" => self.native_sidecar = enabled(name, value)?,
            "workload-api" => self.workload_api = enabled(name, value)?,
            "proxy-cores" => self.proxy_cores = Some(port(name, value)?),
            // As those say it who want it otherwise than everybody else in their namespace.
            "access-log" if is_none(value) => self.access_log = AccessLog::None,
            "trace-collector" if is_none(value) => self.trace_collector = None,
            "access-log" => self.access_log = parse(name, value)?,
            "trace-collector" => self.trace_collector = Some(parse(name, value)?),
            "tap-payloads" => self.tap_payloads = enabled(name, value)?,
            // What a namespace hides none of its pods shows.
            "tap-redact" => {
                let more = parse(name, value)?;
                let all = self.tap_redact.with(&more).map_err(|error| AnnotationError::new(name, value, error))?;
                self.tap_redact = all;
            }
            "trace-sampling" => self.trace_sampling = Some(parse(name, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, AnnotationError> {
    value.trim().parse().map_err(|error| AnnotationError::new(name, value, error))
}

fn is_none(value: &str) -> bool {
    matches!(value.trim(), "" | "none")
}

fn port_ranges(name: &str, value: &str) -> Result<Vec<PortRange>, AnnotationError> {
    PortRange::list(value).map_err(|error| AnnotationError::new(name, value, error))
}

/// A port, or as many of something as there are ports: not none.
fn port(name: &str, value: &str) -> Result<u16, AnnotationError> {
    let number: std::num::NonZero<u16> = parse(name, value)?;
    Ok(number.get())
}

fn uid(name: &str, value: &str) -> Result<u32, AnnotationError> {
    match parse(name, value)? {
        0 => Err(AnnotationError::new(name, value, "the proxy does not run as root")),
        uid => Ok(uid),
    }
}

fn word(name: &str, value: &str) -> Result<String, AnnotationError> {
    if value.is_empty() || value.contains(char::is_whitespace) {
        return Err(AnnotationError::new(name, value, "it is empty, or has spaces in it"));
    }
    Ok(value.to_owned())
}

/// `true` and `false` are what earlier names of some of these took.
fn enabled(name: &str, value: &str) -> Result<bool, AnnotationError> {
    match value {
        "enabled" | "true" => Ok(true),
        "disabled" | "false" => Ok(false),
        _ => Err(AnnotationError::new(name, value, "must be one of: enabled, disabled")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Annotations {
        Annotations::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_pod_shows_nothing_that_its_namespace_hides() {
        let redact = format!("{PREFIX}tap-redact");
        let namespace = Settings::default().with(&one(&redact, "password,pin")).unwrap().0.into_owned();
        let (pod, _) = namespace.with(&one(&redact, "pin,token")).unwrap();
        assert_eq!(pod.tap_redact.names(), ["password", "pin", "token"]);
        assert_eq!(namespace.with(&one(&redact, "")).unwrap().0.tap_redact, namespace.tap_redact);
    }

    #[test]
    fn every_setting_can_be_said_and_none_is_taken_for_another() {
        let default = Settings::default();
        for (setting, value) in [
            ("proxy-image", "mine"),
            ("proxy-version", "v9"),
            ("image-pull-policy", "Always"),
            ("inbound-port", "1"),
            ("outbound-port", "2"),
            ("admin-port", "3"),
            ("proxy-uid", "4"),
            ("proxy-gid", "5"),
            ("proxy-log-level", "debug"),
            ("proxy-cpu-request", "100m"),
            ("proxy-cpu-limit", "1"),
            ("proxy-memory-request", "20Mi"),
            ("proxy-memory-limit", "250Mi"),
            ("proxy-ephemeral-storage-request", "1M"),
            ("proxy-ephemeral-storage-limit", "2M"),
            ("skip-inbound-ports", "25,7000-7100"),
            ("skip-outbound-ports", "3306"),
            ("opaque-ports", "5432"),
            ("proxy-enable-native-sidecar", "true"),
            ("workload-api", "enabled"),
            ("proxy-cores", "4"),
            ("access-log", "apache"),
            ("trace-collector", "http://otel.observability:4318"),
            ("trace-sampling", "0.5"),
            ("tap-payloads", "enabled"),
            ("tap-redact", "password,card.number"),
        ] {
            let (settings, left_out) = default.with(&one(&format!("{PREFIX}{setting}"), value)).unwrap();
            assert_ne!(*settings, default, "{setting}");
            assert!(left_out.is_empty(), "{setting}");
        }
    }

    #[test]
    fn what_is_written_down_can_be_turned_off() {
        let collector = Some("otel:4317".parse().unwrap());
        let on = Settings { access_log: AccessLog::Json, trace_collector: collector, ..Settings::default() };
        for none in ["", "none"] {
            let off = ["access-log", "trace-collector"].map(|setting| (format!("{PREFIX}{setting}"), none.to_owned()));
            let (settings, _) = on.with(&off.into()).unwrap();
            assert_eq!(*settings, Settings::default());
        }
    }

    #[test]
    fn what_is_malformed_is_named_with_its_value() {
        for (setting, value) in [
            ("skip-inbound-ports", "smtp"),
            ("opaque-ports", "0"),
            ("proxy-uid", "0"),
            ("proxy-cpu-limit", "lots"),
            ("image-pull-policy", "Sometimes"),
            ("admin-port", "65536"),
            ("workload-api", "yes please"),
            ("proxy-image", ""),
            ("proxy-cores", "0"),
            ("access-log", "yes"),
            ("trace-collector", "https://otel:4318"),
            ("trace-sampling", "10%"),
            ("tap-payloads", "json"),
            ("tap-redact", "pass word"),
        ] {
            let error = Settings::default().with(&one(&format!("{PREFIX}{setting}"), value)).unwrap_err().to_string();
            assert!(error.contains(setting) && error.contains(value), "{error}");
        }
        assert!(inject(&one(INJECT, "maybe")).is_err());
        assert_eq!(inject(&one(INJECT, "disabled")), Ok(Some(false)));
        assert_eq!(inject(&Annotations::new()), Ok(None));
    }

    #[test]
    fn what_cannot_be_carried_out_is_told() {
        let annotations = one("config.conduit.io/proxy-await", "enabled");
        assert_eq!(Settings::default().with(&annotations).unwrap().1, ["config.conduit.io/proxy-await"]);
        assert!(Settings::default().with(&one("config.example.org/x", "y")).unwrap().1.is_empty());
    }
}

//! What people promise of their services: which share of requests succeeds, and how long the others take.
//!
//! A promise leaves a budget: of 99 % the budget is 1 %, and of a p99 it is the 1 % that may take longer. How often as much as
//! that goes wrong is the burn rate. <https://sre.google/workbook/implementing-slos/>

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    latency::LATENCY_US_MAX,
    mesh::ObjectiveName,
    proto::{common::ResourceRef, public},
};

/// Which objects declare them, where the platform is Kubernetes: of this kind, of this group, and of this version of it.
pub const KIND: &str = "Objective";
/// See [`KIND`].
pub const GROUP: &str = "conduit.io";
/// See [`KIND`].
pub const VERSION: &str = "v1alpha1";

/// Parts that shares are counted in: 99.9999 % is as fine as anybody promises.
const MILLION: u32 = 1_000_000;
/// Kubernetes' bound of names.
const NAME_BYTES_MAX: usize = 253;
/// Latencies are counted up to this long, and a promise of more could not be broken.
pub const THRESHOLD_MAX: Duration = Duration::from_secs(60);
const _: () = assert!(THRESHOLD_MAX.as_micros() < LATENCY_US_MAX as u128);

/// Whose promise it is: `deployment/emojivoto/voting`. Namespaces are in none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName {
    namespace: String,
    kind: String,
    name: String,
}

/// Why something is no objective, for the person who said it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ObjectiveError {
    /// Not `kind/namespace/name`, or too long.
    #[error("`{0}` is not the name of a resource that can have an objective: name one, as in deploy/web")]
    Resource(String),
    /// Everything and nothing are no objectives.
    #[error("`{0}` is not a share: write a percentage above 0 and below 100 with at most four decimals, as in 99.9")]
    Share(String),
    /// Nothing, or longer than latencies are counted.
    #[error("an objective of {0} cannot be measured: latencies are counted from 1ms to {max}s", max = THRESHOLD_MAX.as_secs())]
    Threshold(String),
    /// Another percentile.
    #[error("there is no objective for p{0}: there is for p50, p95 and p99")]
    Percentile(u32),
    /// Neither a share nor a latency.
    #[error("an objective promises something: a share of success, or a latency of p50, p95 or p99")]
    Empty,
}

impl ResourceName {
    /// Of its parts; the namespace of a namespace is empty.
    ///
    /// # Errors
    /// When they name nothing.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Result<Self, ObjectiveError> {
        let is_text = |text: &str| text.len() <= NAME_BYTES_MAX && text.chars().all(|c| c.is_ascii_graphic());
        let is_plain = |text: &str| is_text(text) && !text.contains('/');
        let is_in_one = namespace.is_empty() == (kind == "namespace");
        if kind.is_empty()
            || name.is_empty()
            || !is_in_one
            || ![kind, namespace].into_iter().all(is_plain)
            || !is_text(name)
        {
            return Err(ObjectiveError::Resource(format!("{kind}/{namespace}/{name}")));
        }
        Ok(Self { namespace: namespace.to_owned(), kind: kind.to_owned(), name: name.to_owned() })
    }

    /// As the wire calls kinds: `deployment`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Empty of a namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Within kind and namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace by whose rights people may look at it: of a namespace, itself.
    pub fn scope(&self) -> &str {
        if self.namespace.is_empty() { &self.name } else { &self.namespace }
    }

    /// As people say it: `deployment emojivoto/web`, `namespace emojivoto`.
    pub fn in_words(&self) -> String {
        let place = if self.namespace.is_empty() { "" } else { "/" };
        format!("{} {}{place}{}", self.kind, self.namespace, self.name)
    }

    /// As it goes over the wire.
    pub fn to_wire(&self) -> ResourceRef {
        ResourceRef { kind: self.kind.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl TryFrom<&ResourceRef> for ResourceName {
    type Error = ObjectiveError;

    fn try_from(wire: &ResourceRef) -> Result<Self, ObjectiveError> {
        Self::new(&wire.kind, &wire.namespace, &wire.name)
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for ResourceName {
    type Error = ObjectiveError;

    fn try_from(text: String) -> Result<Self, ObjectiveError> {
        let mut parts = text.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(kind), Some(namespace), Some(name)) => Self::new(kind, namespace, name),
            _ => Err(ObjectiveError::Resource(text)),
        }
    }
}

/// A share of requests, more than none and less than all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Share(u32);

impl Share {
    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) * 100.0 / f64::from(MILLION)
    }

    /// The share that is left.
    pub fn rest(self) -> f64 {
        f64::from(MILLION - self.0) / f64::from(MILLION)
    }
}

impl TryFrom<u32> for Share {
    type Error = ObjectiveError;

    fn try_from(parts: u32) -> Result<Self, ObjectiveError> {
        if parts == 0 || parts >= MILLION {
            return Err(ObjectiveError::Share(format!("{parts} of a million")));
        }
        Ok(Self(parts))
    }
}

impl From<Share> for u32 {
    fn from(share: Share) -> Self {
        share.0
    }
}

/// In percent, with or without the sign.
impl FromStr for Share {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        let wrong = || ObjectiveError::Share(text.to_owned());
        let number = text.strip_suffix('%').unwrap_or(text);
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits =
            |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 3) || !digits(part, 4) {
            return Err(wrong());
        }
        let parts: u32 = format!("{whole}{part:0<4}").parse().map_err(|_| wrong())?;
        Self::try_from(parts).map_err(|_| wrong())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

/// Which requests a promise of latency leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Percentile {
    /// Half of them.
    P50,
    /// One of twenty.
    P95,
    /// One of a hundred.
    P99,
}

impl Percentile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::P50, Self::P95, Self::P99];

    /// As it is called.
    pub fn number(self) -> u32 {
        match self {
            Self::P50 => 50,
            Self::P95 => 95,
            Self::P99 => 99,
        }
    }
}

impl TryFrom<u32> for Percentile {
    type Error = ObjectiveError;

    fn try_from(number: u32) -> Result<Self, ObjectiveError> {
        let found = Self::ALL.into_iter().find(|percentile| percentile.number() == number);
        found.ok_or(ObjectiveError::Percentile(number))
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Indicator {
    /// Which share of the requests succeeds.
    Success,
    /// How long requests take.
    Latency(Percentile),
}

impl fmt::Display for Indicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Latency(percentile) => write!(f, "p{}", percentile.number()),
        }
    }
}

/// How long a request may take, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Threshold(u32);

impl TryFrom<Duration> for Threshold {
    type Error = ObjectiveError;

    fn try_from(duration: Duration) -> Result<Self, ObjectiveError> {
        let wrong = || ObjectiveError::Threshold(format!("{duration:?}"));
        let is_whole = duration.subsec_nanos().is_multiple_of(1_000_000);
        if duration.is_zero() || duration > THRESHOLD_MAX || !is_whole {
            return Err(wrong());
        }
        u32::try_from(duration.as_millis()).map(Self).map_err(|_| wrong())
    }
}

impl TryFrom<u32> for Threshold {
    type Error = ObjectiveError;

    fn try_from(ms: u32) -> Result<Self, ObjectiveError> {
        Self::try_from(Duration::from_millis(ms.into()))
    }
}

impl From<Threshold> for u32 {
    fn from(threshold: Threshold) -> Self {
        threshold.0
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_millis(self.0.into()))
    }
}

/// One promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    /// So many requests succeed.
    Success(Share),
    /// All but the percentile's rest take no longer.
    Latency(Percentile, Threshold),
}

impl Goal {
    /// What it is about.
    pub fn indicator(self) -> Indicator {
        match self {
            Self::Success(_) => Indicator::Success,
            Self::Latency(percentile, _) => Indicator::Latency(percentile),
        }
    }

    /// The share of requests that may go wrong.
    pub fn budget(self) -> f64 {
        match self {
            Self::Success(share) => share.rest(),
            Self::Latency(percentile, _) => f64::from(100 - percentile.number()) / 100.0,
        }
    }
}

/// `success 99.9%`, `p99 100ms`
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success(share) => write!(f, "{} {share}", self.indicator()),
            Self::Latency(_, threshold) => write!(f, "{} {threshold}", self.indicator()),
        }
    }
}

/// All that is promised of one resource, at least something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredObjective")]
pub struct Objective {
    success: Option<Share>,
    latencies: BTreeMap<Percentile, Threshold>,
}

/// What a log or a snapshot may say.
#[derive(Deserialize)]
struct StoredObjective {
    success: Option<Share>,
    latencies: BTreeMap<Percentile, Threshold>,
}

impl TryFrom<StoredObjective> for Objective {
    type Error = ObjectiveError;

    fn try_from(StoredObjective { success, latencies }: StoredObjective) -> Result<Self, ObjectiveError> {
        Self::new(success, latencies)
    }
}

impl Objective {
    /// Of its parts.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(success: Option<Share>, latencies: BTreeMap<Percentile, Threshold>) -> Result<Self, ObjectiveError> {
        if success.is_none() && latencies.is_empty() {
            return Err(ObjectiveError::Empty);
        }
        Ok(Self { success, latencies })
    }

    /// Each promise, the share of success first.
    pub fn goals(&self) -> impl Iterator<Item = Goal> + '_ {
        let latencies = self.latencies.iter().map(|(percentile, threshold)| Goal::Latency(*percentile, *threshold));
        self.success.map(Goal::Success).into_iter().chain(latencies)
    }

    /// The promise about `indicator`.
    pub fn goal(&self, indicator: Indicator) -> Option<Goal> {
        self.goals().find(|goal| goal.indicator() == indicator)
    }
}

/// A promise that an object of the platform makes: it holds as long as there is the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The object.
    pub by: ObjectiveName,
    /// Of which resource.
    pub resource: ResourceName,
    /// What.
    pub objective: Objective,
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, goal) in self.goals().enumerate() {
            write!(f, "{}{goal}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl From<&Objective> for public::Goals {
    fn from(objective: &Objective) -> Self {
        let latency = |(percentile, threshold): (&Percentile, &Threshold)| (percentile.number(), threshold.0);
        Self {
            success_ppm: objective.success.map_or(0, u32::from),
            latency_ms: objective.latencies.iter().map(latency).collect(),
        }
    }
}

impl TryFrom<&public::Goals> for Objective {
    type Error = ObjectiveError;

    fn try_from(wire: &public::Goals) -> Result<Self, ObjectiveError> {
        let success = (wire.success_ppm > 0).then(|| Share::try_from(wire.success_ppm)).transpose()?;
        let latency =
            |(percentile, ms): (&u32, &u32)| Ok((Percentile::try_from(*percentile)?, Threshold::try_from(*ms)?));
        Self::new(success, wire.latency_ms.iter().map(latency).collect::<Result<_, ObjectiveError>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_between_nothing_and_all() {
        for (text, percent, shown) in [
            ("99", 99.0, "99%"),
            ("99.9%", 99.9, "99.9%"),
            ("0.0001", 0.0001, "0.0001%"),
            ("99.9999", 99.9999, "99.9999%"),
        ] {
            let share: Share = text.parse().unwrap();
            assert!((share.percent() - percent).abs() < 1e-9 && (share.rest() - (1.0 - percent / 100.0)).abs() < 1e-9);
            assert_eq!(share.to_string(), shown);
        }
        for bad in ["", "0", "100", "100.0", "-1", "99,9", "99.99999", "1e1", "+9", "99.", ".9", "1000", "ninety"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_resource_is_named_by_kind_namespace_and_name() {
        for (kind, namespace, name, scope) in [
            ("deployment", "emojivoto", "web", "emojivoto"),
            ("namespace", "", "emojivoto", "emojivoto"),
            ("authority", "emojivoto", "web-svc.emojivoto:80/x", "emojivoto"),
        ] {
            let resource = ResourceName::new(kind, namespace, name).unwrap();
            assert_eq!(ResourceName::try_from(String::from(resource.clone())), Ok(resource.clone()));
            assert_eq!(ResourceName::try_from(&resource.to_wire()), Ok(resource.clone()));
            assert_eq!(resource.scope(), scope);
        }
        let long = "x".repeat(254);
        for (kind, namespace, name) in [
            ("", "a", "b"),
            ("pod", "", "b"),
            ("namespace", "a", "b"),
            ("pod", "a", ""),
            ("pod", "a/b", "c"),
            ("pod", "a", "b\n"),
            ("pod", "a", &long),
        ] {
            assert!(ResourceName::new(kind, namespace, name).is_err(), "{kind}/{namespace}/{name}");
        }
    }

    #[test]
    fn an_objective_is_what_was_said_over_the_wire_and_in_the_log() {
        let latencies = [(Percentile::P99, Threshold::try_from(Duration::from_millis(1500)).unwrap())];
        let objective = Objective::new(Some("99.5".parse().unwrap()), latencies.into()).unwrap();
        assert_eq!(Objective::try_from(&public::Goals::from(&objective)), Ok(objective.clone()));
        assert_eq!(objective.to_string(), "success 99.5%, p99 1.5s");
        assert!((objective.goal(Indicator::Success).unwrap().budget() - 0.005).abs() < 1e-9);
        assert!((objective.goal(Indicator::Latency(Percentile::P99)).unwrap().budget() - 0.01).abs() < 1e-9);
        assert_eq!(objective.goal(Indicator::Latency(Percentile::P50)), None);
        for (success_ppm, percentile, ms) in [(0, 0, 0), (1_000_000, 0, 0), (0, 90, 5), (0, 99, 0), (0, 99, 60_001)] {
            let latency_ms = if percentile == 0 { Default::default() } else { [(percentile, ms)].into() };
            assert!(
                Objective::try_from(&public::Goals { success_ppm, latency_ms }).is_err(),
                "{success_ppm} {percentile} {ms}"
            );
        }
        assert!(Threshold::try_from(Duration::from_micros(1500)).is_err());
    }
}

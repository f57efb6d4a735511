//! How people name what runs in the mesh: `deploy`, `deploy web`, `deploy/web`, `deploy emojivoto/web`. Pure.

use std::str::FromStr;

use conduit_api::proto::{common::ResourceRef, public::ResourceSelection};

/// Where to look when nothing is said, as for kubectl.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pods that are made from one template.
    Deployment,
    /// One instance.
    Pod,
    /// All pods of a namespace; is in none itself.
    Namespace,
    /// What clients connect to.
    Service,
    /// The host that a request asks for, in the mesh or not.
    Authority,
    /// A pod on each node.
    DaemonSet,
    /// Pods with names of their own.
    StatefulSet,
    /// What a deployment makes, also without one.
    ReplicaSet,
    /// The same, as it was before deployments.
    ReplicationController,
    /// Pods that end.
    Job,
    /// Jobs by the clock.
    CronJob,
}

/// Every spelling; the first of a kind is the one that goes over the wire.
const SPELLINGS: [(Kind, &[&str]); 11] = [
    (Kind::Deployment, &["deployment", "deploy", "deployments"]),
    (Kind::Pod, &["pod", "po", "pods"]),
    (Kind::Namespace, &["namespace", "ns", "namespaces"]),
    (Kind::Service, &["service", "svc", "services"]),
    (Kind::Authority, &["authority", "au", "authorities"]),
    (Kind::DaemonSet, &["daemonset", "ds", "daemonsets"]),
    (Kind::StatefulSet, &["statefulset", "sts", "statefulsets"]),
    (Kind::ReplicaSet, &["replicaset", "rs", "replicasets"]),
    (Kind::ReplicationController, &["replicationcontroller", "rc", "replicationcontrollers"]),
    (Kind::Job, &["job", "jobs"]),
    (Kind::CronJob, &["cronjob", "cj", "cronjobs"]),
];

/// Why a selection cannot be read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ResourceError {
    /// Not in the table of spellings.
    #[error("there is no resource type `{0}`: it is one of {kinds}", kinds = known_kinds())]
    Kind(String),
    /// Too many words or slashes, or an empty part.
    #[error("`{0}` is not a resource: write TYPE, TYPE NAME, TYPE/NAME or TYPE NAMESPACE/NAME")]
    Shape(String),
    /// What Conduit has always said of characters that no namespace has.
    #[error("{0} is not a valid namespace")]
    Namespace(String),
    /// Two namespaces for one resource.
    #[error("`{resource}` is in the namespace {named}, but the command line also says {given}")]
    Contradiction {
        /// As it was typed.
        resource: String,
        /// The namespace in it.
        named: String,
        /// What the flags say.
        given: String,
    },
}

/// Which namespaces the flags select.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// No flag was given.
    #[default]
    Default,
    /// `-n NAMESPACE`
    Namespace(String),
    /// `-A`
    All,
}

/// All resources of a kind, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Of which kind.
    pub kind: Kind,
    /// In which namespace; none means all.
    pub namespace: Option<String>,
    /// Of which name; none means all.
    pub name: Option<String>,
}

impl Scope {
    /// What `-n` and `-A` say together; `-A` wins, as in kubectl.
    ///
    /// # Errors
    /// When the namespace cannot be one.
    pub fn new(namespace: Option<&str>, all: bool) -> Result<Self, ResourceError> {
        let namespace = namespace.map(valid_namespace).transpose()?;
        Ok(match (all, namespace) {
            (true, _) => Self::All,
            (false, Some(namespace)) => Self::Namespace(namespace),
            (false, None) => Self::Default,
        })
    }

    /// The same, unless another namespace was given for just this.
    ///
    /// # Errors
    /// When that cannot be one.
    pub fn or_given(self, namespace: Option<&str>) -> Result<Self, ResourceError> {
        namespace.map_or(Ok(self), |given| Self::new(Some(given), false))
    }

    /// One namespace, or none for all.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Default => Some(DEFAULT_NAMESPACE),
            Self::Namespace(namespace) => Some(namespace),
            Self::All => None,
        }
    }
}

impl Selection {
    /// Reads the words of a command line, one or two of them.
    ///
    /// # Errors
    /// When they are not one of the four forms, or contradict `scope`.
    pub fn parse<S: AsRef<str>>(words: &[S], scope: &Scope) -> Result<Self, ResourceError> {
        let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
        let typed = words.join(" ");
        let shape = || ResourceError::Shape(typed.clone());
        let (kind, name) = match words.as_slice() {
            [word] => word.split_once('/').map_or((*word, None), |(kind, name)| (kind, Some((None, name)))),
            [kind, name] => {
                let qualified = name.split_once('/').map(|(namespace, name)| (Some(namespace), name));
                (*kind, Some(qualified.unwrap_or((None, name))))
            }
            _ => return Err(shape()),
        };
        let kind: Kind = kind.parse()?;
        let (named, name) = name.map_or((None, None), |(namespace, name)| (namespace, Some(name)));
        if name.is_some_and(|name| name.is_empty() || name.contains('/')) || named == Some("") {
            return Err(shape());
        }
        let namespace = namespace_of(kind, named, scope, &typed)?;
        Ok(Self { kind, namespace, name: name.map(ToOwned::to_owned) })
    }

    /// Reads the words of a command line that may name several: `deploy po`, `deploy/web deploy/voting`, `deploy web voting`,
    /// `deploy,po`. Types are recognized before names.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_all<S: AsRef<str>>(words: &[S], scope: &Scope) -> Result<Vec<Self>, ResourceError> {
        let mut found = Vec::new();
        // The type that stands before names, and whether there was one.
        let mut names_of: Option<(&str, bool)> = None;
        for word in words.iter().map(AsRef::as_ref) {
            let is_kind = |word: &str| word.parse::<Kind>().is_ok();
            match (word.split_once('/'), names_of) {
                (Some((kind, _)), _) if is_kind(kind) => {
                    end(&mut found, names_of.take(), scope)?;
                    found.push(Self::parse(&[word], scope)?);
                }
                (None, _) if word.split(',').all(is_kind) => {
                    end(&mut found, names_of.take(), scope)?;
                    let (last, others) =
                        word.rsplit_once(',').map_or((word, None), |(others, last)| (last, Some(others)));
                    for kind in others.into_iter().flat_map(|others| others.split(',')) {
                        found.push(Self::parse(&[kind], scope)?);
                    }
                    names_of = Some((last, false));
                }
                (_, Some((kind, _))) => {
                    found.push(Self::parse(&[kind, word], scope)?);
                    names_of = Some((kind, true));
                }
                (_, None) => found.push(Self::parse(&[word], scope)?),
            }
        }
        end(&mut found, names_of, scope)?;
        Ok(found)
    }

    /// As a request carries it.
    pub fn to_wire(&self) -> ResourceSelection {
        ResourceSelection {
            kind: self.kind.as_str().to_owned(),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
        }
    }

    /// As a reference to the one resource that it names.
    pub fn to_reference(&self) -> ResourceRef {
        let ResourceSelection { kind, namespace, name } = self.to_wire();
        ResourceRef { kind, namespace, name }
    }
}

/// A type after which no name came means all of it.
fn end(found: &mut Vec<Selection>, names_of: Option<(&str, bool)>, scope: &Scope) -> Result<(), ResourceError> {
    if let Some((kind, false)) = names_of {
        found.push(Selection::parse(&[kind], scope)?);
    }
    Ok(())
}

fn namespace_of(kind: Kind, named: Option<&str>, scope: &Scope, typed: &str) -> Result<Option<String>, ResourceError> {
    match (named, scope) {
        // Namespaces are in none: `-n` says nothing of them.
        (None, _) if kind == Kind::Namespace => Ok(None),
        (Some(_), _) if kind == Kind::Namespace => Err(ResourceError::Shape(typed.to_owned())),
        (None, scope) => Ok(scope.namespace().map(ToOwned::to_owned)),
        (Some(named), Scope::Default) => valid_namespace(named).map(Some),
        (Some(named), Scope::Namespace(given)) if given == named => Ok(Some(given.clone())),
        (Some(named), scope) => Err(ResourceError::Contradiction {
            resource: typed.to_owned(),
            named: named.to_owned(),
            given: scope.namespace().unwrap_or("all namespaces").to_owned(),
        }),
    }
}

fn valid_namespace(namespace: &str) -> Result<String, ResourceError> {
    let valid = !namespace.is_empty() && namespace.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if valid { Ok(namespace.to_owned()) } else { Err(ResourceError::Namespace(namespace.to_owned())) }
}

fn known_kinds() -> String {
    let kinds = SPELLINGS.map(|(_, spellings)| format!("{} ({})", spellings[0], spellings[1]));
    kinds.join(", ")
}

impl FromStr for Kind {
    type Err = ResourceError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = SPELLINGS.iter().find(|(_, spellings)| spellings.contains(&s));
        found.map(|(kind, _)| *kind).ok_or_else(|| ResourceError::Kind(s.to_owned()))
    }
}

impl Kind {
    /// As it goes over the wire: singular and lower-case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::Service => "service",
            Self::Authority => "authority",
            Self::DaemonSet => "daemonset",
            Self::StatefulSet => "statefulset",
            Self::ReplicaSet => "replicaset",
            Self::ReplicationController => "replicationcontroller",
            Self::Job => "job",
            Self::CronJob => "cronjob",
        }
    }

    /// As names are prefixed where there are several kinds.
    pub fn short(self) -> &'static str {
        let spellings = SPELLINGS.iter().find(|(kind, _)| *kind == self).map_or(&[][..], |(_, spellings)| spellings);
        spellings.iter().min_by_key(|spelling| spelling.len()).copied().unwrap_or(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emojivoto() -> Scope {
        Scope::Namespace("emojivoto".into())
    }

    #[test]
    fn all_forms_are_read() {
        // words, scope, kind, namespace, name
        for (words, scope, kind, namespace, name) in [
            ("deployment", Scope::Default, "deployment", "default", ""),
            ("deployments", emojivoto(), "deployment", "emojivoto", ""),
            ("deploy", Scope::All, "deployment", "", ""),
            ("deploy web", emojivoto(), "deployment", "emojivoto", "web"),
            ("deploy/web", emojivoto(), "deployment", "emojivoto", "web"),
            ("deploy emojivoto/web", Scope::Default, "deployment", "emojivoto", "web"),
            ("deploy emojivoto/web", emojivoto(), "deployment", "emojivoto", "web"),
            ("deploy web", Scope::All, "deployment", "", "web"),
            ("po/web-0", Scope::Default, "pod", "default", "web-0"),
            ("pods", emojivoto(), "pod", "emojivoto", ""),
            ("svc web-svc", emojivoto(), "service", "emojivoto", "web-svc"),
            ("ns", emojivoto(), "namespace", "", ""),
            ("ns/emojivoto", Scope::Default, "namespace", "", "emojivoto"),
            ("namespace emojivoto", Scope::All, "namespace", "", "emojivoto"),
            ("au web-svc.emojivoto:80", emojivoto(), "authority", "emojivoto", "web-svc.emojivoto:80"),
        ] {
            let words: Vec<_> = words.split(' ').collect();
            let expected = ResourceSelection { kind: kind.into(), namespace: namespace.into(), name: name.into() };
            assert_eq!(Selection::parse(&words, &scope).map(|s| s.to_wire()), Ok(expected), "{words:?} {scope:?}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_to_write() {
        for (words, scope, says) in [
            (
                "nonsense",
                Scope::Default,
                "there is no resource type `nonsense`: it is one of deployment (deploy), pod (po)",
            ),
            ("Deploy", Scope::Default, "there is no resource type `Deploy`"),
            ("/web", Scope::Default, "there is no resource type ``"),
            ("deploy/", Scope::Default, "`deploy/` is not a resource: write TYPE,"),
            ("deploy/emojivoto/web", Scope::Default, "`deploy/emojivoto/web` is not a resource"),
            ("deploy emojivoto/", Scope::Default, "`deploy emojivoto/` is not a resource"),
            ("deploy /web", Scope::Default, "`deploy /web` is not a resource"),
            ("deploy a/b/c", Scope::Default, "`deploy a/b/c` is not a resource"),
            ("deploy web emoji", Scope::Default, "`deploy web emoji` is not a resource"),
            ("ns emojivoto/web", Scope::Default, "`ns emojivoto/web` is not a resource"),
            ("deploy not_valid/web", Scope::Default, "not_valid is not a valid namespace"),
            (
                "deploy books/web",
                emojivoto(),
                "`deploy books/web` is in the namespace books, but the command line also says emojivoto",
            ),
            (
                "deploy books/web",
                Scope::All,
                "`deploy books/web` is in the namespace books, but the command line also says all namespaces",
            ),
        ] {
            let words: Vec<_> = words.split(' ').collect();
            let error = Selection::parse(&words, &scope).unwrap_err().to_string();
            assert!(error.starts_with(says), "{words:?}: {error}");
        }
        assert_eq!(Scope::new(Some("not_valid"), true), Err(ResourceError::Namespace("not_valid".into())));
    }

    #[test]
    fn several_are_read() {
        for (words, expected) in [
            ("deploy", "deployment/"),
            ("deploy po", "deployment/ pod/"),
            ("deploy,po", "deployment/ pod/"),
            ("deploy/web deploy/voting", "deployment/web deployment/voting"),
            ("deploy web voting sts", "deployment/web deployment/voting statefulset/"),
            ("deploy emojivoto/web", "deployment/web"),
            ("sts/db po", "statefulset/db pod/"),
            ("rc ds,cj jobs/nightly", "replicationcontroller/ daemonset/ cronjob/ job/nightly"),
        ] {
            let words: Vec<_> = words.split(' ').collect();
            let found = Selection::parse_all(&words, &emojivoto()).unwrap();
            let text = |s: &Selection| format!("{}/{}", s.kind.as_str(), s.name.as_deref().unwrap_or_default());
            assert_eq!(found.iter().map(text).collect::<Vec<_>>().join(" "), expected, "{words:?}");
        }
        for (words, says) in [
            ("web", "there is no resource type `web`"),
            ("deploy/web voting", "there is no resource type `voting`"),
            ("deploy books/web", "is in the namespace books"),
            ("deploy a/b/c", "`deploy a/b/c` is not a resource"),
        ] {
            let words: Vec<_> = words.split(' ').collect();
            let error = Selection::parse_all(&words, &emojivoto()).unwrap_err().to_string();
            assert!(error.contains(says), "{words:?}: {error}");
        }
    }

    #[test]
    fn kinds_go_over_the_wire_as_their_first_spelling() {
        for (kind, spellings) in SPELLINGS {
            assert_eq!(kind.as_str(), spellings[0]);
            assert!(spellings.contains(&kind.short()));
        }
    }
}

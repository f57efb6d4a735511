//! Changes of a JSON value, as small as they can be said: what a manifest's text and an admission review have in common.

use serde_json::{Map, Value};

/// Of an object an entry, of an array an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// By its name.
    Key(String),
    /// By its place.
    Index(usize),
}

/// From a value to one in it.
pub type Path = Vec<Step>;

/// One change. The objects and arrays that it names are there already.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Adds an entry, whose key is not there, or `null`.
    Entry {
        /// Of this object.
        object: Path,
        /// Its key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// Adds an element before all that are there, and after those that were added so.
    First {
        /// Of this array.
        array: Path,
        /// What is added.
        value: Value,
    },
    /// Adds an element after all others.
    Last {
        /// Of this array.
        array: Path,
        /// What is added.
        value: Value,
    },
    /// Takes away an entry or an element. Of several operations all paths are those before the first.
    Remove(Path),
}

impl Operation {
    /// The same, of a value that has this one at the end of `prefix`.
    pub(crate) fn below(self, prefix: &[Step]) -> Self {
        let below = |path: Path| prefix.iter().cloned().chain(path).collect();
        match self {
            Self::Entry { object, key, value } => Self::Entry { object: below(object), key, value },
            Self::First { array, value } => Self::First { array: below(array), value },
            Self::Last { array, value } => Self::Last { array: below(array), value },
            Self::Remove(path) => Self::Remove(below(path)),
        }
    }
}

/// A value has another shape than what is to be added to it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{path}` is not {expected}")]
pub struct ShapeError {
    /// Which, with dots.
    pub path: String,
    /// What it should be.
    pub expected: &'static str,
}

/// A path of keys, and of numbers for elements: `spec.containers.0`.
pub fn path(text: &str) -> Path {
    let step = |step: &str| step.parse().map_or_else(|_| Step::Key(step.to_owned()), Step::Index);
    text.split('.').filter(|step| !step.is_empty()).map(step).collect()
}

/// With dots between steps, for people.
pub fn dotted(path: &[Step]) -> String {
    let step = |step: &Step| match step {
        Step::Key(key) => key.clone(),
        Step::Index(index) => index.to_string(),
    };
    path.iter().map(step).collect::<Vec<_>>().join(".")
}

/// Collects what is to be added to one value, and creates the objects and arrays that it needs and does not have.
pub(crate) struct Additions<'a> {
    root: &'a Value,
    operations: Vec<Operation>,
}

impl<'a> Additions<'a> {
    pub(crate) fn to(root: &'a Value) -> Self {
        Self { root, operations: Vec::new() }
    }

    pub(crate) fn finish(self) -> Vec<Operation> {
        self.operations
    }

    /// Does nothing when the entry is there.
    pub(crate) fn entry(&mut self, object: &[Step], key: &str, value: Value) -> Result<(), ShapeError> {
        match self.at(object)? {
            Place::Here(Value::Object(entries)) if entries.get(key).is_some_and(|value| !value.is_null()) => Ok(()),
            Place::Here(Value::Object(_)) => {
                self.operations.push(Operation::Entry { object: object.to_vec(), key: key.to_owned(), value });
                Ok(())
            }
            Place::Here(_) => Err(ShapeError { path: dotted(object), expected: "an object" }),
            Place::Missing(depth) => {
                self.create(object, depth, Value::Object(Map::from_iter([(key.to_owned(), value)])));
                Ok(())
            }
        }
    }

    pub(crate) fn first(&mut self, array: &[Step], value: Value) -> Result<(), ShapeError> {
        self.element(array, value, |array, value| Operation::First { array, value })
    }

    pub(crate) fn last(&mut self, array: &[Step], value: Value) -> Result<(), ShapeError> {
        self.element(array, value, |array, value| Operation::Last { array, value })
    }

    fn element(
        &mut self,
        array: &[Step],
        value: Value,
        operation: impl FnOnce(Path, Value) -> Operation,
    ) -> Result<(), ShapeError> {
        match self.at(array)? {
            Place::Here(Value::Array(_)) => self.operations.push(operation(array.to_vec(), value)),
            Place::Here(_) => return Err(ShapeError { path: dotted(array), expected: "a list" }),
            Place::Missing(depth) => self.create(array, depth, Value::Array(vec![value])),
        }
        Ok(())
    }

    fn at(&self, path: &[Step]) -> Result<Place<'a>, ShapeError> {
        let mut here = self.root;
        for (depth, step) in path.iter().enumerate() {
            let next = match (here, step) {
                (Value::Object(entries), Step::Key(key)) => entries.get(key),
                (Value::Array(elements), Step::Index(index)) => elements.get(*index),
                _ => return Err(ShapeError { path: dotted(&path[..depth]), expected: "an object" }),
            };
            match next {
                None | Some(Value::Null) => return Ok(Place::Missing(depth)),
                Some(next) => here = next,
            }
        }
        Ok(Place::Here(here))
    }

    /// Adds the first entry on `path` that is not there, with all that is to be in it.
    fn create(&mut self, path: &[Step], depth: usize, innermost: Value) {
        let wrap = |value, step: &Step| match step {
            Step::Key(key) => Value::Object(Map::from_iter([(key.clone(), value)])),
            Step::Index(_) => Value::Array(vec![value]),
        };
        let created = path[depth + 1..].iter().rev().fold(innermost, wrap);
        let (parent, Some(Step::Key(name))) = (&path[..depth], path.get(depth)) else { return };
        let earlier = self.operations.iter_mut().find_map(|operation| match operation {
            Operation::Entry { object, key, value } if object == parent && key == name => Some(value),
            _ => None,
        });
        match earlier {
            Some(earlier) => merge(earlier, created),
            None => {
                self.operations.push(Operation::Entry { object: parent.to_vec(), key: name.clone(), value: created });
            }
        }
    }
}

enum Place<'a> {
    Here(&'a Value),
    /// The step of this number leads nowhere.
    Missing(usize),
}

fn merge(earlier: &mut Value, later: Value) {
    match (earlier, later) {
        (Value::Object(earlier), Value::Object(later)) => {
            for (key, value) in later {
                match earlier.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => {
                        earlier.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(earlier), Value::Array(later)) => earlier.extend(later),
        (earlier, later) => *earlier = later,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_is_created_once_with_all_that_goes_into_it() {
        let root = json!({"spec": {"containers": [{"name": "web"}], "volumes": null}});
        let mut additions = Additions::to(&root);
        additions.entry(&path("metadata.labels"), "a", json!("1")).unwrap();
        additions.entry(&path("metadata.annotations"), "b", json!("2")).unwrap();
        additions.last(&path("spec.volumes"), json!(1)).unwrap();
        additions.last(&path("spec.volumes"), json!(2)).unwrap();
        additions.first(&path("spec.containers"), json!(3)).unwrap();
        additions.last(&path("spec.containers.0.env"), json!(4)).unwrap();
        additions.entry(&path("spec"), "containers", json!([])).unwrap();
        assert_eq!(
            additions.finish(),
            [
                Operation::Entry {
                    object: path(""),
                    key: "metadata".into(),
                    value: json!({"labels": {"a": "1"}, "annotations": {"b": "2"}})
                },
                Operation::Entry { object: path("spec"), key: "volumes".into(), value: json!([1, 2]) },
                Operation::First { array: path("spec.containers"), value: json!(3) },
                Operation::Entry { object: path("spec.containers.0"), key: "env".into(), value: json!([4]) },
            ]
        );
    }

    #[test]
    fn what_has_another_shape_is_named() {
        let root = json!({"metadata": "x", "spec": {"containers": {}}});
        let mut additions = Additions::to(&root);
        assert_eq!(
            additions.entry(&path("metadata.labels"), "a", json!(1)).unwrap_err().to_string(),
            "`metadata` is not an object"
        );
        assert_eq!(
            additions.last(&path("spec.containers"), json!(1)).unwrap_err().to_string(),
            "`spec.containers` is not a list"
        );
    }
}

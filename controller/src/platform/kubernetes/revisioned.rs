//! Objects that never go backwards: each says of which revision it is, and whoever has an older one leaves it alone. So a leader that does
//! not know yet that another one leads does no harm.

use std::fmt::Debug;

use conduit_api::Revision;
use kube::{Api, Resource, ResourceExt as _, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};

/// The annotations that say it.
const CONTROL_PLANE_ID: &str = "conduit.io/control-plane-id";
const REVISION: &str = "conduit.io/revision";
/// Who was overtaken looks again; more often than this, somebody else writes the same object all the time.
const TRIES_MAX: usize = 5;

/// Of an object that this control plane writes.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// What an earlier control plane has left behind counts for nothing.
    pub control_plane: &'a str,
    /// When its content was decided.
    pub revision: Revision,
}

impl Version<'_> {
    /// Writes what `make` makes of the object called `name`, if it makes anything of it, and unless a newer one is there already.
    pub async fn write<K>(self, api: &Api<K>, name: &str, make: impl Fn(Option<K>) -> Option<K>) -> kube::Result<()>
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    {
        let mut tries = 0;
        loop {
            let known = api.get_opt(name).await?;
            if known.as_ref().is_some_and(|known| self.is_older_than(known)) {
                return Ok(());
            }
            let resource_version = known.as_ref().and_then(|known| known.resource_version());
            let Some(mut object) = make(known) else { return Ok(()) };
            let annotations = object.annotations_mut();
            annotations.insert(CONTROL_PLANE_ID.to_owned(), self.control_plane.to_owned());
            annotations.insert(REVISION.to_owned(), self.revision.to_string());
            let is_known = resource_version.is_some();
            // Whoever has written it in between is not overwritten.
            object.meta_mut().resource_version = resource_version;
            let written = match is_known {
                true => api.replace(name, &PostParams::default(), &object).await,
                false => api.create(&PostParams::default(), &object).await,
            };
            tries += 1;
            match written {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if is_overtaken(&status) && tries < TRIES_MAX => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether what is known to the API server was decided later.
    pub fn is_older_than(self, known: &impl Resource) -> bool {
        let annotations = known.annotations();
        let is_ours = annotations.get(CONTROL_PLANE_ID).is_some_and(|id| id == self.control_plane);
        let revision = annotations.get(REVISION).and_then(|revision| revision.parse::<u64>().ok());
        is_ours && revision.is_some_and(|revision| Revision::from(revision) > self.revision)
    }

    /// Whether it is this one.
    pub fn is_of(self, known: &impl Resource) -> bool {
        let annotations = known.annotations();
        annotations.get(CONTROL_PLANE_ID).is_some_and(|id| id == self.control_plane)
            && annotations.get(REVISION).is_some_and(|revision| *revision == self.revision.to_string())
    }
}

/// Which control plane has written it.
pub fn control_plane(known: &impl Resource) -> Option<&str> {
    known.annotations().get(CONTROL_PLANE_ID).map(String::as_str)
}

fn is_overtaken(status: &kube::core::Status) -> bool {
    status.is_already_exists() || status.is_conflict() || status.is_not_found()
}

//! What a platform says of itself, and what it says later of that. Pure.

use conduit_api::{HttpRoute, Pod, PodName, Service, ServiceName, mesh::Inventory, objective::Declared};

/// One thing that it says.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// All that runs, whatever was said before.
    All(Inventory),
    /// What is otherwise than it was said last.
    Changed(Changed),
}

/// Services and pods, each as it is by now, or that there is none of that name any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// Of services.
    pub services: Vec<(ServiceName, Option<Service>)>,
    /// Of pods.
    pub pods: Vec<(PodName, Option<Pod>)>,
    /// All of them, see [`Inventory::routes`].
    pub routes: Option<Vec<HttpRoute>>,
    /// See [`Inventory::objectives`].
    pub objectives: Option<Vec<Declared>>,
}

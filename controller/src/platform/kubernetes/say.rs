//! The shell of [`status`](super::status): writes what is said of objects.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use tokio::{sync::watch, time::sleep};
use tracing::warn;

use super::status::Statement;

/// Objects whose status is written at once: a Service that is deleted may be that of many routes.
const AT_ONCE: usize = 8;
/// Between two rounds of writing: the API server has told of the last one's by then.
const PAUSE: Duration = Duration::from_millis(200);
/// Until what was not taken is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Writes what is to be said, until nobody has anything to say any more. Of what not all replicas understand at this `level` of theirs nothing is:
/// it is not in force.
pub async fn say(client: Client, mut statements: watch::Receiver<Vec<Statement>>, mut level: watch::Receiver<u32>) {
    loop {
        let understood = *level.borrow_and_update();
        let mut wanted = statements.borrow_and_update().clone();
        wanted.retain(|statement| statement.kind.level() <= understood);
        let each = stream::iter(wanted).map(|statement| write(client.clone(), statement)).buffer_unordered(AT_ONCE);
        let all_taken = each.fold(true, |all, taken| std::future::ready(all && taken)).await;
        sleep(PAUSE).await;
        tokio::select! {
            changed = statements.changed() => if changed.is_err() { return },
            changed = level.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if !all_taken => {}
        }
    }
}

/// Whether there is nothing left to do.
async fn write(client: Client, statement: Statement) -> bool {
    let objects = Api::<DynamicObject>::namespaced_with(client, &statement.namespace, &statement.kind.resource());
    let patch = Patch::Merge(statement.patch(&Time(Timestamp::now())));
    match objects.patch_status(&statement.name, &PatchParams::default(), &patch).await {
        Ok(_) => true,
        // Somebody else has changed it, or deleted it: that is told, and decided about anew.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => true,
        Err(error) => {
            let object = format!("{}/{}", statement.namespace, statement.name);
            let what = statement.kind.plural();
            warn!(what, object, %error, "the status of an object is not what it should be; it is tried again");
            false
        }
    }
}

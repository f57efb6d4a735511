//! From a new leader until it knows what runs in the cluster.

use tokio::time::Instant;

use super::replicas::Replicas;
use crate::{
    control_plane::line,
    load::{histogram, record},
};

/// The first leader of a control plane, which knows nothing.
///
/// # Errors
/// When it does not get to know all of it.
pub async fn first(replicas: &Replicas, pods: usize, services: usize) -> anyhow::Result<String> {
    let leader = replicas.first("a replica leads", |told| told.leads()).await?;
    let began = Instant::now();
    replicas.all("everything is known", |told| told.knows(pods, services)).await?;
    let took = began.elapsed().as_secs_f64();
    let (now, most) = replicas.memory(leader);
    Ok(format!(
        "a cluster that is new to it: {took:.2}s from the first leader until all replicas know it; the leader holds {now:.0} MB, {most:.0} MB at most\n"
    ))
}

/// Leaders that follow one that was killed: they know what was, and have to know what is.
///
/// # Errors
/// When one does not.
pub async fn again(replicas: &mut Replicas, kills: usize) -> anyhow::Result<String> {
    let (mut elected, mut described, mut most) = (histogram(), histogram(), 0.0_f64);
    for _ in 0..kills {
        let leader = replicas.first("a replica leads", |told| told.leads()).await?;
        let killed = Instant::now();
        replicas.kill(leader)?;
        let next = replicas.first("another replica leads", |told| told.leads()).await?;
        let began = Instant::now();
        record(&mut elected, began - killed);
        replicas.first("it has been told what runs", |told| told.leads() && told.is_described()).await?;
        record(&mut described, began.elapsed());
        most = most.max(replicas.memory(next).1);
        replicas.spawn(leader)?;
        replicas.all("it has caught up", |told| told.value("raft_has_leader") == Some(1.0)).await?;
    }
    Ok(format!(
        "{}{}a leader holds {most:.0} MB at most\n",
        line("leader killed, another leads", &elected),
        line("it leads, and has been told all that runs", &described),
    ))
}

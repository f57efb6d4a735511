//! The control plane as the command line sees it: replicas, any of which will do, or a cluster that has some.

use std::{error::Error as _, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use conduit_api::{
    failover::is_of_replica,
    proto::public::{VersionRequest, api_client::ApiClient},
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status, transport::Endpoint};
use tracing::debug;

use crate::{address::Address, kubernetes, transport::Transport};

/// A replica that has not accepted by then is skipped.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A replica that does not even say its version by then is skipped: one that hangs is not waited for.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longer than a replica looks for a leader before it gives up, so that it can say so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// A cluster hands on what is asked to any replica, and as many times to another.
const CLUSTER_TRIES_MAX: usize = 5;
const CLUSTER_RETRY: Duration = Duration::from_millis(300);

const NO_ANSWER_OF_CLUSTER: &str = "no answer in time, of the cluster's API server or of the control plane behind it";

/// The client of one replica.
pub type Client = ApiClient<Transport>;

/// Where it is.
#[derive(Clone, Debug)]
pub enum ControlPlane {
    /// Replicas' addresses, in the order in which they are asked; without any, every question is answered with how to start one.
    Replicas(Vec<Address>),
    /// In a cluster, whose API server hands on what is asked.
    Cluster {
        /// Which one.
        options: kubernetes::Options,
        /// The control plane's.
        namespace: String,
    },
}

impl ControlPlane {
    /// Replicas at these addresses.
    pub fn at(replicas: Vec<Address>) -> Self {
        Self::Replicas(replicas)
    }

    /// The answer of the first replica that gives one. `ask` is called once for each replica that can be connected to,
    /// until its error is not about that replica alone.
    ///
    /// # Errors
    /// When there is no replica, none of them answers, or one refuses.
    pub async fn ask<T>(&self, ask: impl AsyncFn(&mut Client) -> Result<Response<T>, Status>) -> anyhow::Result<T> {
        let replicas = match self {
            Self::Replicas(replicas) => replicas,
            Self::Cluster { options, namespace } => return ask_cluster(options, namespace, ask).await,
        };
        some(replicas)?;
        let (mut failure, mut refusal) = (None, None);
        for replica in replicas {
            match ask_one(replica, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Final(status)) => return Err(refused(&status)),
                Err(Refusal::OfReplica(error)) => {
                    debug!(%replica, error = format!("{error:#}"), "asking the next replica");
                    failure = Some(error);
                }
                Err(Refusal::ForNow(status)) => {
                    debug!(%replica, error = status.message(), "asking the next replica");
                    refusal = Some(refused(&status));
                }
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        Err(no_answer(replicas, failure.expect("there is a replica, and it did not answer")))
    }

    /// How to get to a replica that answers, for a command that goes on asking. Replica number `first` comes first, past the last one from the
    /// beginning again.
    ///
    /// # Errors
    /// When there is no replica, or none of them answers.
    pub async fn connect(&self, first: usize) -> anyhow::Result<Transport> {
        let replicas = match self {
            Self::Replicas(replicas) => replicas,
            Self::Cluster { options, namespace } => {
                let transport = Transport::through(options.streaming_client().await?, namespace);
                let version =
                    timeout(ANSWER_TIMEOUT, ApiClient::new(transport.clone()).version(VersionRequest {})).await;
                version.context(NO_ANSWER_OF_CLUSTER)?.map_err(|status| refused(&status))?;
                return Ok(transport);
            }
        };
        some(replicas)?;
        let mut failure = None;
        for at in 0..replicas.len() {
            match alive(&replicas[first.wrapping_add(at) % replicas.len()]).await {
                Ok(transport) => return Ok(transport),
                Err(error) => failure = Some(error),
            }
        }
        Err(no_answer(replicas, failure.expect("there is a replica, and it did not answer")))
    }
}

fn some(replicas: &[Address]) -> anyhow::Result<()> {
    if replicas.is_empty() {
        bail!(
            "no Conduit control plane found: start one on this machine with `conduit local up --demo`, install it in a cluster with \
             `conduit install | kubectl apply -f -`, or give its address with --api-addr"
        );
    }
    Ok(())
}

fn no_answer(replicas: &[Address], failure: anyhow::Error) -> anyhow::Error {
    failure.context(match replicas {
        [replica] => format!("the control plane at {replica} does not answer"),
        replicas => format!("none of {} replicas of the control plane answers", replicas.len()),
    })
}

enum Refusal {
    /// Another replica may do better.
    OfReplica(anyhow::Error),
    /// It cannot do that at the moment; another one may.
    ForNow(Status),
    /// All would say this.
    Final(Status),
}

/// The API server finds a replica that is ready.
async fn ask_cluster<T>(
    options: &kubernetes::Options,
    namespace: &str,
    ask: impl AsyncFn(&mut Client) -> Result<Response<T>, Status>,
) -> anyhow::Result<T> {
    let mut client = ApiClient::new(Transport::through(options.streaming_client().await?, namespace));
    let mut asked = 1;
    loop {
        let answer = timeout(ANSWER_TIMEOUT, ask(&mut client)).await.context(NO_ANSWER_OF_CLUSTER)?;
        match answer {
            Ok(answer) => return Ok(answer.into_inner()),
            // A replica says so that cannot do it at the moment: the next one may be another.
            Err(status) if status.code() == Code::Unavailable && asked < CLUSTER_TRIES_MAX => {
                debug!(error = status.message(), "asking the cluster again");
                asked += 1;
                sleep(CLUSTER_RETRY).await;
            }
            Err(status) => return Err(refused(&status)),
        }
    }
}

async fn ask_one<T>(
    replica: &Address,
    ask: &impl AsyncFn(&mut Client) -> Result<Response<T>, Status>,
) -> Result<T, Refusal> {
    let mut client = ApiClient::new(alive(replica).await.map_err(Refusal::OfReplica)?);
    let answer = timeout(ANSWER_TIMEOUT, ask(&mut client)).await;
    match answer.map_err(|_| Refusal::OfReplica(anyhow!("no answer within {ANSWER_TIMEOUT:?}")))? {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) if status.code() == Code::Unavailable && status.source().is_none() => Err(Refusal::ForNow(status)),
        Err(status) if is_of_replica(&status) => Err(Refusal::OfReplica(refused(&status))),
        Err(status) => Err(Refusal::Final(status)),
    }
}

/// One that has said its version.
async fn alive(replica: &Address) -> anyhow::Result<Transport> {
    let endpoint = Endpoint::from_shared(replica.to_uri()).with_context(|| format!("`{replica}` is not an address"))?;
    let connected = timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
    let channel = connected.map_err(|_| anyhow!("no connection within {CONNECT_TIMEOUT:?}"))?.map_err(innermost)?;
    let transport = Transport::Replica(channel);
    let version = timeout(ALIVE_TIMEOUT, ApiClient::new(transport.clone()).version(VersionRequest {})).await;
    version.map_err(|_| anyhow!("no answer within {ALIVE_TIMEOUT:?}"))?.map_err(|status| refused(&status))?;
    Ok(transport)
}

/// What a replica said, without the wrapping of gRPC.
pub fn refused(status: &Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow!("the control plane answered with {:?}", status.code()),
        message => anyhow!("{message}"),
    }
}

/// The cause that says something: a transport error's own text is only "transport error".
fn innermost(error: tonic::transport::Error) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    anyhow!("{}", error.root_cause())
}

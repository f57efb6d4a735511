//! Serves the API in JSON on loopback with the methods that change something, which `conduit dashboard` does not: for
//! `dashboard/tests/api`, over the socket of a mesh that is thrown away.
//!
//! ```sh
//! serve_api /path/of/controller-0.sock        # prints where it is
//! ```

use std::{env, error::Error, sync::Arc};

use conduit_dashboard::{Connect, Hosts, Options, Upstream, router};
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tonic::{Status, transport::Endpoint};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

fn main() -> Result<(), Box<dyn Error>> {
    let socket = env::args().nth(1).ok_or("say which socket the mesh's API is at")?;
    let endpoint = Endpoint::from_shared(format!("unix:{socket}"))?;
    let connect: Connect = Arc::new(move |_| {
        let channel = endpoint.connect_lazy();
        async { Ok(BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(Box::new(error))))) }.boxed()
    });
    let options = Options { prefixes: Vec::new(), hosts: Hosts::Loopback, writes: true, pages: Vec::new() };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}", listener.local_addr()?);
        axum::serve(listener, router(Upstream::new(connect), &options)).await?;
        Ok(())
    })
}

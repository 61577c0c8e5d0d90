//! A backend with a listener of its own, for one that does not live in the broker: in the broker, peers arrive on the
//! controller's listener.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
};

use async_trait::async_trait;
use quorate_core::{
    consensus::{Consensus, Resume, Running, StartError},
    runtime::{Connection, Listener, Runtime},
};
use tokio::sync::mpsc;

/// Connections that wait until the backend has taken the earlier ones.
const WAITING_MAX: usize = 64;

/// A backend and the listener that it binds when it starts. The listener is closed when the backend has gone.
pub struct Listening<B> {
    backend: B,
    listener: String,
    peers: mpsc::Sender<(Connection, SocketAddr)>,
    runtime: Runtime,
}

impl<B: Consensus> Listening<B> {
    /// The backend that `make` makes of the connections to come, on `listener` (`host:port`). Binds nothing yet.
    ///
    /// # Errors
    /// [`StartError::Config`] if there is no listener, and whatever `make` refuses.
    pub fn new(
        listener: Option<&str>,
        runtime: &Runtime,
        make: impl FnOnce(mpsc::Receiver<(Connection, SocketAddr)>) -> Result<B, StartError>,
    ) -> Result<Self, StartError> {
        let listener = listener.ok_or_else(|| {
            let problem = "consensus.listener is not set: this backend's nodes reach each other there";
            StartError::Config(problem.to_owned())
        })?;
        let (peers, incoming) = mpsc::channel(WAITING_MAX);
        let backend = make(incoming)?;
        Ok(Self { backend, listener: listener.to_owned(), peers, runtime: runtime.clone() })
    }
}

#[async_trait]
impl<B: Consensus> Consensus for Listening<B> {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        let Self { backend, listener, peers, runtime } = *self;
        let refused =
            |problem: std::io::Error| StartError::Config(format!("consensus.listener={listener}: {problem}"));
        let mut addresses = listener.to_socket_addrs().map_err(refused)?;
        let address = addresses.next().ok_or_else(|| refused(std::io::ErrorKind::AddrNotAvailable.into()))?;
        let bound = runtime.network.listen(address).map_err(refused)?;
        runtime.tasks.spawn(accept(bound, peers));
        Box::new(backend).start(resume).await
    }
}

/// Hands connections over until nobody takes them.
async fn accept(mut listener: Listener, peers: mpsc::Sender<(Connection, SocketAddr)>) {
    loop {
        let accepted = tokio::select! { biased;
            () = peers.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(connection) => {
                if peers.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Too many open files, or a connection that was gone before it was taken.
                tracing::debug!(%error, "a peer's connection was not accepted");
                tokio::task::yield_now().await;
            }
        }
    }
}

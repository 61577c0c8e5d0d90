//! Sockets: bound before anything else runs, so that connections queue while the node starts; accepted streams are
//! spread over the shards, each a thread with an event loop of its own.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream, ToSocketAddrs as _},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use quorate_core::{
    broker::config::ListenerPurpose,
    runtime::{Clock, Connection, TaskScope},
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{ListenerConfig, endpoints::Endpoint};

/// Connections that wait to be accepted while a node starts or is busy; the system caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;
/// After a failed accept, usually for want of descriptors: long enough to cost nothing, short enough to be unnoticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener could not be bound.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    /// Somebody else listens there.
    #[error("{name}: {endpoint} is in use by another process; stop it, or choose another port")]
    InUse { name: String, endpoint: Endpoint },
    /// The host is not known, or not of this machine.
    #[error("{name}: cannot listen at {endpoint}: {error}")]
    System { name: String, endpoint: Endpoint, error: io::Error },
}

/// A bound listener; connections queue in its backlog.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The listener's name.
    pub(crate) name: String,
    /// Who speaks on it.
    pub(crate) purpose: ListenerPurpose,
    /// What clients are told.
    pub(crate) advertised: Endpoint,
    /// Where it is.
    pub(crate) address: SocketAddr,
    socket: StdListener,
}

/// Binds one listener. Blocking: a host name is looked up.
///
/// # Errors
/// [`BindError`], with the listener's name and address.
pub(crate) fn bind(config: &ListenerConfig) -> Result<Bound, BindError> {
    let socket = bind_endpoint(&config.name, &config.bind)?;
    let system =
        |error| BindError::System { name: config.name.clone(), endpoint: config.bind.clone(), error };
    let address = socket.local_addr().map_err(system)?;
    let mut advertised = config.advertised.clone();
    if advertised.port == 0 {
        advertised.port = address.port();
    }
    Ok(Bound { name: config.name.clone(), purpose: config.purpose, advertised, address, socket })
}

/// Binds an endpoint; `name` is for the error.
///
/// # Errors
/// As [`bind`].
pub(crate) fn bind_endpoint(name: &str, endpoint: &Endpoint) -> Result<StdListener, BindError> {
    listen(endpoint).map_err(|error| {
        let (name, endpoint) = (name.to_owned(), endpoint.clone());
        match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { name, endpoint },
            _ => BindError::System { name, endpoint, error },
        }
    })
}

fn listen(endpoint: &Endpoint) -> io::Result<StdListener> {
    if endpoint.host.is_empty() {
        // Both families by one socket, as Java does; a machine without IPv6 has the older one.
        let both = listen_at(SocketAddr::from(([0u16; 8], endpoint.port)));
        return match both {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            Err(_) => listen_at(SocketAddr::from(([0u8; 4], endpoint.port))),
            Ok(listener) => Ok(listener),
        };
    }
    let mut addresses: Vec<SocketAddr> = (endpoint.host.as_str(), endpoint.port).to_socket_addrs()?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let first = addresses.first().ok_or_else(|| io::Error::other("the host has no address"))?;
    listen_at(*first)
}

fn listen_at(address: SocketAddr) -> io::Result<StdListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Threads that serve connections, each with a current-thread event loop.
#[derive(Debug)]
pub(crate) struct Shards {
    handles: Vec<Handle>,
    next: AtomicUsize,
    ended: CancellationToken,
}

impl Shards {
    /// Starts `count` threads of this name. They end when the value is dropped.
    ///
    /// # Errors
    /// If the system has no thread or no event queue to give.
    pub(crate) fn start(name: &str, count: usize) -> io::Result<Self> {
        let ended = CancellationToken::new();
        let mut handles = Vec::with_capacity(count);
        for number in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let ended = ended.clone();
            let body = move || runtime.block_on(ended.cancelled());
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(body)?;
        }
        Ok(Self { handles, next: AtomicUsize::new(0), ended })
    }

    /// The event loops, one after the other, for as many calls as there are connections.
    pub(crate) fn next(&self) -> Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let at = turn.checked_rem(self.handles.len()).unwrap_or(0);
        // There is at least one, and the remainder is below their number.
        self.handles.get(at).cloned().unwrap_or_else(Handle::current)
    }

    /// All event loops.
    pub(crate) fn all(&self) -> &[Handle] {
        &self.handles
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// What becomes of an accepted connection: a future that serves it to its end.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves `connection`, which came from `peer`. Runs on a shard.
    fn serve(&self, connection: Connection, peer: SocketAddr) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Accepts on `bound` until `scope` stops; each connection is served on the next shard. At most as many are open as
/// `limit` has permits; more wait in the backlog.
pub(crate) fn accept(
    bound: Bound,
    serve: Arc<dyn Serve>,
    shards: &Arc<Shards>,
    limit: Arc<Semaphore>,
    scope: &TaskScope,
) {
    let (shards, tasks) = (shards.clone(), scope.clone());
    scope.on(shards.next()).spawn(async move {
        let name = bound.name.clone();
        let listener = match TcpListener::from_std(bound.socket) {
            Ok(listener) => listener,
            Err(error) => return warn!(listener = name, %error, "cannot accept connections"),
        };
        loop {
            let permit = tokio::select! { biased;
                () = tasks.stopping() => return,
                permit = limit.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! { biased;
                () = tasks.stopping() => return,
                accepted = listener.accept() => accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))),
            };
            match accepted {
                Ok((stream, peer)) => {
                    let serve = serve.clone();
                    tasks.on(shards.next()).spawn(async move {
                        serve_one(stream, peer, serve).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(listener = name, %error, "a connection could not be accepted");
                    Clock::system().sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

async fn serve_one(stream: StdStream, peer: SocketAddr, serve: Arc<dyn Serve>) {
    // A socket that fails here has been closed by its peer already.
    let ready = stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream));
    if let Ok(stream) = ready {
        serve.serve(Connection::Tcp(stream), peer).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, io::Read as _};
    use tokio::io::AsyncWriteExt as _;

    fn config(bind: Endpoint) -> ListenerConfig {
        let advertised = bind.clone();
        ListenerConfig { name: "PLAINTEXT".to_owned(), bind, advertised, purpose: ListenerPurpose::Client }
    }

    fn anywhere() -> Endpoint {
        Endpoint { host: "127.0.0.1".to_owned(), port: 0 }
    }

    /// Answers with the name of the thread that serves.
    struct NameThread;

    impl Serve for NameThread {
        fn serve(&self, connection: Connection, _: SocketAddr) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(async move {
                let mut connection = connection;
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                let _ = connection.write_all(name.as_bytes()).await;
            })
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let bound = bind(&config(anywhere())).unwrap();
        let endpoint = Endpoint { port: bound.address.port(), ..anywhere() };
        let error = bind(&config(endpoint)).unwrap_err().to_string();
        assert!(error.contains("PLAINTEXT") && error.contains(&bound.address.to_string()), "{error}");
    }

    #[test]
    fn port_zero_is_advertised_as_the_port_that_was_bound() {
        let bound = bind(&config(anywhere())).unwrap();
        assert_eq!(bound.advertised.port, bound.address.port());
    }

    #[tokio::test]
    async fn connections_that_came_before_the_accept_loop_are_served_by_all_shards() {
        let bound = bind(&config(anywhere())).unwrap();
        let streams: Vec<StdStream> = (0..8).map(|_| StdStream::connect(bound.address).unwrap()).collect();
        let shards = Arc::new(Shards::start("shard", 2).unwrap());
        let scope = TaskScope::threaded();
        accept(bound, Arc::new(NameThread), &shards, Arc::new(Semaphore::new(100)), &scope);
        let read = move || {
            let read_one = |mut stream: StdStream| {
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            };
            streams.into_iter().map(read_one).collect::<BTreeSet<String>>()
        };
        let names = tokio::task::spawn_blocking(read).await.unwrap();
        assert_eq!(names, BTreeSet::from(["shard-0".to_owned(), "shard-1".to_owned()]));
        scope.stop().await;
    }
}

//! One node: what is bound, made and started, in that order, and what ends it.

use std::{future::Future, io, net::SocketAddr, net::TcpListener, pin::Pin, sync::Arc};

use quorate_core::{
    broker::{
        BoundListeners, Broker, BrokerState, NodeFacts,
        config::{BrokerConfig, ListenerConfig, ListenerPurpose},
        directory_lock::{self, DirectoryLocks, LockError},
        meta_properties::{self, MetaError, MetaProperties},
        start::{Bound, Constructed, StartError, Started},
    },
    consensus,
    handler::{self, Handlers},
    ids::DirectoryId,
    metadata::{command::SecurityProtocol, image::Endpoint},
    runtime::{Clock, Connection, Runtime, TaskScope},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    backend::{self, Ingredients},
    config::ServerConfig,
    exit::Failure,
    http::{self, Pages},
    leadership::LeadershipLog,
    listener::{self, Serve, Shards},
    metrics::{self, Counter, Sample},
    peers,
    readiness::{Progress, Readiness, readiness},
    signals::{Signals, Told},
    waiting,
};

/// Constructs what would be started, and drops it.
///
/// # Errors
/// If the backend refuses its configuration.
pub(crate) fn check(config: &ServerConfig) -> Result<(), Failure> {
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let _entered = engine.enter();
    let (_peers, peers) = mpsc::channel(peers::WAITING_MAX);
    let runtime = &Runtime::real();
    let choice = &backend::choose(&config.consensus.name).map_err(Failure::Config)?;
    let (directory, generation) = (DirectoryId::default(), 1);
    let ingredients = Ingredients { choice, config, runtime, directory, generation, peers };
    backend::select(ingredients).map(drop).map_err(Failure::Config)
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// If it cannot start, or fails for good.
pub(crate) fn run(config: &ServerConfig) -> Result<(), Failure> {
    let choice = backend::choose(&config.consensus.name).map_err(Failure::Config)?;
    let sockets = Sockets::bind(config).map_err(Failure::new)?;
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let entered = engine.enter();
    let runtime = Runtime::real();
    let _locks = lock(config, &runtime)?;
    let folders = folders(config, &runtime, &choice.recorded)?;
    let (sender, peers) = mpsc::channel(peers::WAITING_MAX);
    let first = folders.first().map(|folder| (folder.directory, folder.generation));
    let (directory, generation) = first.unwrap_or((DirectoryId::default(), 1));
    let ingredients =
        Ingredients { choice: &choice, config, runtime: &runtime, directory, generation, peers };
    let consensus = backend::select(ingredients).map_err(Failure::Config)?;
    let facts = BrokerConfig { backend: choice.recorded, ..config.broker_config() };
    let node = Constructed::new(facts, runtime, consensus).bound(sockets.reached());
    let surroundings = Surroundings::open(config, sockets, node.broker(), sender).map_err(Failure::new)?;
    drop(entered);
    engine.block_on(live(node, folders, surroundings))
}

/// Keeps other processes out of the folders, until the process ends.
pub(crate) fn lock(config: &ServerConfig, runtime: &Runtime) -> Result<DirectoryLocks, Failure> {
    directory_lock::lock(runtime, &config.log_dirs).map_err(|error| match error {
        LockError::Twice(_) => Failure::config(error),
        LockError::InUse(_) | LockError::System { .. } => Failure::new(error),
    })
}

/// The log directories, made where they are missing; refused where they are not this node's.
fn folders(config: &ServerConfig, runtime: &Runtime, backend: &str) -> Result<Vec<MetaProperties>, Failure> {
    let folders = open(config, runtime, backend)?;
    meta_properties::check_generations(&folders).map_err(Failure::config)?;
    Ok(folders)
}

/// As [`folders`], where a generation may have been taken by some and not by all.
pub(crate) fn open(
    config: &ServerConfig,
    runtime: &Runtime,
    backend: &str,
) -> Result<Vec<MetaProperties>, Failure> {
    let opened = meta_properties::open(runtime, &config.log_dirs, config.node, backend);
    opened.map_err(|error| match error {
        MetaError::System { .. } => Failure::new(error),
        _ => Failure::config(error),
    })
}

/// Bound, and not listened to yet.
struct Sockets {
    listeners: Vec<listener::Bound>,
    http: Option<TcpListener>,
}

impl Sockets {
    fn bind(config: &ServerConfig) -> Result<Self, listener::BindError> {
        let listeners = config.listeners.iter().map(listener::bind).collect::<Result<_, _>>()?;
        let http =
            config.http.as_ref().map(|endpoint| listener::bind_endpoint("quorate.http.listener", endpoint));
        Ok(Self { listeners, http: http.transpose()? })
    }

    /// Where clients and peers are told that this node is.
    fn reached(&self) -> BoundListeners {
        let mut reached = BoundListeners::default();
        for bound in &self.listeners {
            let (host, port) = (bound.advertised.host.clone(), bound.advertised.port);
            if bound.purpose == ListenerPurpose::Controller {
                reached.controller = Some((host, port));
            } else {
                let (listener, protocol) = (bound.name.clone(), SecurityProtocol::Plaintext);
                reached.endpoints.push(Endpoint { listener, host, port, protocol });
            }
        }
        reached
    }
}

/// What is around the broker: threads, accept loops, pages, signals.
struct Surroundings {
    /// Connections; they end after the broker has.
    connections: TaskScope,
    pages: Arc<NodePages>,
    signals: Signals,
    _shards: Arc<Shards>,
    _http: Arc<Shards>,
}

impl Surroundings {
    /// Begins to accept. Clients are answered from here on, with what is known.
    fn open(
        config: &ServerConfig,
        sockets: Sockets,
        broker: &Arc<Broker>,
        peers: peers::Sender,
    ) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let shards = Arc::new(Shards::start("shard", config.shards.unwrap_or_else(cores))?);
        let web = Arc::new(Shards::start("http", 1)?);
        let connections = TaskScope::threaded();
        let handlers = Handlers::new(broker.clone());
        let limit = Arc::new(Semaphore::new(connections_max(config)));
        for bound in sockets.listeners {
            info!(listener = bound.name, address = %bound.address, advertised = %bound.advertised, "listening");
            if !bound.address.ip().is_loopback() {
                warn!(
                    listener = bound.name,
                    "whoever reaches {} can read and write everything: there is no authentication yet",
                    bound.address
                );
            }
            let serve = KafkaListener {
                handlers: handlers.clone(),
                tasks: connections.clone(),
                config: ListenerConfig {
                    name: bound.name.clone(),
                    protocol: SecurityProtocol::Plaintext,
                    purpose: bound.purpose,
                },
                peers: (bound.purpose == ListenerPurpose::Controller).then(|| peers.clone()),
            };
            listener::accept(bound, Arc::new(serve), &shards, limit.clone(), &connections);
        }
        let pages = Arc::new(NodePages::new(broker.clone()));
        if let Some(socket) = sockets.http {
            info!(address = %socket.local_addr()?, "health and metrics");
            let every_loop = [shards.clone(), web.clone()];
            let engine = tokio::runtime::Handle::current();
            http::serve(
                socket,
                pages.clone(),
                http::Loops::new(&every_loop, engine),
                &connections.on(web.next()),
            );
        }
        Ok(Self { connections, pages, signals: Signals::new()?, _shards: shards, _http: web })
    }
}

/// `max.connections`, but not more than the descriptors that this process may have leave room for.
fn connections_max(config: &ServerConfig) -> usize {
    let set = config.file.get("max.connections").and_then(|text| text.parse::<usize>().ok());
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = descriptors.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    // A quarter is left for files and for the node's own connections.
    let room = descriptors / 4 * 3;
    set.unwrap_or(usize::MAX).min(room).clamp(1, Semaphore::MAX_PERMITS)
}

/// A listener that speaks Kafka's protocol, and, where it has `peers`, hands the backend's peers over.
struct KafkaListener {
    handlers: Arc<Handlers>,
    tasks: TaskScope,
    config: ListenerConfig,
    peers: Option<peers::Sender>,
}

impl Serve for KafkaListener {
    fn serve(&self, connection: Connection, peer: SocketAddr) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (handlers, tasks) = (self.handlers.clone(), self.tasks.clone());
        let (config, peers) = (self.config.clone(), self.peers.clone());
        Box::pin(async move {
            let connection = match peers {
                Some(peers) => peers::divert(connection, peer, &peers, &tasks).await,
                None => Some(connection),
            };
            if let Some(connection) = connection {
                handler::serve(handlers, tasks, connection, peer, &config).await;
            }
        })
    }
}

/// From the start of the backend to the end of the node.
async fn live(node: Bound, folders: Vec<MetaProperties>, mut around: Surroundings) -> Result<(), Failure> {
    let facts = NodeFacts {
        cluster: folders.iter().find_map(|folder| folder.cluster),
        generation: folders.first().map_or(1, |folder| folder.generation),
        directories: folders.iter().map(|folder| folder.directory).collect(),
        ..NodeFacts::default()
    };
    let broker = node.broker().clone();
    let started = match node.start(facts).await {
        Ok(started) => started,
        Err(error) => return Err(not_started(&error)),
    };
    let tasks = &broker.runtime.tasks;
    tasks.spawn_thread("meta", meta_properties::remember(broker.clone(), folders));
    if let Some(consensus) = broker.consensus() {
        around.pages.leadership.follow(consensus.leader_events(), tasks);
    }
    waiting::tell(around.pages.clone(), tasks);
    let outcome = until_told(&mut around.signals, &broker).await;
    around.pages.stopping.cancel();
    match outcome {
        Ok(()) => stop(started, around).await,
        Err(fatal) => Err(Failure::Failed(fatal)),
    }
}

/// Another try changes nothing about a folder of another cluster, or a value that cannot be.
fn not_started(error: &StartError) -> Failure {
    match error {
        StartError::Foreign { .. }
        | StartError::Generation { .. }
        | StartError::Consensus(consensus::StartError::Config(_) | consensus::StartError::Foreign(_)) => {
            Failure::config(error)
        }
        _ => Failure::new(error),
    }
}

/// A controlled shutdown; a second signal ends it at once.
async fn stop(started: Started, mut around: Surroundings) -> Result<(), Failure> {
    info!("stopping in order; a second signal ends the process at once");
    let fatal = started.broker().fatal();
    let in_order = async {
        started.stop().await;
        around.connections.stop().await;
    };
    tokio::select! { biased;
        () = around.signals.stop() => {
            return Err(Failure::new("told to stop a second time: ended at once"));
        }
        () = in_order => {}
    }
    let failed = fatal.borrow().clone();
    match failed {
        Some(reason) => Err(Failure::Failed(reason)),
        None => {
            info!("stopped");
            Ok(())
        }
    }
}

/// Returns when the node is to stop, or the reason why it cannot go on.
async fn until_told(signals: &mut Signals, broker: &Broker) -> Result<(), String> {
    let mut fatal = broker.fatal();
    loop {
        tokio::select! { biased;
            failed = fatal.wait_for(Option::is_some) => {
                let reason = failed.map_or(None, |reason| reason.clone());
                return Err(reason.unwrap_or_else(|| "the broker has gone".to_owned()));
            }
            told = signals.next() => match told {
                Told::Stop => return Ok(()),
                Told::Hangup => info!("HUP is ignored: there is nothing of the file to read again while it runs"),
            },
        }
    }
}

/// What the pages show of a node.
struct NodePages {
    broker: Arc<Broker>,
    leadership: LeadershipLog,
    counter: Counter,
    stopping: CancellationToken,
}

impl NodePages {
    fn new(broker: Arc<Broker>) -> Self {
        Self {
            leadership: LeadershipLog::new(broker.node(), Clock::system()),
            broker,
            counter: Counter::default(),
            stopping: CancellationToken::new(),
        }
    }
}

impl Pages for NodePages {
    fn readiness(&self) -> Readiness {
        let broker = &self.broker;
        let leadership = self.leadership.now();
        let applied = *broker.applied().borrow();
        let state = *broker.state().borrow();
        let progress = Progress {
            cluster: broker.image().founding.map(|founding| founding.cluster),
            status: broker.consensus().map(|consensus| consensus.status()),
            leadership,
            caught_up: applied.controller.is_some_and(|(epoch, _)| epoch == leadership.epoch),
            unfenced: !broker.config.roles.broker || state == BrokerState::Running,
            stopping: self.stopping.is_cancelled(),
            fatal: broker.fatal().borrow().clone(),
        };
        readiness(broker.node(), &progress)
    }

    fn metrics(&self) -> String {
        let sample = Sample {
            node: self.broker.node(),
            image: self.broker.image_arc(),
            leadership: self.leadership.now(),
            status: self.broker.consensus().map(|consensus| consensus.status()),
        };
        metrics::render(&self.counter, sample).unwrap_or_default()
    }
}

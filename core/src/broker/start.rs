//! The order in which a node comes up, as types: nothing can be done before what it stands on.
//!
//! ```text
//!   Constructed ──bound()──► Bound ──start().await──► Started ──stop().await
//!   no disk, no network,     listeners answer from    applier, roles, heartbeat run;
//!   no task, no waiting      the table of what is     nobody has been waited for
//!                            not known yet
//! ```
//! `start` is the first await of a node's life, and waits for no peer. Metadata is initialised only by the controller's
//! driver, which needs a token that only a leader event makes.

use std::{cmp::Ordering, io, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    BoundListeners, Broker, BrokerConfig, BrokerState, ControllerAt, NodeFacts, applier, controller, fetcher,
    folders::Folders, heartbeat, housekeeping, image_file, isr, life::Life, producer_ids, reconciler, syncer,
};
use crate::{
    consensus::{
        self, Consensus, LogId, Resume, Running,
        activation::{LeaderKnown, Role, Roles},
    },
    log::PageCache,
    metadata::Image,
    runtime::{Runtime, make_folder},
};

/// How long a broker that stops waits for a quorum that does not answer.
const UNHEARD: Duration = Duration::from_millis(600);

/// A node that is made and runs nothing.
pub struct Constructed {
    broker: Arc<Broker>,
    consensus: Box<dyn Consensus>,
}

/// A node whose listeners are bound.
pub struct Bound {
    broker: Arc<Broker>,
    consensus: Box<dyn Consensus>,
}

/// A node that runs.
pub struct Started {
    broker: Arc<Broker>,
    consensus: Arc<dyn Running>,
}

/// Why a node did not start. All of it is local and final.
#[derive(Debug, Error)]
pub enum StartError {
    /// The metadata folder cannot be used.
    #[error("the metadata folder {folder} cannot be used: {error}")]
    Metadata {
        /// The folder.
        folder: String,
        /// As the system says.
        error: io::Error,
    },
    /// The metadata and the records are of two clusters.
    #[error(
        "the metadata in {folder} is of cluster {metadata}, the log directories are of cluster {records}: give each \
         node its own folders back, or an empty folder for the metadata"
    )]
    Foreign {
        /// The metadata folder.
        folder: String,
        /// The cluster of the metadata.
        metadata: String,
        /// The cluster of the records.
        records: String,
    },
    /// The metadata is of a later generation than the records.
    #[error(
        "the metadata in {folder} is of generation {metadata}, the log directories are of generation {records}: give \
         the node its own folders back, or finish what was begun with 'quorate consensus accept-restore FILE'"
    )]
    Generation {
        /// The metadata folder.
        folder: String,
        /// The generation of the metadata.
        metadata: u64,
        /// The generation of the records.
        records: u64,
    },
    /// The backend did not start.
    #[error(transparent)]
    Consensus(#[from] consensus::StartError),
}

impl Constructed {
    /// Makes a node. `consensus` is constructed and not started.
    #[must_use]
    pub fn new(config: BrokerConfig, runtime: Runtime, consensus: Box<dyn Consensus>) -> Self {
        Self { broker: Broker::new(config, runtime), consensus }
    }

    /// The node, for accept loops.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The listeners are bound: clients that connect now are answered, or wait in a backlog.
    #[must_use]
    pub fn bound(self, listeners: BoundListeners) -> Bound {
        self.broker.bound.get_or_init(|| listeners);
        Bound { broker: self.broker, consensus: self.consensus }
    }
}

impl Bound {
    /// The node, for accept loops.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Loads the durable image, starts the backend, and spawns the node's tasks. Waits for no peer and no leader.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(self, mut facts: NodeFacts) -> Result<Started, StartError> {
        let Self { broker, consensus } = self;
        let folder = &broker.config.metadata_dir;
        let metadata = |error| StartError::Metadata { folder: folder.display().to_string(), error };
        let disk = broker.runtime.disk.as_ref();
        let loaded = make_folder(disk, folder).and_then(|()| image_file::load(disk, folder));
        let mut image = loaded.map_err(metadata)?;
        let used = facts.cluster.is_some() || image.founding.is_some();
        let life = Life::begin(disk, folder, used).map_err(metadata)?;
        facts.page_cache_lost |= life.page_cache_lost;
        facts.sync_failed |= life.sync_failed;
        *broker.life.lock() = Some(life);
        if let (Some(founding), Some(cluster)) = (image.founding, facts.cluster)
            && founding.cluster != cluster
        {
            let id = crate::ids::base64_id;
            let (metadata, records) = (id(founding.cluster), id(cluster));
            return Err(StartError::Foreign { folder: folder.display().to_string(), metadata, records });
        }
        if let (Some(founding), Some(_)) = (image.founding, facts.cluster) {
            match founding.generation.cmp(&facts.generation) {
                // An operator has accepted that the log of that generation is lost: the next one says what is so.
                Ordering::Less => image = Image::default(),
                Ordering::Equal => {}
                Ordering::Greater => {
                    let (folder, metadata) = (folder.display().to_string(), founding.generation);
                    return Err(StartError::Generation { folder, metadata, records: facts.generation });
                }
            }
        }
        let log_id = (image.log_id != LogId::default()).then_some(image.log_id);
        let log_id = log_id.or(facts.cluster.map(|cluster| LogId::of(cluster, facts.generation)));
        let resume = Resume { log_id, applied: image.index, chain: image.chain };
        broker.facts.get_or_init(|| facts);
        broker.publish(Arc::new(image));
        let consensus = consensus.start(resume).await?;
        broker.consensus.get_or_init(|| consensus.clone());
        spawn(&broker, &consensus);
        Ok(Started { broker, consensus })
    }
}

impl Started {
    /// The node.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Stops in order: the controller moves this broker's leaderships away while it still serves, then the backend
    /// hands over and stops, then the tasks end. The listeners are closed by whoever bound them, after this.
    pub async fn stop(self) {
        if self.broker.config.roles.broker {
            self.hand_over().await;
        }
        self.consensus.shutdown().await;
        self.broker.runtime.tasks.stop().await;
        if self.broker.fatal.borrow().is_none() {
            self.keep_image().await;
            let disk = self.broker.runtime.disk.as_ref();
            let ended = self.broker.life.lock().as_mut().map_or(Ok(()), |life| life.end(disk));
            if let Err(error) = ended {
                tracing::error!(%error, "that this node ended in order could not be written down");
            }
        }
    }

    /// Returns when the backend has reached no quorum since this was called, and a while has passed: whoever asks to be
    /// let go has something written, which nobody can do now.
    async fn unheard(&self) {
        let clock = &self.broker.runtime.clock;
        let begun = clock.now();
        loop {
            clock.sleep(UNHEARD / 6).await;
            let waited = clock.now().since(begun);
            let age = self.consensus.status().quorum_contact_age;
            if waited >= UNHEARD && age.is_none_or(|age| age >= waited) {
                return;
            }
        }
    }

    /// Writes the newest image to the disk, so that the next start begins with it, and so that it is known should the
    /// log be lost meanwhile.
    async fn keep_image(&self) {
        let broker = &self.broker;
        let (folder, image) = (&broker.config.metadata_dir, broker.image_arc());
        let _writing = broker.image_writing.lock().await;
        if let Err(error) = image_file::keep(&broker.runtime, folder, &image, &broker.syncs).await {
            tracing::warn!(%error, "the newest image of the metadata was not written: the next start reads the log");
        }
    }

    /// Waits until the controller lets this broker go; not longer than is configured, and not without a controller.
    async fn hand_over(&self) {
        let broker = &self.broker;
        let mut state = broker.state();
        let registered = |state: &BrokerState| !matches!(state, BrokerState::Starting | BrokerState::Stopped);
        if !registered(&state.borrow()) || broker.fatal.borrow().is_some() {
            return;
        }
        tracing::info!("this broker asks to be let go");
        broker.wants_shutdown.send_replace(true);
        let timings = &broker.config.timings;
        let clock = &broker.runtime.clock;
        let stopped = state.wait_for(|state| *state == BrokerState::Stopped);
        let leaderless = async {
            let mut at = broker.controller_at();
            loop {
                let lost = at.wait_for(|at| *at == ControllerAt::Unknown).await.is_err();
                let found = at.wait_for(|at| *at != ControllerAt::Unknown);
                // Not as long as an election takes: who goes without being let go is found out at once.
                if lost || clock.timeout(timings.session / 3, found).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { biased;
            _ = stopped => tracing::info!("this broker is let go"),
            () = self.unheard() => {
                tracing::warn!("the metadata cannot be changed now: this broker goes without being let go");
            }
            () = leaderless => tracing::warn!("nobody is the controller: this broker goes without being let go"),
            () = clock.sleep(timings.controlled_shutdown) => {
                tracing::warn!("the controller did not let this broker go in time");
            }
        }
    }
}

fn spawn(broker: &Arc<Broker>, consensus: &Arc<dyn Running>) {
    let tasks = &broker.runtime.tasks;
    // One image is written at a time; a newer one waits in the applier.
    let (store, images) = mpsc::channel(1);
    tasks.spawn_thread("image", applier::store(broker.clone(), consensus.clone(), images));
    tasks.spawn(applier::run(broker.clone(), consensus.clone(), store));
    tasks.spawn(follow_roles(broker.clone(), consensus.clone()));
    if broker.config.roles.broker {
        tasks.spawn_thread("heartbeat", heartbeat::run(broker.clone()));
        spawn_records(broker);
    }
}

/// What keeps the records of a broker.
fn spawn_records(broker: &Arc<Broker>) {
    let tasks = &broker.runtime.tasks;
    let torn = broker.life.lock().as_ref().is_none_or(|life| life.torn);
    let lost = torn || broker.facts().is_some_and(|facts| facts.page_cache_lost);
    let page_cache = if lost { PageCache::Lost } else { PageCache::Kept };
    let mut folders = Folders::new(&broker.runtime, &broker.config.log_dirs, page_cache);
    folders.rewrite = broker.life.lock().as_ref().is_none_or(|life| life.cache_in_doubt);
    for (number, directory) in folders.directories().into_iter().enumerate() {
        tasks.spawn_thread(&format!("sync-{number}"), syncer::run(broker.clone(), directory.dirty.clone()));
        let checkpoints = housekeeping::keep_checkpoints(broker.clone(), directory.clone());
        tasks.spawn_thread(&format!("checkpoint-{number}"), checkpoints);
        let retention = housekeeping::keep_retention(broker.clone(), directory.clone());
        tasks.spawn_thread(&format!("retention-{number}"), retention);
        tasks.spawn(housekeeping::watch_disk(broker.clone(), directory));
    }
    tasks.spawn_thread("reconciler", reconciler::run(broker.clone(), folders));
    tasks.spawn(fetcher::run(broker.clone()));
    tasks.spawn(isr::watch_lag(broker.clone()));
    tasks.spawn(isr::ask_for_changes(broker.clone()));
    tasks.spawn(producer_ids::keep(broker.clone()));
}

/// Does what each role permits, until the next one.
async fn follow_roles(broker: Arc<Broker>, consensus: Arc<dyn Running>) {
    let mut roles = Roles::new(consensus.leader_events(), broker.applied());
    let mut next = roles.next().await;
    while let Some(role) = next {
        let stopping = broker.runtime.tasks.clone();
        let work = perform(&broker, &consensus, role);
        next = tokio::select! { biased;
            () = stopping.stopping() => None,
            role = roles.next() => role,
            () = work => None,
        };
    }
    broker.controller_at.send_replace(ControllerAt::Unknown);
}

/// Never returns: a role ends when the next one comes.
async fn perform(broker: &Arc<Broker>, consensus: &Arc<dyn Running>, role: Role) {
    match role {
        Role::Leading(leading) => {
            let epoch = leading.epoch();
            controller::lead(broker, consensus, leading).await;
            // Whatever ended it, nobody is the controller of this epoch any more: another one must begin.
            consensus.resign(epoch).await;
        }
        Role::Following(known) => {
            broker.controller_at.send_replace(there(broker, &known));
        }
        Role::Leaderless => {
            broker.controller_at.send_replace(ControllerAt::Unknown);
        }
    }
    std::future::pending::<()>().await;
}

fn there(broker: &Broker, known: &LeaderKnown) -> ControllerAt {
    let image = broker.image();
    let announced = image.controller.as_ref().filter(|controller| controller.epoch == known.epoch());
    match announced {
        Some(controller) => ControllerAt::There {
            epoch: controller.epoch,
            node: controller.node,
            endpoint: format!("{}:{}", controller.host, controller.port),
        },
        // The image has gone on to a later epoch: its own event is on the way.
        None => ControllerAt::Unknown,
    }
}

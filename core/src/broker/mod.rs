//! A node's long-lived parts, and how they come up and go down.
//!
//! A [`Broker`] is made without disk, network or waiting, so that its listeners can answer before anything else runs.
//! [`start`] brings it up in the only order that compiles.

mod admin;
mod applier;
mod checkpoints;
pub mod config;
mod controller;
pub mod directory_lock;
mod fetcher;
mod folders;
mod forward;
mod heartbeat;
mod housekeeping;
mod image_file;
mod isr;
mod life;
pub mod meta_properties;
mod observed;
pub mod observer;
mod outcomes;
mod partitions;
mod producer_ids;
mod quorum;
mod reconciler;
mod registration;
pub mod restored;
pub mod service;
pub mod start;
mod syncer;
mod syncs;

#[cfg(test)]
mod cluster_test;
#[cfg(test)]
mod replication_test;

use std::sync::{Arc, OnceLock};

use crate::runtime::watch;
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use parking_lot::Mutex;
use uuid::Uuid;

pub use config::BrokerConfig;
pub use forward::{Caller, ControllerAt, ForwardError};
pub use heartbeat::BrokerState;
pub use observed::observe;
pub use partitions::Partitions;
pub use quorum::describe_quorum;
pub use syncs::{Sync, Syncs};

use crate::{
    consensus::{Running, activation::Applied},
    ids::{BrokerEpoch, DirectoryId, LogIndex, NodeId},
    metadata::{
        Image,
        configs::{broker_key, broker_setting},
        image::Endpoint,
    },
    runtime::{Elapsed, Moment, Runtime},
};

/// One node of the cluster: what its handlers and its tasks share.
pub struct Broker {
    /// What it was told.
    pub config: BrokerConfig,
    /// Its ports to the world.
    pub runtime: Runtime,
    /// This process, as registrations name it: new with every start.
    pub incarnation: Uuid,
    /// Syncs of its disks that are under way. Every sync of records is begun here, because a disk that hangs must
    /// silence the heartbeat.
    pub syncs: Syncs,
    /// The replicas that run here.
    pub partitions: Partitions,
    image: ArcSwap<Image>,
    applied: watch::Sender<Applied>,
    consensus: OnceLock<Arc<dyn Running>>,
    bound: OnceLock<BoundListeners>,
    facts: OnceLock<NodeFacts>,
    outcomes: outcomes::Outcomes,
    producer_ids: producer_ids::ProducerIds,
    /// Held while an image is written: the applier's and the one of an orderly stop have one temporary file.
    image_writing: tokio::sync::Mutex<()>,
    leadership: ArcSwapOption<controller::Leadership>,
    controller_at: watch::Sender<ControllerAt>,
    link: forward::Link,
    wants_shutdown: watch::Sender<bool>,
    state: watch::Sender<BrokerState>,
    fatal: watch::Sender<Option<String>>,
    pieces: Mutex<Option<Arc<observed::Pieces>>>,
    life: Mutex<Option<life::Life>>,
}

/// What a node's folders say of it, read before the backend starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The cluster that the folders belong to; `None` where they are fresh.
    pub cluster: Option<Uuid>,
    /// The generation of the cluster's log that this node follows, from 1.
    pub generation: u64,
    /// The log directories, in the order of the configuration.
    pub directories: Vec<DirectoryId>,
    /// What was only in the page cache is lost. [`start`] finds out by itself that the machine was started anew; a
    /// caller who knows it otherwise says it here.
    pub page_cache_lost: bool,
    /// An fsync failed in the last life of this node. [`start`] remembers that by itself too.
    pub sync_failed: bool,
}

impl Default for NodeFacts {
    /// What fresh folders say.
    fn default() -> Self {
        Self {
            cluster: None,
            generation: 1,
            directories: Vec::new(),
            page_cache_lost: false,
            sync_failed: false,
        }
    }
}

/// Where a node's listeners are reached, once they are bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundListeners {
    /// The listeners of clients and brokers, as they are advertised.
    pub endpoints: Vec<Endpoint>,
    /// The controller listener's host and port, as it is advertised; `None` on a mere broker.
    pub controller: Option<(String, u16)>,
}

impl Broker {
    /// Touches nothing: no disk, no network, no task.
    #[must_use]
    pub fn new(config: BrokerConfig, runtime: Runtime) -> Arc<Self> {
        let incarnation = runtime.rng.uuid();
        Arc::new(Self {
            config,
            runtime,
            incarnation,
            image: ArcSwap::default(),
            applied: watch::Sender::new(Applied::default()),
            consensus: OnceLock::new(),
            bound: OnceLock::new(),
            facts: OnceLock::new(),
            syncs: Syncs::default(),
            partitions: Partitions::default(),
            outcomes: outcomes::Outcomes::default(),
            producer_ids: producer_ids::ProducerIds::default(),
            image_writing: tokio::sync::Mutex::default(),
            leadership: ArcSwapOption::empty(),
            controller_at: watch::Sender::default(),
            link: forward::Link::default(),
            wants_shutdown: watch::Sender::new(false),
            state: watch::Sender::default(),
            fatal: watch::Sender::default(),
            pieces: Mutex::default(),
            life: Mutex::default(),
        })
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// The present image, for a short look. Do not hold it across an await: take [`Broker::image_arc`] for that.
    #[must_use]
    pub fn image(&self) -> Guard<Arc<Image>> {
        self.image.load()
    }

    /// The present image, to keep.
    #[must_use]
    pub fn image_arc(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// Whether the image says anything yet: before the cluster is founded, and before this node has loaded or learnt
    /// its state, nothing can be said about topics.
    #[must_use]
    pub fn is_image_loaded(&self) -> bool {
        self.image().founding.is_some()
    }

    /// How far the image has come. The image is at least as new as what is seen here.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Waits until this node's image contains the entry.
    ///
    /// # Errors
    /// [`Elapsed`] if `deadline` passes first.
    pub async fn image_at(&self, index: LogIndex, deadline: Moment) -> Result<Arc<Image>, Elapsed> {
        let mut applied = self.applied();
        let left = deadline.since(self.runtime.clock.now());
        let reached = applied.wait_for(|applied| applied.index >= index);
        match self.runtime.clock.timeout(left, reached).await? {
            Ok(_) => Ok(self.image_arc()),
            Err(_) => Err(Elapsed),
        }
    }

    /// The consensus backend, once it runs.
    #[must_use]
    pub fn consensus(&self) -> Option<&Arc<dyn Running>> {
        self.consensus.get()
    }

    /// Where this node is reached, once its listeners are bound.
    #[must_use]
    pub fn bound(&self) -> Option<&BoundListeners> {
        self.bound.get()
    }

    /// This process's registration; [`BrokerEpoch::NONE`] while it has none.
    #[must_use]
    pub fn broker_epoch(&self) -> BrokerEpoch {
        let image = self.image();
        let own = image.brokers.get(&self.node()).filter(|broker| broker.incarnation == self.incarnation);
        own.map_or(BrokerEpoch::NONE, |broker| broker.epoch)
    }

    /// What this node's folders say, once they have been read.
    #[must_use]
    pub fn facts(&self) -> Option<&NodeFacts> {
        self.facts.get()
    }

    /// Where the controller is.
    #[must_use]
    pub fn controller_at(&self) -> watch::Receiver<ControllerAt> {
        self.controller_at.subscribe()
    }

    /// How far this broker has come in its life.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.subscribe()
    }

    /// Why this node cannot go on; `None` while it can. Whoever runs the process ends it, with an error, when this is
    /// set.
    #[must_use]
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }

    /// Says that this node cannot go on. The first reason stays.
    pub fn fail(&self, reason: &str) {
        let first = self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert_with(|| reason.to_owned());
            first
        });
        if first {
            tracing::error!(%reason, "this node cannot go on");
        }
    }

    /// A sync has failed: nobody can say what is on the disk. The node cannot go on, and tells the cluster when it
    /// starts again. Blocks: call it from where the sync blocked.
    pub fn fail_sync(&self, reason: &str) {
        let disk = self.runtime.disk.as_ref();
        let noted = self.life.lock().as_mut().map_or(Ok(()), |life| life.sync_failed(disk));
        if let Err(error) = noted {
            tracing::error!(%error, "the failed sync could not be written down");
        }
        self.fail(reason);
    }

    /// What this broker has for a key: set for it, or for the cluster, or in its file, or by default.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<String> {
        broker_setting(&self.image(), self.node(), &self.config.file, broker_key(name).ok()?).value
    }

    fn set_state(&self, state: BrokerState) {
        self.state.send_if_modified(|present| std::mem::replace(present, state) != state);
    }

    /// A newer image; whoever waits for it is woken after it can be seen.
    pub(crate) fn publish(&self, image: Arc<Image>) {
        let applied = image.applied();
        self.image.store(image);
        self.applied.send_replace(applied);
    }
}

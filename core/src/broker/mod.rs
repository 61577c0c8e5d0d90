//! A node's long-lived parts, and how they come up and go down.
//!
//! A [`Broker`] is made without disk, network or waiting, so that its listeners can answer before anything else runs.
//! [`start`] brings it up in the only order that compiles.

pub mod config;

use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use uuid::Uuid;

pub use config::BrokerConfig;

use crate::{
    consensus::{Running, activation::Applied},
    ids::{BrokerEpoch, LogIndex, NodeId},
    metadata::{Image, image::Endpoint},
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
    image: ArcSwap<Image>,
    applied: watch::Sender<Applied>,
    consensus: OnceLock<Arc<dyn Running>>,
    bound: OnceLock<BoundListeners>,
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
}

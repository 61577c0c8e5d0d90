//! The controller's driver: performs what [`crate::controller`] decides, while this node leads. It runs only with a
//! [`Leading`] token and ends with the role.

use std::{sync::Arc, time::Duration};

use crate::runtime::watch;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Broker, ControllerAt};
use crate::{
    consensus::{
        ProposeError, Running,
        activation::{Applied, Leading},
    },
    controller::{self, Decision, Liveness},
    ids::{BrokerEpoch, Epoch, LogIndex, NodeId},
    metadata::{
        Command, Image, Outcome,
        command::{ConfigEntry, FeatureLevel, FoundCluster},
        configs,
    },
    runtime::Moment,
};

/// Before a proposal that found a full queue, or whose outcome is unknown, is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// Tries of a proposal that finds a full queue.
const BUSY_MAX: u32 = 50;

/// Kafka's `metadata.version` of 4.1, the newest whose schemas the wire module has: clients read it as what the
/// cluster can do.
const METADATA_VERSION: u32 = 27;
/// Kafka's `kraft.version` with voters that can change (KIP-853) is 1; ours are given by the configuration.
const KRAFT_VERSION: u32 = 0;

/// A leadership of this node, as its requests see it.
pub(super) struct Leadership {
    /// The epoch that requests must name.
    pub(super) epoch: Epoch,
    /// What is known of the brokers.
    pub(super) liveness: Mutex<Liveness>,
    /// Something has happened that may need a decision.
    pub(super) wake: Notify,
}

/// Ends the leadership for whoever asks, however the driver ends.
struct Reign<'a>(&'a Broker);

impl Drop for Reign<'_> {
    fn drop(&mut self) {
        self.0.leadership.store(None);
        self.0.controller_at.send_replace(ControllerAt::Unknown);
    }
}

/// Leads until the epoch is lost or this future is dropped. Announces the controller, founds the cluster if nobody has,
/// then serves and decides.
pub(super) async fn lead(broker: &Arc<Broker>, consensus: &Arc<dyn Running>, leading: Leading) {
    let epoch = leading.epoch();
    let (host, port) = broker.bound().and_then(|bound| bound.controller.clone()).unwrap_or_default();
    let opening = controller::opening(&leading, broker.node(), broker.incarnation, &host, port);
    let up = |image: &Image| image.controller.as_ref().is_some_and(|controller| controller.epoch == epoch);
    if !settle(broker, consensus, epoch, &opening, up).await {
        return;
    }
    let founded = |image: &Image| image.founding.is_some();
    if !founded(&broker.image()) && !settle(broker, consensus, epoch, &founding(broker), founded).await {
        return;
    }
    tracing::info!(%epoch, "this node is the controller");
    let liveness = Liveness::new(broker.runtime.clock.now(), broker.config.timings.session);
    let leadership = Arc::new(Leadership { epoch, liveness: Mutex::new(liveness), wake: Notify::new() });
    let _reign = Reign(broker);
    broker.leadership.store(Some(leadership.clone()));
    broker.controller_at.send_replace(ControllerAt::Here { epoch });
    decide_until_lost(broker, consensus, &leadership).await;
}

/// Proposes a command of the opening until the image shows its effect. False if the epoch is lost.
async fn settle(
    broker: &Arc<Broker>,
    consensus: &Arc<dyn Running>,
    epoch: Epoch,
    command: &Command,
    done: impl Fn(&Image) -> bool,
) -> bool {
    loop {
        match propose(broker, consensus, epoch, command.to_entry()).await {
            Ok((index, outcome)) => {
                if done(&broker.image()) {
                    return true;
                }
                tracing::error!(%epoch, %index, ?outcome, command = command.name(), "an opening command failed");
                return false;
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => return false,
            Err(ProposeError::TooLarge) => {
                tracing::error!(command = command.name(), "an opening command is too large for the backend");
                return false;
            }
            Err(ProposeError::Unknown | ProposeError::Busy) => {
                if done(&broker.image()) {
                    return true;
                }
                broker.runtime.clock.sleep(PAUSE).await;
            }
        }
    }
}

/// The facts that a new cluster begins with.
fn founding(broker: &Broker) -> Command {
    let founding = &broker.config.founding;
    let features = [("metadata.version", METADATA_VERSION), ("kraft.version", KRAFT_VERSION)];
    let feature = |(name, level): (&str, u32)| FeatureLevel { name: name.to_owned(), level };
    let entry = |(name, value): (&String, &String)| ConfigEntry { name: name.clone(), value: value.clone() };
    // The first generation's log bears the cluster's id.
    let cluster = uuid::Uuid::from_bytes(broker.image().log_id.0);
    let known = |(name, _): &(&String, &String)| configs::broker_key(name).is_ok();
    Command::FoundCluster(FoundCluster {
        cluster: Some(cluster.into()),
        generation: 1,
        durability: founding.durability.into(),
        features: features.into_iter().map(feature).collect(),
        defaults: founding.defaults.iter().filter(known).map(entry).collect(),
    })
}

async fn decide_until_lost(broker: &Arc<Broker>, consensus: &Arc<dyn Running>, leadership: &Arc<Leadership>) {
    let clock = &broker.runtime.clock;
    let mut applied = broker.applied();
    let mut rebalance_at = clock.now().plus(broker.config.timings.rebalance);
    let rebalances = broker.setting("auto.leader.rebalance.enable").is_none_or(|text| text != "false");
    loop {
        applied.borrow_and_update();
        let now = clock.now();
        let rebalance = rebalances && now >= rebalance_at;
        if rebalance {
            rebalance_at = now.plus(broker.config.timings.rebalance);
        }
        let image = broker.image_arc();
        let decision = controller::decide(&image, &leadership.liveness.lock(), now, rebalance);
        probe_all(broker, leadership, &image, &decision.probe);
        if decision.resign {
            tracing::warn!(epoch = %leadership.epoch, "too few brokers are heard: this controller resigns once");
            consensus.resign(leadership.epoch).await;
            return;
        }
        if !decision.commands.is_empty() {
            if !perform(broker, consensus, leadership.epoch, &decision).await {
                return;
            }
            continue;
        }
        wait(broker, leadership, &mut applied, decision.next.unwrap_or(rebalance_at).min(rebalance_at)).await;
    }
}

/// Proposes what was decided, all at once and in order. False if the epoch is lost.
async fn perform(
    broker: &Arc<Broker>,
    consensus: &Arc<dyn Running>,
    epoch: Epoch,
    decision: &Decision,
) -> bool {
    let commands = decision.commands.iter();
    let proposals = commands.map(|command| propose(broker, consensus, epoch, command.to_entry()));
    let mut pause = false;
    for (command, result) in decision.commands.iter().zip(join_all(proposals).await) {
        match result {
            Ok((index, Outcome::Rejected(rejection))) => {
                tracing::debug!(%index, %rejection, command = command.name(), "a decision came too late");
            }
            Ok((index, _)) => tracing::info!(%index, ?command, "decided"),
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => return false,
            Err(error) => {
                tracing::debug!(%error, command = command.name(), "a decision is tried again");
                pause = true;
            }
        }
    }
    if pause {
        broker.runtime.clock.sleep(PAUSE).await;
    }
    true
}

async fn wait(
    broker: &Broker,
    leadership: &Leadership,
    applied: &mut watch::Receiver<Applied>,
    until: Moment,
) {
    tokio::select! { biased;
        () = leadership.wake.notified() => {}
        _ = applied.changed() => {}
        () = broker.runtime.clock.sleep_until(until) => {}
    }
}

/// Tries once to connect to each broker that has been silent for a while. A refusal proves that its process has ended,
/// so that the session need not be waited for; anything else proves nothing.
fn probe_all(broker: &Arc<Broker>, leadership: &Arc<Leadership>, image: &Image, nodes: &[NodeId]) {
    for node in nodes {
        let Some(target) = image.brokers.get(node) else { continue };
        {
            let mut liveness = leadership.liveness.lock();
            let last = liveness.last(*node, target.epoch);
            liveness.probed.insert(*node, last);
        }
        if let Some(endpoint) =
            target.endpoint(&broker.config.inter_broker_listener).or(target.endpoints.first())
        {
            let address = format!("{}:{}", endpoint.host, endpoint.port);
            probe(broker, leadership, *node, target.epoch, address);
        }
    }
}

/// The connection of a broker to this controller was reset: looks whether its process has ended.
pub(super) fn disconnected(broker: &Arc<Broker>, node: NodeId) {
    if let Some(leadership) = broker.leadership.load_full()
        && node != broker.node()
    {
        probe_all(broker, &leadership, &broker.image_arc(), &[node]);
    }
}

fn probe(
    broker: &Arc<Broker>,
    leadership: &Arc<Leadership>,
    node: NodeId,
    epoch: BrokerEpoch,
    address: String,
) {
    let (broker, leadership) = (broker.clone(), leadership.clone());
    let tasks = broker.runtime.tasks.clone();
    tasks.spawn(async move {
        let connecting = broker.runtime.network.connect(&address);
        let timeout = broker.config.timings.connect;
        let Ok(Err(error)) = broker.runtime.clock.timeout(timeout, connecting).await else { return };
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            tracing::info!(%node, %address, "the broker's process has ended: nobody listens there");
            leadership.liveness.lock().refused(node, epoch);
            leadership.wake.notify_one();
        }
    });
}

/// Proposes an entry and waits until this node has applied it.
pub(super) async fn propose(
    broker: &Broker,
    consensus: &Arc<dyn Running>,
    epoch: Epoch,
    entry: Bytes,
) -> Result<(LogIndex, Outcome), ProposeError> {
    let ticket = broker.outcomes.ticket(broker.image().index);
    let mut tries = 0;
    let index = loop {
        match consensus.propose(epoch, entry.clone()).await {
            Err(ProposeError::Busy) if tries < BUSY_MAX => {
                tries += 1;
                broker.runtime.clock.sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
            Ok(index) => break index,
        }
    };
    let mut applied = broker.applied();
    if applied.wait_for(|applied| applied.index >= index).await.is_err() {
        return Err(ProposeError::Unknown);
    }
    ticket.take(index).map(|outcome| (index, outcome)).ok_or(ProposeError::Unknown)
}

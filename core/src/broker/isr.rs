//! Keeps the ISRs of the partitions that this node leads: looks who has fallen behind, and asks the controller for
//! every change that a replica wants.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Broker;
use crate::{
    ids::{LeaderEpoch, LogIndex, NodeId, PartitionEpoch, PartitionId, TopicId},
    partition::{
        isr::{Effect, Proposal, Verdict},
        replica::Replica,
        settings::Settings,
    },
    protocol::{
        bodies::{AlterPartitionRequest, AlterPartitionResponse, BrokerId, alter_partition_request as ask},
        errors::ErrorCode,
    },
    runtime::Moment,
};

/// Changes that are asked for at once: a few hundred kilobytes of request, and one entry of the metadata log.
const CHANGES_MAX: usize = 1000;

/// How long a request may take before its outcome counts as unknown.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Before a change that was not answered is asked for again; the jitter comes on top.
const PAUSE_MS: u64 = 50;

/// How often replicas are looked at, at most and at least, in ms: half the time of lag, as Kafka does.
const TICK_MS: std::ops::RangeInclusive<u64> = 50..=10_000;

/// Looks at every replica again and again, for what the passing of time brings.
pub(super) async fn watch_lag(broker: Arc<Broker>) {
    let lag_ms =
        broker.setting("replica.lag.time.max.ms").and_then(|text| text.parse().ok()).unwrap_or(30_000_u64);
    let tick = Duration::from_millis((lag_ms / 2).clamp(*TICK_MS.start(), *TICK_MS.end()));
    loop {
        tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            () = broker.runtime.clock.sleep(tick) => {}
        }
        for replica in broker.partitions.all() {
            replica.tick();
        }
    }
}

/// Asks the controller for the changes that replicas want, as many at once as there are. Each partition has one change
/// under way, because its replica proposes the next only when it knows what became of the last.
pub(super) async fn ask_for_changes(broker: Arc<Broker>) {
    loop {
        let wanting = tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            wanting = broker.partitions.proposals.take() => wanting,
        };
        let mut again = Vec::new();
        for chunk in wanting.chunks(CHANGES_MAX) {
            tokio::select! { biased;
                () = broker.runtime.tasks.stopping() => return,
                unanswered = ask_once(&broker, chunk) => again.extend(unanswered),
            }
        }
        if again.is_empty() {
            continue;
        }
        let pause = PAUSE_MS + broker.runtime.rng.below(PAUSE_MS);
        broker.runtime.clock.sleep(Duration::from_millis(pause)).await;
        for replica in again {
            replica.propose_again();
        }
    }
}

/// One request. Returns the replicas whose change must be asked for again.
async fn ask_once(broker: &Arc<Broker>, wanting: &[Arc<Replica>]) -> Vec<Arc<Replica>> {
    let mut asked: BTreeMap<PartitionId, (Arc<Replica>, Proposal)> = BTreeMap::new();
    for replica in wanting {
        if let Some(proposal) = replica.take_proposal() {
            asked.insert(replica.partition, (replica.clone(), proposal));
        }
    }
    if asked.is_empty() {
        return Vec::new();
    }
    let request = request(broker, &asked);
    let deadline = broker.runtime.clock.now().plus(TIMEOUT);
    let mut verdicts = match broker.ask_controller(&request, deadline).await {
        Ok((answer, index)) => {
            if catch_up(broker, index, deadline, wanting).await {
                verdicts(answer)
            } else {
                BTreeMap::new()
            }
        }
        Err(error) => {
            tracing::info!(%error, changes = asked.len(), "changes of in-sync replicas are not answered");
            BTreeMap::new()
        }
    };
    let mut again = Vec::new();
    for (partition, (replica, proposal)) in asked {
        let verdict = verdicts.remove(&partition).unwrap_or(Verdict::Unknown);
        report(&replica, &proposal, &verdict);
        if replica.answered(&proposal, &verdict) == Effect::Retry {
            again.push(replica);
        }
    }
    again
}

/// Brings the replicas' settings to where the answer was decided. An answer may overtake a change of the minimum ISR
/// that stands before it in the log: whoever leaves the ISR stays eligible by that minimum, so that a leader which took
/// the smaller ISR with the older minimum could move the high watermark past a replica that may still be elected. False
/// if this node's image does not come so far in time; the outcome counts as unknown then.
async fn catch_up(
    broker: &Broker,
    index: Option<LogIndex>,
    deadline: Moment,
    wanting: &[Arc<Replica>],
) -> bool {
    let Some(index) = index else { return true };
    let Ok(image) = broker.image_at(index, deadline).await else { return false };
    for replica in wanting {
        if let Some(topic) = image.topics.get(&replica.partition.topic) {
            replica.reconfigure(Settings::of(&image, topic, broker.node(), &broker.config.file));
        }
    }
    true
}

fn report(replica: &Replica, proposal: &Proposal, verdict: &Verdict) {
    let name = format!("{}-{}", replica.topic, replica.partition.index);
    match verdict {
        Verdict::Accepted { isr, partition_epoch, .. } => {
            tracing::info!("{name}: in-sync replicas are {isr:?}, version {partition_epoch}");
        }
        Verdict::Refused(code) => {
            let asked: Vec<NodeId> = proposal.isr.iter().map(|(node, _)| *node).collect();
            tracing::info!("{name}: in-sync replicas {asked:?} are refused with {code}");
        }
        Verdict::Unknown => {}
    }
}

fn request(
    broker: &Broker,
    asked: &BTreeMap<PartitionId, (Arc<Replica>, Proposal)>,
) -> AlterPartitionRequest {
    let mut topics: BTreeMap<TopicId, Vec<ask::PartitionData>> = BTreeMap::new();
    for (partition, (_, proposal)) in asked {
        let member = |(node, epoch): &(NodeId, crate::ids::BrokerEpoch)| {
            ask::BrokerState::default().with_broker_id(BrokerId(node.0)).with_broker_epoch(epoch.0)
        };
        let data = ask::PartitionData::default()
            .with_partition_index(partition.index)
            .with_leader_epoch(proposal.leader_epoch.0)
            .with_partition_epoch(proposal.partition_epoch.0)
            // Whoever proposes has recovered: the leader of an unclean election has nothing else to do (KIP-704).
            .with_leader_recovery_state(0)
            .with_new_isr_with_epochs(proposal.isr.iter().map(member).collect());
        topics.entry(partition.topic).or_default().push(data);
    }
    let topic = |(id, partitions): (TopicId, Vec<ask::PartitionData>)| {
        ask::TopicData::default().with_topic_id(id.0).with_partitions(partitions)
    };
    AlterPartitionRequest::default()
        .with_broker_id(BrokerId(broker.node().0))
        .with_broker_epoch(broker.broker_epoch().0)
        .with_topics(topics.into_iter().map(topic).collect())
}

/// What the answer says of each partition. An error of the request as a whole says nothing of any.
fn verdicts(answer: AlterPartitionResponse) -> BTreeMap<PartitionId, Verdict> {
    if answer.error_code != 0 {
        tracing::info!(code = %ErrorCode(answer.error_code), "changes of in-sync replicas are refused as a whole");
        return BTreeMap::new();
    }
    let mut verdicts = BTreeMap::new();
    for topic in answer.topics {
        for data in topic.partitions {
            let partition = PartitionId { topic: TopicId(topic.topic_id), index: data.partition_index };
            let verdict = match ErrorCode(data.error_code) {
                ErrorCode::NONE => Verdict::Accepted {
                    leader_epoch: LeaderEpoch(data.leader_epoch),
                    partition_epoch: PartitionEpoch(data.partition_epoch),
                    isr: data.isr.iter().map(|node| NodeId(node.0)).collect(),
                },
                code => Verdict::Refused(code),
            };
            verdicts.insert(partition, verdict);
        }
    }
    verdicts
}

//! Changes of partitions: ISRs that leaders propose, elections that are asked for, and what follows in every
//! partition from the fate of a broker or of a config.

use std::{collections::BTreeSet, sync::Arc};

use super::{Accepted, AlterRefusal, ElectRefusal, Rejection, brokers};
use crate::{
    ids::{BrokerEpoch, NodeId, PartitionId, TopicId},
    metadata::{
        command::{AlterPartitions, ElectLeaders, Election, IsrChange, uuid},
        election::{self, Change, Exhausted, Rules},
        image::{Image, Nodes, Partition, Topic},
        settings,
    },
};

/// What a partition's ISR should become.
pub(super) struct Wanted {
    /// The new ISR.
    pub(super) isr: Nodes,
    /// A replica that has lost data.
    pub(super) excluded: Option<NodeId>,
}

/// Changes every partition for which `decide` wants something.
pub(super) fn change_all(
    draft: &mut Image,
    decide: impl Fn(&Image, &Topic, &Partition) -> Option<Wanted>,
) -> Result<(), Rejection> {
    let mut changes = Vec::new();
    for topic in draft.topics.values() {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let Some(wanted) = decide(draft, topic, partition) else { continue };
            let change = settle(draft, topic, partition, &wanted)?;
            changes.push((topic.id, index, change));
        }
    }
    for (topic, index, change) in changes {
        replace(draft, topic, index, change);
    }
    Ok(())
}

/// Tries again to elect in the partitions that nobody leads.
pub(super) fn settle_leaderless(
    draft: &mut Image,
    concerned: impl Fn(&Topic, &Partition) -> bool,
) -> Result<(), Rejection> {
    change_all(draft, |_, topic, partition| {
        (!partition.has_leader() && concerned(topic, partition)).then(|| unchanged(partition))
    })
}

/// The ISR that a partition has: for what else may follow from a changed rule.
pub(super) fn unchanged(partition: &Partition) -> Wanted {
    Wanted { isr: partition.isr.clone(), excluded: None }
}

/// ISRs that a leader proposes, each with its own verdict (KIP-497, KIP-841, KIP-903).
pub(super) fn alter(draft: &mut Image, command: &AlterPartitions) -> Result<Accepted, Rejection> {
    let sender = NodeId(command.node);
    brokers::current(draft, sender, command.broker_epoch)?;
    let mut verdicts = Vec::with_capacity(command.changes.len());
    for change in &command.changes {
        verdicts.push(match alter_one(draft, sender, change) {
            Ok(partition) => Ok(partition),
            Err(Refused::Verdict(refusal)) => Err(refusal),
            Err(Refused::Exhausted) => return Err(Rejection::Exhausted),
        });
    }
    Ok(Accepted::Altered(verdicts))
}

/// Elections that are asked for, each with its own verdict (KIP-460).
pub(super) fn elect(draft: &mut Image, command: &ElectLeaders) -> Result<Accepted, Rejection> {
    let Ok(election) = Election::try_from(command.election) else {
        return Err(Rejection::Malformed("an election is preferred or unclean"));
    };
    let mut verdicts = Vec::with_capacity(command.partitions.len());
    for key in &command.partitions {
        let id = PartitionId { topic: TopicId(uuid(key.topic)), index: key.partition };
        verdicts.push(match elect_one(draft, id, election) {
            Ok(()) => Ok(()),
            Err(Unelected::Verdict(refusal)) => Err(refusal),
            Err(Unelected::Exhausted) => return Err(Rejection::Exhausted),
        });
    }
    Ok(Accepted::Elected(verdicts))
}

enum Refused {
    Verdict(AlterRefusal),
    Exhausted,
}

enum Unelected {
    Verdict(ElectRefusal),
    Exhausted,
}

impl From<AlterRefusal> for Refused {
    fn from(refusal: AlterRefusal) -> Self {
        Self::Verdict(refusal)
    }
}

impl From<Exhausted> for Refused {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}

impl From<ElectRefusal> for Unelected {
    fn from(refusal: ElectRefusal) -> Self {
        Self::Verdict(refusal)
    }
}

impl From<Exhausted> for Unelected {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}

fn alter_one(draft: &mut Image, sender: NodeId, change: &IsrChange) -> Result<Partition, Refused> {
    let id = PartitionId { topic: TopicId(uuid(change.topic)), index: change.partition };
    let (topic, partition) = find(draft, id).ok_or(AlterRefusal::UnknownPartition)?;
    permit(draft, partition, sender, change)?;
    let isr: Nodes = change.isr.iter().map(|member| NodeId(member.node)).collect();
    let recovered = Partition { recovering: change.recovering, ..partition.clone() };
    let wanted = Wanted { isr, excluded: None };
    let mut result = settle(draft, &topic, &recovered, &wanted)?;
    let unnumbered = result.after.partition_epoch == partition.partition_epoch;
    if unnumbered && change.recovering != partition.recovering {
        // The end of a recovery is a change of its own.
        result.after.partition_epoch.0 = partition.partition_epoch.0.checked_add(1).ok_or(Exhausted)?;
    }
    let after = result.after.clone();
    replace(draft, id.topic, usize::try_from(id.index).unwrap_or_default(), result);
    Ok(after)
}

/// Kafka's checks, in Kafka's order (`ReplicationControlManager.validateAlterPartitionData`).
fn permit(
    draft: &Image,
    partition: &Partition,
    sender: NodeId,
    change: &IsrChange,
) -> Result<(), AlterRefusal> {
    if change.leader_epoch > partition.leader_epoch.0 || change.partition_epoch > partition.partition_epoch.0
    {
        return Err(AlterRefusal::NotController);
    }
    if change.leader_epoch < partition.leader_epoch.0 {
        return Err(AlterRefusal::FencedLeaderEpoch);
    }
    if sender != partition.leader {
        return Err(AlterRefusal::Invalid("only the leader changes the ISR"));
    }
    if change.partition_epoch < partition.partition_epoch.0 {
        return Err(AlterRefusal::InvalidUpdateVersion);
    }
    let distinct: BTreeSet<i32> = change.isr.iter().map(|member| member.node).collect();
    if distinct.len() != change.isr.len() || !distinct.iter().all(|node| partition.has_replica(NodeId(*node)))
    {
        return Err(AlterRefusal::Invalid("the ISR is a set of replicas"));
    }
    if !distinct.contains(&sender.0) {
        return Err(AlterRefusal::Invalid("the leader is in the ISR"));
    }
    if change.recovering && distinct.len() > 1 {
        return Err(AlterRefusal::Invalid("the ISR of a leader in recovery is the leader"));
    }
    if change.recovering && !partition.recovering {
        return Err(AlterRefusal::Invalid("a leader that has recovered cannot be in recovery again"));
    }
    let eligible = |node: NodeId, epoch: i64| {
        draft.is_active(node) && (epoch == -1 || draft.broker_epoch(node) == BrokerEpoch(epoch))
    };
    if !change.isr.iter().all(|member| eligible(NodeId(member.node), member.broker_epoch)) {
        return Err(AlterRefusal::IneligibleReplica);
    }
    Ok(())
}

fn elect_one(draft: &mut Image, id: PartitionId, election: Election) -> Result<(), Unelected> {
    let (topic, partition) = find(draft, id).ok_or(ElectRefusal::UnknownPartition)?;
    let change = match election {
        Election::Preferred => {
            let preferred = partition.replicas.first().copied().unwrap_or(NodeId::NONE);
            if partition.leader == preferred {
                return Err(ElectRefusal::NotNeeded.into());
            }
            if !partition.isr.contains(&preferred) || !draft.is_active(preferred) {
                return Err(ElectRefusal::PreferredNotAvailable.into());
            }
            Change { after: election::lead(partition, preferred)?, unclean: false }
        }
        Election::Unclean => {
            if partition.has_leader() {
                return Err(ElectRefusal::NotNeeded.into());
            }
            let active = |node| draft.is_active(node);
            let min_isr = settings::min_isr(draft, &topic);
            let rules = Rules { min_isr, unclean: true, active: &active };
            election::change(partition, &partition.isr, None, &rules)?
        }
    };
    if !change.after.has_leader() {
        return Err(ElectRefusal::EligibleNotAvailable.into());
    }
    replace(draft, id.topic, usize::try_from(id.index).unwrap_or_default(), change);
    Ok(())
}

fn find(draft: &Image, id: PartitionId) -> Option<(Arc<Topic>, &Partition)> {
    let topic = draft.topics.get(&id.topic)?;
    Some((topic.clone(), topic.partitions.get(usize::try_from(id.index).ok()?)?))
}

fn settle(image: &Image, topic: &Topic, partition: &Partition, wanted: &Wanted) -> Result<Change, Exhausted> {
    let active = |node| image.is_active(node);
    let min_isr = settings::min_isr(image, topic);
    let rules = Rules { min_isr, unclean: settings::unclean_election(image, topic), active: &active };
    election::change(partition, &wanted.isr, wanted.excluded, &rules)
}

fn replace(draft: &mut Image, topic: TopicId, index: usize, change: Change) {
    draft.unclean_elections = draft.unclean_elections.saturating_add(u64::from(change.unclean));
    let Some(topic) = draft.topics.get_mut(&topic) else { return };
    if topic.partitions.get(index).is_some_and(|partition| *partition != change.after) {
        Arc::make_mut(topic).partitions.set(index, change.after);
    }
}

//! How a partition's state follows from a new ISR: eligible leader replicas (KIP-966) and the election of a leader.
//!
//! ```text
//!   replicas ⊇ ISR ∪ ELR,  ISR ∩ ELR = ∅,  leader ∈ ISR,  |ISR| ≥ minimum ⇒ ELR = ∅
//! ```
//! A replica that leaves an ISR which is below the minimum stays complete, because the high watermark does not move
//! below the minimum: it is *eligible*, and may lead again when no member of the ISR is left.

use super::image::{Nodes, Partition};
use crate::{
    ids::{LeaderEpoch, NodeId, PartitionEpoch},
    planted::{Bug, planted},
};

/// What an election depends on besides the partition itself.
pub(super) struct Rules<'a> {
    /// The least ISR that acknowledges records, never more than there are replicas.
    pub(super) min_isr: usize,
    /// Whether a replica that may lack acknowledged records is better than none.
    pub(super) unclean: bool,
    /// Whether a broker may lead.
    pub(super) active: &'a dyn Fn(NodeId) -> bool,
}

/// A partition's next state.
pub(super) struct Change {
    /// The state; the same as before if nothing changed.
    pub(super) after: Partition,
    /// The new leader may lack acknowledged records.
    pub(super) unclean: bool,
}

/// An epoch has come to the end of its range.
#[derive(Debug)]
pub(super) struct Exhausted;

/// The state of `before` with this ISR. `excluded` has lost data and is not eligible either.
pub(super) fn change(
    before: &Partition,
    isr: &[NodeId],
    excluded: Option<NodeId>,
    rules: &Rules<'_>,
) -> Result<Change, Exhausted> {
    let mut after = before.clone();
    after.isr = in_replica_order(before, |node| isr.contains(&node));
    settle_eligible(before, &mut after, excluded, rules);
    let unclean = elect(&mut after, rules);
    settle_minimum(&mut after, rules);
    number(before, &mut after)?;
    Ok(Change { after, unclean })
}

/// Makes `leader`, a live member of the ISR, the leader.
pub(super) fn lead(before: &Partition, leader: NodeId) -> Result<Partition, Exhausted> {
    let mut after = Partition { leader, ..before.clone() };
    number(before, &mut after)?;
    Ok(after)
}

/// Whoever leaves an ISR that is below the minimum becomes eligible, unless it is excluded; whoever is neither in the
/// ISR nor eligible any more is remembered.
fn settle_eligible(before: &Partition, after: &mut Partition, excluded: Option<NodeId>, rules: &Rules<'_>) {
    let isr = after.isr.clone();
    let candidate = |node: NodeId| before.isr.contains(&node) || before.elr.contains(&node);
    let elr =
        in_replica_order(before, |node| candidate(node) && !isr.contains(&node) && Some(node) != excluded);
    let known = |node: NodeId| candidate(node) || before.last_known_elr.contains(&node);
    after.last_known_elr =
        in_replica_order(before, |node| known(node) && !isr.contains(&node) && !elr.contains(&node));
    after.elr = elr;
    settle_minimum(after, rules);
}

/// With the minimum in sync, the high watermark moves on, and nobody outside of the ISR is complete any more.
fn settle_minimum(after: &mut Partition, rules: &Rules<'_>) {
    if after.isr.len() >= rules.min_isr.min(after.replicas.len()) {
        after.elr.clear();
        after.last_known_elr.clear();
    }
}

/// Finds a leader where the present one cannot stay. Returns whether it may lack acknowledged records.
fn elect(after: &mut Partition, rules: &Rules<'_>) -> bool {
    let may_lead = |node: NodeId, of: &Nodes| of.contains(&node) && (rules.active)(node);
    if may_lead(after.leader, &after.isr) || planted(Bug::FencedStaysLeader) {
        return false;
    }
    after.recovering |= planted(Bug::RecoversAlways);
    if planted(Bug::ElectsAnybody)
        && let Some(&leader) = after.replicas.iter().rev().find(|node| (rules.active)(**node))
    {
        after.leader = leader;
        after.elr.retain(|node| *node != leader);
        after.isr = Nodes::from_slice(&[leader]);
        return false;
    }
    if let Some(&leader) = after.replicas.iter().find(|node| may_lead(**node, &after.isr)) {
        after.leader = leader;
        return false;
    }
    if after.isr.is_empty()
        && let Some(&leader) = after.replicas.iter().find(|node| may_lead(**node, &after.elr))
    {
        after.leader = leader;
        after.elr.retain(|node| *node != leader);
        after.isr = Nodes::from_slice(&[leader]);
        return false;
    }
    // Nobody else can ever have what a sole replica lacks, so that waiting would help nobody.
    let sole = after.replicas.len() == 1 && after.elr.is_empty();
    let known = after.replicas.iter().find(|node| may_lead(**node, &after.last_known_elr));
    let any = || after.replicas.iter().find(|node| (rules.active)(**node));
    match known
        .or_else(any)
        .filter(|_| after.isr.is_empty() && (rules.unclean || sole || planted(Bug::ElectsUncleanly)))
    {
        Some(&leader) => {
            after.leader = leader;
            after.isr = Nodes::from_slice(&[leader]);
            after.elr.clear();
            after.last_known_elr.clear();
            after.recovering = true;
            true
        }
        None => {
            after.leader = NodeId::NONE;
            false
        }
    }
}

/// Every change of the leader is a new leader epoch, and every change at all a new partition epoch.
fn number(before: &Partition, after: &mut Partition) -> Result<(), Exhausted> {
    if after.leader != before.leader && !planted(Bug::LeaderEpochStays) {
        after.leader_epoch = LeaderEpoch(before.leader_epoch.0.checked_add(1).ok_or(Exhausted)?);
    }
    if after != before {
        after.partition_epoch = PartitionEpoch(before.partition_epoch.0.checked_add(1).ok_or(Exhausted)?);
    }
    Ok(())
}

fn in_replica_order(partition: &Partition, keep: impl Fn(NodeId) -> bool) -> Nodes {
    partition.replicas.iter().copied().filter(|node| keep(*node)).collect()
}

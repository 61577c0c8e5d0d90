//! The in-sync replicas as their leader sees them: what the metadata says, and what has been asked for since.
//!
//! A change becomes true only in the metadata (KIP-497). Until the leader knows that it did or did not, it goes by the
//! *maximal ISR*, current and asked for together: the high watermark then waits for every replica that any controller
//! may count as in sync. A request that failed without a clear answer keeps the maximal ISR until the metadata speaks.

use crate::{
    ids::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch},
    metadata::image::{Nodes, Partition},
    planted::{Bug, planted},
    protocol::errors::ErrorCode,
};

/// The in-sync replicas of a partition, at its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InSync {
    current: Nodes,
    partition_epoch: PartitionEpoch,
    recovering: bool,
    change: Option<Change>,
}

/// A change that has been decided and is not in the metadata yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    isr: Nodes,
    joining: Option<NodeId>,
    sent: bool,
}

/// What is asked of the controller: AlterPartition for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The leadership that asks.
    pub leader_epoch: LeaderEpoch,
    /// The state that the change was decided on.
    pub partition_epoch: PartitionEpoch,
    /// The new ISR, with the registration under which each member was last seen (KIP-903); [`BrokerEpoch::NONE`] where
    /// the leader has not seen it.
    pub isr: Vec<(NodeId, BrokerEpoch)>,
}

/// The controller's answer to a [`Proposal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The state of the partition after the change.
    Accepted {
        /// Its leadership.
        leader_epoch: LeaderEpoch,
        /// Its version.
        partition_epoch: PartitionEpoch,
        /// Its ISR.
        isr: Nodes,
    },
    /// Refused with this code.
    Refused(ErrorCode),
    /// No answer, or none that says whether the change was made.
    Unknown,
}

/// What a verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The ISR is known again, and another change may follow.
    Settled,
    /// Nothing is known; the same proposal is to be sent again.
    Retry,
    /// Nothing is known; the metadata will tell.
    Await,
}

impl InSync {
    /// As the metadata says.
    #[must_use]
    pub fn of(state: &Partition) -> Self {
        Self {
            current: state.isr.clone(),
            partition_epoch: state.partition_epoch,
            recovering: state.recovering,
            change: None,
        }
    }

    /// The ISR that the metadata holds, as far as the leader knows.
    #[must_use]
    pub fn current(&self) -> &[NodeId] {
        &self.current
    }

    /// The version of the partition's state.
    #[must_use]
    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    /// Whether the leader was elected uncleanly and has not said that it has recovered (KIP-704).
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// How many members there are that were not asked to leave.
    #[must_use]
    pub fn staying(&self) -> usize {
        let asked = self.change.as_ref().map_or(usize::MAX, |change| change.isr.len());
        self.current.len().min(asked)
    }

    /// Whether the replica is in the maximal ISR.
    #[must_use]
    pub fn may_contain(&self, node: NodeId) -> bool {
        self.current.contains(&node) || self.joining() == Some(node)
    }

    /// Who has been asked into the ISR.
    fn joining(&self) -> Option<NodeId> {
        let change = self.change.as_ref().filter(|_| !planted(Bug::IgnoresJoining))?;
        change.joining
    }

    /// The maximal ISR.
    #[must_use]
    pub fn maximal(&self) -> Nodes {
        let mut nodes = self.current.clone();
        nodes.extend(self.joining());
        nodes
    }

    /// Asks for one more member. Does nothing while a change is under way, during recovery, or if it is one already.
    pub fn expand(&mut self, node: NodeId) -> bool {
        if self.change.is_some() || self.recovering || self.current.contains(&node) {
            return false;
        }
        let mut isr = self.current.clone();
        isr.push(node);
        self.change = Some(Change { isr, joining: Some(node), sent: false });
        true
    }

    /// Asks for fewer members. The ones that leave count until the metadata says that they have left. Does nothing
    /// while a change is under way, or if none of them is a member.
    pub fn shrink(&mut self, leaving: &[NodeId]) -> bool {
        let isr: Nodes = self.current.iter().copied().filter(|node| !leaving.contains(node)).collect();
        if self.change.is_some() || isr.len() == self.current.len() {
            return false;
        }
        if planted(Bug::ShrinksAtOnce) {
            self.current.clone_from(&isr);
        }
        self.change = Some(Change { isr, joining: None, sent: false });
        true
    }

    /// Asks for the end of the recovery: the same ISR, and everything that the leader has is what there is.
    pub fn recover(&mut self) -> bool {
        if self.change.is_some() || !self.recovering {
            return false;
        }
        self.change = Some(Change { isr: self.current.clone(), joining: None, sent: false });
        true
    }

    /// Whether there is something for [`InSync::take`].
    #[must_use]
    pub fn has_proposal(&self) -> bool {
        self.change.as_ref().is_some_and(|change| !change.sent)
    }

    /// What is to be sent, once; again only after [`Effect::Retry`].
    pub fn take(
        &mut self,
        leader_epoch: LeaderEpoch,
        broker_epoch: impl Fn(NodeId) -> BrokerEpoch,
    ) -> Option<Proposal> {
        let change = self.change.as_mut().filter(|change| !change.sent)?;
        change.sent = true;
        let isr = change.isr.iter().map(|node| (*node, broker_epoch(*node))).collect();
        Some(Proposal { leader_epoch, partition_epoch: self.partition_epoch, isr })
    }

    /// Takes in the answer to `proposal`. One that was overtaken by the metadata changes nothing.
    pub fn answered(&mut self, proposal: &Proposal, verdict: &Verdict) -> Effect {
        let overtaken = proposal.partition_epoch != self.partition_epoch;
        let Some(change) = self.change.as_mut().filter(|change| change.sent && !overtaken) else {
            return Effect::Settled;
        };
        match verdict {
            Verdict::Accepted { leader_epoch, partition_epoch, isr } => {
                if *leader_epoch != proposal.leader_epoch || *partition_epoch < self.partition_epoch {
                    return Effect::Await;
                }
                self.current = isr.clone();
                self.partition_epoch = *partition_epoch;
                self.recovering = false;
                self.change = None;
                Effect::Settled
            }
            // These two say that the partition's version is the present one and that nothing was changed. Whichever
            // controller says so, no later one can have changed it before.
            Verdict::Refused(ErrorCode::INELIGIBLE_REPLICA | ErrorCode::OPERATION_NOT_ATTEMPTED) => {
                self.change = None;
                Effect::Settled
            }
            Verdict::Refused(
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                | ErrorCode::UNKNOWN_TOPIC_ID
                | ErrorCode::FENCED_LEADER_EPOCH
                | ErrorCode::INVALID_UPDATE_VERSION
                | ErrorCode::INVALID_REQUEST
                | ErrorCode::NEW_LEADER_ELECTED,
            ) => Effect::Await,
            Verdict::Refused(_) | Verdict::Unknown => {
                change.sent = false;
                Effect::Retry
            }
        }
    }

    /// Takes in the metadata. Older state than what is known, or the same, changes nothing: an answer may arrive
    /// before the image that it speaks of. Newer state settles a change, made or not: one that was decided on an older
    /// version can no longer be made.
    pub fn observe(&mut self, state: &Partition) -> bool {
        if state.partition_epoch <= self.partition_epoch {
            return false;
        }
        *self = Self::of(state);
        true
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);

    fn state(isr: &[NodeId], version: i32) -> Partition {
        Partition {
            leader: ONE,
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(version),
            replicas: smallvec![ONE, TWO, THREE],
            isr: isr.iter().copied().collect(),
            ..Partition::default()
        }
    }

    fn taken(isr: &mut InSync) -> Proposal {
        isr.take(LeaderEpoch(4), |node| BrokerEpoch(i64::from(node.0) * 100)).unwrap()
    }

    fn accepted(isr: &[NodeId], version: i32) -> Verdict {
        Verdict::Accepted {
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(version),
            isr: isr.iter().copied().collect(),
        }
    }

    #[test]
    fn a_replica_that_joins_counts_from_the_moment_of_asking() {
        let mut isr = InSync::of(&state(&[ONE, TWO], 7));
        assert!(isr.expand(THREE));
        assert_eq!(isr.current(), [ONE, TWO]);
        assert_eq!(isr.maximal().as_slice(), [ONE, TWO, THREE]);
        let proposal = taken(&mut isr);
        assert_eq!(proposal.partition_epoch, PartitionEpoch(7));
        assert_eq!(proposal.isr.last(), Some(&(THREE, BrokerEpoch(300))));
        assert_eq!(isr.answered(&proposal, &accepted(&[ONE, TWO, THREE], 8)), Effect::Settled);
        assert_eq!(isr.current(), [ONE, TWO, THREE]);
        assert_eq!(isr.partition_epoch(), PartitionEpoch(8));
    }

    #[test]
    fn a_replica_that_leaves_counts_until_the_controller_says_so() {
        let mut isr = InSync::of(&state(&[ONE, TWO, THREE], 7));
        assert!(isr.shrink(&[TWO]));
        let proposal = taken(&mut isr);
        assert_eq!(isr.maximal().as_slice(), [ONE, TWO, THREE]);
        for verdict in [Verdict::Unknown, Verdict::Refused(ErrorCode::NOT_CONTROLLER)] {
            assert_eq!(isr.answered(&proposal, &verdict), Effect::Retry);
            assert_eq!(isr.maximal().as_slice(), [ONE, TWO, THREE]);
            assert_eq!(taken(&mut isr), proposal);
        }
        assert_eq!(isr.answered(&proposal, &accepted(&[ONE, THREE], 8)), Effect::Settled);
        assert_eq!(isr.maximal().as_slice(), [ONE, THREE]);
    }

    #[test]
    fn an_answer_that_says_nothing_keeps_the_maximal_isr_until_the_metadata_speaks() {
        for code in [
            ErrorCode::FENCED_LEADER_EPOCH,
            ErrorCode::INVALID_UPDATE_VERSION,
            ErrorCode::INVALID_REQUEST,
            ErrorCode::UNKNOWN_TOPIC_ID,
            ErrorCode::NEW_LEADER_ELECTED,
        ] {
            let mut isr = InSync::of(&state(&[ONE], 7));
            isr.expand(TWO);
            let proposal = taken(&mut isr);
            assert_eq!(isr.answered(&proposal, &Verdict::Refused(code)), Effect::Await, "{code}");
            assert!(isr.may_contain(TWO) && isr.is_changing() && !isr.has_proposal());
            assert!(!isr.expand(THREE));
            assert!(isr.observe(&state(&[ONE], 9)));
            assert!(!isr.may_contain(TWO) && !isr.is_changing());
        }
    }

    #[test]
    fn only_a_clear_refusal_takes_the_change_back() {
        for code in [ErrorCode::INELIGIBLE_REPLICA, ErrorCode::OPERATION_NOT_ATTEMPTED] {
            let mut isr = InSync::of(&state(&[ONE], 7));
            isr.expand(TWO);
            let proposal = taken(&mut isr);
            assert_eq!(isr.answered(&proposal, &Verdict::Refused(code)), Effect::Settled);
            assert_eq!(isr.maximal().as_slice(), [ONE]);
        }
    }

    #[test]
    fn one_change_is_under_way_at_a_time() {
        let mut isr = InSync::of(&state(&[ONE, TWO], 7));
        assert!(isr.shrink(&[TWO]));
        assert!(!isr.expand(THREE) && !isr.shrink(&[TWO]));
        assert_eq!(taken(&mut isr).isr.len(), 1);
        assert_eq!(isr.take(LeaderEpoch(4), |_| BrokerEpoch::NONE), None);
    }

    #[test]
    fn metadata_that_is_not_newer_changes_nothing() {
        let mut isr = InSync::of(&state(&[ONE], 7));
        isr.expand(TWO);
        let proposal = taken(&mut isr);
        isr.answered(&proposal, &accepted(&[ONE, TWO], 8));
        assert!(!isr.observe(&state(&[ONE], 7)) && !isr.observe(&state(&[ONE], 8)));
        assert_eq!(isr.current(), [ONE, TWO]);
    }

    #[test]
    fn an_answer_that_the_metadata_overtook_is_ignored() {
        let mut isr = InSync::of(&state(&[ONE, TWO], 7));
        isr.shrink(&[TWO]);
        let proposal = taken(&mut isr);
        isr.observe(&state(&[ONE, TWO, THREE], 8));
        isr.shrink(&[THREE]);
        taken(&mut isr);
        assert_eq!(isr.answered(&proposal, &accepted(&[ONE], 8)), Effect::Settled);
        assert_eq!(isr.current(), [ONE, TWO, THREE]);
        assert!(isr.is_changing());
    }

    #[test]
    fn a_leader_in_recovery_takes_nobody_in_before_it_has_recovered() {
        let mut isr = InSync::of(&Partition { recovering: true, ..state(&[ONE], 7) });
        assert!(!isr.expand(TWO));
        assert!(isr.recover());
        let proposal = taken(&mut isr);
        assert_eq!(isr.answered(&proposal, &accepted(&[ONE], 8)), Effect::Settled);
        assert!(!isr.is_recovering());
        assert!(isr.expand(TWO));
    }
}

//! The rule by which a cluster comes to be, as a pure function of what a node has written down and what it was told.
//!
//! Each node is fresh, tentative or final. The listed voter with the lowest id coordinates:
//! 1. it becomes tentative, with a new id, once every listed voter has answered, is fresh and has the same list;
//! 2. the others become tentative when they meet it so;
//! 3. it becomes final once all of them are tentative with exactly its charter;
//! 4. whoever is tentative becomes final on meeting somebody who is final with the same id.
//!
//! Nothing else changes a node's phase, so that a fresh folder among used ones never founds a second cluster. A
//! coordinator that comes back tentative goes on with the same id; one that comes back emptied meets tentative nodes,
//! which are not fresh, and stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{
    consensus::LogId,
    ids::{DirectoryId, NodeId},
};

use crate::membership::Member;

/// Nodes that are remembered; whoever makes up more is not listened to.
const MET_CAP: usize = 1024;

/// A cluster's beginning: its id, and its first voters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Charter {
    /// The log's id. The first generation's is the cluster id.
    pub log: LogId,
    /// The first voters.
    pub founders: BTreeMap<NodeId, Member>,
}

/// How far a node has come; kept durably before it is said to anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The folder is empty.
    #[default]
    Fresh,
    /// This node takes part in a founding that may not have come about.
    Tentative(Charter),
    /// The cluster exists.
    Final(Charter),
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Which node it is.
    pub node: NodeId,
    /// Its log directory.
    pub directory: DirectoryId,
    /// The voters that its configuration lists.
    pub listed: BTreeSet<NodeId>,
    /// How far it has come.
    pub phase: Phase,
}

/// One node's part in the founding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    me: Claim,
    /// Where the listed voters are reached, for the charter.
    endpoints: BTreeMap<NodeId, String>,
    met: BTreeMap<NodeId, Claim>,
    /// A member of the cluster has called this very directory a member: it was added, not founded.
    invitation: Option<Charter>,
}

impl Machine {
    /// A node that has come as far as `phase`, and whose configuration lists these voters.
    #[must_use]
    pub fn new(
        node: NodeId,
        directory: DirectoryId,
        endpoints: BTreeMap<NodeId, String>,
        phase: Phase,
    ) -> Self {
        let listed = endpoints.keys().copied().collect();
        let me = Claim { node, directory, listed, phase };
        Self { me, endpoints, met: BTreeMap::new(), invitation: None }
    }

    /// What this node may say of itself.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.me
    }

    /// What the others last said.
    #[must_use]
    pub fn met(&self) -> &BTreeMap<NodeId, Claim> {
        &self.met
    }

    /// Takes note of what another node says.
    pub fn meet(&mut self, claim: Claim) {
        let room = self.met.len() < MET_CAP || self.met.contains_key(&claim.node);
        if claim.node != self.me.node && room {
            self.met.insert(claim.node, claim);
        }
    }

    /// Takes note that a member of a founded cluster addresses this node, by its directory, as a member.
    pub fn invite(&mut self, charter: Charter) {
        self.invitation = Some(charter);
    }

    /// The phase to take next, if there is one: make it durable, then [`Machine::enter`] it. `id` is used where this
    /// node is the one to name the cluster.
    #[must_use]
    pub fn next(&self, id: LogId) -> Option<Phase> {
        match &self.me.phase {
            Phase::Fresh => self.next_of_fresh(id),
            Phase::Tentative(charter) => self.next_of_tentative(charter),
            Phase::Final(_) => None,
        }
    }

    /// Enters a phase that [`Machine::next`] named and that is durable now.
    pub fn enter(&mut self, phase: Phase) {
        self.me.phase = phase;
    }

    fn next_of_fresh(&self, id: LogId) -> Option<Phase> {
        if let Some(charter) = &self.invitation {
            return Some(Phase::Final(charter.clone()));
        }
        if self.coordinates() {
            let everybody_is_fresh = self.others().all(|(_, claim)| {
                claim.is_some_and(|claim| claim.phase == Phase::Fresh && self.agrees(claim))
            });
            let charter = Charter { log: id, founders: self.founders()? };
            return everybody_is_fresh.then_some(Phase::Tentative(charter));
        }
        match self.coordinator()? {
            (claim, Phase::Tentative(charter)) if self.agrees(claim) && self.is_founder(charter) => {
                Some(Phase::Tentative(charter.clone()))
            }
            _ => None,
        }
    }

    fn next_of_tentative(&self, mine: &Charter) -> Option<Phase> {
        let founded = self.met.values().find_map(|claim| match &claim.phase {
            Phase::Final(charter) if charter.log == mine.log && self.is_founder(charter) => Some(charter),
            _ => None,
        });
        if let Some(charter) = founded {
            return Some(Phase::Final(charter.clone()));
        }
        if self.coordinates() {
            return self.next_of_coordinator(mine);
        }
        match self.coordinator()? {
            (claim, Phase::Tentative(charter))
                if charter.log == mine.log
                    && charter != mine
                    && self.agrees(claim)
                    && self.is_founder(charter) =>
            {
                Some(Phase::Tentative(charter.clone()))
            }
            _ => None,
        }
    }

    fn next_of_coordinator(&self, mine: &Charter) -> Option<Phase> {
        let ready = self.others().all(|(_, claim)| {
            claim.is_some_and(|claim| {
                let part = mine.founders.get(&claim.node).map(|member| member.directory);
                claim.phase == Phase::Tentative(mine.clone())
                    && self.agrees(claim)
                    && part == Some(claim.directory)
            })
        });
        if ready && mine.founders.keys().eq(&self.me.listed) {
            return Some(Phase::Final(mine.clone()));
        }
        // A founder that came back emptied takes its place again: while the coordinator is tentative nobody is final.
        let open = self.others().all(|(_, claim)| {
            claim.is_some_and(|claim| match &claim.phase {
                Phase::Fresh => self.agrees(claim),
                Phase::Tentative(charter) => charter.log == mine.log && self.agrees(claim),
                Phase::Final(_) => false,
            })
        });
        let charter = Charter { log: mine.log, founders: self.founders()? };
        (open && charter != *mine).then_some(Phase::Tentative(charter))
    }

    fn coordinates(&self) -> bool {
        self.me.listed.first() == Some(&self.me.node)
    }

    fn coordinator(&self) -> Option<(&Claim, &Phase)> {
        let claim = self.met.get(self.me.listed.first()?)?;
        Some((claim, &claim.phase))
    }

    /// The other listed voters, and what they last said.
    pub(super) fn others(&self) -> impl Iterator<Item = (NodeId, Option<&Claim>)> {
        let others = self.me.listed.iter().copied().filter(|node| *node != self.me.node);
        others.map(|node| (node, self.met.get(&node)))
    }

    fn agrees(&self, claim: &Claim) -> bool {
        claim.listed == self.me.listed && claim.directory != self.me.directory
    }

    fn is_founder(&self, charter: &Charter) -> bool {
        charter.founders.get(&self.me.node).is_some_and(|member| member.directory == self.me.directory)
    }

    /// The listed voters with the directories they said; `None` until all have, or if two have the same.
    fn founders(&self) -> Option<BTreeMap<NodeId, Member>> {
        let mut directories = BTreeSet::new();
        let founders = self.endpoints.iter().map(|(node, endpoint)| {
            let directory =
                if *node == self.me.node { self.me.directory } else { self.met.get(node)?.directory };
            directories.insert(directory);
            Some((*node, Member { directory, endpoint: endpoint.clone(), ..Member::default() }))
        });
        let founders: BTreeMap<_, _> = founders.collect::<Option<_>>()?;
        (directories.len() == founders.len()).then_some(founders)
    }
}

//! Where replicas go, by the goals of Kafka's `StripedReplicaPlacer`: evenly over racks before evenly over brokers,
//! neighbouring partitions on different brokers, fenced brokers only when no other is left, and never a fenced first
//! replica.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{
    ids::NodeId,
    metadata::{Image, image::Nodes},
    runtime::Rng,
};

/// Why there is no placement.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PlacementError {
    /// More replicas than brokers.
    #[error(
        "The target replication factor of {wanted} cannot be reached because only {registered} broker(s) are \
         registered."
    )]
    TooFewBrokers {
        /// Replicas that were asked for.
        wanted: usize,
        /// Brokers that there are.
        registered: usize,
    },
    /// Nobody could lead.
    #[error("All brokers are currently fenced.")]
    AllFenced,
}

/// Replicas for `partitions` partitions of a new topic, the leader first.
///
/// # Errors
/// [`PlacementError`].
pub fn place(
    image: &Image,
    partitions: usize,
    replicas: usize,
    rng: &Rng,
) -> Result<Vec<Nodes>, PlacementError> {
    let mut racks = Racks::of(image, rng);
    if racks.active == 0 {
        return Err(PlacementError::AllFenced);
    }
    if replicas > racks.registered {
        return Err(PlacementError::TooFewBrokers { wanted: replicas, registered: racks.registered });
    }
    Ok((0..partitions).map(|_| racks.next_partition(replicas, rng)).collect())
}

/// What each broker has of the partitions placed so far: how many it leads, how many it holds.
type Shares = BTreeMap<NodeId, (u32, u32)>;

/// Brokers in a ring. Each partition begins one further than the one before.
struct Ring {
    brokers: Vec<NodeId>,
    start: usize,
    /// Those that the present partition has.
    taken: Nodes,
}

impl Ring {
    fn new(brokers: Vec<NodeId>, rng: &Rng) -> Self {
        let start = usize::try_from(rng.below(brokers.len() as u64)).unwrap_or_default();
        Self { brokers, start, taken: Nodes::new() }
    }

    /// The brokers that the present partition does not have, from where it begins.
    fn free(&self) -> impl Iterator<Item = NodeId> {
        let (before, after) = self.brokers.split_at(self.start.min(self.brokers.len()));
        after.iter().chain(before).copied().filter(|node| !self.taken.contains(node))
    }

    /// The next broker for the same partition: the one with the least of `shares` so far; of several the one that is
    /// next.
    fn next(&mut self, shares: &Shares, lead: bool) -> Option<NodeId> {
        let share = |node: &NodeId| {
            let (led, held) = shares.get(node).copied().unwrap_or_default();
            (if lead { led } else { 0 }, held)
        };
        let node = self.free().min_by_key(share)?;
        self.taken.push(node);
        Some(node)
    }

    /// A new partition begins.
    fn turn(&mut self) {
        self.start = (self.start + 1).checked_rem(self.brokers.len()).unwrap_or_default();
        self.taken.clear();
    }

    fn shuffle(&mut self, rng: &Rng) {
        for last in (1..self.brokers.len()).rev() {
            let other = usize::try_from(rng.below(last as u64 + 1)).unwrap_or_default();
            self.brokers.swap(last, other);
        }
    }
}

/// The brokers of one rack.
struct Rack {
    active: Ring,
    fenced: Ring,
}

impl Rack {
    fn next(&mut self, shares: &Shares) -> Option<NodeId> {
        self.active.next(shares, false).or_else(|| self.fenced.next(shares, false))
    }
}

/// All racks, in a ring of their own.
struct Racks {
    racks: Vec<Rack>,
    start: usize,
    placed: usize,
    shares: Shares,
    active: usize,
    registered: usize,
}

impl Racks {
    fn of(image: &Image, rng: &Rng) -> Self {
        let mut by_rack: BTreeMap<Option<&str>, (Vec<NodeId>, Vec<NodeId>)> = BTreeMap::new();
        let (mut active, mut registered) = (0, 0);
        for broker in image.brokers.values() {
            let (live, fenced) = by_rack.entry(broker.rack.as_deref()).or_default();
            registered += 1;
            if broker.is_active() {
                active += 1;
                live.push(broker.node);
            } else {
                fenced.push(broker.node);
            }
        }
        let rack = |(live, fenced)| Rack { active: Ring::new(live, rng), fenced: Ring::new(fenced, rng) };
        let racks: Vec<Rack> = by_rack.into_values().map(rack).collect();
        let start = usize::try_from(rng.below(racks.len() as u64)).unwrap_or_default();
        Self { racks, start, placed: 0, shares: Shares::new(), active, registered }
    }

    fn next_partition(&mut self, replicas: usize, rng: &Rng) -> Nodes {
        // Every broker has had its turn as the leader: without a new order the same sets would come again.
        if self.placed == self.active && self.active > 1 {
            self.placed = 0;
            self.racks.iter_mut().for_each(|rack| rack.active.shuffle(rng));
        }
        let count = self.racks.len();
        let mut nodes = Nodes::new();
        let mut at = self.start;
        for _ in 0..count {
            let leader = self.racks.get_mut(at).and_then(|rack| rack.active.next(&self.shares, true));
            at = (at + 1).checked_rem(count).unwrap_or_default();
            if let Some(leader) = leader {
                nodes.push(leader);
                break;
            }
        }
        // The others come from the racks that follow the leader's, and from the leader's again after all others.
        while nodes.len() < replicas {
            let mut found = false;
            for _ in 0..count {
                if nodes.len() == replicas {
                    break;
                }
                if let Some(node) = self.racks.get_mut(at).and_then(|rack| rack.next(&self.shares)) {
                    nodes.push(node);
                    found = true;
                }
                at = (at + 1).checked_rem(count).unwrap_or_default();
            }
            if !found {
                break;
            }
        }
        for (place, node) in nodes.iter().enumerate() {
            let (led, held) = self.shares.entry(*node).or_default();
            *led += u32::from(place == 0);
            *held += 1;
        }
        self.placed += 1;
        self.start = (self.start + 1).checked_rem(count).unwrap_or_default();
        for rack in &mut self.racks {
            rack.active.turn();
            rack.fenced.turn();
        }
        nodes
    }
}

//! Follows leaders: one task for each node that leads something which is followed here, over one connection, in one
//! fetch session. An idle partition costs no message; one with news is told at once.

mod peer;
mod session;

use std::{collections::BTreeMap, sync::Arc};

use super::Broker;
use crate::{
    ids::{NodeId, PartitionId},
    partition::{backlog::Backlog, replica::Replica},
};

/// Replicas that a peer's task has to look at.
type Inbox = Arc<Backlog<Arc<Replica>>>;

/// Hands every follower with news to the task of its leader's node, and takes it from the one that had it.
pub(super) async fn run(broker: Arc<Broker>) {
    let mut peers: BTreeMap<NodeId, Inbox> = BTreeMap::new();
    let mut followed: BTreeMap<PartitionId, NodeId> = BTreeMap::new();
    loop {
        let news = tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            news = broker.partitions.news.take() => news,
        };
        for replica in news {
            // What is new from here on is told anew.
            replica.take_news();
            let leader = replica.position().map(|position| position.leader);
            let before = match leader {
                Some(leader) => followed.insert(replica.partition, leader),
                None => followed.remove(&replica.partition),
            };
            if before != leader
                && let Some(inbox) = before.and_then(|before| peers.get(&before))
            {
                inbox.push(replica.clone());
            }
            if let Some(leader) = leader {
                peers.entry(leader).or_insert_with(|| begin(&broker, leader)).push(replica);
            }
        }
    }
}

fn begin(broker: &Arc<Broker>, leader: NodeId) -> Inbox {
    let inbox = Inbox::default();
    broker.runtime.tasks.spawn(peer::run(broker.clone(), leader, inbox.clone()));
    inbox
}

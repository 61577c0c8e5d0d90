//! Records on whole nodes in one thread: replication, changes of leaders, power cuts, deletion.

use std::{sync::Arc, time::Duration};

use super::{
    Caller,
    cluster_test::{World, caller, live},
};
use crate::{
    ids::{LeaderEpoch, NodeId, Offset, PartitionId},
    metadata::{Image, image::Partition},
    partition::replica::{Acks, FetchQuery, Reader, Replica},
    protocol::{
        batch::Batches,
        bodies::{DeleteTopicsRequest, delete_topics_request::DeleteTopicState, topic_name},
        builder::BatchBuilder,
        compression::Codec,
        records::Records,
    },
    runtime::simulated::{Fault, Keep},
};

impl World {
    /// Three nodes and the topic `orders`.
    async fn with_orders() -> Self {
        let world = Self::of_three().await;
        let response = world.create(1, "orders").await.unwrap();
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
        world.until("partitions are led", |image| image.topic("orders").is_some()).await;
        world
    }

    fn partition(&self) -> PartitionId {
        let image = self.nodes.values().next().unwrap().started.broker().image_arc();
        PartitionId { topic: image.topic("orders").unwrap().id, index: 0 }
    }

    fn state(&self, image: &Image) -> Partition {
        image.topic("orders").unwrap().partitions[0].clone()
    }

    /// Waits until a running replica says that it leads; returns it and its node.
    async fn leader(&self) -> (i32, Arc<Replica>) {
        let partition = self.partition();
        let begun = self.clock.now();
        loop {
            for (number, node) in &self.nodes {
                let replica = node.started.broker().partitions.get(partition);
                let newest =
                    self.nodes.values().map(|node| self.state(&node.started.broker().image()).leader_epoch);
                if let Some(replica) = replica.filter(|replica| replica.progress().leads)
                    && Some(replica.progress().leader_epoch) == newest.max()
                {
                    return (*number, replica);
                }
            }
            assert!(self.clock.now().since(begun) < Duration::from_secs(30), "nobody leads");
            self.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes to whoever leads, until it is acknowledged by all. Returns its offset.
    async fn write(&self, value: &str) -> Offset {
        let begun = self.clock.now();
        while self.clock.now().since(begun) < Duration::from_secs(30) {
            let (_, leader) = self.leader().await;
            let bytes = BatchBuilder::new(Codec::None.into())
                .simple(1_700_000_000_000, None, Some(value.as_bytes()))
                .build()
                .unwrap();
            if let Ok(written) = leader.append_as_leader(&bytes, Acks::All) {
                let acknowledged = leader.acknowledged(&written, Acks::All);
                let limit = Duration::from_secs(5);
                if let Ok(Ok(())) = self.clock.timeout(limit, acknowledged).await {
                    return written.base_offset;
                }
            }
            self.clock.sleep(Duration::from_millis(10)).await;
        }
        let (node, leader) = self.leader().await;
        let state = self.state(&self.broker(node).image());
        let ends = (1..=3).map(|node| self.replica(node).map(|replica| replica.progress()));
        let ends: Vec<_> = ends.collect();
        panic!("'{value}' was not acknowledged: {state:?} {:?} {ends:#?}", leader.in_sync());
    }

    /// Waits until a condition on replicas holds.
    async fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = self.clock.now();
        while !holds() {
            assert!(self.clock.now().since(begun) < Duration::from_secs(60), "{what}");
            self.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    fn replica(&self, node: i32) -> Option<Arc<Replica>> {
        self.nodes.get(&node)?.started.broker().partitions.get(self.partition())
    }
}

/// Every visible value, in order, with its offset.
fn visible(replica: &Arc<Replica>) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    let mut from = replica.progress().log_start;
    loop {
        let query = FetchQuery {
            reader: Reader::Consumer,
            from,
            leader_epoch: LeaderEpoch::NONE,
            last_epoch: LeaderEpoch::NONE,
            max_bytes: 1 << 20,
            at_least_one: true,
        };
        let Some(region) = replica.read(&query).unwrap().region else { return values };
        let bytes = region.read().unwrap();
        for batch in Batches::of(&bytes) {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            for record in Records::of(batch.payload(), batch.header().count) {
                let record = record.unwrap();
                let offset = batch.header().base_offset.0 + i64::from(record.offset_delta);
                values.push((offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
            from = batch.header().next_offset();
        }
    }
}

fn values(replica: &Arc<Replica>) -> Vec<String> {
    visible(replica).into_iter().map(|(_, value)| value).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_on_every_disk() {
    let world = World::with_orders().await;
    for number in 0..20 {
        assert_eq!(world.write(&format!("value {number}")).await, Offset(number));
    }
    for node in 1..=3 {
        let progress = world.replica(node).unwrap().progress();
        assert_eq!((progress.log_end, progress.synced_end), (Offset(20), Offset(20)), "node {node}");
    }
    let (_, leader) = world.leader().await;
    assert_eq!(values(&leader).len(), 20);
    world
        .eventually("followers learn the high watermark", || {
            (1..=3).all(|node| world.replica(node).unwrap().progress().high_watermark == Offset(20))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_takes_a_few_round_trips_and_syncs() {
    let world = World::with_orders().await;
    world.write("first").await;
    for disk in world.disks.values() {
        disk.set_sync_delay(Duration::from_millis(1), Duration::from_millis(1));
    }
    let begun = world.clock.now();
    for _ in 0..50 {
        world.write("x").await;
    }
    let each = world.clock.now().since(begun) / 50;
    assert!(each < Duration::from_millis(8), "{each:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_when_leaders_die_one_after_the_other() {
    let mut world = World::with_orders().await;
    let mut written = Vec::new();
    for round in 0..6 {
        for number in 0..5 {
            let value = format!("{round}.{number}");
            world.write(&value).await;
            written.push(value);
        }
        let (victim, leader) = world.leader().await;
        // Not acknowledged by anybody, and cut once another leads.
        let lost = BatchBuilder::new(Codec::None.into()).simple(0, None, Some(b"lost")).build().unwrap();
        leader.append_as_leader(&lost, Acks::None).unwrap();
        world.kill(victim);
        let value = format!("{round} after");
        world.write(&value).await;
        written.push(value);
        world.start(victim).await;
        world
            .until("all are in sync again", |image| {
                live(image) == 3 && image.topic("orders").unwrap().partitions[0].isr.len() == 3
            })
            .await;
    }
    let (_, leader) = world.leader().await;
    let read: Vec<String> = values(&leader).into_iter().filter(|value| value != "lost").collect();
    assert_eq!(read, written);
    world.write("last").await;
    let ends: Vec<Offset> = (1..=3).map(|node| world.replica(node).unwrap().progress().log_end).collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    let mut world = World::with_orders().await;
    for number in 0..10 {
        world.write(&number.to_string()).await;
    }
    for node in 1..=3 {
        world.kill(node);
        world.disks[&node].crash(Keep::None);
    }
    for node in 1..=3 {
        world.start(node).await;
    }
    world.until("all are in", |image| live(image) == 3).await;
    world.write("after").await;
    let (_, leader) = world.leader().await;
    let expected: Vec<String> =
        (0..10).map(|number| number.to_string()).chain(["after".to_owned()]).collect();
    assert_eq!(values(&leader), expected);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_cut_off_leaves_the_isr_and_comes_back() {
    let world = World::with_orders().await;
    world.write("a").await;
    let (leader, _) = world.leader().await;
    let victim = (1..=3).find(|node| *node != leader && *node != world.controller()).unwrap();
    world.cut(victim);
    world.write("b").await;
    assert!(!world.state(&world.broker(leader).image()).isr.contains(&NodeId(victim)));
    world.network.heal_all();
    world
        .until("it is in sync again", |image| image.topic("orders").unwrap().partitions[0].isr.len() == 3)
        .await;
    world.write("c").await;
    assert_eq!(world.replica(victim).unwrap().progress().log_end, Offset(3));
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_disk_hangs_holds_nobody_up_for_long() {
    let world = World::with_orders().await;
    world.write("a").await;
    let (leader, _) = world.leader().await;
    let victim = (1..=3).find(|node| *node != leader).unwrap();
    world.disks[&victim].inject("orders", Fault::HangSync, u32::MAX);
    let begun = world.clock.now();
    world.write("b").await;
    let took = world.clock.now().since(begun);
    assert!(took < Duration::from_secs(5), "its silence fences it: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_ends_the_node_and_acknowledges_nothing() {
    let world = World::with_orders().await;
    world.write("a").await;
    let (node, leader) = world.leader().await;
    world.disks[&node].inject("orders", Fault::FailSync, 1);
    let bytes = BatchBuilder::new(Codec::None.into()).simple(0, None, Some(b"b")).build().unwrap();
    let written = leader.append_as_leader(&bytes, Acks::Leader).unwrap();
    let limit = Duration::from_secs(1);
    assert!(world.clock.timeout(limit, leader.acknowledged(&written, Acks::Leader)).await.is_err());
    let fatal = world.broker(node).fatal().borrow().clone().unwrap();
    assert!(fatal.contains("sync of orders-0 failed"), "{fatal}");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_created_again_serves_nothing_of_the_old_one() {
    let mut world = World::with_orders().await;
    world.write("old").await;
    let old = world.partition();
    let (_, replica) = world.leader().await;
    // One node is down while it happens.
    let (leader, _) = world.leader().await;
    let absent = (1..=3).find(|node| *node != leader && *node != world.controller()).unwrap();
    world.kill(absent);
    delete(&world, "orders", leader, &caller()).await;
    world.until("it is gone", |image| image.topic("orders").is_none()).await;
    world
        .eventually("its replicas are gone", || {
            world.nodes.values().all(|node| node.started.broker().partitions.get(old).is_none())
        })
        .await;
    assert!(!replica.progress().leads);
    world.start(absent).await;
    world.until("all are in", |image| live(image) == 3).await;
    world.create(leader, "orders").await.unwrap();
    world.until("it is back", |image| image.topic("orders").is_some()).await;
    assert_ne!(world.partition(), old);
    assert_eq!(world.write("new").await, Offset(0));
    world
        .eventually("every replica has only the new one", || {
            (1..=3).all(|node| {
                world.replica(node).is_some_and(|replica| replica.progress().log_end == Offset(1))
            })
        })
        .await;
}

async fn delete(world: &World, name: &str, at: i32, caller: &Caller) {
    let topic = DeleteTopicState::default().with_name(Some(topic_name(name.to_owned())));
    let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    let deadline = world.clock.now().plus(Duration::from_secs(5));
    let deleted = world.broker(at).forward(&request, caller, deadline).await.unwrap();
    assert_eq!(deleted.responses[0].error_code, 0, "{deleted:?}");
}

//! Real sockets, a real disk and a real clock: what the simulated ones might hide.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_core::{
    consensus::{Leader, NodeId, Resume, Running},
    ids::{DirectoryId, LogIndex},
    runtime::{Connection, Listener, Network as _, RealNetwork, Runtime},
};
use tokio::sync::mpsc;

use super::{Backend, read};
use crate::config::{TAIL_ENTRIES, Timings, VoterConfig};

struct Node {
    runtime: Runtime,
    running: Arc<dyn Running>,
}

async fn forward(mut listener: Listener, to: mpsc::Sender<(Connection, SocketAddr)>) {
    while let Ok(accepted) = listener.accept().await {
        if to.send(accepted).await.is_err() {
            return;
        }
    }
}

async fn start(
    backend: Backend,
    node: i32,
    folder: &std::path::Path,
    addresses: &BTreeMap<i32, SocketAddr>,
) -> Node {
    let runtime = Runtime::real();
    let (sender, incoming) = mpsc::channel(64);
    let listener = RealNetwork.listen(addresses[&node]).unwrap();
    runtime.tasks.spawn(forward(listener, sender));
    let config = VoterConfig {
        node: NodeId(node),
        directory_id: DirectoryId(uuid::Uuid::from_u128(node as u128 + 7)),
        folder: folder.join(node.to_string()),
        voters: addresses.iter().map(|(node, address)| (NodeId(*node), address.to_string())).collect(),
        incoming,
        timings: Timings::default(),
        runtime: runtime.clone(),
    };
    let running = (backend.make)(config, TAIL_ENTRIES).unwrap().start(Resume::default()).await.unwrap();
    Node { runtime, running }
}

async fn leader(nodes: &BTreeMap<i32, Node>) -> i32 {
    let leads = |node: &Node| {
        let last = node.running.leader_events().last();
        last.filter(|last| matches!(last.leader, Leader::Me { .. })).map(|last| last.epoch)
    };
    for _ in 0..1000 {
        let found = nodes.iter().filter_map(|(id, node)| Some((leads(node)?, *id))).max();
        if let Some((_, leader)) = found {
            return leader;
        }
        Runtime::real().clock.sleep(Duration::from_millis(20)).await;
    }
    panic!("no leader: {:?}", nodes.values().map(|node| node.running.status()).collect::<Vec<_>>());
}

async fn commit(nodes: &BTreeMap<i32, Node>, data: &'static str) -> LogIndex {
    loop {
        let leading = &nodes[&leader(nodes).await].running;
        let epoch = leading.leader_events().last().unwrap().epoch;
        if let Ok(index) = leading.propose(epoch, Bytes::from_static(data.as_bytes())).await {
            return index;
        }
    }
}

pub async fn three_nodes_over_sockets_survive_the_crash_of_their_leader(backend: Backend) {
    let folder = tempfile::tempdir().unwrap();
    let addresses: BTreeMap<i32, SocketAddr> = (0..3)
        .map(|node| {
            let listener = RealNetwork.listen("127.0.0.1:0".parse().unwrap()).unwrap();
            (node, listener.local_addr().unwrap())
        })
        .collect();
    let mut nodes = BTreeMap::new();
    for node in 0..3 {
        nodes.insert(node, start(backend, node, folder.path(), &addresses).await);
    }
    let first = commit(&nodes, "before").await;
    let before = read(&*nodes[&leader(&nodes).await].running, 0, first).await;
    let gone = leader(&nodes).await;
    let crashed = nodes.remove(&gone).unwrap();
    crashed.runtime.tasks.kill();
    drop(crashed);
    let second = commit(&nodes, "after").await;
    assert!(second > first);
    nodes.insert(gone, start(backend, gone, folder.path(), &addresses).await);
    let there = read(&*nodes[&gone].running, 0, second).await;
    assert_eq!(there.get(..before.len()), Some(before.as_slice()));
    for node in nodes.values() {
        node.running.shutdown().await;
        node.runtime.tasks.kill();
    }
}

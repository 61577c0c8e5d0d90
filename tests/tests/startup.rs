//! A cluster comes up: in every order, with any node missing, and without waiting where there is nothing to wait for.
#![expect(clippy::disallowed_methods, reason = "real processes run on real time")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use quorate_tests::{
    clients::kafka_tool,
    cluster::{Backend, Cluster, api_versions, http_get, run, wait_for},
    etcd::EtcdServer,
};

const ORDERS: [[u32; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];

/// The node answers ApiVersions soon, whoever else runs.
fn answers(cluster: &mut Cluster, id: u32) {
    let port = cluster.node(id).port();
    let apis = wait_for("ApiVersions", Duration::from_secs(5), || api_versions(port).ok());
    assert!(apis.iter().any(|(key, ..)| *key == 18), "{apis:?}");
}

fn reason(cluster: &mut Cluster, id: u32) -> (u16, String) {
    let port = cluster.node(id).http_port();
    wait_for("/readyz", Duration::from_secs(5), || http_get(port, "/readyz").ok())
}

fn comes_up(backend: &Backend, order: [u32; 3]) {
    let mut cluster = Cluster::prepare(3, backend);
    for id in order {
        cluster.node(id).start();
        answers(&mut cluster, id);
    }
    cluster.wait_ready();
    cluster.create_topic("first", 1, 3);
}

#[test]
fn raftrs_comes_up_in_every_order_of_starts() {
    ORDERS.into_iter().for_each(|order| comes_up(&Backend::Raftrs, order));
}

#[test]
fn openraft_comes_up_whoever_starts_first() {
    ORDERS.into_iter().step_by(2).for_each(|order| comes_up(&Backend::Openraft, order));
}

#[test]
fn etcd_comes_up_in_every_order_of_starts_and_with_any_one_missing() {
    let etcd = EtcdServer::start();
    for order in ORDERS {
        let mut cluster = Cluster::prepare(3, &Backend::etcd(&etcd.address()));
        for id in &order[..2] {
            cluster.node(*id).start();
            answers(&mut cluster, *id);
        }
        cluster.wait_ready();
        cluster.create_topic("first", 1, 2);
        cluster.node(order[2]).start();
        cluster.wait_ready();
    }
}

#[test]
fn fresh_folders_wait_for_the_missing_founder_and_name_it_and_used_ones_do_not() {
    for missing in 1..=3 {
        let mut cluster = Cluster::prepare(3, &Backend::Raftrs);
        let present: Vec<u32> = (1..=3).filter(|id| *id != missing).collect();
        for id in &present {
            cluster.node(*id).start();
            answers(&mut cluster, *id);
        }
        for id in &present {
            let awaited = format!("node {missing} at");
            wait_for("the founder's name", Duration::from_secs(10), || {
                let (status, body) = reason(&mut cluster, *id);
                (status == 503 && body.contains(&awaited) && body.contains("found")).then_some(())
            });
        }
        cluster.node(missing).start();
        cluster.wait_ready();
        cluster.create_topic("kept", 1, 3);
        for id in 1..=3 {
            cluster.node(id).kill();
        }
        for id in &present {
            cluster.node(*id).start();
            answers(&mut cluster, *id);
        }
        cluster.wait_ready();
        assert_eq!(cluster.leaders("kept").len(), 1);
    }
}

/// Without a leader of the metadata the server is up and answers as documented.
#[test]
fn a_node_that_waits_for_a_leader_says_so_to_clients_and_operators() {
    let mut cluster = Cluster::prepare(3, &Backend::Raftrs);
    cluster.node(1).start();
    answers(&mut cluster, 1);
    let address = cluster.node(1).address();
    let (status, body) = reason(&mut cluster, 1);
    assert_eq!(status, 503, "{body}");
    let port = cluster.node(1).http_port();
    assert_eq!(http_get(port, "/livez").expect("an answer").0, 200);

    // By name: a broker list with this node, and a topic that is not known not to exist.
    let named = run(
        Command::new("kcat").args(["-b", &address, "-L", "-J", "-t", "some", "-m", "3"]),
        "",
        Duration::from_secs(20),
    );
    assert!(named.stdout.contains(&address), "{named:?}");
    assert!(named.stdout.to_lowercase().contains("leader not available"), "{named:?}");

    // All topics: held, and then no empty list.
    let begun = Instant::now();
    let all = run(
        Command::new("kcat").args(["-b", &address, "-L", "-J", "-m", "4", "-X", "socket.timeout.ms=4000"]),
        "",
        Duration::from_secs(20),
    );
    assert!(!all.ok && !all.stdout.contains("\"topics\":[]"), "after {:?}: {all:?}", begun.elapsed());

    // The Java client's admin tool reports a time-out, not an empty cluster.
    let listed =
        kafka_tool("org.apache.kafka.tools.TopicCommand", &["--bootstrap-server", &address, "--list"], "");
    assert!(!listed.ok, "{listed:?}");
}

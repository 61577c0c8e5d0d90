//! Bad folders, bad disks and bad ends: a clear sentence, an exit code, and nothing acknowledged that is lost.

use std::{fs, path::Path, process::Command, time::Duration};

use quorate_tests::{
    clients::{Client, Record, kafka_tool, kcat_produce},
    cluster::{Backend, Cluster, binary, http_get, run, wait_for, wait_within},
    etcd::EtcdServer,
};

fn record(value: &str) -> Record {
    Record {
        offset: None,
        key: None,
        value: Some(value.to_owned()),
        headers: Vec::new(),
        timestamp: 1_700_000_000_000,
    }
}

fn records(count: usize) -> Vec<Record> {
    (0..count).map(|number| record(&format!("value {number}"))).collect()
}

fn values(records: &[Record]) -> Vec<String> {
    records.iter().filter_map(|record| record.value.clone()).collect()
}

fn copy(from: &Path, to: &Path) {
    let out = run(Command::new("cp").arg("-a").arg(from).arg(to), "", Duration::from_secs(30));
    assert!(out.ok, "{out:?}");
}

/// The node refuses to run, with the exit code for what the operator must mend, and says these words.
fn refuses(cluster: &mut Cluster, id: u32, words: &[&str]) {
    let code = cluster.node(id).wait_exit(Duration::from_secs(20));
    let log = cluster.node(id).log_tail();
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {log}");
    for word in words {
        assert!(log.contains(word), "'{word}' is not in: {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

/// The node says one of these words, in its log or on its page, and does not become ready.
fn says(cluster: &mut Cluster, id: u32, words: &[&str]) {
    let port = cluster.node(id).http_port();
    let mut said = String::new();
    let found = wait_within(Duration::from_secs(20), || {
        let (status, page) = http_get(port, "/readyz").unwrap_or_default();
        assert_ne!(status, 200, "{page}");
        said = cluster.node(id).log_tail() + &page;
        words.iter().any(|word| said.contains(word)).then_some(())
    });
    assert!(found.is_some(), "none of {words:?} in: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_folder_of_another_node_cluster_or_backend_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(3, &Backend::Raftrs);
    cluster.wait_ready();
    let (one, two) = (cluster.node(1).data(), cluster.node(2).data());
    cluster.node(2).terminate();

    // Another backend in the properties.
    let properties = cluster.node(2).properties().to_owned();
    let text = fs::read_to_string(&properties).unwrap();
    let other =
        text.replace("consensus=raftrs", "consensus=etcd\nconsensus.etcd.endpoints=http://127.0.0.1:1");
    fs::write(&properties, other).unwrap();
    cluster.node(2).start();
    refuses(&mut cluster, 2, &["raftrs", "etcd"]);
    fs::write(&properties, text.replace("consensus=raftrs", "consensus=openraft")).unwrap();
    cluster.node(2).start();
    refuses(&mut cluster, 2, &["raftrs", "openraft"]);
    fs::write(&properties, &text).unwrap();

    // The folder of another node.
    let kept = two.with_file_name("kept");
    fs::rename(&two, &kept).unwrap();
    copy(&one, &two);
    cluster.node(2).start();
    refuses(&mut cluster, 2, &["node.id"]);

    // The folder of another cluster.
    fs::remove_dir_all(&two).unwrap();
    let mut other = Cluster::start(3, &Backend::Raftrs);
    other.wait_ready();
    other.node(2).kill();
    copy(&other.node(2).data(), &two);
    drop(other);
    cluster.node(2).start();
    // Whom it calls by its own list of voters are nodes of this cluster; they are not of the folder's.
    says(&mut cluster, 2, &["the folder of node 2 is of the cluster"]);
    cluster.node(2).kill();

    // An emptied voter: the cluster refuses it, and it says so.
    fs::remove_dir_all(&two).unwrap();
    cluster.node(2).start();
    says(&mut cluster, 2, &["not with this empty one"]);
    cluster.node(2).kill();

    // Its own folder again: everything goes on.
    fs::remove_dir_all(&two).unwrap();
    fs::rename(&kept, &two).unwrap();
    cluster.node(2).start();
    cluster.wait_ready();
}

#[test]
fn a_torn_tail_is_cut_and_a_flipped_bit_before_it_is_reported_and_never_served() {
    let mut cluster = Cluster::start(3, &Backend::Raftrs);
    cluster.wait_ready();
    cluster.create_topic("damaged", 1, 3);
    let sent = records(2_000);
    for part in sent.chunks(100) {
        Client::Go.produce(&cluster.bootstrap(), "damaged", 0, "none", part);
    }
    for id in cluster.ids() {
        cluster.node(id).kill();
    }
    let file = |cluster: &mut Cluster, id| cluster.node(id).data().join("damaged-0/00000000000000000000.log");
    // Node 1: half a batch at the end, as a crash leaves it.
    let torn = file(&mut cluster, 1);
    let mut bytes = fs::read(&torn).unwrap();
    let half = bytes[..150].to_vec();
    bytes.extend_from_slice(&half);
    fs::write(&torn, bytes).unwrap();
    // Node 2: a bit in the middle.
    let flipped = file(&mut cluster, 2);
    let mut bytes = fs::read(&flipped).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&flipped, bytes).unwrap();

    for id in cluster.ids() {
        cluster.node(id).start();
    }
    for id in [1, 3] {
        cluster.node(id).wait_ready();
    }
    let read = Client::Go.consume(&cluster.bootstrap(), "damaged", 0, sent.len());
    assert_eq!(values(&read), values(&sent));
    wait_for("a report of the damage", Duration::from_secs(20), || {
        let log = cluster.node(2).log_tail();
        (log.contains("damaged-0") && log.contains("CRC")).then_some(())
    });
}

#[test]
fn a_failed_fsync_ends_the_process_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, &Backend::Raftrs);
    cluster.wait_ready();
    cluster.create_topic("synced", 3, 3);
    let all = |cluster: &Cluster, from: usize| {
        for partition in 0..3 {
            let part = &records(from + 10)[from..];
            Client::Python.produce(&cluster.bootstrap(), "synced", partition, "none", part);
        }
    };
    all(&cluster, 0);
    let pid = cluster.node(3).pid().to_string();
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-q",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO",
            "-o",
            "/dev/null",
            "-p",
            &pid,
        ])
        .spawn()
        .expect("strace");
    all(&cluster, 10);
    let code = cluster.node(3).wait_exit(Duration::from_secs(20));
    let _ = strace.kill();
    let _ = strace.wait();
    let log = cluster.node(3).log_tail();
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {log}");
    assert!(log.contains("sync") && !log.contains("panicked"), "{log}");
    all(&cluster, 20);
    cluster.node(3).start();
    cluster.wait_ready();
    for partition in 0..3 {
        let read = Client::Go.consume(&cluster.bootstrap(), "synced", partition, 30);
        assert_eq!(values(&read), values(&records(30)));
    }
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_reads() {
    let mut cluster = Cluster::prepare_with(1, &Backend::Raftrs, "quorate.log.reserve.bytes=33554432\n");
    let data = cluster.node(1).data();
    fs::create_dir_all(&data).unwrap();
    let mounted = run(
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(&data),
        "",
        Duration::from_secs(10),
    );
    assert!(mounted.ok, "this test mounts a small file system and must run as root: {}", mounted.stderr);
    cluster.node(1).start();
    cluster.wait_ready();
    cluster.create_topic("full", 1, 1);
    let address = cluster.bootstrap();
    let large = record(&"x".repeat(900_000));
    let produce = |count: usize| {
        let mut lines = String::new();
        for _ in 0..count {
            lines.push_str(large.value.as_deref().unwrap());
            lines.push('\n');
        }
        run(
            Command::new("kcat").args([
                "-P",
                "-b",
                &address,
                "-t",
                "full",
                "-p",
                "0",
                "-X",
                "message.timeout.ms=4000",
            ]),
            &lines,
            Duration::from_secs(60),
        )
    };
    let refused = wait_for("a refusal", Duration::from_secs(60), || Some(produce(16)).filter(|out| !out.ok));
    assert!(refused.stderr.to_lowercase().contains("deliver"), "{refused:?}");
    let read = Client::Go.consume(&address, "full", 0, 16);
    assert_eq!(read.len(), 16);
    assert!(
        cluster.node(1).log_tail().contains("quorate.log.reserve.bytes"),
        "{}",
        cluster.node(1).log_tail()
    );

    let filler = cluster.node(1).log_tail();
    assert!(!filler.contains("panicked"), "{filler}");
    let deleted = kafka_tool(
        "org.apache.kafka.tools.TopicCommand",
        &["--bootstrap-server", &address, "--delete", "--topic", "full"],
        "",
    );
    assert!(deleted.ok, "{deleted:?}");
    cluster.create_topic("again", 1, 1);
    wait_for("room for writes", Duration::from_secs(90), || {
        let out = run(
            Command::new("kcat").args(["-P", "-b", &address, "-t", "again", "-X", "message.timeout.ms=2000"]),
            "small\n",
            Duration::from_secs(20),
        );
        out.ok.then_some(())
    });
    cluster.node(1).kill();
    let _ = run(Command::new("umount").arg("-l").arg(&data), "", Duration::from_secs(10));
}

#[test]
fn a_terminated_leader_hands_over_and_ends_with_0() {
    for backend in [Backend::Raftrs, Backend::Openraft] {
        let mut cluster = Cluster::start(3, &backend);
        cluster.wait_ready();
        cluster.create_topic("handed", 3, 3);
        kcat_produce(&cluster.bootstrap(), "handed", 0, &[], "a:1\n");
        let leaders = cluster.leaders("handed");
        let leader = u32::try_from(leaders[0]).unwrap();
        assert_eq!(cluster.node(leader).terminate(), Some(0));
        let now = cluster.leaders("handed");
        assert!(now.iter().all(|id| *id > 0 && *id != i64::from(leader)), "{backend:?}: {now:?}");
        kcat_produce(&cluster.bootstrap(), "handed", 0, &[], "b:2\n");
    }
}

#[test]
fn what_is_wrong_with_etcd_is_said_in_one_sentence() {
    // Nobody listens.
    let mut cluster = Cluster::start(1, &Backend::etcd("127.0.0.1:1"));
    let port = cluster.node(1).http_port();
    wait_for("the endpoint's name", Duration::from_secs(15), || {
        let (status, body) = http_get(port, "/readyz").ok()?;
        (status == 503 && body.contains("127.0.0.1:1")).then_some(())
    });
    drop(cluster);

    // Somebody listens who is no etcd.
    let mut broker = Cluster::start(1, &Backend::Raftrs);
    broker.wait_ready();
    let mut cluster = Cluster::start(1, &Backend::etcd(&broker.bootstrap()));
    let port = cluster.node(1).http_port();
    wait_for("the endpoint's name", Duration::from_secs(15), || {
        let (status, body) = http_get(port, "/readyz").ok()?;
        (status == 503 && body.contains("127.0.0.1")).then_some(())
    });
    drop(cluster);

    // A cluster goes on serving while etcd is gone, and takes up metadata again with it.
    let mut etcd = EtcdServer::start();
    let mut cluster = Cluster::start(3, &Backend::etcd(&etcd.address()));
    cluster.wait_ready();
    cluster.create_topic("outage", 1, 3);
    // Who has not heard of the topic by then will not before etcd is back.
    for id in cluster.ids() {
        let address = cluster.node(id).address();
        wait_for("every broker to know the topic", Duration::from_secs(20), || {
            let listed = run(Command::new("kcat").args(["-L", "-b", &address]), "", Duration::from_secs(20));
            listed.stdout.contains("\"outage\" with 1 partitions").then_some(())
        });
    }
    etcd.kill();
    let lines: String = (0..100).map(|number| format!("{number}:value {number}\n")).collect();
    kcat_produce(&cluster.bootstrap(), "outage", 0, &[], &lines);
    let read = Client::Go.consume(&cluster.bootstrap(), "outage", 0, 100);
    assert_eq!(values(&read), values(&records(100)));
    etcd.restart();
    cluster.wait_ready();
    cluster.create_topic("after", 1, 3);
}

#[test]
fn on_etcd_a_leader_whose_process_has_ended_is_replaced_before_its_lease_ends() {
    let etcd = EtcdServer::start();
    let lease = "consensus.etcd.lease.ttl.s=60\n";
    let mut cluster = Cluster::start_with(3, &Backend::etcd(&etcd.address()), lease);
    cluster.wait_ready();
    let victim = cluster.controller();
    cluster.create_topic("before", 1, 3);
    cluster.node(victim).kill();
    // Half of the time that the lease has left.
    let mut create = Command::new(binary());
    create.args(["topic", "create", "after", "--timeout", "20", "-b", &cluster.bootstrap()]);
    let out = run(&mut create, "", Duration::from_secs(30));
    assert!(out.ok, "{}\n{}", out.stderr, cluster.logs());
    cluster.node(victim).start();
    cluster.wait_ready();
}

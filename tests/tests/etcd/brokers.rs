//! Clusters of brokers, as real processes, on an etcd of three members: members that die, and the operator's way out
//! after all of them were restored from an old backup.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{AlarmAction, AlarmType};
use quorate_core::runtime::{Clock, Rng};
use quorate_tests::{
    cluster::{Backend, Cluster, Output, binary, http_get, run, wait_for},
    etcd::EtcdServer,
};

/// For a command, which tries as long as it takes.
const WITHIN: Duration = Duration::from_secs(60);

/// A new place in the etcd of these members.
fn place(members: &[EtcdServer]) -> Backend {
    let urls: Vec<String> = members.iter().map(|member| format!("http://{}", member.address())).collect();
    let prefix = format!("/quorate/{:016x}", Rng::system().next_u64());
    Backend::Etcd { url: urls.join(","), prefix }
}

const SHORT_LEASE: &str = "consensus.etcd.lease.ttl.s=2\n";

fn quorate(arguments: &[&str], input: &str) -> Output {
    run(Command::new(binary()).args(arguments), input, WITHIN)
}

/// Writes values with acks=all; all of them are acknowledged.
fn produce(cluster: &Cluster, topic: &str, values: &[String]) {
    let out = quorate(
        &["produce", topic, "--bootstrap-server", &cluster.bootstrap(), "--timeout", "40"],
        &(values.join("\n") + "\n"),
    );
    assert!(out.ok, "produce: {out:?}\n{}", cluster.logs());
}

fn consume(cluster: &Cluster, topic: &str) -> Vec<String> {
    let out = quorate(&["consume", topic, "--bootstrap-server", &cluster.bootstrap(), "--timeout", "40"], "");
    assert!(out.ok, "consume: {out:?}\n{}", cluster.logs());
    let mut values: Vec<String> = out.stdout.lines().map(str::to_owned).collect();
    values.sort();
    values
}

fn topics(cluster: &Cluster) -> Vec<String> {
    let out = quorate(&["topic", "list", "--bootstrap-server", &cluster.bootstrap()], "");
    assert!(out.ok, "topic list: {out:?}");
    out.stdout.lines().map(str::to_owned).collect()
}

fn values(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name} {number:04}")).collect()
}

/// Creates topics and writes records until it is told to stop, and counts the rounds.
fn keep_writing(cluster: &Cluster, rounds: &AtomicUsize, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.load(Ordering::Relaxed);
        cluster.create_topic(&format!("round-{round}"), 1, 3);
        produce(cluster, &format!("round-{round}"), &values("during", 20));
        produce(cluster, "always", &values(&format!("always {round}"), 20));
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for a round that has begun after this, and ended.
fn writing_goes_on(rounds: &AtomicUsize) {
    let before = rounds.load(Ordering::Relaxed);
    wait_for("two more rounds", WITHIN, || (rounds.load(Ordering::Relaxed) >= before + 2).then_some(()));
}

#[test]
fn one_member_of_three_is_dead_at_the_start_or_killed_under_writes_and_nothing_is_lost() {
    let mut members = EtcdServer::start_cluster(3);
    let backend = place(&members);
    members[0].kill();
    let mut cluster = Cluster::start_with(3, &backend, SHORT_LEASE);
    cluster.wait_ready();
    let dead = members[0].address();
    let (_, page) = http_get(cluster.node(1).http_port(), "/readyz").unwrap();
    assert!(page.contains(&dead), "the dead endpoint is named: {page}");
    cluster.create_topic("always", 3, 3);
    members[0].restart();
    let (rounds, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| keep_writing(&cluster, &rounds, &stop));
        writing_goes_on(&rounds);
        for member in &mut members[1..] {
            member.kill();
            writing_goes_on(&rounds);
            member.restart();
        }
        writing_goes_on(&rounds);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    let rounds = rounds.into_inner();
    let mut expected: Vec<String> =
        (0..rounds).flat_map(|round| values(&format!("always {round}"), 20)).collect();
    expected.sort();
    assert_eq!(consume(&cluster, "always"), expected);
    for round in 0..rounds {
        assert_eq!(consume(&cluster, &format!("round-{round}")), values("during", 20));
    }
    let port = cluster.node(1).http_port();
    wait_for("every member to be well again", WITHIN, || {
        let (status, page) = http_get(port, "/readyz").ok()?;
        (status == 200 && page.contains("\"missing\":[]")).then_some(())
    });
}

/// What `accept-restore` says on a node.
fn accept_restore(cluster: &mut Cluster, id: u32) -> Output {
    let file = cluster.node(id).properties().display().to_string();
    let out =
        run(Command::new(binary()).args(["consensus", "accept-restore", &file]), "", Duration::from_secs(90));
    println!("--- accept-restore on node {id} ---\n{}{}", out.stdout, out.stderr);
    out
}

/// Waits until the process has ended by itself, with the code of a failure and this word in one sentence.
fn ends(cluster: &mut Cluster, id: u32, word: &str) {
    let code = cluster.node(id).wait_exit(Duration::from_secs(30));
    let log = cluster.node(id).log_tail();
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("quorate: ") && last.contains(word), "{log}");
    assert!(last.contains("quorate consensus accept-restore"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    // The child is reaped; nothing runs.
    cluster.node(id).kill();
}

/// The folders of partitions that were kept aside on a node.
fn aside(cluster: &mut Cluster, id: u32) -> Vec<PathBuf> {
    let names = std::fs::read_dir(cluster.node(id).data()).unwrap();
    let paths = names.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().ends_with("-stray")).collect()
}

/// A cluster with a topic that the backup knows, one that it does not, and records in both.
struct Restored {
    members: Vec<EtcdServer>,
    cluster: Cluster,
    before: Vec<String>,
}

impl Restored {
    fn new() -> Self {
        let mut members = EtcdServer::start_cluster(3);
        let backend = place(&members);
        let mut cluster = Cluster::start_with(3, &backend, SHORT_LEASE);
        cluster.wait_ready();
        cluster.create_topic("early", 3, 3);
        let mut before = values("before the backup", 50);
        produce(&cluster, "early", &before);
        let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let backup = engine.block_on(members[1].back_up());
        cluster.create_topic("later", 3, 3);
        let after = values("after the backup", 50);
        produce(&cluster, "early", &after);
        produce(&cluster, "later", &after);
        before.extend(after);
        before.sort();
        // A leader that is replaced uses an epoch that the backup does not know.
        cluster.node(3).kill();
        produce(&cluster, "early", &values("with two", 20));
        before.extend(values("with two", 20));
        before.sort();
        EtcdServer::restore_cluster(&mut members, &backup);
        Self { members, cluster, before }
    }

    fn start_all(&mut self) {
        for id in self.cluster.ids() {
            self.cluster.node(id).start();
        }
        self.cluster.wait_ready();
    }
}

#[test]
fn after_a_restore_every_broker_stops_and_the_accepted_generation_has_every_acknowledged_record() {
    let mut site = Restored::new();
    for id in [1, 2] {
        ends(&mut site.cluster, id, "rewound");
    }
    // Started again, they say so again.
    site.cluster.node(1).start();
    ends(&mut site.cluster, 1, "rewound");
    let first = accept_restore(&mut site.cluster, 1);
    assert!(first.ok && first.stdout.contains("generation 2"), "{first:?}");
    let again = accept_restore(&mut site.cluster, 1);
    assert!(again.ok && again.stdout.contains("Nothing left to do"), "{again:?}");
    // Who does not know of it is told.
    site.cluster.node(2).start();
    ends(&mut site.cluster, 2, "generation 2");
    for id in [2, 3] {
        assert!(accept_restore(&mut site.cluster, id).ok);
    }
    site.start_all();
    let mut later = values("after the backup", 50);
    assert_eq!(topics(&site.cluster), ["early", "later"]);
    assert_eq!(consume(&site.cluster, "early"), site.before);
    assert_eq!(consume(&site.cluster, "later"), later);
    for id in [1, 2, 3] {
        assert_eq!(aside(&mut site.cluster, id), Vec::<PathBuf>::new(), "the kept metadata knows everything");
    }
    produce(&site.cluster, "later", &values("in the new generation", 20));
    site.cluster.create_topic("new", 3, 3);
    produce(&site.cluster, "new", &later);
    assert_eq!(consume(&site.cluster, "new"), later);
    later.extend(values("in the new generation", 20));
    later.sort();
    assert_eq!(consume(&site.cluster, "later"), later);
    // The generation is remembered: everybody starts again, and a running node's folder is not touched.
    let running = accept_restore(&mut site.cluster, 1);
    assert!(!running.ok && running.stderr.contains("in use by another process"), "{running:?}");
    for id in site.cluster.ids() {
        site.cluster.node(id).kill();
    }
    site.start_all();
    assert_eq!(consume(&site.cluster, "later"), later);
    drop(site.members);
}

/// The images of the metadata that a node has kept, the oldest first.
fn images(cluster: &mut Cluster, id: u32) -> Vec<PathBuf> {
    let names = std::fs::read_dir(cluster.node(id).data()).unwrap();
    let mut paths: Vec<PathBuf> = names.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("image-"));
    paths.sort();
    paths
}

/// Waits until a node has kept an image that is newer than those.
fn keeps_more(cluster: &mut Cluster, id: u32, before: &[PathBuf]) {
    wait_for("a newer image", WITHIN, || (images(cluster, id).last() > before.last()).then_some(()));
}

/// Starts the node, and it finds out by itself.
fn finds_out(cluster: &mut Cluster, id: u32, word: &str) {
    cluster.node(id).start();
    ends(cluster, id, word);
}

#[test]
fn killed_brokers_know_of_a_restore_and_what_their_metadata_has_forgotten_is_kept_aside() {
    let mut members = EtcdServer::start_cluster(3);
    let mut cluster = Cluster::start_with(3, &place(&members), SHORT_LEASE);
    cluster.wait_ready();
    cluster.create_topic("early", 1, 3);
    produce(&cluster, "early", &values("early", 20));
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backup = engine.block_on(members[0].back_up());
    let ids = cluster.ids();
    let before: Vec<Vec<PathBuf>> = ids.iter().map(|id| images(&mut cluster, *id)).collect();
    cluster.create_topic("known", 1, 3);
    produce(&cluster, "known", &values("known", 20));
    let mut remembered = Vec::new();
    for (id, before) in ids.iter().zip(&before) {
        keeps_more(&mut cluster, *id, before);
        let newest = images(&mut cluster, *id).pop().unwrap();
        remembered.push((newest.clone(), std::fs::read(&newest).unwrap()));
    }
    cluster.create_topic("later", 1, 3);
    produce(&cluster, "later", &values("later", 20));
    ids.iter().for_each(|id| cluster.node(*id).kill());
    EtcdServer::restore_cluster(&mut members, &backup);
    finds_out(&mut cluster, 1, "rewound");
    // The newest images are lost: what they knew, nobody knows.
    for (id, (path, image)) in ids.iter().zip(&remembered) {
        images(&mut cluster, *id).iter().for_each(|image| std::fs::remove_file(image).unwrap());
        std::fs::write(path, image).unwrap();
    }
    finds_out(&mut cluster, 2, "rewound");
    for id in &ids {
        assert!(accept_restore(&mut cluster, *id).ok);
        let aside = aside(&mut cluster, *id);
        assert!(aside.len() == 1 && aside[0].to_string_lossy().contains("/later-0."), "{aside:?}");
    }
    ids.iter().for_each(|id| cluster.node(*id).start());
    cluster.wait_ready();
    assert_eq!(topics(&cluster), ["early", "known"]);
    for topic in ["early", "known"] {
        assert_eq!(consume(&cluster, topic), values(topic, 20));
        produce(&cluster, topic, &values("now", 5));
    }
    cluster.create_topic("later", 1, 3);
    produce(&cluster, "later", &values("anew", 5));
    assert_eq!(consume(&cluster, "later"), values("anew", 5));
    for id in &ids {
        let aside = aside(&mut cluster, *id);
        let log = std::fs::read(aside[0].join("00000000000000000000.log")).unwrap();
        assert!(String::from_utf8_lossy(&log).contains("later 0019"), "the records are where they were");
    }
}

/// The node's log and page, which contain all of these words soon.
fn says(cluster: &mut Cluster, id: u32, words: &[&str]) {
    let port = cluster.node(id).http_port();
    for word in words {
        let what = format!("node {id} to say '{word}'");
        wait_for(&what, Duration::from_secs(30), || {
            let page = http_get(port, "/readyz").unwrap_or_default().1;
            (cluster.node(id).log_tail().contains(word) || page.contains(word)).then_some(())
        });
    }
}

#[test]
fn a_fresh_cluster_under_the_prefix_of_another_is_told_so_and_disturbs_nobody() {
    let members = [EtcdServer::start()];
    let backend = place(&members);
    let mut first = Cluster::start_with(1, &backend, SHORT_LEASE);
    first.wait_ready();
    first.create_topic("mine", 1, 1);
    produce(&first, "mine", &values("mine", 10));
    let mut second = Cluster::start_with(1, &backend, SHORT_LEASE);
    says(&mut second, 1, &["another data folder", "consensus.etcd.prefix"]);
    let (status, _) = http_get(second.node(1).http_port(), "/readyz").unwrap();
    assert_ne!(status, 200);
    produce(&first, "mine", &values("still mine", 10));
    assert_eq!(topics(&first), ["mine"]);
    assert_eq!(http_get(first.node(1).http_port(), "/readyz").unwrap().0, 200);
}

/// Makes a node of a cluster a mere broker.
fn only_broker(cluster: &mut Cluster, id: u32) {
    let path = cluster.node(id).properties().to_owned();
    let text = std::fs::read_to_string(&path).unwrap();
    let change = |line: &str| match line.split_once('=') {
        Some(("process.roles", _)) => "process.roles=broker".to_owned(),
        Some(("listeners", listeners)) => {
            let others = listeners.split(',').filter(|listener| !listener.starts_with("CONTROLLER"));
            format!("listeners={}", others.collect::<Vec<_>>().join(","))
        }
        _ => line.to_owned(),
    };
    let lines: Vec<String> = text.lines().map(change).collect();
    std::fs::write(path, lines.join("\n") + "\n").unwrap();
    // It is no voter, on any node.
    for id_of in cluster.ids() {
        let path = cluster.node(id_of).properties().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let voter = |part: &str| part.starts_with(&format!("{id}@"));
        let lines = text.lines().map(|line| match line.strip_prefix("controller.quorum.voters=") {
            Some(voters) => {
                let others: Vec<&str> = voters.split(',').filter(|part| !voter(part)).collect();
                format!("controller.quorum.voters={}", others.join(","))
            }
            None => line.to_owned(),
        });
        std::fs::write(path, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    }
}

#[test]
fn a_full_etcd_an_ended_lease_and_a_dead_etcd_are_each_one_sentence_and_end_nobody_slowly() {
    let mut etcd = EtcdServer::start();
    let backend = place(std::slice::from_ref(&etcd));
    let mut cluster = Cluster::prepare_with(2, &backend, SHORT_LEASE);
    only_broker(&mut cluster, 2);
    cluster.ids().into_iter().for_each(|id| cluster.node(id).start());
    cluster.wait_ready();
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut direct = engine.block_on(etcd.client());
    engine.block_on(direct.alarm(AlarmAction::Activate, AlarmType::Nospace, None)).unwrap();
    says(&mut cluster, 1, &["etcd is full (NOSPACE)"]);
    let bootstrap = cluster.node(1).address();
    let create = |seconds: &str| {
        let to = ["--bootstrap-server", bootstrap.as_str(), "--timeout", seconds];
        quorate(&[&["topic", "create", "t", "--replication-factor", "1"], to.as_slice()].concat(), "")
    };
    assert!(!create("2").ok);
    engine.block_on(direct.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None)).unwrap();
    let created = create("30");
    assert!(created.ok || created.stderr.contains("exists"), "{created:?}");
    let leases = engine.block_on(direct.leases()).unwrap();
    for lease in leases.leases() {
        engine.block_on(direct.lease_revoke(lease.id())).unwrap();
    }
    says(&mut cluster, 1, &["etcd has ended the lease of this node"]);
    cluster.node(1).wait_ready();
    etcd.kill();
    says(&mut cluster, 1, &["unreachable"]);
    for id in [2, 1] {
        let begun = Clock::system().now();
        assert_eq!(cluster.node(id).terminate(), Some(0), "{}", cluster.node(id).log_tail());
        let took = Clock::system().now().since(begun);
        println!("node {id} stopped within {took:?}");
        assert!(took < Duration::from_secs(2), "node {id} took {took:?}: {}", cluster.node(id).log_tail());
    }
}

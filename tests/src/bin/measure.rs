//! Measures Quorate beside Apache Kafka on this machine, in one run, and prints a table: `make bench`.
//!
//! Times are of processes and clients as a user has them. On a small machine client and broker share the cores, so the
//! ratios count and the absolute numbers do not.
#![expect(clippy::disallowed_methods, reason = "measuring is about real time")]
#![expect(clippy::indexing_slicing, reason = "a panic here is a measurement that failed")]

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use quorate_tests::{
    cluster::{Backend, Cluster, binary, installed, run, wait_for},
    etcd::EtcdServer,
    history::{Outcome, longest_gap},
    kafka::Kafka,
};

const REPEATS: usize = 5;

fn main() {
    println!("start to first acknowledged produce (one node, fresh folder, acks=all), ms: median (max)");
    let ours = samples(|| {
        let begun = Instant::now();
        let cluster = Cluster::start(1, &Backend::Raftrs);
        first_acknowledged(&cluster.bootstrap());
        begun.elapsed().as_secs_f64() * 1e3
    });
    let kafka = samples(|| {
        let mut cluster = Kafka::formatted(1, "");
        let begun = Instant::now();
        cluster.run(1);
        first_acknowledged(&cluster.bootstrap());
        begun.elapsed().as_secs_f64() * 1e3
    });
    row("start", &ours, &kafka);

    memory();
    throughput();
    failover("raftrs", || Backend::Raftrs);
    let etcd = EtcdServer::start();
    failover("etcd", || Backend::etcd(&etcd.address()));
    kafka_failover();
}

fn samples(mut measure: impl FnMut() -> f64) -> Vec<f64> {
    let mut all: Vec<f64> = (0..REPEATS).map(|_| measure()).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn row(what: &str, ours: &[f64], kafka: &[f64]) {
    println!(
        "  {what:<40} quorate {:8.1} ({:.1})   kafka {:8.1} ({:.1})   kafka/quorate {:.2}",
        median(ours),
        ours.last().unwrap_or(&f64::NAN),
        median(kafka),
        kafka.last().unwrap_or(&f64::NAN),
        median(kafka) / median(ours)
    );
}

/// Returns when a record is acknowledged, with a client that asks often. (librdkafka looks for the leader of a topic that
/// did not exist once a second, so that its first record says little about the broker.)
fn first_acknowledged(bootstrap: &str) {
    wait_for("an acknowledged record", Duration::from_secs(60), || {
        let mut produce = Command::new(binary());
        produce.args([
            "produce",
            "first",
            "--value",
            "first",
            "--acks",
            "all",
            "--bootstrap-server",
            bootstrap,
        ]);
        run(&mut produce, "", Duration::from_secs(60)).ok.then_some(())
    });
}

/// Resident memory of a process in MiB, now and at its highest.
fn resident(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or("");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
    };
    (field("VmRSS"), field("VmHWM"))
}

/// Seconds of processor time that a process has used.
fn processor(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or("");
    let field = |at: usize| after_name.split_whitespace().nth(at).and_then(|t| t.parse::<f64>().ok());
    let ticks = field(11).unwrap_or(0.0) + field(12).unwrap_or(0.0);
    ticks / rustix::param::clock_ticks_per_second() as f64
}

fn memory() {
    println!("idle memory, three nodes, MiB a node");
    let mut ours = Cluster::start(3, &Backend::Raftrs);
    ours.wait_ready();
    first_acknowledged(&ours.bootstrap());
    std::thread::sleep(Duration::from_secs(5));
    let mut quorate: Vec<f64> = ours.ids().into_iter().map(|id| resident(ours.node(id).pid()).0).collect();
    drop(ours);
    let kafka_cluster = Kafka::start(3, "");
    first_acknowledged(&kafka_cluster.bootstrap());
    std::thread::sleep(Duration::from_secs(5));
    let mut kafka: Vec<f64> = kafka_cluster.pids().into_iter().map(|pid| resident(pid).0).collect();
    quorate.sort_by(f64::total_cmp);
    kafka.sort_by(f64::total_cmp);
    row("idle", &quorate, &kafka);
}

/// What one run of `rdkafka_performance` gave.
struct Rate {
    mb_per_second: f64,
    broker_seconds: f64,
}

fn rdkafka(bootstrap: &str, pids: &[u32], args: &[&str]) -> Rate {
    let before: f64 = pids.iter().map(|pid| processor(*pid)).sum();
    let mut command = Command::new(installed("bin/rdkafka_performance"));
    let out = run(command.args(args).args(["-b", bootstrap, "-q"]), "", Duration::from_secs(180));
    assert!(out.ok, "{}{}", out.stdout, out.stderr);
    let text = out.stdout + &out.stderr;
    let mb_per_second = text
        .lines()
        .filter_map(|line| {
            let before = line.split(" MB/s").next().filter(|_| line.contains(" MB/s"))?;
            let number =
                before.rsplit(|c: char| !c.is_ascii_digit() && c != '.').find(|part| !part.is_empty())?;
            number.parse().ok()
        })
        .next_back()
        .unwrap_or(f64::NAN);
    Rate { mb_per_second, broker_seconds: pids.iter().map(|pid| processor(*pid)).sum::<f64>() - before }
}

/// Producing and consuming 1,000-byte records: one node with acks=1, three with acks=all.
fn throughput() {
    const COUNT: &str = "1000000";
    println!(
        "rdkafka_performance, {COUNT} records of 1,000 bytes: MB/s; seconds of processor time of all brokers"
    );
    for (nodes, acks) in [(1_u32, "1"), (3, "-1")] {
        let produce = ["-P", "-t", "speed", "-s", "1000", "-c", COUNT, "-a", acks, "-p", "0"];
        let consume = ["-C", "-t", "speed", "-p", "0", "-o", "beginning", "-c", COUNT];
        let mut rows: Vec<(String, Rate, Rate)> = Vec::new();
        for durability in ["synced", "replicated"] {
            let mut cluster =
                Cluster::start_with(nodes, &Backend::Raftrs, &format!("quorate.durability={durability}\n"));
            cluster.wait_ready();
            cluster.create_topic("speed", 1, nodes.min(3));
            let pids: Vec<u32> = cluster.ids().into_iter().map(|id| cluster.node(id).pid()).collect();
            let written = rdkafka(&cluster.bootstrap(), &pids, &produce);
            let read = rdkafka(&cluster.bootstrap(), &pids, &consume);
            rows.push((format!("quorate {durability}"), written, read));
        }
        let kafka = Kafka::start(u16::try_from(nodes).expect("few"), "num.partitions=1\n");
        first_acknowledged(&kafka.bootstrap());
        let mut create = Command::new(binary());
        create.args([
            "topic",
            "create",
            "speed",
            "--bootstrap-server",
            &kafka.bootstrap(),
            "--partitions",
            "1",
        ]);
        let created = run(&mut create, "", Duration::from_secs(60));
        assert!(created.ok, "{}", created.stderr);
        // The virtual machine compiles while it works: the first run is not counted.
        rdkafka(
            &kafka.bootstrap(),
            &kafka.pids(),
            &["-P", "-t", "first", "-s", "1000", "-c", COUNT, "-a", acks, "-p", "0"],
        );
        let written = rdkafka(&kafka.bootstrap(), &kafka.pids(), &produce);
        let read = rdkafka(&kafka.bootstrap(), &kafka.pids(), &consume);
        rows.push(("kafka".to_owned(), written, read));
        for (name, written, read) in &rows {
            println!(
                "  {nodes} node(s), acks {acks:<3} {name:<20} produce {:7.1} MB/s {:6.2} s   consume {:7.1} MB/s {:6.2} s",
                written.mb_per_second, written.broker_seconds, read.mb_per_second, read.broker_seconds
            );
        }
    }
}

/// A client that writes to one partition all the time.
fn writer(bootstrap: &str, topic: &str, seconds: u32) -> Child {
    Command::new(installed("bin/quorate-go-client"))
        .args(["workload", bootstrap, topic, "1", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client")
}

/// The longest time without an acknowledgement, in milliseconds: what a client sees of a leader's death. (The first
/// acknowledgement after the kill would be one that was already on its way.)
fn gap(writer: Child) -> f64 {
    let out = writer.wait_with_output().expect("the client's outcomes");
    let text = String::from_utf8(out.stdout).expect("text");
    let outcomes: Vec<Outcome> =
        text.lines().map(|line| serde_json::from_str(line).expect("an outcome")).collect();
    longest_gap(&outcomes) as f64 / 1e6
}

fn failover(name: &str, backend: impl Fn() -> Backend) {
    println!("{name}: kill -9 to the next success, three nodes, ms: median (max) of {REPEATS}");
    let leader = samples(|| {
        let mut cluster = Cluster::start(3, &backend());
        cluster.wait_ready();
        cluster.create_topic("gap", 1, 3);
        let victim = wait_for("a leader", Duration::from_secs(20), || {
            cluster.leaders("gap").first().copied().filter(|id| *id > 0)
        });
        let writer = writer(&cluster.bootstrap(), "gap", 8);
        std::thread::sleep(Duration::from_secs(2));
        cluster.node(u32::try_from(victim).expect("an id")).kill();
        gap(writer)
    });
    let controller = samples(|| {
        let mut cluster = Cluster::start(3, &backend());
        cluster.wait_ready();
        let victim = cluster.controller();
        cluster.node(victim).kill();
        let begun = Instant::now();
        cluster.create_topic("after", 1, 2);
        begun.elapsed().as_secs_f64() * 1e3
    });
    println!(
        "  leader of a partition, to the next acknowledged record   {:7.0} ({:.0})",
        median(&leader),
        leader.last().unwrap_or(&f64::NAN)
    );
    println!(
        "  controller, to the next created topic                    {:7.0} ({:.0})",
        median(&controller),
        controller.last().unwrap_or(&f64::NAN)
    );
}

fn kafka_failover() {
    println!("kafka, its defaults: kill -9 of a node that leads to the next acknowledged record, ms");
    let mut cluster = Kafka::start(3, "");
    first_acknowledged(&cluster.bootstrap());
    let mut create = Command::new(binary());
    create.args(["topic", "create", "gap", "--bootstrap-server", &cluster.bootstrap(), "--partitions", "1"]);
    assert!(run(&mut create, "", Duration::from_secs(60)).ok);
    let metadata = run(
        Command::new("kcat").args(["-L", "-J", "-b", &cluster.bootstrap(), "-t", "gap"]),
        "",
        Duration::from_secs(20),
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata.stdout).expect("metadata");
    let leader = metadata["topics"][0]["partitions"][0]["leader"].as_u64().expect("a leader");
    let writer = writer(&cluster.bootstrap(), "gap", 30);
    std::thread::sleep(Duration::from_secs(4));
    cluster.kill(u16::try_from(leader).expect("an id"));
    println!("  leader of a partition, to the next acknowledged record   {:7.0}", gap(writer));
}

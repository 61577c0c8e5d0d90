//! Producers with acks=all while leaders and controllers are killed, paused and restarted: every acknowledged record is
//! there in the end, once, in order, at its offset.
#![expect(clippy::disallowed_methods, reason = "real processes run on real time")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic here is a failed test")]

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use quorate_core::runtime::Rng;
use quorate_tests::{
    cluster::{Backend, Cluster, installed, run},
    etcd::EtcdServer,
    history::{Outcome, Read, anomalies, longest_gap},
};
use rustix::process::Signal;

const SECONDS: u64 = 60;
const PARTITIONS: usize = 4;

/// The seed of the faults: given by `HISTORY_SEED`, else a fresh one, printed.
fn seed() -> u64 {
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    std::env::var("HISTORY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fresh % 1_000_000)
}

/// One fault at a time, each healed before the next, so that a majority and min.insync.replicas stand most of the time.
fn faults(cluster: &mut Cluster, rng: &Rng, until: Instant) -> BTreeMap<&'static str, u32> {
    let mut done = BTreeMap::new();
    let wait = |low: u64, high: u64| std::thread::sleep(Duration::from_millis(low + rng.below(high - low)));
    while Instant::now() < until {
        wait(300, 2_000);
        let leaders = cluster.leaders("history");
        let leader = leaders.get(usize::try_from(rng.below(4)).unwrap()).copied().filter(|id| *id > 0);
        let leader = leader.map_or(1, |id| u32::try_from(id).unwrap());
        let (what, victim) = match rng.below(5) {
            0 => ("kill a leader", leader),
            1 => ("kill the controller", cluster.controller()),
            2 => ("pause a leader", leader),
            3 => ("pause the controller", cluster.controller()),
            _ => ("terminate a leader", leader),
        };
        *done.entry(what).or_insert(0) += 1;
        let node = cluster.node(victim);
        if what.starts_with("pause") {
            node.signal(Signal::STOP);
            wait(200, 4_000);
            node.signal(Signal::CONT);
        } else {
            if what.starts_with("kill") {
                node.kill();
            } else {
                node.terminate();
            }
            wait(0, 2_500);
            node.start();
        }
        node.wait_ready();
    }
    done
}

fn nothing_acknowledged_is_lost(mut cluster: Cluster, backend: &str, seconds: u64) {
    let seed = seed();
    println!("{backend}: REPRODUCE: HISTORY_SEED={seed}");
    cluster.wait_ready();
    cluster.create_topic("history", u32::try_from(PARTITIONS).unwrap(), 3);
    let bootstrap = cluster.bootstrap();
    let client = installed("bin/quorate-go-client");
    let partitions = PARTITIONS.to_string();
    let (workload, done) = std::thread::scope(|threads| {
        let workload = threads.spawn(|| {
            let mut command = Command::new(&client);
            command.args(["workload", &bootstrap, "history", &partitions, &seconds.to_string()]);
            run(&mut command, "", Duration::from_secs(seconds + 90))
        });
        let done =
            faults(&mut cluster, &Rng::seeded(seed), Instant::now() + Duration::from_secs(seconds - 5));
        (workload.join().unwrap(), done)
    });
    assert!(workload.ok, "{}\n{}", workload.stderr, cluster.logs());
    cluster.wait_ready();
    let outcomes: Vec<Outcome> =
        workload.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let mut ends = [0; PARTITIONS];
    for outcome in &outcomes {
        let end = &mut ends[usize::try_from(outcome.partition).unwrap()];
        *end = (*end).max(outcome.offset + 1);
    }
    let ends: Vec<String> = ends.iter().map(i64::to_string).collect();
    let mut command = Command::new(&client);
    command.args(["dump", &bootstrap, "history", &partitions, &ends.join(",")]);
    let dump = run(&mut command, "", Duration::from_secs(120));
    assert!(dump.ok, "{}\n{}", dump.stderr, cluster.logs());
    let reads: Vec<Read> = dump.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let acknowledged = outcomes.iter().filter(|outcome| outcome.error.is_none()).count();
    println!(
        "{backend}: {done:?}; {} sent, {acknowledged} acknowledged, {} read; longest time without an \
         acknowledgement {} ms",
        outcomes.len(),
        reads.len(),
        longest_gap(&outcomes) / 1_000_000
    );
    let found = anomalies(&outcomes, &reads);
    assert!(
        found.is_empty(),
        "seed {seed}: {} anomalies: {:?}",
        found.len(),
        found.iter().take(10).collect::<Vec<_>>()
    );
    assert!(acknowledged > 1_000, "only {acknowledged} records were acknowledged in {seconds} s");
}

#[test]
fn nothing_acknowledged_is_lost_on_raftrs() {
    nothing_acknowledged_is_lost(Cluster::start(3, &Backend::Raftrs), "raftrs", SECONDS);
}

/// Shorter than the others: what openraft does with votes and entries is shown beside it.
#[test]
fn nothing_acknowledged_is_lost_on_openraft() {
    nothing_acknowledged_is_lost(Cluster::start(3, &Backend::Openraft), "openraft", SECONDS / 3);
}

#[test]
fn nothing_acknowledged_is_lost_on_etcd() {
    let etcd = EtcdServer::start();
    nothing_acknowledged_is_lost(Cluster::start(3, &Backend::etcd(&etcd.address())), "etcd", SECONDS);
}

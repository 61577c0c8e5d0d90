//! A consensus outage is not a data outage: with nobody to change the metadata, records go on being written and read
//! for as long as the in-sync replicas live; what needs the metadata says that it can be tried again; and everything
//! resumes by itself.
#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::{path::Path, process::Command, time::Duration};

use quorate_conformance::proxy::Proxy;
use quorate_tests::{
    clients::Client,
    cluster::{
        Backend, Cluster, Output, api_versions, binary, http_get, installed, run, wait_for, wait_within,
    },
    etcd::EtcdServer,
    history::{Outcome, longest_gap},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// So that a leader soon sees that followers are gone.
const SHORT_LAG: &str = "replica.lag.time.max.ms=1000\n";

/// Clients, new ones, that write to the topic with acks=all and idempotence and count their errors.
fn write(cluster: &Cluster, seconds: u32) -> Vec<Outcome> {
    let mut command = Command::new(installed("bin/quorate-go-client"));
    command.args(["workload", &cluster.bootstrap(), "steady", "1", &seconds.to_string()]);
    let out = run(&mut command, "", Duration::from_secs(u64::from(seconds)) + PATIENCE * 2);
    assert!(out.ok, "{}\n{}", out.stderr, cluster.logs());
    out.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn try_to_create(cluster: &Cluster, topic: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(["topic", "create", topic, "--timeout", "3", "-b", &cluster.bootstrap()]);
    run(&mut command, "", PATIENCE)
}

/// Waits until nobody can change the metadata, and sees what a client is told.
fn creation_is_refused(cluster: &Cluster, marker: &str) {
    let mut tries = 0;
    let said = wait_for("creation to be refused", PATIENCE, || {
        tries += 1;
        let out = try_to_create(cluster, &format!("{marker}-{tries}"));
        (!out.ok).then_some(out.stderr)
    });
    let retriable = ["NOT_CONTROLLER", "in time"];
    assert!(retriable.iter().any(|word| said.contains(word)), "{said}");
}

/// Records are written and read without an error and without a pause.
fn records_go_on(cluster: &Cluster) {
    let outcomes = write(cluster, 4);
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), outcomes.len(), failed.first());
    assert!(outcomes.len() > 500, "only {} records were written", outcomes.len());
    let gap = longest_gap(&outcomes) / 1_000_000;
    println!("{} written during the outage, no error, longest gap {gap} ms", outcomes.len());
    let count = outcomes.iter().map(|outcome| outcome.offset + 1).max().unwrap();
    let read = Client::Go.consume(&cluster.bootstrap(), "steady", 0, usize::try_from(count).unwrap());
    for outcome in &outcomes {
        let record = read.get(usize::try_from(outcome.offset).unwrap()).unwrap();
        assert_eq!(record.value.as_ref(), Some(&outcome.value));
    }
}

/// A broker that is started while nobody leads answers what it knows from its last life.
fn restarted_serves_its_image(cluster: &mut Cluster, id: u32) {
    let node = cluster.node(id);
    node.kill();
    node.start();
    let (port, http) = (node.port(), node.http_port());
    wait_for("ApiVersions", PATIENCE, || api_versions(port).ok());
    let address = node.address();
    let listed = wait_within(PATIENCE, || {
        let mut kcat = Command::new("kcat");
        kcat.args(["-L", "-b", &address, "-t", "steady", "-m", "5"]);
        let out = run(&mut kcat, "", PATIENCE);
        (out.ok && out.stdout.contains("\"steady\" with 1 partitions")).then_some(())
    });
    assert!(listed.is_some(), "no metadata: {}", cluster.node(id).log_tail());
    assert_eq!(http_get(http, "/livez").unwrap().0, 200);
    let (status, page) = http_get(http, "/readyz").unwrap();
    assert_eq!(status, 503, "{page}");
}

/// Everything that waited goes on by itself.
fn all_resumes(cluster: &mut Cluster) {
    cluster.wait_ready();
    cluster.create_topic("after", 1, 3);
    let outcomes = write(cluster, 1);
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()));
    wait_for("every replica to be in sync again", PATIENCE, || {
        let mut describe = Command::new(binary());
        describe.args(["topic", "describe", "steady", "-b", &cluster.bootstrap()]);
        let said = run(&mut describe, "", PATIENCE).stdout;
        let (_, in_sync) = said.split_once("in sync ")?;
        (in_sync.trim().split(',').count() == 3).then_some(())
    });
}

fn begin(mut cluster: Cluster) -> Cluster {
    for id in cluster.ids() {
        cluster.node(id).start();
    }
    cluster.wait_ready();
    cluster.create_topic("steady", 1, 3);
    let outcomes = write(&cluster, 1);
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()));
    cluster
}

fn voters_that_keep_no_records_may_die(backend: &Backend) {
    let mut cluster = begin(Cluster::prepare_apart(3, 3, backend, SHORT_LAG));
    for id in 1..=3 {
        cluster.node(id).kill();
    }
    creation_is_refused(&cluster, "during");
    records_go_on(&cluster);
    restarted_serves_its_image(&mut cluster, 5);
    for id in 1..=3 {
        cluster.node(id).start();
    }
    all_resumes(&mut cluster);
}

/// With two of three nodes their votes are gone and their replicas too: what was acknowledged is read, and nothing more
/// is promised.
fn with_the_replicas_the_promise_ends(backend: &Backend) {
    let mut cluster = begin(Cluster::prepare_with(3, backend, SHORT_LAG));
    let leader = u32::try_from(*cluster.leaders("steady").first().unwrap()).unwrap();
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let before = write(&cluster, 1);
    let count = usize::try_from(before.iter().map(|outcome| outcome.offset + 1).max().unwrap()).unwrap();
    for id in &others {
        cluster.node(*id).kill();
    }
    let address = cluster.node(leader).address();
    let said = wait_for("NOT_ENOUGH_REPLICAS", PATIENCE, || {
        let mut kcat = Command::new("kcat");
        kcat.args(["-P", "-b", &address, "-t", "steady", "-p", "0", "-X", "acks=all", "-X", "retries=0"]);
        kcat.args(["-X", "message.timeout.ms=3000", "-X", "enable.idempotence=false"]);
        let out = run(&mut kcat, "more\n", PATIENCE);
        assert!(!out.ok, "acknowledged by a lone replica");
        out.stderr.contains("Not enough in-sync replicas").then_some(out.stderr)
    });
    println!("{said}");
    let read = Client::Go.consume(&address, "steady", 0, count);
    assert_eq!(read.len(), count, "what was acknowledged is served");
    for id in &others {
        cluster.node(*id).start();
    }
    all_resumes(&mut cluster);
}

/// The connections of the backend alone are cut; those of records and of requests to the controller stay.
fn voters_may_be_cut_off_from_each_other(backend: &Backend) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut cluster = Cluster::prepare_with(3, backend, SHORT_LAG);
    let mut proxies = Vec::new();
    for id in cluster.ids() {
        let properties = cluster.node(id).properties().to_owned();
        let mut text = std::fs::read_to_string(&properties).unwrap();
        // A backend in the broker has its peers at their controller listeners, a library has listeners of its own.
        let above = if matches!(backend, Backend::Library { .. }) { 4 } else { 1 };
        for other in cluster.ids().into_iter().filter(|other| *other != id) {
            let real = format!("127.0.0.1:{}", cluster.node(other).port() + above);
            let proxy = runtime.block_on(Proxy::before(real.clone()));
            text = text.replace(&format!("{other}@{real}"), &format!("{other}@{}", proxy.address()));
            proxies.push(proxy);
        }
        std::fs::write(&properties, text).unwrap();
    }
    let mut cluster = begin(cluster);
    proxies.iter().for_each(|proxy| proxy.open(false));
    creation_is_refused(&cluster, "during");
    records_go_on(&cluster);
    restarted_serves_its_image(&mut cluster, 2);
    proxies.iter().for_each(|proxy| proxy.open(true));
    all_resumes(&mut cluster);
}

/// What holds for every backend whose voters are nodes.
macro_rules! voting {
    ($name:ident, $backend:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn voters_that_keep_no_records_may_die() {
                let folder = tempfile::tempdir().unwrap();
                super::voters_that_keep_no_records_may_die(&$backend(folder.path()));
            }

            #[test]
            fn voters_may_be_cut_off_from_each_other() {
                let folder = tempfile::tempdir().unwrap();
                super::voters_may_be_cut_off_from_each_other(&$backend(folder.path()));
            }

            #[test]
            fn with_the_replicas_the_promise_ends() {
                let folder = tempfile::tempdir().unwrap();
                super::with_the_replicas_the_promise_ends(&$backend(folder.path()));
            }
        }
    };
}

voting!(raftrs, |_: &Path| Backend::Raftrs);
voting!(openraft, |_: &Path| Backend::Openraft);
voting!(library, |folder: &Path| Backend::library(folder, "libraftrs_library.so"));

mod etcd {
    use super::*;

    #[test]
    fn etcd_itself_may_die() {
        let mut etcd = EtcdServer::start();
        let mut cluster = begin(Cluster::prepare_with(3, &Backend::etcd(&etcd.address()), SHORT_LAG));
        etcd.kill();
        creation_is_refused(&cluster, "during");
        records_go_on(&cluster);
        restarted_serves_its_image(&mut cluster, 2);
        etcd.restart();
        all_resumes(&mut cluster);
    }

    #[test]
    fn with_the_replicas_the_promise_ends() {
        let etcd = EtcdServer::start();
        super::with_the_replicas_the_promise_ends(&Backend::etcd(&etcd.address()));
    }
}

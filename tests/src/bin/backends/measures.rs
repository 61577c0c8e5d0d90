//! What is measured of one backend.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use quorate_tests::cluster::{Backend, Cluster, binary, run};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use super::{
    Candidate,
    links::Links,
    prober::{GIVEN_UP, TOPIC, next_change, rate},
};

const REPEATS: usize = 3;
/// Clients that propose at once.
const CLIENTS: u64 = 32;
const RATE_SECONDS: u64 = 5;
/// Runs of the suite's partitions and random faults, each with a seed of its own.
const FAULT_RUNS: u64 = 5;

/// The figures of one backend: ms, median and largest of [`REPEATS`], unless said otherwise.
pub(crate) struct Measured {
    pub(crate) first_leader: Sample,
    pub(crate) leader_killed: Sample,
    pub(crate) leader_paused: Sample,
    pub(crate) resumed: Sample,
    pub(crate) leader_cut: Sample,
    pub(crate) leader_deaf: Sample,
    /// Changes a second.
    pub(crate) rate: f64,
    /// MiB of the node that leads, afterwards.
    pub(crate) memory: f64,
    /// Passed, of so many.
    pub(crate) faults: (u64, u64),
}

/// Several runs of one measurement, sorted.
#[derive(Clone)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    fn of(mut measure: impl FnMut() -> f64) -> Self {
        let mut all: Vec<f64> = (0..REPEATS).map(|_| measure()).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn largest(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

/// A cluster that is ready, with proxies between its nodes.
struct Scene {
    cluster: Cluster,
    links: Links,
    leader: u32,
}

impl Scene {
    fn ready(runtime: &Runtime, candidate: &Candidate) -> Self {
        let backend = (candidate.fresh)();
        let mut cluster = Cluster::prepare(3, &backend);
        let links = runtime.block_on(Links::between(&mut cluster, &backend));
        for id in cluster.ids() {
            cluster.node(id).start();
        }
        cluster.wait_ready();
        cluster.create_topic(TOPIC, 1, 3);
        let leader = cluster.controller();
        Self { cluster, links, leader }
    }

    /// The other nodes' addresses.
    fn others(&mut self) -> Vec<String> {
        let ids: Vec<u32> = self.cluster.ids().into_iter().filter(|id| *id != self.leader).collect();
        ids.into_iter().map(|id| self.cluster.node(id).address()).collect()
    }
}

/// From the start of three nodes on fresh folders until one of them is the controller.
fn first_leader(candidate: &Candidate) -> f64 {
    let begun = Instant::now();
    let mut cluster = Cluster::start(3, &(candidate.fresh)());
    cluster.controller();
    begun.elapsed().as_secs_f64() * 1e3
}

impl Measured {
    pub(crate) fn of(candidate: &Candidate, etcd: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let after = |what: &str, hurt: &dyn Fn(&mut Scene)| {
            let sample = Sample::of(|| {
                let mut scene = Scene::ready(&runtime, candidate);
                let others = scene.others();
                hurt(&mut scene);
                runtime.block_on(next_change(&others))
            });
            eprintln!("{}: {what} {:?}", candidate.name, sample.0);
            sample
        };
        let leader_killed = after("killed", &|scene| scene.cluster.node(scene.leader).kill());
        let leader_cut = after("cut off", &|scene| scene.links.cut(scene.leader));
        let leader_deaf = after("deaf", &|scene| scene.links.deafen(scene.leader));
        let (leader_paused, resumed) = paused(&runtime, candidate);
        let (rate, memory) = busy(&runtime, candidate);
        Self {
            first_leader: Sample::of(|| first_leader(candidate)),
            leader_killed,
            leader_paused,
            resumed,
            leader_cut,
            leader_deaf,
            rate,
            memory,
            faults: faults(candidate, etcd),
        }
    }
}

/// The leader is stopped for as long as it takes until the metadata changes, and goes on then.
fn paused(runtime: &Runtime, candidate: &Candidate) -> (Sample, Sample) {
    let mut resumed = Vec::new();
    let paused = Sample::of(|| {
        let mut scene = Scene::ready(runtime, candidate);
        let others = scene.others();
        scene.cluster.node(scene.leader).signal(Signal::STOP);
        let changed = runtime.block_on(next_change(&others));
        scene.cluster.node(scene.leader).signal(Signal::CONT);
        let begun = Instant::now();
        let own = [scene.cluster.node(scene.leader).address()];
        runtime.block_on(next_change(&own));
        resumed.push(begun.elapsed().as_secs_f64() * 1e3);
        changed
    });
    resumed.sort_by(f64::total_cmp);
    eprintln!("{}: paused {:?}, resumed {resumed:?}", candidate.name, paused.0);
    (paused, Sample(resumed))
}

fn busy(runtime: &Runtime, candidate: &Candidate) -> (f64, f64) {
    let mut scene = Scene::ready(runtime, candidate);
    let leader = scene.cluster.node(scene.leader);
    let rate = runtime.block_on(rate(&leader.address(), CLIENTS, RATE_SECONDS));
    let status = fs::read_to_string(format!("/proc/{}/status", leader.pid())).expect("the process's status");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("its memory");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    (rate, kib / 1024.0)
}

/// The suite's cut links and random faults on real processes.
fn faults(candidate: &Candidate, etcd: &str) -> (u64, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("config.json");
    let options = match (candidate.fresh)() {
        Backend::Etcd { .. } => serde_json::json!({ "endpoints": format!("http://{etcd}") }),
        _ => serde_json::json!({}),
    };
    fs::write(&config, serde_json::json!({ "options": options }).to_string()).expect("a file");
    let passed = (1..=FAULT_RUNS).filter(|seed| {
        let mut suite = Command::new(binary());
        suite.args(["conformance", "--case", "partitions", "--nodes", "3", "--seed", &seed.to_string()]);
        suite.arg("--config").arg(&config);
        match (candidate.fresh)() {
            Backend::Library { path, .. } => suite.arg("--plugin").arg(path),
            _ => suite.args(["--consensus", candidate.name]),
        };
        let out = run(&mut suite, "", GIVEN_UP * 4);
        if !out.ok {
            eprintln!("{} with seed {seed}: {}{}", candidate.name, out.stdout, out.stderr);
        }
        out.ok
    });
    (passed.count() as u64, FAULT_RUNS)
}

/// A time as a table shows it.
pub(crate) fn millis(sample: &Sample) -> String {
    let number = |ms: f64| {
        if ms.is_finite() { format!("{ms:.0}") } else { format!("> {}", Duration::as_millis(&GIVEN_UP)) }
    };
    format!("{} ({})", number(sample.median()), number(sample.largest()))
}

//! `quorate dev`: a cluster on this machine, each node a process, to try things with nothing to configure.

mod banner;
mod children;
mod etcd;
mod folder;
mod plan;
mod story;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use quorate_core::runtime::{Clock, Moment};

use crate::{
    backend,
    cli::DevArgs,
    config::{
        self, ServerConfig,
        endpoints::Endpoint,
        settings::{Settings, Sources},
    },
    exit::Failure,
    fetch_page::fetch,
    listener,
    readiness::Readiness,
    signals::Signals,
};
use children::{Children, Ended, STOPPED, Who};
use folder::{Folder, Wanted};
use plan::Plan;
use story::Story;

/// How often the nodes are asked how they are.
const LOOK: Duration = Duration::from_millis(200);
/// The same while something is awaited whose time is told.
const LOOK_CLOSELY: Duration = Duration::from_millis(10);
/// A node that does not answer within this is taken as silent for this look.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// How long nothing is said while the nodes become ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the cluster until Ctrl-C.
///
/// # Errors
/// If it cannot be started, or a node ends before all are ready.
pub(crate) fn run(args: &DevArgs) -> Result<(), Failure> {
    let started = Clock::system().now();
    let (folder, plan) = prepare(args)?;
    check_ports(&plan)?;
    write_files(&folder, &plan)
        .map_err(|error| Failure::new(format!("{}: {error}", folder.path.display())))?;
    // One thread, this one: the kernel takes the end of the thread that starts a child for the end of its parent.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let outcome = runtime.block_on(Cluster::new(plan, started)?.run());
    drop(folder);
    outcome
}

/// Everything that can be wrong before anything is started.
fn prepare(args: &DevArgs) -> Result<(Folder, Plan), Failure> {
    let environment = config::environment();
    let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let sources = Sources { file: None, environment, overrides: &args.overrides };
    let settings = Settings::gather(&sources).map_err(Failure::config)?;
    for note in &settings.notes {
        eprintln!("quorate: {note}");
    }
    let set = settings.explicit("consensus").map(|setting| setting.value.clone());
    let wanted = Wanted { nodes: args.nodes, consensus: args.consensus.clone().or(set), port: args.port };
    if let Some(name) = &wanted.consensus {
        backend::choose(name).map(drop).map_err(Failure::Config)?;
    }
    let folder = Folder::take(&args.data_dir, &wanted).map_err(Failure::config)?;
    let shape = &folder.shape;
    backend::choose(&shape.consensus).map(drop).map_err(Failure::Config)?;
    let mut plan = Plan::new(&folder.path, shape.nodes, shape.port, &shape.consensus, &settings)
        .map_err(Failure::Config)?;
    if plan.consensus == "etcd" && settings.explicit("consensus.etcd.endpoints").is_none() {
        plan.etcd = Some(etcd::find(args.etcd_binary.as_deref(), path.as_deref()).map_err(Failure::Config)?);
    } else if args.etcd_binary.is_some() {
        let problem = "--etcd-binary is of use with '--consensus etcd' and no consensus.etcd.endpoints only";
        return Err(Failure::config(problem));
    }
    try_configuration(&plan)?;
    Ok((folder, plan))
}

/// The nodes would refuse what is wrong with an override, each in its own log; say it here instead.
fn try_configuration(plan: &Plan) -> Result<(), Failure> {
    for node in &plan.nodes {
        let text = plan.properties_of(node);
        let path = node.properties();
        let sources = Sources { file: Some((&path, &text)), ..Sources::default() };
        let settings = Settings::gather(&sources).map_err(Failure::config)?;
        ServerConfig::from_settings(&settings).map_err(Failure::config)?;
    }
    Ok(())
}

fn check_ports(plan: &Plan) -> Result<(), Failure> {
    let mut busy = Vec::new();
    for (port, purpose) in plan.ports() {
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port };
        if let Err(error) = listener::bind_endpoint(&purpose, &endpoint) {
            busy.push(error.to_string());
        }
    }
    if busy.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "{}\nnothing was started; stop what uses the port, or choose other ports with --port",
        busy.join("\n")
    )))
}

fn write_files(folder: &Folder, plan: &Plan) -> std::io::Result<()> {
    for node in &plan.nodes {
        fs::create_dir_all(&node.folder)?;
        fs::write(node.properties(), plan.properties_of(node))?;
    }
    folder.remember()
}

/// The running cluster.
struct Cluster {
    plan: Plan,
    program: PathBuf,
    started: Moment,
    clock: Clock,
    children: Children,
    story: Story,
}

/// Why waiting ended.
enum Wake {
    Ended(Ended),
    Stop,
    Look,
}

impl Cluster {
    fn new(plan: Plan, started: Moment) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::new)?;
        let story = Story::new(plan.nodes.len());
        Ok(Self { plan, program, started, clock: Clock::system(), children: Children::default(), story })
    }

    async fn run(mut self) -> Result<(), Failure> {
        let mut signals = Signals::new().map_err(Failure::new)?;
        if let Err(error) = self.start_all() {
            self.children.kill_all().await;
            return Err(Failure::new(error));
        }
        print!("{}", banner::started(&self.plan, &self.program, |who| self.children.pid(who)));
        let ready = self.wait_ready(&mut signals).await;
        if !matches!(ready, Ok(true)) {
            self.stop_all(&mut signals).await;
            return ready.map(drop);
        }
        let took = self.clock.now().since(self.started);
        print!("{}", banner::ready(&self.plan, &self.program, took));
        self.watch(&mut signals).await;
        self.stop_all(&mut signals).await;
        Ok(())
    }

    fn start_all(&mut self) -> std::io::Result<()> {
        if let Some(etcd) = self.plan.etcd.clone() {
            self.children.start_etcd(&self.program, &etcd, &self.plan)?;
        }
        for node in &self.plan.nodes {
            self.children.start_node(&self.program, node)?;
        }
        Ok(())
    }

    /// Waits until every node is ready; false if it was told to stop before.
    async fn wait_ready(&mut self, signals: &mut Signals) -> Result<bool, Failure> {
        let mut told = String::new();
        loop {
            match self.wake(signals, LOOK_CLOSELY).await {
                Wake::Stop => return Ok(false),
                Wake::Ended(ended) => return Err(self.early_end(&ended)),
                Wake::Look => {}
            }
            let answers = self.look().await;
            self.story.seen(&answers, self.clock.now());
            let ready = answers.values().filter(|answer| answer.ready).count();
            if ready == self.plan.nodes.len() {
                return Ok(true);
            }
            let waited = self.clock.now().since(self.started);
            let reason = answers.values().find_map(|answer| answer.reason.clone());
            let reason = reason.unwrap_or_else(|| "no node answers yet".to_owned());
            if waited >= PATIENCE && reason != told {
                println!("not ready after {} ms: {reason}", waited.as_millis());
                told = reason;
            }
        }
    }

    fn early_end(&self, ended: &Ended) -> Failure {
        let (name, log) = self.describe(ended.child.who);
        let tail = last_lines(&log, 12);
        Failure::Failed(format!(
            "{name} (pid {}) {} before the cluster was ready; the end of {}:\n{tail}",
            ended.child.pid,
            ended.how,
            log.display()
        ))
    }

    /// Tells what happens until it is told to stop.
    async fn watch(&mut self, signals: &mut Signals) {
        loop {
            let pause = if self.story.is_urgent() { LOOK_CLOSELY } else { LOOK };
            match self.wake(signals, pause).await {
                Wake::Stop => return,
                Wake::Ended(ended) => self.tell_end(&ended),
                Wake::Look => {
                    let answers = self.look().await;
                    for line in self.story.seen(&answers, self.clock.now()) {
                        println!("{line}");
                    }
                }
            }
        }
    }

    fn tell_end(&mut self, ended: &Ended) {
        let (name, log) = self.describe(ended.child.who);
        let led = matches!(ended.child.who, Who::Node(node) if self.story.leader() == Some(node));
        let role = if led { ", which led," } else { "" };
        let how = if ended.how == STOPPED { "somebody else told it to stop" } else { &ended.how };
        println!("{name} (pid {}){role} died: {how}; its log: {}", ended.child.pid, log.display());
        match ended.child.who {
            Who::Node(number) => {
                self.story.died(number, self.clock.now());
                if let Some(node) = self.plan.nodes.iter().find(|node| i32::from(node.node) == number) {
                    println!("  start it again: {}", banner::restart(&self.program, node));
                }
            }
            Who::Etcd => println!(
                "  it is not started again. Records are still written and read; topics, leaders and in-sync \
                 replicas cannot change until this cluster is stopped and started"
            ),
        }
    }

    fn describe(&self, who: Who) -> (String, PathBuf) {
        match who {
            Who::Etcd => ("etcd".to_owned(), self.plan.etcd_log()),
            Who::Node(number) => {
                let node = self.plan.nodes.iter().find(|node| i32::from(node.node) == number);
                (format!("node {number}"), node.map(plan::NodePlan::log).unwrap_or_default())
            }
        }
    }

    async fn wake(&mut self, signals: &mut Signals, pause: Duration) -> Wake {
        tokio::select! { biased;
            _ = signals.next() => Wake::Stop,
            ended = self.children.next_end() => Wake::Ended(ended),
            () = self.clock.sleep(pause) => Wake::Look,
        }
    }

    /// Asks every node how it is.
    async fn look(&self) -> BTreeMap<i32, Readiness> {
        let asked = self.plan.nodes.iter().map(|node| async {
            let address = node.http();
            let page = self.clock.timeout(ANSWER_MAX, fetch(&address, "/readyz")).await.ok()?.ok()?;
            // Ready or not; anything else comes from somebody else.
            let answered = matches!(page.code, 200 | 503);
            let answer: Readiness = answered.then(|| serde_json::from_slice(&page.body).ok()).flatten()?;
            (answer.node == i32::from(node.node)).then_some((answer.node, answer))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Stops the nodes one after the other, the leader last, then etcd. A second signal kills what is left.
    async fn stop_all(&mut self, signals: &mut Signals) {
        let mut order: Vec<Who> = self.children.running().iter().map(|child| child.who).collect();
        let leader = self.story.leader().map(Who::Node);
        order.sort_by_key(|who| (*who == Who::Etcd, Some(*who) == leader));
        for who in order {
            let (name, _) = self.describe(who);
            let stopped = tokio::select! { biased;
                () = signals.stop() => None,
                stopped = self.children.stop(who) => Some(stopped),
            };
            match stopped {
                Some(how) => println!("{name}: {}", how.unwrap_or_else(|| STOPPED.to_owned())),
                None => {
                    println!("told twice: killing what still runs");
                    return self.children.kill_all().await;
                }
            }
        }
        println!("all stopped; the data is kept in {}", self.plan.folder.display());
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

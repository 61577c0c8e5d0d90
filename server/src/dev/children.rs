//! The processes of `quorate dev`.

use std::{fs, io, path::Path, process::ExitStatus, process::Stdio, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use quorate_core::runtime::Clock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::{
    etcd,
    plan::{NodePlan, Plan},
};
use crate::config;

/// A node's controlled shutdown may take so long before it is killed: handing leadership over takes one heartbeat.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A node.
    Node(i32),
    /// The private etcd.
    Etcd,
}

/// A running child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    pub(crate) who: Who,
    pub(crate) pid: u32,
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) child: Child,
    pub(crate) how: String,
}

/// All children. They are killed when the value is dropped, and by the kernel when this process ends.
#[derive(Default)]
pub(crate) struct Children {
    running: Vec<Child>,
    ends: FuturesUnordered<BoxFuture<'static, Ended>>,
}

impl Children {
    /// Starts a node.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn start_node(&mut self, program: &Path, node: &NodePlan) -> io::Result<u32> {
        let mut command = Command::new(program);
        command.args(["server", "--parent", &std::process::id().to_string()]).arg(node.properties());
        self.start(Who::Node(i32::from(node.node)), command, &node.log())
    }

    /// Starts the private etcd at `binary`.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn start_etcd(&mut self, program: &Path, binary: &Path, plan: &Plan) -> io::Result<u32> {
        let mut command = Command::new(program);
        command.args(["tied", "--parent", &std::process::id().to_string()]).arg(binary);
        command.args(etcd::arguments(plan));
        // It reads ETCD_* for every flag that is not given.
        for (name, _) in config::environment().iter().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        self.start(Who::Etcd, command, &plan.etcd_log())
    }

    fn start(&mut self, who: Who, mut command: Command, log: &Path) -> io::Result<u32> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        for (name, _) in config::environment().iter().filter(|(name, _)| name.starts_with("QUORATE_")) {
            command.env_remove(name);
        }
        // A group of its own: Ctrl-C goes to this process alone, which stops the others in order.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
        let mut process = command.spawn()?;
        let pid = process.id().ok_or_else(|| io::Error::other("the process has ended already"))?;
        let child = Child { who, pid };
        self.running.push(child);
        self.ends.push(Box::pin(async move {
            let how = match process.wait().await {
                Ok(status) => describe(status),
                Err(error) => format!("lost: {error}"),
            };
            Ended { child, how }
        }));
        Ok(pid)
    }

    /// The next child that ends; never, while none runs. Cancel safe.
    pub(crate) async fn next_end(&mut self) -> Ended {
        match self.ends.next().await {
            Some(ended) => {
                self.running.retain(|child| child.pid != ended.child.pid);
                ended
            }
            None => std::future::pending().await,
        }
    }

    /// Whether `who` runs as our child.
    pub(crate) fn runs(&self, who: Who) -> bool {
        self.running.iter().any(|child| child.who == who)
    }

    /// The process of `who`.
    pub(crate) fn pid(&self, who: Who) -> Option<u32> {
        self.running.iter().find(|child| child.who == who).map(|child| child.pid)
    }

    /// All that run.
    pub(crate) fn running(&self) -> Vec<Child> {
        self.running.clone()
    }

    /// Asks one child to stop and waits for it; kills it when its time is up. How it ended; `None` if it did not run.
    pub(crate) async fn stop(&mut self, who: Who) -> Option<String> {
        self.signal(who, Signal::TERM);
        let clock = Clock::system();
        let deadline = clock.now().plus(STOP_MAX);
        let mut killed = false;
        while self.runs(who) {
            tokio::select! { biased;
                ended = self.next_end() => {
                    if ended.child.who == who {
                        if ended.how == TERMINATED {
                            // Not every program catches it to end with a code of its own; etcd does not.
                            return Some(STOPPED.to_owned());
                        }
                        let late = if killed { ", it did not stop in time" } else { "" };
                        return Some(ended.how + late);
                    }
                }
                () = clock.sleep_until(deadline), if !killed => {
                    killed = true;
                    self.signal(who, Signal::KILL);
                }
            }
        }
        None
    }

    /// Kills all that run and waits for their ends.
    pub(crate) async fn kill_all(&mut self) {
        for child in self.running() {
            self.signal(child.who, Signal::KILL);
        }
        while !self.running.is_empty() {
            self.next_end().await;
        }
    }

    fn signal(&self, who: Who, signal: Signal) {
        let pid = self.pid(who).and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It can only have ended meanwhile, and is told of then.
            let _ = kill_process(pid, signal);
        }
    }
}

/// How a process ends that was asked to.
pub(crate) const STOPPED: &str = "stopped";

/// How a process ends that does not catch the request.
const TERMINATED: &str = "killed by signal 15 (TERM)";

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => STOPPED.to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "killed by signal 9 (KILL)".to_owned(),
        (None, Some(15)) => TERMINATED.to_owned(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

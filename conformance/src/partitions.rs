//! Networks that part in every way, and everything at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::Poll,
    time::Duration,
};

use futures_util::future::BoxFuture;
use quorate_core::{
    consensus::{Epoch, Leader, LogIndex, NodeId, ProposeError},
    runtime::Rng,
};

use super::{
    Backend, Capability, Stop, Verdict,
    cluster::{Cluster, Led, needs},
    ensure,
    log::{Outcomes, agree},
};

pub(super) async fn asymmetric_cut(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Links)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    // A leader that hears and is not heard, and then one that is heard and does not hear.
    for heard in [false, true] {
        let led = cluster.leader().await?;
        let others = cluster.followers(led);
        let way = |other: NodeId| if heard { (other, led.node) } else { (led.node, other) };
        for &other in &others {
            cluster.lab.cut_link(way(other).0, way(other).1, true).await;
        }
        let next = cluster.leader_after(led.epoch).await?;
        ensure!(next.node != led.node, "node {} leads again, heard: {heard}", led.node);
        let proposed = cluster.node(next.node)?.propose(next.epoch, "by the others".into());
        let proposed = cluster.within_patience("a proposal beside a half deaf node", proposed).await?;
        ensure!(!matches!(proposed, Err(ProposeError::TooLarge | ProposeError::Stopped)), "{proposed:?}");
        for &other in &others {
            cluster.lab.cut_link(way(other).0, way(other).1, false).await;
        }
        let last = cluster.commit("healed").await?;
        cluster.same_everywhere(last).await?;
    }
    Ok(())
}

/// How often a link comes and goes, and for how long each time.
const FLAPS: usize = 30;
const FLAP: Duration = Duration::from_millis(40);

pub(super) async fn flapping_link(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Cut)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let follower = cluster.follower(led)?;
    for flap in 0..FLAPS {
        cluster.lab.cut(follower).await;
        cluster.clock.sleep(FLAP).await;
        cluster.commit(format!("entry {flap}")).await?;
        cluster.lab.heal(follower).await;
        cluster.clock.sleep(FLAP).await;
    }
    let last = cluster.commit("last").await?;
    if backend.can(Capability::PreVote).is_ok() {
        let now = cluster.leader().await?;
        ensure!(now == led, "the link of node {follower} came and went, and made {now:?} of {led:?}");
    }
    cluster.same_everywhere(last).await.map(drop)
}

pub(super) async fn the_larger_side_leads(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Links)?;
    needs(backend, Capability::Votes)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let with_leader = cluster.follower(led)?;
    let smaller = [led.node, with_leader];
    let larger: Vec<NodeId> = cluster.living().into_iter().filter(|node| !smaller.contains(node)).collect();
    part(&mut cluster, &smaller, &larger, true).await;
    let next = cluster.leader_after(led.epoch).await?;
    ensure!(larger.contains(&next.node), "{next:?} leads with {smaller:?}, a minority");
    let alone = cluster.node(led.node)?.propose(led.epoch, "by the smaller side".into());
    let alone = cluster.within_patience("a proposal on the smaller side", alone).await?;
    ensure!(alone.is_err(), "the smaller side committed at {alone:?}");
    cluster.commit("by the larger side").await?;
    part(&mut cluster, &smaller, &larger, false).await;
    let last = cluster.commit("healed").await?;
    cluster.same_everywhere(last).await.map(drop)
}

async fn part(cluster: &mut Cluster, one: &[NodeId], other: &[NodeId], cut: bool) {
    for &near in one {
        for &far in other {
            cluster.lab.cut_link(near, far, cut).await;
            cluster.lab.cut_link(far, near, cut).await;
        }
    }
}

/// How long faults go on; the short list has less patience with processes.
const STORM: Duration = Duration::from_secs(60);
const SHORT_STORM: Duration = Duration::from_secs(6);
/// Between two faults.
const STEP_MS: u64 = 60;

pub(super) async fn random_faults_then_heal(backend: &dyn Backend, nodes: usize) -> Verdict {
    let seed = backend.seed();
    let mut storm = Storm::new(backend, nodes, seed).await?;
    let survived = storm.run(if backend.thorough() { STORM } else { SHORT_STORM }).await;
    survived.map_err(|stop| match stop {
        Stop::Failed(reason) => {
            Stop::Failed(format!("seed {seed}: {reason}\n  the faults: {}", storm.story()))
        }
        skipped @ Stop::Skipped(_) => skipped,
    })
}

/// A proposal under way at a node.
type Waiting = (NodeId, String, BoxFuture<'static, Result<LogIndex, ProposeError>>);

struct Storm<'a> {
    backend: &'a dyn Backend,
    cluster: Cluster,
    rng: Rng,
    cut: BTreeSet<NodeId>,
    paused: BTreeSet<NodeId>,
    links: BTreeSet<(NodeId, NodeId)>,
    leaders: BTreeMap<Epoch, Led>,
    outcomes: Outcomes,
    waiting: Vec<Waiting>,
    proposed: usize,
    told: Vec<String>,
}

impl<'a> Storm<'a> {
    async fn new(backend: &'a dyn Backend, nodes: usize, seed: u64) -> Result<Self, Stop> {
        let cluster = Cluster::started(backend, nodes).await?;
        Ok(Self {
            backend,
            cluster,
            rng: Rng::seeded(seed),
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            links: BTreeSet::new(),
            leaders: BTreeMap::new(),
            outcomes: Outcomes::new(),
            waiting: Vec::new(),
            proposed: 0,
            told: Vec::new(),
        })
    }

    /// The last faults.
    fn story(&self) -> String {
        self.told.iter().rev().take(20).rev().cloned().collect::<Vec<_>>().join("; ")
    }

    async fn run(&mut self, length: Duration) -> Verdict {
        self.cluster.leader().await?;
        let end = self.cluster.clock.now().plus(length);
        while self.cluster.clock.now() < end {
            self.fault().await?;
            for _ in 0..3 {
                self.propose().await?;
                self.cluster.clock.sleep(Duration::from_millis(self.below(STEP_MS / 2) + STEP_MS / 6)).await;
                self.look()?;
            }
        }
        self.heal().await?;
        let last = self.cluster.commit("fresh").await?;
        self.settle(true).await?;
        let led = self.cluster.leader().await?;
        self.cluster.same_everywhere(last).await?;
        agree(&self.cluster, &self.outcomes, last).await?;
        ensure!(self.outcomes.values().any(Result::is_ok), "nothing was committed in the whole time");
        ensure!(led.epoch >= self.leaders.keys().next_back().copied().unwrap_or_default(), "{led:?} is old");
        Ok(())
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound.max(1))
    }

    fn any(&self) -> NodeId {
        let voters = self.cluster.voters();
        let at = self.below(voters.len() as u64);
        usize::try_from(at).ok().and_then(|at| voters.get(at).copied()).unwrap_or(NodeId(1))
    }

    fn can(&self, capability: Capability) -> bool {
        self.backend.can(capability).is_ok()
    }

    /// One fault, or the end of one.
    async fn fault(&mut self) -> Verdict {
        let node = self.any();
        let lives = self.cluster.living().contains(&node);
        match self.below(8) {
            0 if lives => {
                self.told.push(format!("kill {node}"));
                self.forget_proposals_of(node);
                self.paused.remove(&node);
                self.cluster.kill(node).await;
            }
            0..=2 if !lives => {
                self.told.push(format!("start {node}"));
                self.cluster.start(node).await?;
            }
            3 if self.can(Capability::Cut) => {
                let cut = self.cut.insert(node);
                self.told.push(format!("{} {node}", if cut { "cut" } else { "join" }));
                if cut {
                    self.cluster.lab.cut(node).await;
                } else {
                    self.join(node).await;
                }
            }
            4 if lives && self.can(Capability::Pause) => {
                let paused = self.paused.insert(node);
                if !paused {
                    self.paused.remove(&node);
                }
                self.told.push(format!("{} {node}", if paused { "pause" } else { "continue" }));
                self.cluster.lab.pause(node, paused).await;
            }
            5 if self.can(Capability::Links) => {
                let link = (node, self.any());
                let cut = link.0 != link.1 && !self.links.remove(&link) && self.links.insert(link);
                self.told.push(format!("link {link:?} {}", if cut { "cut" } else { "joined" }));
                self.cluster.lab.cut_link(link.0, link.1, cut).await;
            }
            6 if lives && !self.paused.contains(&node) => {
                if let Some(led) = self.cluster.announced().filter(|led| !self.paused.contains(&led.node)) {
                    self.told.push(format!("{} resigns", led.node));
                    let running = self.cluster.node(led.node)?.clone();
                    self.cluster.within_patience("resign()", running.resign(led.epoch)).await?;
                }
            }
            _ => self.lift().await,
        }
        Ok(())
    }

    /// Joins a node whose links that were cut one by one stay cut.
    async fn join(&mut self, node: NodeId) {
        self.cut.remove(&node);
        self.cluster.lab.heal(node).await;
        for (from, to) in self.links.clone() {
            self.cluster.lab.cut_link(from, to, true).await;
        }
        for other in self.cut.clone() {
            self.cluster.lab.cut(other).await;
        }
    }

    /// Ends the oldest faults, so that there is a quorum now and then.
    async fn lift(&mut self) {
        self.told.push("some faults end".to_owned());
        if let Some(node) = self.paused.pop_first() {
            self.cluster.lab.pause(node, false).await;
        }
        if let Some((from, to)) = self.links.pop_first() {
            self.cluster.lab.cut_link(from, to, false).await;
        }
        if let Some(node) = self.cut.first().copied() {
            self.join(node).await;
        }
    }

    async fn heal(&mut self) -> Verdict {
        for node in std::mem::take(&mut self.paused) {
            self.cluster.lab.pause(node, false).await;
        }
        for (from, to) in std::mem::take(&mut self.links) {
            self.cluster.lab.cut_link(from, to, false).await;
        }
        for node in std::mem::take(&mut self.cut) {
            self.cluster.lab.heal(node).await;
        }
        self.cluster.start_all().await
    }

    /// Whoever dies with a proposal under way never learns what became of it.
    fn forget_proposals_of(&mut self, node: NodeId) {
        for (at, name, proposal) in std::mem::take(&mut self.waiting) {
            if at == node {
                self.outcomes.insert(name, Err(ProposeError::Unknown));
            } else {
                self.waiting.push((at, name, proposal));
            }
        }
    }

    async fn propose(&mut self) -> Verdict {
        if let Some(led) = self.cluster.announced() {
            let running = self.cluster.node(led.node)?.clone();
            let name = format!("entry {}", self.proposed);
            self.proposed += 1;
            let entry = name.clone();
            let proposal = async move { running.propose(led.epoch, entry.into()).await };
            self.waiting.push((led.node, name, Box::pin(proposal)));
        }
        self.settle(false).await
    }

    /// Takes down what has been answered; at the end, waits for the rest.
    async fn settle(&mut self, all: bool) -> Verdict {
        for (node, name, mut proposal) in std::mem::take(&mut self.waiting) {
            let outcome = if all {
                self.cluster.within_patience("a proposal of the storm", proposal).await?
            } else {
                match futures_util::poll!(&mut proposal) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => {
                        self.waiting.push((node, name, proposal));
                        continue;
                    }
                }
            };
            self.outcomes.insert(name, outcome);
        }
        Ok(())
    }

    /// One leader an epoch, whoever tells it.
    fn look(&mut self) -> Verdict {
        for node in self.cluster.living() {
            let Some(event) = self.cluster.last_event(node) else { continue };
            let Leader::Me { opened_at } = event.leader else { continue };
            let led = Led { node, epoch: event.epoch, opened_at };
            let first = *self.leaders.entry(led.epoch).or_insert(led);
            ensure!(first == led, "{led:?}, and before {first:?}");
        }
        Ok(())
    }
}

//! The rule of founding, in every order of meetings, crashes and lost disks; and the file that remembers.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use quorate_core::{
    consensus::LogId,
    ids::{DirectoryId, NodeId},
    runtime::simulated::Keep,
};
use uuid::Uuid;

use super::{Charter, Claim, Founding, FoundingConfig, Machine, Phase};
use crate::testing::Machine as Computer;

fn endpoints(nodes: i32) -> BTreeMap<NodeId, String> {
    (0..nodes).map(|node| (NodeId(node), format!("n{node}:9"))).collect()
}

/// Without addresses, because very many worlds are copied.
fn unaddressed(nodes: i32) -> BTreeMap<NodeId, String> {
    (0..nodes).map(|node| (NodeId(node), String::new())).collect()
}

fn directory(node: i32, life: u8) -> DirectoryId {
    DirectoryId(Uuid::from_bytes([u8::try_from(node).unwrap() * 16 + life + 1; 16]))
}

/// Every node, and a claim that may still arrive from the one to the other.
#[derive(Clone, Hash)]
struct World {
    nodes: Vec<Machine>,
    lives: Vec<u8>,
    /// Ids that were drawn.
    ids: u8,
    delayed: Option<(usize, Claim)>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    /// The first tells the second what it is.
    Tell(usize, usize),
    /// What the first says to the second arrives later.
    Delay(usize, usize),
    Arrive,
    Crash(usize),
    Wipe(usize),
}

impl World {
    fn new(nodes: i32) -> Self {
        let machine = |node| Machine::new(NodeId(node), directory(node, 0), unaddressed(nodes), Phase::Fresh);
        let lives = (0..nodes).map(|_| 0).collect();
        Self { nodes: (0..nodes).map(machine).collect(), lives, ids: 0, delayed: None }
    }

    fn hear(&mut self, node: usize, claim: Claim) {
        self.nodes[node].meet(claim);
        self.step(node);
    }

    fn step(&mut self, node: usize) {
        while let Some(phase) = self.nodes[node].next(LogId([self.ids + 1; 16])) {
            if let Phase::Tentative(Charter { log, .. }) = &phase {
                self.ids = self.ids.max(log.0[0]);
            }
            self.nodes[node].enter(phase);
        }
    }

    fn restart(&mut self, node: usize, phase: Phase) {
        let id = i32::try_from(node).unwrap();
        let all = i32::try_from(self.nodes.len()).unwrap();
        self.nodes[node] = Machine::new(NodeId(id), directory(id, self.lives[node]), unaddressed(all), phase);
        self.step(node);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Tell(from, to) => self.hear(to, self.nodes[from].claim().clone()),
            Action::Delay(from, to) => self.delayed = Some((to, self.nodes[from].claim().clone())),
            Action::Arrive => {
                if let Some((to, claim)) = self.delayed.take() {
                    self.hear(to, claim);
                }
            }
            Action::Crash(node) => self.restart(node, self.nodes[node].claim().phase.clone()),
            Action::Wipe(node) => {
                self.lives[node] += 1;
                self.restart(node, Phase::Fresh);
            }
        }
    }

    fn actions(&self, wipes: u8, delays: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        for from in 0..self.nodes.len() {
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                actions.push(Action::Tell(from, to));
                if delays && self.delayed.is_none() {
                    actions.push(Action::Delay(from, to));
                }
            }
            actions.push(Action::Crash(from));
            if self.lives.iter().sum::<u8>() < wipes {
                actions.push(Action::Wipe(from));
            }
        }
        if self.delayed.is_some() {
            actions.push(Action::Arrive);
        }
        actions
    }

    fn charters(&self) -> impl Iterator<Item = (usize, bool, &Charter)> {
        self.nodes.iter().enumerate().filter_map(|(node, machine)| match &machine.claim().phase {
            Phase::Fresh => None,
            Phase::Tentative(charter) => Some((node, false, charter)),
            Phase::Final(charter) => Some((node, true, charter)),
        })
    }

    /// What must hold in every world.
    fn check(&self) {
        for (node, _, charter) in self.charters().filter(|(_, is_final, _)| *is_final) {
            let founder = &charter.founders[&NodeId(i32::try_from(node).unwrap())];
            assert_eq!(founder.directory, self.nodes[node].claim().directory, "an emptied founder is none");
            for (other, _, another) in self.charters().filter(|(_, is_final, _)| *is_final) {
                assert_eq!(charter.log, another.log, "nodes {node} and {other} are in two clusters");
            }
        }
    }

    /// Whether everybody is final after everybody has told everybody, several times.
    fn comes_together(&self) -> bool {
        let mut world = self.clone();
        world.delayed = None;
        for _ in 0..6 {
            for from in 0..world.nodes.len() {
                for to in (0..world.nodes.len()).filter(|to| *to != from) {
                    world.act(Action::Tell(from, to));
                }
            }
        }
        world.charters().filter(|(_, is_final, _)| *is_final).count() == world.nodes.len()
    }
}

/// Visits every world that can be reached. Returns how many there are.
fn explore(nodes: i32, wipes: u8, delays: bool) -> usize {
    let mut seen = BTreeSet::new();
    let mut first = World::new(nodes);
    first.step(0);
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        world.check();
        if world.lives.iter().all(|life| *life == 0) {
            assert!(world.comes_together(), "without a lost disk every founding ends well");
        }
        for action in world.actions(wipes, delays) {
            let mut next = world.clone();
            next.act(action);
            let mut hasher = DefaultHasher::new();
            next.hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                open.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn one_voter_founds_by_itself() {
    let mut world = World::new(1);
    world.step(0);
    assert!(matches!(world.nodes[0].claim().phase, Phase::Final(_)));
}

#[test]
fn no_order_of_meetings_crashes_and_lost_disks_founds_two_clusters() {
    let mut worlds = 0;
    for (nodes, wipes, delays) in [(2, 2, true), (3, 0, false), (3, 1, false)] {
        let found = explore(nodes, wipes, delays);
        println!("{nodes} nodes, {wipes} lost disks, delays {delays}: {found} worlds");
        worlds += found;
    }
    assert!(worlds > 1000);
}

#[test]
fn random_walks_with_more_lost_disks_found_no_second_cluster() {
    let rng = quorate_core::runtime::Rng::seeded(11);
    for _ in 0..300 {
        let mut world = World::new(3);
        for _ in 0..120 {
            let actions = world.actions(4, true);
            let action = actions[usize::try_from(rng.below(actions.len() as u64)).unwrap()];
            world.act(action);
            world.check();
        }
    }
}

#[test]
fn two_wiped_nodes_of_three_never_found() {
    let mut world = World::new(3);
    for (from, to) in [(1, 0), (2, 0), (0, 1), (0, 2), (1, 0), (2, 0), (0, 1), (0, 2)] {
        world.act(Action::Tell(from, to));
    }
    assert_eq!(world.charters().filter(|(_, is_final, _)| *is_final).count(), 3);
    world.act(Action::Wipe(0));
    world.act(Action::Wipe(1));
    assert!(!world.comes_together());
    assert_eq!(world.charters().count(), 1);
}

#[test]
fn another_list_and_a_copied_directory_hold_the_founding_up() {
    let mut world = World::new(2);
    let mut other = world.nodes[1].claim().clone();
    other.listed.insert(NodeId(7));
    world.hear(0, other);
    assert_eq!(world.charters().count(), 0);
    let mut copy = world.nodes[1].claim().clone();
    copy.directory = world.nodes[0].claim().directory;
    world.hear(0, copy);
    assert_eq!(world.charters().count(), 0);
    world.act(Action::Tell(1, 0));
    assert_eq!(world.charters().count(), 1);
}

fn config(node: i32) -> FoundingConfig {
    FoundingConfig {
        node: NodeId(node),
        directory: directory(node, 0),
        voters: endpoints(2),
        path: "/data/raft/founding".into(),
    }
}

/// Two computers meet until both are final or the power of the first fails. Returns whether it did not.
async fn meet(first: &Founding, second: &Founding) -> bool {
    for _ in 0..6 {
        if first.meet(second.claim()).await.is_err() {
            return false;
        }
        second.meet(first.claim()).await.unwrap();
    }
    true
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_each_write_and_sync_of_the_founding_ends_in_one_cluster() {
    let mut points = 0;
    for (victim, keep) in [(0, Keep::None), (0, Keep::Some), (1, Keep::None), (1, Keep::Some)] {
        for operations in 0.. {
            let computers = [Computer::new(operations), Computer::new(operations + 1000)];
            let processes = computers.each_ref().map(Computer::process);
            computers[victim].disk.cut_power_after(operations);
            let open = |node: usize, process| Founding::open(config(i32::try_from(node).unwrap()), process);
            let survivor = open(1 - victim, &processes[1 - victim]).unwrap();
            let whole = match open(victim, &processes[victim]) {
                Ok(founding) => meet(&founding, &survivor).await,
                Err(_) => false,
            };
            computers[victim].crash(&processes[victim], keep);
            let process = computers[victim].process();
            let founding = open(victim, &process).unwrap();
            assert!(meet(&founding, &survivor).await);
            let ids = [&founding, &survivor].map(|founding| founding.founders().expect("final").0);
            assert_eq!(ids[0], ids[1]);
            if whole {
                break;
            }
            points += 1;
        }
    }
    println!("crashed the founding at {points} writes and syncs");
    assert!(points > 30);
}

#[tokio::test(start_paused = true)]
async fn an_emptied_founder_hears_why_it_is_not_let_in() {
    let computers = [Computer::new(1), Computer::new(2)];
    let processes = computers.each_ref().map(Computer::process);
    let first = Founding::open(config(0), &processes[0]).unwrap();
    let second = Founding::open(config(1), &processes[1]).unwrap();
    assert!(meet(&first, &second).await);
    let emptied = FoundingConfig { directory: directory(1, 1), ..config(1) };
    let computer = Computer::new(3);
    let emptied = Founding::open(emptied, &computer.process()).unwrap();
    emptied.meet(first.claim()).await.unwrap();
    assert_eq!(emptied.founders(), None);
    let status = emptied.status().to_string();
    assert!(status.contains("node 0 at n0:9") && status.contains("knows node 1"), "{status}");
}

//! Two candidates that ask for the same vote, and a voter whose power fails at each write and sync in between.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use quorate_core::{
    ids::{DirectoryId, LogIndex, NodeId},
    runtime::{
        Rng, Runtime, TaskScope,
        simulated::{Keep, SimulatedDisk},
    },
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Backend, Lab, name};
use crate::{
    founding::{Founding, FoundingConfig, Phase},
    transport::{Event, Transport, TransportConfig},
};

/// A voter that says only what the test says.
struct Puppet {
    backend: Backend,
    node: i32,
    founding: Arc<Founding>,
    transport: Transport,
    events: mpsc::Receiver<Event>,
    runtime: Runtime,
}

impl Puppet {
    fn new(backend: Backend, lab: &Lab, node: i32, listed: &[i32]) -> Self {
        let disk = SimulatedDisk::new(lab.clock.clone(), Rng::seeded(9));
        disk.mount(Path::new("/data")).unwrap();
        let runtime = Runtime {
            clock: lab.clock.clone(),
            rng: Rng::seeded(u64::try_from(node).unwrap()),
            disk: Arc::new(disk),
            network: lab.network.machine(&name(node)),
            tasks: TaskScope::single_threaded(),
        };
        let directory = DirectoryId(Uuid::from_u128(u128::try_from(node).unwrap() + 77));
        let voters: BTreeMap<NodeId, String> =
            listed.iter().map(|node| (NodeId(*node), format!("n{node}:9000"))).collect();
        let path = "/data/founding".into();
        let config = FoundingConfig { node: NodeId(node), directory, voters: voters.clone(), path };
        let founding = Arc::new(Founding::open(config, &runtime).unwrap());
        let config = TransportConfig {
            engine: backend.name,
            node: NodeId(node),
            directory,
            endpoints: voters,
            message_bytes: 1 << 20,
            patience: Duration::from_secs(2),
        };
        let address: SocketAddr = "0.0.0.0:9000".parse().unwrap();
        let mut listener = runtime.network.listen(address).unwrap();
        let (sender, incoming) = mpsc::channel(8);
        runtime.tasks.spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                if sender.send(accepted).await.is_err() {
                    return;
                }
            }
        });
        let (transport, events) = Transport::start(config, founding.clone(), incoming, &runtime);
        Self { backend, node, founding, transport, events, runtime }
    }

    async fn founded(&self) {
        let mut phase = self.founding.phase();
        phase.wait_for(|phase| matches!(phase, Phase::Final(_))).await.unwrap();
        self.transport.set_members(&self.founding.founders().unwrap().1, LogIndex(0));
    }

    /// Asks node 0 for its vote until it answers or the time is up. Whether it got the vote.
    async fn asks(&mut self, term: u64, within: Duration) -> bool {
        let clock = self.runtime.clock.clone();
        let deadline = clock.now().plus(within);
        while clock.now() < deadline {
            let ask = (self.backend.ask)(NodeId(self.node), term);
            // A message that finds no way is sent again.
            let _lost = self.transport.send(NodeId(0), ask);
            while let Ok(Some(event)) = clock.timeout(Duration::from_millis(100), self.events.recv()).await {
                let Event::Message { from, body } = event else { continue };
                if let Some(granted) = (self.backend.granted)(body, from, NodeId(self.node), term) {
                    return granted;
                }
            }
        }
        false
    }
}

/// One candidate asks, the voter's power fails after so many operations, the other candidate asks for the same terms.
async fn crash_after(backend: Backend, operations: u64, keep: Keep) -> bool {
    let mut lab = Lab::new(backend, operations, &[0]);
    lab.list(&[0, 1, 2]);
    let mut candidates =
        [Puppet::new(backend, &lab, 1, &[0, 1, 2]), Puppet::new(backend, &lab, 2, &[0, 1, 2])];
    lab.start(0).await;
    for candidate in &candidates {
        candidate.founded().await;
    }
    lab.until(Duration::from_secs(5), "a log", |lab| lab.running(0).status().first.0 == 1).await;
    let disk = lab.disk(0).clone();
    disk.cut_power_after(disk.operations() + operations);
    let mut votes = BTreeMap::new();
    for term in [5, 6, 8] {
        votes.insert(term, candidates[0].asks(term, Duration::from_millis(700)).await);
    }
    let whole = !disk.is_without_power();
    lab.crash(0, keep);
    lab.start(0).await;
    for (term, first) in &votes {
        let second = candidates[1].asks(*term, Duration::from_secs(3)).await;
        assert!(!(*first && second), "the vote of the term {term} was given twice");
    }
    assert!(candidates[1].asks(9, Duration::from_secs(3)).await, "a new term is a new vote");
    assert!(!whole || votes.values().all(|vote| *vote), "{votes:?}");
    whole
}

pub async fn no_vote_is_given_twice_wherever_the_power_fails(backend: Backend) {
    let mut points = 0;
    for keep in [Keep::None, Keep::Some, Keep::All] {
        let mut operations = 0;
        while !crash_after(backend, operations, keep).await {
            operations += 1;
            points += 1;
        }
    }
    println!("cut a voter's power at {points} writes and syncs");
    assert!(points >= 18);
}

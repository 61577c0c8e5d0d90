//! Nodes of the etcd backend, without a broker around them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use quorate_consensus_etcd::{Etcd, EtcdConfig};
use quorate_core::{
    consensus::{
        Chain, Committed, Consensus as _, Epoch, Leader, LogId, LogIndex, NodeId, ProposeError, Resume,
        Running, Status,
    },
    runtime::{Clock, Runtime},
};

/// The shortest lease: tests have no time.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// For whatever must happen in the end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) running: Arc<dyn Running>,
    pub(crate) id: NodeId,
}

/// Settings with the shortest lease.
pub(crate) fn config(id: i32, endpoint: &str, prefix: &str) -> EtcdConfig {
    let advertised = format!("127.0.0.1:{}", 9100 + id);
    EtcdConfig {
        prefix: prefix.to_owned(),
        lease_ttl: TTL,
        ..EtcdConfig::new(NodeId(id), advertised, vec![endpoint.to_owned()], Runtime::real())
    }
}

pub(crate) async fn start(config: EtcdConfig, resume: Resume) -> Node {
    let id = config.node;
    let started = Clock::system().now();
    let running =
        Box::new(Etcd::new(config).expect("a possible configuration")).start(resume).await.expect("a start");
    assert!(Clock::system().now().since(started) < Duration::from_secs(1), "the start waits for somebody");
    Node { running, id }
}

pub(crate) async fn fresh(id: i32, endpoint: &str, prefix: &str) -> Node {
    start(config(id, endpoint, prefix), Resume::default()).await
}

/// The history that a node has applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Applied {
    pub(crate) log: LogId,
    pub(crate) entries: Vec<(u64, u64, Bytes)>,
}

impl Applied {
    pub(crate) fn resume(&self) -> Resume {
        let start = Chain::start(self.log);
        let chain =
            self.entries.iter().fold(start, |chain, (_, epoch, data)| chain.link(Epoch(*epoch), data));
        Resume { log_id: Some(self.log), applied: LogIndex(self.entries.len() as u64), chain }
    }

    /// What was proposed, without the engine's own entries.
    pub(crate) fn data(&self) -> Vec<String> {
        let proposed = self.entries.iter().filter(|(_, _, data)| !data.is_empty());
        proposed.map(|(_, _, data)| String::from_utf8_lossy(data).into_owned()).collect()
    }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match Clock::system().timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not come about: {what}"),
    }
}

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            Clock::system().sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

impl Node {
    /// Waits until this node leads.
    pub(crate) async fn leads(&self) -> (Epoch, LogIndex) {
        self.leads_after(Epoch(0)).await
    }

    /// Waits until this node leads an epoch after `epoch`.
    pub(crate) async fn leads_after(&self, epoch: Epoch) -> (Epoch, LogIndex) {
        let mut events = self.running.leader_events();
        within("a leadership", async {
            loop {
                let event =
                    events.next().await.unwrap_or_else(|| panic!("it has stopped: {:?}", self.status()));
                if let Leader::Me { opened_at } = event.leader
                    && event.epoch > epoch
                {
                    return (event.epoch, opened_at);
                }
            }
        })
        .await
    }

    pub(crate) fn status(&self) -> Status {
        self.running.status()
    }

    pub(crate) async fn propose(&self, epoch: Epoch, data: &str) -> Result<LogIndex, ProposeError> {
        let entry = Bytes::copy_from_slice(data.as_bytes());
        within("an answer to a proposal", self.running.propose(epoch, entry)).await
    }

    /// Everything up to `index`, read from the beginning.
    pub(crate) async fn applied(&self, index: LogIndex) -> Applied {
        let mut stream = self.running.committed(LogIndex(0));
        let mut entries = Vec::new();
        while (entries.len() as u64) < index.0 {
            let item = within("an entry", stream.next()).await;
            match item.unwrap_or_else(|| panic!("the log ends at {}: {:?}", entries.len(), self.status())) {
                Committed::Entry { index, epoch, data } => {
                    assert_eq!(index.0, entries.len() as u64 + 1, "a hole");
                    entries.push((index.0, epoch.0, data));
                }
                Committed::Snapshot(snapshot) => panic!("not expected: {snapshot:?}"),
            }
        }
        Applied { log: self.status().log_id.expect("a log"), entries }
    }

    /// Waits for the sentence of a final failure.
    pub(crate) async fn fails(&self) -> String {
        until("a failure", || self.status().fatal.is_some()).await;
        self.status().fatal.expect("a sentence")
    }

    /// Waits for a problem of the only endpoint that contains `words`, and returns it.
    pub(crate) async fn problem(&self, words: &str) -> String {
        let problem =
            || self.status().peers.first().and_then(|peer| peer.problem.clone()).unwrap_or_default();
        until(&format!("the problem '{words}'"), || {
            let problem = problem();
            tracing::debug!(problem);
            problem.contains(words)
        })
        .await;
        problem()
    }
}

//! openraft's own suite for stores, on the kit's log.
//!
//! The suite takes liberties that openraft's core does not take: it appends entries that leave a hole before them or are
//! forgotten already, forgets entries that were never there, and expects the state machine to make snapshots by itself. What stands between the two
//! here fills the holes, and plays the part of core and of the peers where snapshots are made and arrive. Everything else
//! goes to the store as it is.

use std::{fmt::Debug, ops::RangeBounds, path::Path, sync::Arc};

use futures_util::StreamExt as _;
use openraft::{
    LogState, OptionalSend, RaftLogReader, Vote,
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
    testing::{StoreBuilder, Suite},
};
use parking_lot::Mutex;
use quorate_consensus_kit::{
    config::{Timings, VoterConfig},
    founding::Charter,
    opening::{Opened, Scope, begin, open},
    shared::History,
    snapshot::SnapshotFile,
};
use quorate_core::{
    consensus::{Chain, LogId, Resume, SnapshotMeta as Meta},
    ids::{DirectoryId, LogIndex, NodeId},
    runtime::{Clock, RealNetwork, Rng, Runtime, TaskScope, simulated::SimulatedDisk},
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    config::Parts,
    machine::{Builder, Machine},
    storage::Store,
    types::{
        Entry, Members, Place, Snapshot, SnapshotMeta, StorageError, Types, encode_members, epoch_of,
        index_of, place_of,
    },
};
use openraft::entry::RaftEntry as _;

struct Fresh;

struct SuiteStore {
    store: Store,
    parts: Parts,
}

struct SuiteMachine {
    machine: Machine,
    store: Store,
    parts: Parts,
}

/// Keeps a snapshot that ends at a place; what came before is not looked at.
async fn keep(parts: &Parts, at: &Place, members: &Members, data: &[u8]) {
    let bytes = data.len() as u64;
    let meta = Meta { index: index_of(at), epoch: epoch_of(at), chain: Chain::default(), bytes };
    let mut writer = parts.snapshots.begin(meta, encode_members(members)).unwrap();
    writer.push(data).unwrap();
    parts.snapshots.publish(writer.finish().unwrap()).await.unwrap();
}

impl StoreBuilder<Types, SuiteStore, SuiteMachine, Scope> for Fresh {
    async fn build(&self) -> Result<(Scope, SuiteStore, SuiteMachine), StorageError> {
        let (clock, _wall) = Clock::simulated(0);
        let disk = SimulatedDisk::new(clock.clone(), Rng::seeded(1));
        disk.mount(Path::new("/data")).unwrap();
        let runtime = Runtime {
            clock,
            rng: Rng::seeded(2),
            disk: Arc::new(disk),
            network: Arc::new(RealNetwork),
            tasks: TaskScope::single_threaded(),
        };
        let config = VoterConfig {
            node: NodeId(0),
            directory_id: DirectoryId(Uuid::from_u128(7)),
            folder: "/data/raft".into(),
            voters: [(NodeId(0), "n0:9000".to_owned())].into(),
            incoming: mpsc::channel(1).1,
            timings: Timings::default(),
            runtime,
        };
        let begun = begin("openraft", config, 0, Resume::default()).unwrap();
        let charter = Charter { log: LogId([7; 16]), founders: Default::default() };
        let founding = (&*begun.shared.founding, 0);
        let opened =
            open((&begun.folder, &charter), founding, &begun.runtime, Resume::default()).await.unwrap();
        let Opened { log, snapshots, vote } = opened;
        let history = History::new(LogIndex(0), Members::default());
        let parts = Parts { log, snapshots: Arc::new(snapshots), history: Arc::new(Mutex::new(history)) };
        let store = Store::new(begun.shared.clone(), parts.clone(), vote.commit);
        let machine =
            Machine::new(begun.shared.clone(), parts.clone(), Default::default(), None, store.begins());
        let machine = SuiteMachine { machine, store: store.clone(), parts: parts.clone() };
        Ok((begun.scope, SuiteStore { store, parts }, machine))
    }
}

impl RaftLogReader<Types> for SuiteStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        self.store.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.store.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<Types> for SuiteStore {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        self.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Store {
        self.store.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        self.store.save_vote(vote).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        self.store.read_vote().await
    }

    async fn save_committed(&mut self, committed: Option<Place>) -> Result<(), StorageError> {
        self.store.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<Place>, StorageError> {
        self.store.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut next = self.parts.log.last().index.0;
        let mut dense = Vec::new();
        let base = self.parts.log.base().index;
        for entry in entries.into_iter().filter(|entry| index_of(&entry.log_id) > base) {
            let missing = next..entry.log_id.index;
            dense.extend(missing.map(|index| Entry::new_blank(Place { index, ..entry.log_id })));
            next = entry.log_id.index + 1;
            dense.push(entry);
        }
        self.store.append(dense, callback).await
    }

    async fn truncate(&mut self, since: Place) -> Result<(), StorageError> {
        self.store.truncate(since).await
    }

    async fn purge(&mut self, upto: Place) -> Result<(), StorageError> {
        let log = &self.parts.log;
        let is_there = log.point(index_of(&upto)).and_then(place_of) == Some(upto);
        if !is_there && log.base().index < index_of(&upto) {
            keep(&self.parts, &upto, &Members::default(), b"for the log to begin behind").await;
        }
        self.store.purge(upto).await
    }
}

impl RaftStateMachine<Types> for SuiteMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<Place>, Members), StorageError> {
        self.machine.applied_state().await
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (applied, members) = self.machine.applied_state().await.unwrap();
        // The suite forgets entries that were never applied.
        let at = applied.or_else(|| place_of(self.parts.log.base())).unwrap();
        keep(&self.parts, &at, &members, b"state").await;
        self.machine.get_snapshot_builder().await
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Option<Arc<SnapshotFile>>>, StorageError> {
        self.machine.begin_receiving_snapshot().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: Box<Option<Arc<SnapshotFile>>>,
    ) -> Result<(), StorageError> {
        let mut data = Vec::new();
        let mut chunks = file.as_ref().as_ref().unwrap().clone().chunks();
        while let Some(chunk) = chunks.next().await {
            data.extend_from_slice(&chunk.unwrap());
        }
        let at = meta.last_log_id.unwrap();
        keep(&self.parts, &at, &meta.last_membership, &data).await;
        let (installed, purged) =
            tokio::join!(self.machine.install_snapshot(meta, file), self.store.purge(at));
        installed.and(purged)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        self.machine.get_current_snapshot().await
    }
}

#[test]
fn the_store_passes_the_suite_of_openraft() {
    Suite::<Types, SuiteStore, SuiteMachine, Fresh, Scope>::test_all(Fresh).unwrap();
}

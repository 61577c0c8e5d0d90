//! openraft's state machine: a cursor. Whoever wants the entries reads them from the log.

use std::{collections::BTreeMap, sync::Arc};

use openraft::{AnyError, OptionalSend, RaftSnapshotBuilder, StorageIOError, storage::RaftStateMachine};
use parking_lot::Mutex;
use quorate_consensus_kit::{membership::Member, shared::History, snapshot::SnapshotFile};
use quorate_core::ids::{Epoch, LogIndex, NodeId};
use tokio::sync::watch;

use crate::{
    config::{Parts, Shared},
    types::{
        Entry, Members, Payload, Place, Snapshot, SnapshotMeta, StorageError, Types, epoch_of, index_of,
        kit_membership, last_index, snapshot_meta,
    },
};

/// The newest epoch of which something is applied, and the entry that opened it.
pub(crate) type Opened = Arc<Mutex<Option<(Epoch, LogIndex)>>>;

/// The state machine.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    parts: Parts,
    founders: BTreeMap<NodeId, Member>,
    applied: Option<Place>,
    members: Members,
    opened: Opened,
    begins: watch::Receiver<LogIndex>,
}

impl Machine {
    /// A state machine that continues behind `applied`, where the history ends.
    pub(crate) fn new(
        shared: Arc<Shared>,
        parts: Parts,
        founders: BTreeMap<NodeId, Member>,
        applied: Option<Place>,
        begins: watch::Receiver<LogIndex>,
    ) -> Self {
        let members = parts.history.lock().now().map(|(_, members)| members.clone()).unwrap_or_default();
        Self { shared, parts, founders, applied, members, opened: Opened::default(), begins }
    }

    pub(crate) fn opened(&self) -> Opened {
        self.opened.clone()
    }

    fn follow_members(&self, at: LogIndex) {
        self.shared.transport.set_members(&kit_membership(&self.members, &self.founders), at);
    }

    fn apply_one(&mut self, entry: Entry) {
        let (index, epoch) = (index_of(&entry.log_id), epoch_of(&entry.log_id));
        if self.applied.is_none_or(|last| epoch_of(&last) != epoch) {
            *self.opened.lock() = Some((epoch, index));
        }
        self.applied = Some(entry.log_id);
        if let Payload::Members(configs) = entry.payload {
            self.members = Members::new(Some(entry.log_id), configs);
            self.parts.history.lock().push(index, self.members.clone());
            self.follow_members(index);
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<Place>, Members), StorageError> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let applied = entries.into_iter().map(|entry| self.apply_one(entry)).collect();
        self.shared.publish(last_index(self.applied.as_ref()));
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.parts.clone())
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Option<Arc<SnapshotFile>>>, StorageError> {
        Ok(Box::new(None))
    }

    /// The snapshot is durable already; here it takes effect, once the log begins behind it. openraft's core sees to that
    /// as its next step (see `Store::purge`); until then a reader would find the entries of before.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        _file: Box<Option<Arc<SnapshotFile>>>,
    ) -> Result<(), StorageError> {
        let index = last_index(meta.last_log_id.as_ref());
        let begun = self.begins.wait_for(|begins| *begins >= index).await.map(|_| ());
        begun.map_err(|error| StorageIOError::write_snapshot(None, AnyError::error(error)))?;
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        *self.parts.history.lock() = History::new(index, self.members.clone());
        self.follow_members(index);
        self.shared.publish(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        newest(&self.parts)
    }
}

/// Says which snapshot is the newest. The state is not here: core makes snapshots of it and hands them over, before
/// openraft is told to look.
pub(crate) struct Builder(Parts);

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let missing = || StorageIOError::read_snapshot(None, AnyError::error("no snapshot was kept")).into();
        newest(&self.0)?.ok_or_else(missing)
    }
}

#[expect(clippy::result_large_err, reason = "the error is openraft's")]
fn newest(parts: &Parts) -> Result<Option<Snapshot>, StorageError> {
    let Some(file) = parts.snapshots.newest() else { return Ok(None) };
    let unnamed = || {
        let sentence = "the newest snapshot does not say who the voters are";
        StorageError::from(StorageIOError::read_snapshot(None, AnyError::error(sentence)))
    };
    let meta = snapshot_meta(&file.meta(), file.engine()).ok_or_else(unnamed)?;
    Ok(Some(Snapshot { meta, snapshot: Box::new(Some(file)) }))
}

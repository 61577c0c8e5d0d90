//! What Raft says is ready, in the order on which safety rests:
//!
//! 1. messages that may leave before the disk has anything (a leader's own appends);
//! 2. a snapshot to install;
//! 3. committed entries, which are durable here;
//! 4. entries and then the vote, in one batch, synced;
//! 5. messages that promise what was just written: votes, acknowledgements;
//! 6. what became committed by that.

use quorate_consensus_kit::{
    log::{Batch, LogError, Point, Vote},
    membership::Membership,
    snapshot::point,
};
use quorate_core::{
    consensus::Leader,
    ids::{Epoch, LogIndex},
};
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType, Snapshot};

use super::{Engine, Received};
use crate::{
    node::Broken,
    storage::{History, change_members, change_of, conf_change, to_kit, vote_of},
    transport::{encode, node_of},
};

impl Engine {
    pub(super) async fn ready(&mut self) -> Result<(), Broken> {
        while let Some(mut ready) = self.node.ready()? {
            self.send(ready.take_messages());
            if !ready.snapshot().is_empty() {
                self.install(ready.snapshot(), ready.hs()).await?;
            }
            self.apply(ready.take_committed_entries())?;
            self.write(ready.take_entries(), ready.hs(), ready.must_sync()).await?;
            for read in ready.take_read_states() {
                self.state.reads.confirmed(&read.request_ctx, LogIndex(read.index));
            }
            self.send(ready.take_persisted_messages());
            let mut light = self.node.advance(ready)?;
            if let Some(commit) = light.commit_index() {
                self.state.vote.commit = LogIndex(commit);
            }
            self.send(light.take_messages());
            self.apply(light.take_committed_entries())?;
            self.node.advance_apply()?;
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let Some(to) = node_of(message.to) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(&message);
            } else if !self.shared.transport.send(to, encode(&message)) {
                self.state.lost.push(to);
            }
        }
    }

    fn send_snapshot(&self, message: &Message) {
        let Some(to) = node_of(message.to) else { return };
        // A newer snapshot may have come meanwhile. The peer compares, refuses, and is sent the newer one.
        if let Some(newest) = self.parts.snapshots.newest() {
            self.shared.transport.send_snapshot(to, encode(message), newest);
        }
    }

    /// Makes entries and vote durable, in this order and at once. A change of the commit index alone waits for the next
    /// batch: a restart finds out again.
    async fn write(
        &mut self,
        entries: Vec<Entry>,
        state: Option<&HardState>,
        must_sync: bool,
    ) -> Result<(), Broken> {
        if let Some(state) = state {
            self.state.vote = vote_of(state);
        }
        if !must_sync && entries.is_empty() {
            return Ok(());
        }
        let entries = entries.into_iter().map(to_kit).collect();
        let batch = Batch { truncate_after: None, entries, vote: Some(self.state.vote) };
        let log = self.parts.log.clone();
        self.while_writing(log.write(batch)).await
    }

    /// Waits for the disk. A leader whose disk hangs hears nothing and says nothing: as soon as another may lead, it
    /// does not know who does.
    async fn while_writing(
        &mut self,
        writing: impl Future<Output = Result<(), LogError>>,
    ) -> Result<(), Broken> {
        let mut writing = std::pin::pin!(writing);
        let limit = self.timings.election_min;
        let written = match self.runtime.clock.timeout(limit, writing.as_mut()).await {
            Ok(written) => written,
            Err(_) => {
                if let Some(last) = self.shared.announcer.last() {
                    self.shared.announcer.announce(last.epoch, Leader::Unknown);
                }
                self.shared.facts.lock().leader = None;
                writing.await
            }
        };
        written.map_err(|error| Broken(error.to_string()))
    }

    /// Applies what is committed: tells its proposers, follows changes of the members, lets readers read it.
    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Broken> {
        for entry in entries {
            let (index, epoch) = (LogIndex(entry.index), Epoch(entry.term));
            if let Some(change) = change_of(&entry) {
                self.node.apply_change(&conf_change(&change))?;
                let membership = change_members(&self.parts.history, index, &change);
                self.shared.transport.set_members(&membership, index);
            }
            self.note_opening(&entry, index, epoch);
            self.state.proposals.committed(index, epoch, self.node.leader());
            self.state.applied = index;
        }
        self.shared.publish(self.state.applied);
        Ok(())
    }

    /// The first entry of an epoch is the leader's own, and empty.
    fn note_opening(&mut self, entry: &Entry, index: LogIndex, epoch: Epoch) {
        let empty = entry.data.is_empty() && entry.get_entry_type() == EntryType::EntryNormal;
        let leads = self.node.is_leader() && self.node.term() == epoch;
        let known = self.state.opened.is_some_and(|(opened, _)| opened == epoch);
        if empty && leads && !known {
            self.state.opened = Some((epoch, index));
        }
    }

    /// Replaces everything by a snapshot that has arrived: first the snapshot becomes durable, then the log begins anew
    /// behind it. A crash in between is repaired at the next start.
    async fn install(&mut self, snapshot: &Snapshot, state: Option<&HardState>) -> Result<(), Broken> {
        let wanted = snapshot.metadata.as_ref().map(|meta| LogIndex(meta.index));
        let received = self.state.received.take();
        let Some(Received { staged, engine }) =
            received.filter(|received| Some(received.staged.meta().index) == wanted)
        else {
            return Err(Broken("Raft wants to install a snapshot that has not arrived".to_owned()));
        };
        let at: Point = point(&staged.meta());
        let membership = Membership::decode(&engine)
            .ok_or_else(|| Broken("a snapshot arrived that does not say who the voters are".to_owned()))?;
        let published = self.parts.snapshots.publish(staged).await;
        published.map_err(|error| Broken(error.to_string()))?;
        let vote: Vote = state.map_or(self.state.vote, vote_of);
        let log = self.parts.log.clone();
        self.while_writing(log.restart(at, vote)).await?;
        self.state.vote = self.parts.log.vote();
        self.state.proposals.skip_to(at.index);
        self.state.applied = at.index;
        *self.parts.history.lock() = History::new(at.index, membership.clone());
        self.shared.transport.set_members(&membership, at.index);
        self.shared.publish(at.index);
        Ok(())
    }
}

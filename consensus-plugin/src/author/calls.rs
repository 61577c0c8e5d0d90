//! The port's calls, answered by the author's backend.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::consensus::{
    Epoch, Leader, LogIndex, MembershipChange, MembershipError, ProposeError, Running, SnapshotMeta,
};

use super::{node::Node, readers::Batch};
use crate::{
    answer::Answer,
    raw::{leader, status},
    report,
};

impl Node {
    /// Answers by the running backend; before the start and after the end there is none.
    fn ask<F>(self: &Arc<Self>, token: u64, without: i32, work: impl FnOnce(Arc<dyn Running>, Arc<Self>) -> F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        match self.running() {
            Some(running) => self.answer(token, without, work(running, self.clone())),
            None => self.complete(token, &Answer::because(status::STOPPED, "the backend does not run")),
        }
    }

    pub(super) fn next_leader(self: &Arc<Self>, token: u64, seen: u64) {
        self.ask(token, status::STOPPED, move |running, _| async move {
            let mut events = running.leader_events();
            let event = loop {
                match events.next().await {
                    Some(event) if event.seq > seen => break event,
                    Some(_) => {}
                    None => return Answer::of(status::STOPPED),
                }
            };
            let answer = Answer { seq: event.seq, epoch: event.epoch, ..Answer::of(status::OK) };
            match event.leader {
                Leader::Unknown => Answer { kind: leader::UNKNOWN, ..answer },
                Leader::Other(node) => Answer { kind: leader::OTHER, node: Some(node), ..answer },
                Leader::Me { opened_at } => Answer { kind: leader::ME, index: opened_at, ..answer },
            }
        });
    }

    pub(super) fn next_committed(self: &Arc<Self>, token: u64, after: LogIndex, bytes_max: u32) {
        self.ask(token, status::STOPPED, move |running, node| async move {
            let mut reader = node.readers.at(after, running.as_ref());
            let answer = match reader.next(bytes_max as usize).await {
                Batch::Ended => return Answer::of(status::STOPPED),
                Batch::Entries(answer) => answer,
                Batch::Snapshot(snapshot) => node.outgoing.open(snapshot),
            };
            node.readers.keep(reader);
            answer
        });
    }

    pub(super) fn read_snapshot(self: &Arc<Self>, token: u64, snapshot: u64, offset: u64) {
        self.ask(
            token,
            status::STOPPED,
            move |_, node| async move { node.outgoing.read(snapshot, offset).await },
        );
    }

    pub(super) fn propose(self: &Arc<Self>, token: u64, epoch: Epoch, entry: Bytes) {
        self.ask(token, status::UNKNOWN, move |running, _| async move {
            match running.propose(epoch, entry).await {
                Ok(index) => Answer { index, ..Answer::of(status::OK) },
                Err(ProposeError::NotLeader { hint }) => {
                    Answer { node: hint, ..Answer::of(status::NOT_LEADER) }
                }
                Err(ProposeError::TooLarge) => Answer::of(status::TOO_LARGE),
                Err(ProposeError::Busy) => Answer::of(status::BUSY),
                Err(ProposeError::Unknown) => Answer::of(status::UNKNOWN),
                Err(ProposeError::Stopped) => Answer::of(status::STOPPED),
            }
        });
    }

    pub(super) fn read_barrier(self: &Arc<Self>, token: u64) {
        self.ask(token, status::STOPPED, move |running, _| async move {
            match running.read_barrier().await {
                Ok(index) => Answer { index, ..Answer::of(status::OK) },
                Err(error) => Answer::because(status::UNAVAILABLE, error.0),
            }
        });
    }

    pub(super) fn compact_begin(self: &Arc<Self>, token: u64, meta: SnapshotMeta) {
        let Some(running) = self.running() else {
            return self.complete(token, &Answer::of(status::STOPPED));
        };
        match self.incoming.open(running, meta) {
            Ok((answer, keep)) => {
                self.spawn(keep);
                self.complete(token, &answer);
            }
            Err(why) => self.complete(token, &Answer::because(status::UNAVAILABLE, why)),
        }
    }

    pub(super) fn compact_chunk(self: &Arc<Self>, token: u64, snapshot: u64, chunk: Bytes) {
        self.ask(
            token,
            status::STOPPED,
            move |_, node| async move { node.incoming.push(snapshot, chunk).await },
        );
    }

    pub(super) fn compact_finish(self: &Arc<Self>, token: u64, snapshot: u64, keep: bool) {
        self.ask(
            token,
            status::STOPPED,
            move |_, node| async move { node.incoming.finish(snapshot, keep).await },
        );
    }

    pub(super) fn change_membership(self: &Arc<Self>, token: u64, change: MembershipChange) {
        self.ask(token, status::STOPPED, move |running, _| async move {
            match running.change_membership(change).await {
                Ok(()) => Answer::of(status::OK),
                Err(MembershipError::Unsupported) => Answer::of(status::UNSUPPORTED),
                Err(MembershipError::NotLeader) => Answer::of(status::NOT_LEADER),
                Err(MembershipError::InProgress) => Answer::of(status::IN_PROGRESS),
                Err(MembershipError::Unavailable(why)) => Answer::because(status::UNAVAILABLE, why),
            }
        });
    }

    pub(super) fn resign(self: &Arc<Self>, token: u64, epoch: Epoch) {
        self.ask(token, status::STOPPED, move |running, _| async move {
            running.resign(epoch).await;
            Answer::of(status::OK)
        });
    }

    /// Answers on the caller's thread, before it returns.
    pub(super) fn status(self: &Arc<Self>, token: u64) {
        let answer = match self.running() {
            Some(running) => {
                let report = report::write(&running.status());
                Answer { data: report.into(), ..Answer::of(status::OK) }
            }
            None => Answer::because(status::STOPPED, "the backend does not run"),
        };
        self.complete(token, &answer);
    }
}

//! Group commit as a replica sees it: it asks for a sync, hands out the job, and takes the new synced end in.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    log::{DiskFailure, SyncDepth, SyncJob},
    partition::{backlog::Backlog, settings::Settings},
};

use super::{Replica, Role, State};

impl Replica {
    /// In a `synced` topic, asks for whatever is not durable to be synced.
    pub(super) fn ask_for_sync(self: &Arc<Self>, state: &State, settings: &Settings) {
        if settings.is_synced() && state.log.synced_end() < state.log.end_offset() {
            self.tell(&self.waits_for_sync, &self.duties.sync);
        }
    }

    /// Whether its syncs are asked for in this list.
    #[must_use]
    pub fn is_synced_by(&self, list: &Arc<Backlog<Arc<Self>>>) -> bool {
        Arc::ptr_eq(&self.duties.sync, list)
    }

    /// What is to be synced; `None` if there is nothing. Batches that come from now on are asked for anew.
    ///
    /// # Errors
    /// As [`crate::log::Log::begin_sync`].
    pub fn begin_sync(&self, depth: SyncDepth) -> Result<Option<SyncJob>, DiskFailure> {
        self.waits_for_sync.store(false, Ordering::Release);
        let mut state = self.state.lock();
        if matches!(state.role, Role::Gone) { Ok(None) } else { state.log.begin_sync(depth) }
    }

    /// Takes in that a job went well: a leader's high watermark may move, a follower tells its leader.
    pub fn finish_sync(self: &Arc<Self>, job: SyncJob) {
        let mut guard = self.state.lock();
        let before = guard.log.synced_end();
        let synced = guard.log.finish_sync(job);
        if synced > before && matches!(guard.role, Role::Follower(_)) {
            self.tell(&self.has_news, &self.duties.news);
        }
        self.settle(guard, self.clock.now());
    }
}

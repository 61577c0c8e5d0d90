//! The fetch sessions of all connections (KIP-227): a bounded number, replicas before consumers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Fetcher, session::Session};
use crate::{
    handler::Handlers,
    ids::NodeId,
    protocol::{errors::ErrorCode, fetch::FetchRequest, guard::ELEMENTS_MAX},
    runtime::{Clock, Moment},
};

/// Kafka's default of `max.incremental.fetch.session.cache.slots`.
const SESSIONS_MAX: usize = 1000;
/// Partitions of all sessions together; some 400 bytes each.
const PARTITIONS_MAX: usize = 500_000;
/// A session that was not used for this long makes room for another, as in Kafka.
const UNUSED: Duration = Duration::from_secs(120);
/// The first version in which topics have ids.
const TOPIC_IDS: i16 = 13;

/// The number of a request that begins a session; one that wants none bears -1.
const BEGINS: i32 = 0;

/// Why a session cannot be gone on with: the client begins another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionError(pub(super) ErrorCode);

/// The fetch sessions of all connections.
pub(in crate::handler) struct Sessions {
    kept: Arc<Mutex<BTreeMap<i32, Kept>>>,
    clock: Clock,
}

struct Kept {
    owner: NodeId,
    by_id: bool,
    /// The number that the next request bears.
    epoch: i32,
    used_at: Moment,
    partitions: usize,
    /// `None` while a request reads from it.
    session: Option<Session>,
}

/// A session in the hands of one request. One that is dropped before it was given back is over: its reader has gone.
pub(super) struct CheckedOut {
    kept: Arc<Mutex<BTreeMap<i32, Kept>>>,
    clock: Clock,
    /// 0 where nothing is kept.
    id: i32,
    session: Session,
}

impl Sessions {
    pub(in crate::handler) fn new(clock: Clock) -> Self {
        Self { kept: Arc::default(), clock }
    }

    /// The session that a request belongs to, with what the request says of it taken in.
    pub(super) fn open(
        &self,
        asked: &mut FetchRequest,
        fetcher: Fetcher,
        version: i16,
        handlers: &Handlers,
    ) -> Result<CheckedOut, SessionError> {
        let by_id = version >= TOPIC_IDS;
        if asked.session_epoch > BEGINS {
            return self.resume(asked, fetcher, by_id);
        }
        if asked.session_id != 0 {
            self.kept.lock().remove(&asked.session_id);
        }
        let mut session = Session::new(fetcher != Fetcher::Consumer);
        let is_kept = asked.session_epoch == BEGINS && !asked.partitions.is_empty();
        asked.partitions.drain(..).for_each(|partition| session.update(partition, is_kept));
        let id = if is_kept { self.make_room(fetcher, by_id, &session, handlers) } else { 0 };
        Ok(self.checked_out(id, session))
    }

    fn resume(
        &self,
        asked: &mut FetchRequest,
        fetcher: Fetcher,
        by_id: bool,
    ) -> Result<CheckedOut, SessionError> {
        let mut kept = self.kept.lock();
        let others: usize = kept.values().map(|kept| kept.partitions).sum();
        let unknown = SessionError(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        let found =
            kept.get_mut(&asked.session_id).filter(|kept| kept.owner == fetcher.node()).ok_or(unknown)?;
        if found.by_id != by_id {
            return Err(SessionError(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR));
        }
        let is_next = found.epoch == asked.session_epoch;
        // In use by another request counts as another number: requests of a session follow each other.
        let Some(mut session) = (if is_next { found.session.take() } else { None }) else {
            return Err(SessionError(ErrorCode::INVALID_FETCH_SESSION_EPOCH));
        };
        found.epoch = found.epoch.checked_add(1).unwrap_or(1);
        asked.partitions.drain(..).for_each(|partition| session.update(partition, true));
        asked.forgotten.drain(..).for_each(|(topic, index)| session.forget(&topic, index));
        let grown = others.saturating_sub(found.partitions) + session.len();
        found.partitions = session.len();
        if session.len() > ELEMENTS_MAX || grown > PARTITIONS_MAX {
            kept.remove(&asked.session_id);
            return Err(unknown);
        }
        Ok(self.checked_out(asked.session_id, session))
    }

    /// A place for a new session and its id; 0 if there is none, and the reader does without.
    fn make_room(&self, fetcher: Fetcher, by_id: bool, session: &Session, handlers: &Handlers) -> i32 {
        let now = self.clock.now();
        let owner = fetcher.node();
        let mut kept = self.kept.lock();
        let is_full = |kept: &BTreeMap<i32, Kept>| {
            let partitions: usize = kept.values().map(|kept| kept.partitions).sum();
            kept.len() >= SESSIONS_MAX || partitions + session.len() > PARTITIONS_MAX
        };
        while is_full(&kept) {
            let may_go = |kept: &Kept| {
                now.since(kept.used_at) > UNUSED || (owner != NodeId::NONE && kept.owner == NodeId::NONE)
            };
            let mut candidates = kept.iter().filter(|(_, kept)| may_go(kept));
            let first = candidates.next();
            let oldest = first
                .map(|first| candidates.fold(first, |a, b| if b.1.used_at < a.1.used_at { b } else { a }));
            let Some((id, _)) = oldest else { return 0 };
            let id = *id;
            kept.remove(&id);
        }
        let id = loop {
            let drawn = handlers.broker.runtime.rng.below(i32::MAX as u64 - 1) + 1;
            match i32::try_from(drawn) {
                Ok(id) if !kept.contains_key(&id) => break id,
                _ => {}
            }
        };
        let partitions = session.len();
        kept.insert(id, Kept { owner, by_id, epoch: 1, used_at: now, partitions, session: None });
        id
    }

    fn checked_out(&self, id: i32, session: Session) -> CheckedOut {
        CheckedOut { kept: self.kept.clone(), clock: self.clock.clone(), id, session }
    }
}

impl CheckedOut {
    pub(super) fn get(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Keeps the session for the next request and tells its id; 0 if there is none.
    pub(super) fn give_back(mut self) -> i32 {
        let id = std::mem::take(&mut self.id);
        if id == 0 {
            return 0;
        }
        let session = std::mem::replace(&mut self.session, Session::new(false));
        let mut kept = self.kept.lock();
        if session.len() == 0 {
            kept.remove(&id);
            return 0;
        }
        // It may have had to make room for another meanwhile.
        let Some(found) = kept.get_mut(&id) else { return 0 };
        found.used_at = self.clock.now();
        found.session = Some(session);
        id
    }
}

impl Drop for CheckedOut {
    fn drop(&mut self) {
        if self.id != 0 {
            self.kept.lock().remove(&self.id);
        }
    }
}

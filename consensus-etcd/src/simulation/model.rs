//! A small model of etcd: revisions, transactions, leases, watches, compaction of revisions, backups, and the faults
//! that etcd is known for.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::runtime::{Clock, Moment, Rng, TaskScope};

use crate::{
    storage::{Compare, KeyValue, Lease, Op, Page, Range, Refusal, Revision, StoreError, Txn, TxnReply},
    watched::Watched,
};

/// A bug that the simulation has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    /// Transactions do not compare the tail.
    NoTail,
    /// Transactions compare nothing.
    NoComparison,
}

#[derive(Clone, Debug, PartialEq)]
struct Stored {
    value: Bytes,
    modified: Revision,
    lease: Option<Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    ttl: Duration,
    until: Moment,
}

/// What a backup contains; a restore brings the leases back with their full time, as etcd does.
#[derive(Clone, Debug, Default)]
pub(super) struct Backup {
    revision: Revision,
    keys: BTreeMap<String, Stored>,
    leases: BTreeMap<Lease, Granted>,
    next_lease: Lease,
}

#[derive(Default)]
struct State {
    now: Backup,
    /// Every change: its revision, its key, and what was there before. For watches, and for reads of old revisions.
    changes: Vec<(Revision, String, Option<Stored>)>,
    /// Older revisions can be neither read nor watched.
    compacted: Revision,
    full: bool,
    /// The next transaction that writes is carried out, and answered as if it were not: the one that has gone beyond the
    /// quota.
    overflows: bool,
}

/// The server.
pub(super) struct Model {
    state: Mutex<State>,
    pub(super) changed: Watched<Revision>,
    pub(super) down: AtomicBool,
    planted: Planted,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    /// Requests go on here when whoever sent them is gone.
    pub(super) tasks: TaskScope,
}

impl Model {
    pub(super) fn new(clock: Clock, rng: Rng, tasks: TaskScope, planted: Planted) -> Arc<Self> {
        let (state, down) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { state, changed: Watched::new(0), down, planted, clock, rng, tasks })
    }

    /// Ends leases that have run out; called before everything else.
    fn expire(&self, state: &mut State) {
        let now = self.clock.now();
        let over: Vec<Lease> =
            state.now.leases.iter().filter(|(_, lease)| lease.until <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|lease| self.end(state, lease));
    }

    fn end(&self, state: &mut State, lease: Lease) {
        state.now.leases.remove(&lease);
        let held = state.now.keys.iter().filter(|(_, stored)| stored.lease == Some(lease));
        let keys: Vec<String> = held.map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return;
        }
        state.now.revision += 1;
        for key in keys {
            let before = state.now.keys.remove(&key);
            state.changes.push((state.now.revision, key, before));
        }
        self.changed.set(state.now.revision);
    }

    /// What only time brings about.
    pub(super) fn tick(&self) {
        self.expire(&mut self.state.lock());
    }

    /// etcd#15247: all leases are dropped at once.
    pub(super) fn drop_leases(&self) {
        let mut state = self.state.lock();
        let all: Vec<Lease> = state.now.leases.keys().copied().collect();
        all.into_iter().for_each(|lease| self.end(&mut state, lease));
    }

    /// etcd#9395: a new leader of etcd renews all leases.
    pub(super) fn renew_leases(&self) {
        let now = self.clock.now();
        self.state.lock().now.leases.values_mut().for_each(|lease| lease.until = now.plus(lease.ttl));
    }

    /// Compacts all revisions up to now.
    pub(super) fn compact(&self) {
        let newest = self.revision();
        self.compact_to(newest);
    }

    /// Compacts all revisions before this one.
    pub(super) fn compact_to(&self, revision: Revision) {
        let mut state = self.state.lock();
        state.compacted = revision;
        state.changes.retain(|(at, ..)| *at >= revision);
        self.changed.set(state.now.revision);
    }

    pub(super) fn set_full(&self, full: bool) {
        let mut state = self.state.lock();
        (state.full, state.overflows) = (full, false);
    }

    /// The next transaction that writes goes beyond the quota.
    pub(super) fn overflow(&self) {
        self.state.lock().overflows = true;
    }

    pub(super) fn revision(&self) -> Revision {
        self.state.lock().now.revision
    }

    /// When the key last changed; 0: it does not exist.
    pub(super) fn modified(&self, key: &str) -> Revision {
        self.state.lock().now.keys.get(key).map_or(0, |stored| stored.modified)
    }

    pub(super) fn back_up(&self) -> Backup {
        self.state.lock().now.clone()
    }

    pub(super) fn restore(&self, backup: Backup) {
        let mut state = self.state.lock();
        *state = State { now: backup, ..State::default() };
        let now = self.clock.now();
        state.now.leases.values_mut().for_each(|lease| lease.until = now.plus(lease.ttl));
        self.changed.set(-1);
    }

    /// Whether a change of these keys has come after a revision, and whether that can no longer be said.
    pub(super) fn changes(&self, after: Revision, concerns: impl Fn(&str) -> bool) -> (bool, bool) {
        let state = self.state.lock();
        let mut new = state.changes.iter().filter(|(at, ..)| *at > after);
        (new.any(|(_, key, _)| concerns(key)), state.compacted > after.saturating_add(1))
    }

    fn holds(&self, state: &State, compare: &Compare) -> bool {
        match (compare, self.planted) {
            (_, Planted::NoComparison) => true,
            (Compare::Unmoved(key, _), Planted::NoTail) if key.ends_with("/tail") => true,
            (Compare::Unmoved(key, revision), _) => {
                state.now.keys.get(key).map_or(0, |stored| stored.modified) == *revision
            }
            (Compare::Holds(key, value), _) => {
                state.now.keys.get(key).is_some_and(|stored| stored.value == *value)
            }
        }
    }

    pub(super) fn txn(&self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let mut state = self.state.lock();
        self.expire(&mut state);
        // What only deletes is let through.
        let mut all = txn.then.iter().chain(&txn.otherwise);
        let puts = all.any(|op| matches!(op, Op::Put { .. }));
        if state.full && puts {
            return Err(refused(Refusal::NoSpace));
        }
        let overflows = puts && std::mem::take(&mut state.overflows);
        let succeeded = txn.when.iter().all(|compare| self.holds(&state, compare));
        let branch = if succeeded { &txn.then } else { &txn.otherwise };
        let missing = |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if !state.now.leases.contains_key(lease));
        if branch.iter().any(missing) {
            return Err(refused(Refusal::LeaseGone));
        }
        let next = state.now.revision + 1;
        let mut reply = TxnReply { succeeded, revision: state.now.revision, gets: Vec::new() };
        for op in branch {
            let changed: Vec<String> = match op {
                Op::Get(range) => {
                    reply.gets.push(find(&state.now.keys, range));
                    continue;
                }
                Op::Put { key, .. } => vec![key.clone()],
                Op::Delete { from, to } => {
                    let keys = state.now.keys.range(from.clone()..to.clone());
                    keys.map(|(key, _)| key.clone()).collect()
                }
            };
            for key in changed {
                let before = match op {
                    Op::Put { value, lease, .. } => {
                        let stored = Stored { value: value.clone(), modified: next, lease: *lease };
                        state.now.keys.insert(key.clone(), stored)
                    }
                    Op::Get(_) | Op::Delete { .. } => state.now.keys.remove(&key),
                };
                (reply.revision, state.now.revision) = (next, next);
                state.changes.push((next, key, before));
            }
        }
        self.changed.set(state.now.revision);
        if overflows {
            state.full = true;
            return Err(refused(Refusal::NoSpace));
        }
        Ok(reply)
    }

    pub(super) fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let mut state = self.state.lock();
        self.expire(&mut state);
        if range.revision != 0 && range.revision < state.compacted {
            return Err(refused(Refusal::Compacted));
        }
        let mut keys = state.now.keys.clone();
        let later = state.changes.iter().rev().filter(|(at, ..)| range.revision != 0 && *at > range.revision);
        for (_, key, before) in later {
            match before {
                Some(stored) => drop(keys.insert(key.clone(), stored.clone())),
                None => drop(keys.remove(key)),
            }
        }
        Ok(Page { entries: find(&keys, range), revision: state.now.revision })
    }

    pub(super) fn lease(&self, request: &LeaseRequest) -> Result<Lease, StoreError> {
        let mut state = self.state.lock();
        self.expire(&mut state);
        let now = self.clock.now();
        match *request {
            LeaseRequest::Grant(_) if state.full => Err(refused(Refusal::NoSpace)),
            LeaseRequest::Grant(ttl) => {
                state.now.next_lease += 1;
                let lease = state.now.next_lease;
                state.now.leases.insert(lease, Granted { ttl, until: now.plus(ttl) });
                Ok(lease)
            }
            LeaseRequest::Revoke(lease) => {
                self.end(&mut state, lease);
                Ok(lease)
            }
            LeaseRequest::KeepAlive(lease) => {
                let granted = state.now.leases.get_mut(&lease).ok_or_else(|| refused(Refusal::LeaseGone))?;
                granted.until = now.plus(granted.ttl);
                Ok(lease)
            }
        }
    }
}

pub(super) enum LeaseRequest {
    Grant(Duration),
    Revoke(Lease),
    KeepAlive(Lease),
}

pub(super) fn refused(refusal: Refusal) -> StoreError {
    StoreError::Refused(refusal, format!("{refusal:?}"))
}

fn find(keys: &BTreeMap<String, Stored>, range: &Range) -> Vec<KeyValue> {
    let to = range.to.clone().unwrap_or_else(|| format!("{}\0", range.from));
    let found = keys.range(range.from.clone()..to).map(|(key, stored)| KeyValue {
        key: key.clone(),
        value: if range.keys_only { Bytes::new() } else { stored.value.clone() },
        modified: stored.modified,
    });
    let limit =
        if range.limit == 0 { usize::MAX } else { usize::try_from(range.limit).unwrap_or(usize::MAX) };
    found.take(limit).collect()
}

//! The model against a real etcd: the same random requests to both must be answered alike, or the simulation proves
//! nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_core::runtime::{Clock, Rng};

use super::{
    link::ModelStore,
    model::{Model, Planted},
};
use crate::{
    config::EtcdConfig,
    storage::{Compare, Lease, Op, Page, Range, Refusal, Revision, Store, StoreError, Txn, TxnReply},
    transport::Connection,
};

/// What only an operator asks of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Forget what was before this revision.
    Compact(i64),
    /// Raise the alarm of a full store, or take it back.
    Full(bool),
}

/// For what has to come about in a real etcd.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a watch is looked at that must say nothing.
const QUIET: Duration = Duration::from_millis(30);
/// No lease of the scripts ends by itself.
const LONG_S: i64 = 600;
const KEYS: u64 = 6;
const VALUES: u64 = 3;

/// Asks an etcd that nobody else uses, and the model, for the same `steps` random things. `operate` does to the real one
/// what an operator does.
///
/// # Errors
/// The first answer that differs, and what was asked.
pub async fn compare(
    seed: u64,
    steps: usize,
    config: &EtcdConfig,
    operate: impl AsyncFn(Deed),
) -> Result<(), String> {
    let (clock, rng) = (config.runtime.clock.clone(), Rng::seeded(seed));
    let tasks = config.runtime.tasks.clone();
    let model = Model::new(clock.clone(), Rng::seeded(seed), tasks, Planted::Nothing);
    let link = Arc::default();
    let real = Connection::new(config)?;
    let modelled = ModelStore { model: model.clone(), link };
    let begun = real.range(&Range { from: key(config, 0), ..Range::default() }).await;
    let offset = begun.map_err(|error| error.to_string())?.revision;
    let (root, leases) = (config.prefix.clone(), Vec::new());
    let mut script = Script { root, rng, clock, real, modelled, model, offset, leases, compacted: 0 };
    for step in 0..steps {
        script.step(&operate).await.map_err(|difference| format!("step {step}: {difference}"))?;
    }
    script.a_lease_ends_in_its_time().await
}

fn key(config: &EtcdConfig, number: u64) -> String {
    format!("{}/{number}", config.prefix)
}

struct Script {
    root: String,
    rng: Rng,
    clock: Clock,
    real: Connection,
    modelled: ModelStore,
    model: Arc<Model>,
    /// By how much the real one's revisions are ahead of the model's.
    offset: Revision,
    /// In the real one and in the model.
    leases: Vec<(Lease, Lease)>,
    /// In the model's revisions.
    compacted: Revision,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Real,
    Model,
}

impl Script {
    async fn step(&mut self, operate: &impl AsyncFn(Deed)) -> Result<(), String> {
        match self.rng.below(20) {
            0..=8 => self.transact().await,
            9..=11 => self.read().await,
            12 | 13 => self.grant().await,
            14 => self.revoke().await,
            15 => self.keep_alive().await,
            16 => {
                self.compact(operate).await;
                Ok(())
            }
            17 => self.overfill(operate).await,
            _ => self.watch().await,
        }
    }

    fn key(&self) -> String {
        format!("{}/{}", self.root, self.rng.below(KEYS))
    }

    fn value(&self) -> Bytes {
        Bytes::from(format!("v{}", self.rng.below(VALUES)))
    }

    fn revision(&self) -> Revision {
        self.model.revision()
    }

    /// A range of keys; its revision is the model's.
    fn range(&self) -> Range {
        let (one, other) = (self.key(), self.key());
        let (from, to) = if one < other { (one, Some(other)) } else { (one, None) };
        let limit = i64::try_from(self.rng.below(3)).unwrap_or_default();
        Range { from, to, limit, keys_only: self.rng.below(4) == 0, revision: 0 }
    }

    async fn transact(&self) -> Result<(), String> {
        let mut when = Vec::new();
        for _ in 0..self.rng.below(3) {
            let key = self.key();
            when.push(match self.rng.below(4) {
                0 => Compare::Holds(key, self.value()),
                1 => Compare::Unmoved(key, 0),
                _ => {
                    let modified = self.model.modified(&key);
                    Compare::Unmoved(key, modified)
                }
            });
        }
        let (then, otherwise) = (self.ops(), self.ops());
        let ask = async |side| {
            let txn = Txn {
                when: when.iter().map(|compare| self.compare(compare, side)).collect(),
                then: self.on(&then, side),
                otherwise: self.on(&otherwise, side),
            };
            self.store(side).txn(&txn).await.map(|reply| self.plain(reply, side))
        };
        let (real, modelled) = (ask(Side::Real).await, ask(Side::Model).await);
        self.same(&format!("{when:?} then {then:?} else {otherwise:?}"), real, modelled)
    }

    /// Puts of different keys, reads, and a deletion of keys that are not put: leases by their number.
    fn ops(&self) -> Vec<Op> {
        let mut ops: Vec<Op> = Vec::new();
        let put =
            |ops: &[Op], new: &str| ops.iter().any(|op| matches!(op, Op::Put { key, .. } if key == new));
        for _ in 0..1 + self.rng.below(3) {
            let key = self.key();
            match self.rng.below(6) {
                0..=2 if !put(&ops, &key) => {
                    let lease = self.rng.below(2 + self.leases.len() as u64);
                    let lease = i64::try_from(lease).ok().filter(|lease| *lease > 0);
                    ops.push(Op::Put { key, value: self.value(), lease });
                }
                3 if ops.is_empty() => {
                    let to = format!("{key}~");
                    return vec![Op::Delete { from: key, to }, Op::Get(self.range())];
                }
                _ => ops.push(Op::Get(self.range())),
            }
        }
        ops
    }

    fn store(&self, side: Side) -> &dyn Store {
        match side {
            Side::Real => &self.real,
            Side::Model => &self.modelled,
        }
    }

    fn compare(&self, compare: &Compare, side: Side) -> Compare {
        match (compare, side) {
            (Compare::Unmoved(key, modified), Side::Real) if *modified > 0 => {
                Compare::Unmoved(key.clone(), modified + self.offset)
            }
            _ => compare.clone(),
        }
    }

    /// The operations with the leases of one side: a number beyond those that are known is of no lease.
    fn on(&self, ops: &[Op], side: Side) -> Vec<Op> {
        let known = |number: i64| {
            let lease = usize::try_from(number - 1).ok().and_then(|at| self.leases.get(at));
            lease.map_or(987_654, |(real, modelled)| if side == Side::Real { *real } else { *modelled })
        };
        let mut ops = ops.to_vec();
        for op in &mut ops {
            if let Op::Put { lease, .. } = op {
                *lease = lease.map(known);
            }
        }
        ops
    }

    /// The answer in the model's revisions.
    fn plain(&self, mut reply: TxnReply, side: Side) -> TxnReply {
        let offset = if side == Side::Real { self.offset } else { 0 };
        reply.revision -= offset;
        reply.gets.iter_mut().flatten().for_each(|kv| kv.modified -= offset);
        reply
    }

    async fn read(&self) -> Result<(), String> {
        let mut range = self.range();
        if self.rng.below(2) == 0 {
            let back = i64::try_from(self.rng.below(8)).unwrap_or_default();
            range.revision = (self.revision() - back).max(1);
        }
        let ask = async |side| {
            let offset = if side == Side::Real { self.offset } else { 0 };
            let revision = if range.revision > 0 { range.revision + offset } else { 0 };
            let range = Range { revision, ..range.clone() };
            let mut page: Page = self.store(side).range(&range).await?;
            page.revision -= offset;
            page.entries.iter_mut().for_each(|kv| kv.modified -= offset);
            Ok(page)
        };
        if self.revision() == 0 {
            return Ok(());
        }
        let (real, modelled) = (ask(Side::Real).await, ask(Side::Model).await);
        self.same(&format!("{range:?}"), real, modelled)
    }

    async fn grant(&mut self) -> Result<(), String> {
        let (real, modelled) = (self.real.grant(LONG_S).await, self.modelled.grant(LONG_S).await);
        if let (Ok((real, _)), Ok((modelled, _))) = (&real, &modelled) {
            self.leases.push((*real, *modelled));
        }
        self.same("grant", real.map(drop), modelled.map(drop))
    }

    fn lease(&self) -> (Lease, Lease) {
        let at = self.rng.below(self.leases.len() as u64 + 1);
        let lease = usize::try_from(at).ok().and_then(|at| self.leases.get(at));
        lease.copied().unwrap_or((987_654, 987_654))
    }

    async fn revoke(&self) -> Result<(), String> {
        let (real, modelled) = self.lease();
        self.same("revoke", self.real.revoke(real).await, self.modelled.revoke(modelled).await)
    }

    async fn keep_alive(&self) -> Result<(), String> {
        let (real, modelled) = self.lease();
        self.same("keep-alive", self.real.keep_alive(real).await, self.modelled.keep_alive(modelled).await)
    }

    async fn compact(&mut self, operate: &impl AsyncFn(Deed)) {
        let behind = i64::try_from(self.rng.below(5)).unwrap_or_default();
        let revision = self.revision() - behind;
        if revision > self.compacted {
            self.compacted = revision;
            operate(Deed::Compact(revision + self.offset)).await;
            self.model.compact_to(revision);
        }
    }

    /// What is asked of a full store.
    async fn overfill(&mut self, operate: &impl AsyncFn(Deed)) -> Result<(), String> {
        operate(Deed::Full(true)).await;
        self.model.set_full(true);
        let mut found = self.transact().await;
        for _ in 0..2 {
            found = found.and(self.read().await).and(self.grant().await).and(self.transact().await);
            found = found.and(self.keep_alive().await).and(self.revoke().await);
        }
        operate(Deed::Full(false)).await;
        self.model.set_full(false);
        found
    }

    /// Opens a watch somewhere in the past or now: it wakes, ends or says nothing, as the model says.
    async fn watch(&self) -> Result<(), String> {
        let back = i64::try_from(self.rng.below(6)).unwrap_or_default();
        let after = (self.revision() - back).max(0);
        let range = self.range();
        let range = Range { limit: 0, ..range };
        let concerns = |key: &str| match &range.to {
            Some(to) => *range.from <= *key && *key < **to,
            None => range.from == key,
        };
        let (seen, compacted) = self.model.changes(after, concerns);
        let opened = self.real.watch(std::slice::from_ref(&range), after + self.offset).await;
        let mut watch = opened.map_err(|error| format!("watch: {error}"))?;
        let what = format!("a watch of {range:?} after {after} (seen {seen}, compacted {compacted})");
        let limit = if seen || compacted { PATIENCE } else { QUIET };
        let said = self.clock.timeout(limit, watch.changed()).await;
        let as_modelled = match &said {
            Ok(Ok(())) => seen && !compacted,
            Ok(Err(StoreError::Refused(Refusal::Compacted, _))) => compacted,
            Ok(Err(_)) => false,
            Err(_) => !seen && !compacted,
        };
        if as_modelled { Ok(()) } else { Err(format!("{what} said {said:?}")) }
    }

    /// A key is there as long as its lease is kept alive, and gone soon after.
    async fn a_lease_ends_in_its_time(&mut self) -> Result<(), String> {
        let failed = |error: StoreError| error.to_string();
        let (real, ttl_s) = self.real.grant(2).await.map_err(failed)?;
        let (modelled, _) = self.modelled.grant(ttl_s).await.map_err(failed)?;
        let key = format!("{}/leased", self.root);
        let put = |lease| Txn {
            then: vec![Op::Put { key: key.clone(), value: Bytes::from_static(b"x"), lease: Some(lease) }],
            ..Txn::default()
        };
        self.real.txn(&put(real)).await.map_err(failed)?;
        self.modelled.txn(&put(modelled)).await.map_err(failed)?;
        let ttl = Duration::from_secs(ttl_s.unsigned_abs());
        for (side, lease) in [(Side::Real, real), (Side::Model, modelled)] {
            self.store(side).keep_alive(lease).await.map_err(failed)?;
        }
        let kept = self.clock.now();
        let range = Range { from: key.clone(), ..Range::default() };
        for side in [Side::Real, Side::Model] {
            loop {
                let asked = self.clock.now().since(kept);
                let gone = self.store(side).range(&range).await.map_err(failed)?.entries.is_empty();
                let name = if side == Side::Real { "etcd" } else { "the model" };
                match gone {
                    // The moment that counts for the lease may be a little before it was answered.
                    true if self.clock.now().since(kept) + Duration::from_millis(500) < ttl => {
                        return Err(format!("{name} ended a lease of {ttl:?} after {asked:?}"));
                    }
                    true => break,
                    false if asked > ttl + PATIENCE => return Err(format!("{name} did not end a lease")),
                    false => self.clock.sleep(Duration::from_millis(50)).await,
                }
            }
        }
        Ok(())
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        real: Result<T, StoreError>,
        modelled: Result<T, StoreError>,
    ) -> Result<(), String> {
        let kind = |error: StoreError| match error {
            StoreError::Refused(refusal, _) => format!("refused: {refusal:?}"),
            StoreError::Unknown(why) => format!("unknown: {why}"),
        };
        let (real, modelled) = (real.map_err(kind), modelled.map_err(kind));
        if real == modelled {
            return Ok(());
        }
        Err(format!("{what}: etcd answers {real:?}, the model {modelled:?}"))
    }
}

//! The vocabulary in which the backend talks to etcd, free of any client: conditional transactions, range reads,
//! leases, watches. [`crate::transport`] speaks it to a real etcd.

pub(crate) mod keys;
pub(crate) mod records;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::consensus::Peer;
use thiserror::Error;

/// etcd's counter of changes; a restore takes it back.
pub(crate) type Revision = i64;
/// A lease's id.
pub(crate) type Lease = i64;

/// Does `then` if all of `when` holds, else `otherwise`; all of it in one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Txn {
    pub(crate) when: Vec<Compare>,
    pub(crate) then: Vec<Op>,
    pub(crate) otherwise: Vec<Op>,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Compare {
    /// The key was last changed in this revision; 0: it does not exist.
    Unmoved(String, Revision),
    /// The key exists and holds this value.
    Holds(String, Bytes),
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Put {
        key: String,
        value: Bytes,
        lease: Option<Lease>,
    },
    Get(Range),
    /// Deletes the keys in `from..to`.
    Delete {
        from: String,
        to: String,
    },
}

/// The keys in `from..to`, or `from` alone, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Range {
    pub(crate) from: String,
    pub(crate) to: Option<String>,
    /// 0: no limit.
    pub(crate) limit: i64,
    pub(crate) keys_only: bool,
    /// 0: the newest.
    pub(crate) revision: Revision,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: Bytes,
    /// The revision of its last change.
    pub(crate) modified: Revision,
}

/// What became of a transaction; `gets` has an item for each [`Op::Get`] of the branch that was taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TxnReply {
    pub(crate) succeeded: bool,
    pub(crate) revision: Revision,
    pub(crate) gets: Vec<Vec<KeyValue>>,
}

/// The result of a range read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<KeyValue>,
    /// The newest revision when it was read.
    pub(crate) revision: Revision,
}

/// A request that was not answered with a result.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// Lost on the way there or back: it may have been carried out, or still be.
    #[error("{0}")]
    Unknown(String),
    /// Answered with a refusal: it was not carried out and will not be.
    #[error("{1}")]
    Refused(Refusal, String),
}

/// Why etcd refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The quota is used up (the NOSPACE alarm).
    NoSpace,
    /// The request is larger than etcd takes.
    TooLarge,
    /// The transaction has more operations than etcd takes.
    TooManyOperations,
    /// The answer would be larger than this client takes.
    PageTooLarge,
    /// No such lease: it has run out or was revoked.
    LeaseGone,
    /// The revision asked for has been compacted away.
    Compacted,
    /// Wrong or missing credentials, or not permitted.
    Credentials,
    /// Anything else.
    Other,
}

/// etcd, as far as the backend needs it. Every call is one attempt, bounded in time; whoever calls decides whether
/// to ask again.
#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Carries out a transaction. Linearizable, also where it only reads.
    async fn txn(&self, txn: &Txn) -> Result<TxnReply, StoreError>;
    /// Reads keys. Linearizable.
    async fn range(&self, range: &Range) -> Result<Page, StoreError>;
    /// Makes a lease that runs out `ttl_s` seconds after its last keep-alive; returns it with the TTL in force.
    async fn grant(&self, ttl_s: i64) -> Result<(Lease, i64), StoreError>;
    /// Ends a lease at once, with all keys that are attached to it.
    async fn revoke(&self, lease: Lease) -> Result<(), StoreError>;
    /// Renews a lease; [`Refusal::LeaseGone`] if it no longer exists.
    async fn keep_alive(&self, lease: Lease) -> Result<(), StoreError>;
    /// Watches the ranges for changes after `after`.
    async fn watch(&self, ranges: &[Range], after: Revision) -> Result<Box<dyn Watch>, StoreError>;
    /// etcd's members as configured, and how they are.
    fn peers(&self) -> Vec<Peer>;
}

/// A watch, used as nothing but a wake-up: it may lose, repeat and delay events.
#[async_trait]
pub(crate) trait Watch: Send {
    /// Returns when something may have changed. Cancel safe.
    async fn changed(&mut self) -> Result<(), StoreError>;
}

impl Txn {
    /// Whether it may change anything.
    pub(crate) fn writes(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|op| !matches!(op, Op::Get(_)))
    }
}

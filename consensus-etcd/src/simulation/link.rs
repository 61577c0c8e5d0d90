//! The way from a node to the model, which delays, loses and holds what passes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use quorate_core::consensus::Peer;
use tokio::sync::oneshot;

use super::model::{LeaseRequest, Model, refused};
use crate::storage::{Lease, Page, Range, Refusal, Revision, Store, StoreError, Txn, TxnReply, Watch};

/// The way from one node to the server. The percentages are of requests.
#[derive(Default)]
pub(super) struct Link {
    pub(super) cut: AtomicBool,
    pub(super) lost_requests: AtomicU64,
    pub(super) lost_replies: AtomicU64,
    pub(super) lost_events: AtomicU64,
    /// A watch that tells what it has told before, or what was long ago.
    pub(super) repeated_events: AtomicU64,
    /// The longest delay of one way, in milliseconds.
    pub(super) delay_ms: AtomicU64,
}

/// A node's end of its link.
#[derive(Clone)]
pub(super) struct ModelStore {
    pub(super) model: Arc<Model>,
    pub(super) link: Arc<Link>,
}

/// The longest that a request waits for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(600);

impl ModelStore {
    /// Carries a request out, which may happen long after whoever sent it has given up, or died.
    async fn request<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Model) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (model, link) = (self.model.clone(), self.link.clone());
        let (reply, answer) = oneshot::channel();
        self.model.tasks.spawn(async move {
            link.travel(&model, &link.lost_requests).await;
            while model.down.load(Ordering::Relaxed) {
                // A server that is back may still find what was on the way to it.
                model.clock.sleep(Duration::from_millis(50)).await;
                if model.rng.below(4) == 0 {
                    return;
                }
            }
            let result = operation(&model);
            link.travel(&model, &link.lost_replies).await;
            let _ = reply.send(result);
        });
        let unknown = || StoreError::Unknown("no answer".to_owned());
        match self.model.clock.timeout(REQUEST_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(unknown()),
        }
    }
}

impl Link {
    /// One way. What is lost never arrives; what meets a cut link arrives when it is whole again, if at all.
    async fn travel(&self, model: &Model, lost: &AtomicU64) {
        let mut gone = model.rng.below(100) < lost.load(Ordering::Relaxed);
        while self.cut.load(Ordering::Relaxed) && !gone {
            model.clock.sleep(Duration::from_millis(40)).await;
            gone = model.rng.below(20) == 0;
        }
        if gone {
            return std::future::pending().await;
        }
        // A few take much longer than the others, and than anybody waits for them.
        let longer = if model.rng.below(10) == 0 { 10 } else { 1 };
        let delay = model.rng.below(self.delay_ms.load(Ordering::Relaxed) + 1) * longer;
        model.clock.sleep(Duration::from_millis(delay)).await;
    }
}

#[async_trait]
impl Store for ModelStore {
    async fn txn(&self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let txn = txn.clone();
        self.request(move |model| model.txn(&txn)).await
    }

    async fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let range = range.clone();
        self.request(move |model| model.range(&range)).await
    }

    async fn grant(&self, ttl_s: i64) -> Result<(Lease, i64), StoreError> {
        let ttl = Duration::from_secs(ttl_s.unsigned_abs());
        let lease = self.request(move |model| model.lease(&LeaseRequest::Grant(ttl))).await?;
        Ok((lease, ttl_s))
    }

    async fn revoke(&self, lease: Lease) -> Result<(), StoreError> {
        self.request(move |model| model.lease(&LeaseRequest::Revoke(lease))).await.map(drop)
    }

    async fn keep_alive(&self, lease: Lease) -> Result<(), StoreError> {
        self.request(move |model| model.lease(&LeaseRequest::KeepAlive(lease))).await.map(drop)
    }

    async fn watch(&self, ranges: &[Range], after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.request(|_| Ok(())).await?;
        Ok(Box::new(ModelWatch { store: self.clone(), ranges: ranges.to_vec(), after }))
    }

    fn peers(&self) -> Vec<Peer> {
        vec![Peer { endpoint: "model".to_owned(), ..Peer::default() }]
    }
}

struct ModelWatch {
    store: ModelStore,
    ranges: Vec<Range>,
    after: Revision,
}

impl ModelWatch {
    fn concerns(&self, key: &str) -> bool {
        self.ranges.iter().any(|range| match &range.to {
            Some(to) => *range.from <= *key && *key < **to,
            None => range.from == key,
        })
    }
}

#[async_trait]
impl Watch for ModelWatch {
    async fn changed(&mut self) -> Result<(), StoreError> {
        let (model, link) = (self.store.model.clone(), self.store.link.clone());
        let mut changed = model.changed.watch();
        loop {
            let revision = changed.look();
            if link.cut.load(Ordering::Relaxed) || model.down.load(Ordering::Relaxed) {
                return Err(StoreError::Unknown("the connection is lost".to_owned()));
            }
            let (seen, compacted) = model.changes(self.after, |key| self.concerns(key));
            if compacted {
                return Err(refused(Refusal::Compacted));
            }
            self.after = self.after.max(revision);
            let lost = model.rng.below(100) < link.lost_events.load(Ordering::Relaxed);
            if model.rng.below(100) < link.repeated_events.load(Ordering::Relaxed) {
                model.clock.sleep(Duration::from_millis(1)).await;
                return Ok(());
            }
            if seen && !lost {
                let delay = model.rng.below(link.delay_ms.load(Ordering::Relaxed) + 1);
                model.clock.sleep(Duration::from_millis(delay)).await;
                return Ok(());
            }
            let _ = model.clock.timeout(Duration::from_millis(500), changed.changed()).await;
        }
    }
}

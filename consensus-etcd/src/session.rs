//! A session: a lease, the announcement as a candidate, campaigns, and the leadership while it lasts. A lost session
//! is never taken up again; the next one is another candidate with another token, and leads another epoch.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{
    consensus::{Epoch, Leader, LogId, ProposeError},
    runtime::Moment,
};

use crate::{
    campaign::{Bid, Candidate, Verdict},
    head::Head,
    proposal::Leadership,
    proposing::Proposing,
    shared::{Fence, Shared},
    storage::{
        Compare, Op, Refusal, StoreError, Txn, TxnReply,
        keys::Keys,
        records::{CandidateRecord, LeaderRecord},
    },
};

/// Between attempts of the same request while etcd does not answer.
const RETRY: Duration = Duration::from_millis(50);
/// Between attempts of what etcd has refused.
const REFUSED: Duration = Duration::from_secs(1);
/// Attempts to take a place among the candidates that changes meanwhile.
const ANNOUNCEMENTS: u32 = 5;
/// How long a node that stops tries to end its lease at once. In vain, the lease ends by itself a little later.
const FAREWELL: Duration = Duration::from_millis(300);
/// Whoever has lost a campaign waits for up to so long before the next.
const JITTER_MS: u64 = 30;

/// Answers whoever still waits when the sessions end, also where their task is dropped as in a crash.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.queue.close(ProposeError::Stopped);
    }
}

/// Runs one session after the other until the backend stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let _ending = Ending(shared.clone());
    let mut view = shared.view.watch();
    let first = tokio::select! { biased;
        () = shared.stopping() => return,
        first = view.wait_for(Option::is_some) => first,
    };
    let former = first.and_then(|head| shared.former_life(&head));
    let mut resigned = None;
    while !shared.is_stopping() {
        let opened = tokio::select! { biased;
            () = shared.stopping() => return,
            opened = Session::open(&shared, former.as_ref(), resigned) => opened,
        };
        let Some(session) = opened else {
            let pause = shared.runtime.clock.sleep(RETRY * 4);
            tokio::select! { biased; () = shared.stopping() => return, () = pause => continue };
        };
        let end = session.live().await;
        let led = session.close(end).await;
        if end == End::Resigned {
            let until = shared.runtime.clock.now().plus(shared.ttl);
            resigned = led.map(|epoch| Resigned { epoch, until });
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The backend stops.
    Stopping,
    /// The lease has run out, or was revoked by somebody.
    LeaseGone,
    /// No keep-alive was acknowledged for too long.
    Silent,
    /// Somebody else leads, or the leader key is gone.
    Deposed,
    /// Asked to.
    Resigned,
}

/// A leadership that was given up: until another one has begun, or for a while, this node does not campaign.
#[derive(Clone, Copy, Debug)]
struct Resigned {
    epoch: Epoch,
    until: Moment,
}

struct Session<'a> {
    shared: &'a Shared,
    me: Candidate,
    former: Option<&'a Bytes>,
    resigned: Option<Resigned>,
    /// When the last acknowledged keep-alive was sent.
    renewed: Mutex<Moment>,
}

impl<'a> Session<'a> {
    /// `None` if etcd does not answer or refuses.
    async fn open(shared: &'a Shared, former: Option<&'a Bytes>, resigned: Option<Resigned>) -> Option<Self> {
        let sent = shared.runtime.clock.now();
        let ttl_s = i64::try_from(shared.ttl.as_secs()).unwrap_or(i64::MAX);
        let (lease, granted_s) = shared.store.grant(ttl_s).await.ok()?;
        if granted_s > ttl_s && !shared.told_of_ttl.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                node = %shared.node,
                "etcd grants leases of {granted_s} s where consensus.etcd.lease.ttl.s is {ttl_s}: a dead leader is replaced \
                 only then; lower etcd's --election-timeout to change that"
            );
        }
        shared.contacted();
        let (node, endpoint) = (shared.node, shared.candidate.endpoint.clone());
        let me = Candidate { node, endpoint, token: shared.runtime.rng.uuid(), lease };
        let session = Self { shared, me, former, resigned, renewed: Mutex::new(sent) };
        match session.announce().await {
            Ok(None) => {
                shared.note_namesake(None);
                return Some(session);
            }
            Ok(namesake) => shared.note_namesake(namesake),
            Err(error) => {
                tracing::warn!(node = %shared.node, "cannot announce this node as a candidate: {error}");
            }
        }
        session.revoke().await;
        shared.runtime.clock.sleep(REFUSED).await;
        None
    }

    /// Writes this node among the candidates, in the place of its former life if that is still there. Returns who is
    /// there and is another one.
    async fn announce(&self) -> Result<Option<CandidateRecord>, StoreError> {
        let (shared, key) = (self.shared, self.shared.keys.candidate(self.me.node));
        let (value, lease) = (shared.candidate.write(), Some(self.me.lease));
        let mut vacant = Compare::Unmoved(key.clone(), 0);
        for _ in 0..ANNOUNCEMENTS {
            let put = Op::Put { key: key.clone(), value: value.clone(), lease };
            let get = Op::Get(Keys::one(key.clone()));
            let txn = Txn { when: vec![vacant], then: vec![put], otherwise: vec![get] };
            let reply = shared.store.txn(&txn).await?;
            let found = reply.gets.first().and_then(|found| found.first());
            vacant = match found {
                _ if reply.succeeded => return Ok(None),
                None => Compare::Unmoved(key.clone(), 0),
                Some(kv) => match CandidateRecord::read(kv) {
                    Ok(other) if !other.is_same(&shared.candidate) => return Ok(Some(other)),
                    Ok(_) | Err(_) => Compare::Holds(key.clone(), kv.value.clone()),
                },
            };
        }
        Err(StoreError::Unknown("its place among the candidates changes all the time".to_owned()))
    }

    async fn live(&self) -> End {
        tokio::select! { biased;
            () = self.shared.stopping() => End::Stopping,
            end = self.keep_alive() => end,
            end = self.elect() => end,
        }
    }

    /// Gives everything up: first what this node believes, then what etcd does. Returns the epoch that it led.
    async fn close(&self, end: End) -> Option<Epoch> {
        let shared = self.shared;
        shared.queue.close(ProposeError::NotLeader { hint: shared.hint() });
        let led = shared.leading.get().map(|fence| fence.epoch);
        if let Some(epoch) = led {
            tracing::info!(node = %shared.node, %epoch, ?end, "leads no more");
            let vacant = shared.head().is_none_or(|head| head.leader.is_none());
            match end {
                End::Deposed if !vacant => {}
                End::LeaseGone | End::Deposed => tracing::warn!(
                    node = %shared.node,
                    "etcd has ended the lease of this node, which led: it ran out, or somebody revoked it; it campaigns \
                     anew"
                ),
                End::Silent => tracing::warn!(
                    node = %shared.node,
                    "etcd has acknowledged no keep-alive for {} ms: this node steps down before its lease can run out",
                    shared.patience().as_millis()
                ),
                End::Stopping | End::Resigned => {}
            }
            shared.announcer.announce(epoch, Leader::Unknown);
        }
        if end != End::LeaseGone {
            self.revoke().await;
        }
        shared.leading.set(None);
        shared.refresh.notify_one();
        led
    }

    /// Tries to; if etcd does not answer, the lease runs out. A node that stops does not wait long for that.
    async fn revoke(&self) {
        let twice = async {
            for _ in 0..2 {
                if self.shared.store.revoke(self.me.lease).await.is_ok() {
                    return;
                }
            }
        };
        let farewell = async {
            self.shared.stopping().await;
            self.shared.runtime.clock.sleep(FAREWELL).await;
        };
        tokio::select! { biased; () = twice => {} () = farewell => {} }
    }

    /// Renews the lease every third of its TTL. Returns when it is lost, or when it has not been renewed for two
    /// thirds: what counts is when the last acknowledged request was **sent**, on the monotonic clock.
    async fn keep_alive(&self) -> End {
        let (clock, shared) = (&self.shared.runtime.clock, self.shared);
        loop {
            let renewed = *self.renewed.lock();
            clock.sleep_until(renewed.plus(shared.ttl / 3)).await;
            let deadline = renewed.plus(shared.patience());
            loop {
                let sent = clock.now();
                if sent >= deadline {
                    return End::Silent;
                }
                match clock.timeout(deadline.since(sent), shared.store.keep_alive(self.me.lease)).await {
                    Ok(Ok(())) => {
                        shared.contacted();
                        *self.renewed.lock() = sent;
                        break;
                    }
                    Ok(Err(StoreError::Refused(Refusal::LeaseGone, _))) => return End::LeaseGone,
                    Ok(Err(_)) => clock.sleep(RETRY).await,
                    Err(_) => return End::Silent,
                }
            }
        }
    }

    /// Campaigns whenever nobody leads, and leads when a campaign is won.
    async fn elect(&self) -> End {
        let (clock, shared) = (&self.shared.runtime.clock, self.shared);
        let mut view = shared.view.watch();
        if let Some(Resigned { epoch, until }) = self.resigned {
            let over = view.wait_for(|head| head.as_ref().is_some_and(|head| head.epoch > epoch));
            tokio::select! { biased; _ = over => {} () = clock.sleep_until(until) => {} }
        }
        let founding = LogId(*shared.runtime.rng.uuid().as_bytes());
        loop {
            let head = view.look();
            let held = head.as_ref().and_then(|head| head.leader.as_ref());
            if held.is_some_and(|(record, _)| record.token == self.me.token) {
                // A bid that was given up, because a repetition of it was refused, has been carried out late.
                return End::Deposed;
            }
            let gone = shared.gone();
            let ended = [self.former, gone.as_ref()];
            let bid = head.and_then(|head| Bid::new(&shared.keys, &head, &self.me, ended, founding));
            let Some(bid) = bid else {
                view.changed().await;
                continue;
            };
            match self.ask(&bid.txn).await {
                Ok(reply) => match bid.judge(&reply) {
                    Verdict::Won(leadership) => return self.lead(bid.log, leadership).await,
                    Verdict::Lost => {
                        shared.refresh.notify_one();
                        // The head is read again and brings news; if it does not, look anyway.
                        let _ = clock.timeout(REFUSED, view.changed()).await;
                        clock.sleep(Duration::from_millis(shared.runtime.rng.below(JITTER_MS))).await;
                    }
                },
                Err(Refusal::LeaseGone) => return End::LeaseGone,
                Err(_) => clock.sleep(REFUSED).await,
            }
        }
    }

    /// Asks until there is an answer. The session's end ends this too.
    async fn ask(&self, txn: &Txn) -> Result<TxnReply, Refusal> {
        loop {
            match self.shared.store.txn(txn).await {
                Ok(reply) => {
                    self.shared.contacted();
                    return Ok(reply);
                }
                Err(StoreError::Refused(refusal, why)) => {
                    tracing::warn!(node = %self.shared.node, "a campaign was refused: {why}");
                    return Err(refusal);
                }
                Err(StoreError::Unknown(_)) => self.shared.runtime.clock.sleep(RETRY).await,
            }
        }
    }

    async fn lead(&self, log: LogId, leadership: Leadership) -> End {
        let shared = self.shared;
        let (epoch, opened_at) = (leadership.epoch, leadership.opened_at);
        let Candidate { node, endpoint, token, .. } = self.me.clone();
        shared.won(log, &leadership, LeaderRecord { node, epoch, token, endpoint });
        shared.queue.open(epoch);
        shared.leading.set(Some(Fence { epoch, compare: leadership.fence(), token }));
        tracing::info!(node = %shared.node, %epoch, %opened_at, "leads");
        shared.announcer.announce(epoch, Leader::Me { opened_at });
        let mut resigned = shared.resigned.watch();
        tokio::select! { biased;
            _ = resigned.wait_for(|resigned| *resigned >= epoch) => End::Resigned,
            () = self.deposed(&leadership) => End::Deposed,
            () = Proposing::new(shared, leadership.clone()).run() => End::Deposed,
        }
    }

    /// Returns when the head shows that this leadership is over.
    async fn deposed(&self, leadership: &Leadership) {
        let mut view = self.shared.view.watch();
        let over = |head: &Head| {
            let mine = head.leader.as_ref().is_some_and(|(record, _)| record.token == self.me.token);
            head.epoch > leadership.epoch || (head.epoch == leadership.epoch && !mine)
        };
        view.wait_for(|head| head.as_ref().is_some_and(|head| over(head))).await;
    }
}

//! What the controller knows of the brokers besides the image: when each was heard last, and what it said. It begins
//! empty with each leadership.

use std::{collections::BTreeMap, time::Duration};

use super::Refusal;
use crate::{
    ids::{BrokerEpoch, LogIndex, NodeId},
    metadata::{Image, apply::Rejection},
    runtime::Moment,
};

/// What the controller knows of the brokers besides the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// When the leadership began: every broker counts as heard then.
    pub since: Moment,
    /// How long a broker may be silent.
    pub session: Duration,
    /// Who was heard.
    pub contacts: BTreeMap<NodeId, Contact>,
    /// Whom it was tried to reach in vain or not, and when that broker had been heard last: once for each silence.
    pub probed: BTreeMap<NodeId, Moment>,
}

/// What a broker said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The registration under which it spoke.
    pub epoch: BrokerEpoch,
    /// When.
    pub last: Moment,
    /// How far its image had come.
    pub applied: LogIndex,
    /// It asks to be fenced, or to stay so.
    pub wants_fence: bool,
    /// It asks to stop.
    pub wants_shutdown: bool,
    /// Its listener refuses connections: its process has ended.
    pub refused: bool,
    /// How far the image had come when its leaderships had moved away.
    pub emptied_at: Option<LogIndex>,
}

/// What a broker says in a heartbeat (KIP-631).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The broker.
    pub node: NodeId,
    /// Its registration.
    pub epoch: BrokerEpoch,
    /// How far its image has come.
    pub applied: LogIndex,
    /// It asks to be fenced, or to stay so.
    pub wants_fence: bool,
    /// It asks to stop.
    pub wants_shutdown: bool,
}

/// What a broker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// Its image has reached its registration.
    pub caught_up: bool,
    /// It is fenced.
    pub fenced: bool,
    /// It may stop.
    pub may_stop: bool,
}

impl Contact {
    /// Of a broker that has said nothing yet under this registration.
    fn unheard(epoch: BrokerEpoch) -> Self {
        Self {
            epoch,
            last: Moment::default(),
            applied: LogIndex(0),
            wants_fence: false,
            wants_shutdown: false,
            refused: false,
            emptied_at: None,
        }
    }
}

impl Liveness {
    /// Nobody was heard yet.
    #[must_use]
    pub fn new(since: Moment, session: Duration) -> Self {
        Self { since, session, contacts: BTreeMap::new(), probed: BTreeMap::new() }
    }

    /// Takes a heartbeat in and answers it from the image; what it leads to is decided afterwards.
    ///
    /// # Errors
    /// The broker is not registered, or has registered again.
    pub fn heartbeat(
        &mut self,
        image: &Image,
        heartbeat: &Heartbeat,
        now: Moment,
    ) -> Result<HeartbeatAnswer, Refusal> {
        let Heartbeat { node, epoch, applied, wants_fence, wants_shutdown } = *heartbeat;
        let broker = image.brokers.get(&node).ok_or(Rejection::UnknownBroker(node))?;
        if broker.epoch != epoch {
            return Err(Rejection::StaleBrokerEpoch { node, present: broker.epoch }.into());
        }
        let known = self.contacts.get(&node).filter(|contact| contact.epoch == epoch);
        let emptied_at = known.and_then(|contact| contact.emptied_at);
        let emptied_at = emptied_at.or(broker.shutting_down.then_some(image.index));
        let contact =
            Contact { epoch, last: now, applied, wants_fence, wants_shutdown, refused: false, emptied_at };
        self.contacts.insert(node, contact);
        Ok(HeartbeatAnswer {
            caught_up: index_of(epoch) <= applied,
            fenced: broker.fenced,
            may_stop: wants_shutdown && broker.fenced,
        })
    }

    /// A broker has registered: its session begins.
    pub fn registered(&mut self, node: NodeId, epoch: BrokerEpoch, now: Moment) {
        if self.contacts.get(&node).is_none_or(|contact| contact.epoch < epoch) {
            self.contacts.insert(node, Contact { last: now, ..Contact::unheard(epoch) });
        }
    }

    /// A connection to the broker's listener was refused: nobody listens there, so that its process has ended.
    pub fn refused(&mut self, node: NodeId, epoch: BrokerEpoch) {
        let last = self.last(node, epoch);
        let fresh = Contact { last, ..Contact::unheard(epoch) };
        let contact = self.contacts.entry(node).or_insert(fresh);
        if contact.epoch <= epoch {
            *contact = Contact { epoch, refused: true, ..*contact };
        }
    }

    /// When the broker, under this registration, was heard last.
    #[must_use]
    pub fn last(&self, node: NodeId, epoch: BrokerEpoch) -> Moment {
        let contact = self.contacts.get(&node).filter(|contact| contact.epoch == epoch);
        contact.map_or(self.since, |contact| contact.last)
    }
}

/// The entry of a registration.
pub(super) fn index_of(epoch: BrokerEpoch) -> LogIndex {
    LogIndex(u64::try_from(epoch.0).unwrap_or_default())
}

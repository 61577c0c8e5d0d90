//! The channel of leader events: one place that refuses what the contract forbids, so that no backend can get the
//! order wrong.

use std::sync::Arc;

use crate::runtime::watch;

use super::{Epoch, Leader, LeaderEvent, LogIndex};

/// The backend's end: announces leaders.
#[derive(Clone, Debug)]
pub struct LeaderAnnouncer(Arc<watch::Sender<Announced>>);

/// A subscriber's end.
#[derive(Clone, Debug)]
pub struct LeaderEvents {
    seen: u64,
    announced: watch::Receiver<Announced>,
}

#[derive(Debug, Default)]
struct Announced {
    last: Option<LeaderEvent>,
    /// The newest leadership of this node. An epoch has one opening entry, whatever was announced since.
    led: Option<(Epoch, LogIndex)>,
    stopped: bool,
}

/// A new channel; nothing is announced yet.
#[must_use]
pub fn leader_channel() -> (LeaderAnnouncer, LeaderEvents) {
    let (sender, announced) = watch::channel(Announced::default());
    (LeaderAnnouncer(Arc::new(sender)), LeaderEvents { seen: 0, announced })
}

impl LeaderAnnouncer {
    /// Announces who leads `epoch`. Returns false, and announces nothing, when the event is stale, a repeat, a second
    /// leader of an epoch, or a second opening entry of an epoch.
    pub fn announce(&self, epoch: Epoch, leader: Leader) -> bool {
        self.0.send_if_modified(|announced| {
            if announced.stopped || !announced.permits(epoch, leader) {
                return false;
            }
            if let Leader::Me { opened_at } = leader {
                announced.led = Some((epoch, opened_at));
            }
            let seq = announced.last.map_or(1, |last| last.seq + 1);
            announced.last = Some(LeaderEvent { seq, epoch, leader });
            true
        })
    }

    /// Ends every subscription; the backend has stopped.
    pub fn stop(&self) {
        self.0.send_modify(|announced| announced.stopped = true);
    }

    /// A subscriber that is told the newest event first, if there is one.
    #[must_use]
    pub fn subscribe(&self) -> LeaderEvents {
        LeaderEvents { seen: 0, announced: self.0.subscribe() }
    }

    /// The newest event.
    #[must_use]
    pub fn last(&self) -> Option<LeaderEvent> {
        self.0.borrow().last
    }
}

impl Announced {
    fn permits(&self, epoch: Epoch, leader: Leader) -> bool {
        // A leader that was cut off for a while may resume its epoch, but only as the same leadership.
        if let (Leader::Me { opened_at }, Some((led, opened))) = (leader, self.led)
            && (led > epoch || (led == epoch && opened != opened_at))
        {
            return false;
        }
        // Nor can another node lead an epoch that this one has led.
        if let (Leader::Other(_), Some((led, _))) = (leader, self.led)
            && led == epoch
        {
            return false;
        }
        let Some(last) = self.last else { return true };
        if epoch != last.epoch {
            return epoch > last.epoch;
        }
        leader != last.leader && (last.leader == Leader::Unknown || leader == Leader::Unknown)
    }
}

impl LeaderEvents {
    /// The newest event not yet seen. `None` once the backend has stopped.
    pub async fn next(&mut self) -> Option<LeaderEvent> {
        let seen = self.seen;
        let fresh = |a: &Announced| a.stopped || a.last.is_some_and(|event| event.seq > seen);
        let event = {
            let announced = self.announced.wait_for(fresh).await.ok()?;
            announced.last.filter(|event| !announced.stopped && event.seq > seen)?
        };
        self.seen = event.seq;
        Some(event)
    }

    /// The newest event, seen or not.
    #[must_use]
    pub fn last(&self) -> Option<LeaderEvent> {
        self.announced.borrow().last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn me(index: u64) -> Leader {
        Leader::Me { opened_at: LogIndex(index) }
    }

    #[tokio::test]
    async fn a_slow_subscriber_skips_and_never_goes_back() {
        let (announcer, mut events) = leader_channel();
        assert!(announcer.announce(Epoch(1), me(1)));
        assert!(announcer.announce(Epoch(2), Leader::Other(NodeId(2))));
        let event = events.next().await.unwrap();
        assert_eq!((event.seq, event.epoch), (2, Epoch(2)));
        announcer.stop();
        assert_eq!(events.next().await, None);
    }

    #[test]
    fn stale_repeated_and_contradicting_events_are_refused() {
        let (announcer, _events) = leader_channel();
        assert!(announcer.announce(Epoch(2), me(5)));
        assert!(!announcer.announce(Epoch(2), me(5)), "a repeat");
        assert!(!announcer.announce(Epoch(2), Leader::Other(NodeId(3))), "a second leader of the epoch");
        assert!(!announcer.announce(Epoch(1), Leader::Unknown), "an older epoch");
        assert!(announcer.announce(Epoch(2), Leader::Unknown));
        assert!(!announcer.announce(Epoch(2), me(6)), "a second opening entry");
        assert!(!announcer.announce(Epoch(2), Leader::Other(NodeId(3))), "this node led the epoch");
        assert!(announcer.announce(Epoch(2), me(5)), "the same leadership resumes");
        announcer.stop();
        assert!(!announcer.announce(Epoch(3), Leader::Unknown), "stopped");
    }
}

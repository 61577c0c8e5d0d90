//! When a node asks for votes: the clock's part of an election, pure.
//!
//! openraft would wait for a time that it draws once in a process, and ask for votes at once, which makes every other
//! node's term rise even where nobody votes. Here the time is drawn anew whenever a leader was heard, and a node first
//! asks the others whether they would vote for it: whoever has heard a leader lately says no.

use std::time::Duration;

use quorate_consensus_kit::config::Timings;
use quorate_core::runtime::{Moment, Rng};

/// One node's view of elections.
pub(crate) struct Election {
    timings: Timings,
    rng: Rng,
    /// When a leader, or a candidate that was given the vote, was heard last; before that, when this node started.
    heard: Moment,
    /// Whether any was.
    has_heard: bool,
    /// When to do something about a silence.
    due: Moment,
    quiet_until: Moment,
}

impl Election {
    pub(crate) fn new(timings: Timings, rng: Rng, now: Moment) -> Self {
        let mut election = Self { timings, rng, heard: now, has_heard: false, due: now, quiet_until: now };
        election.tried(now);
        election
    }

    /// A leader was heard, or a candidate given the vote.
    pub(crate) fn hear(&mut self, now: Moment) {
        self.heard = now;
        self.has_heard = true;
        self.due = now.plus(self.draw());
    }

    /// Does not wait for a silence.
    pub(crate) fn hasten(&mut self, now: Moment) {
        self.due = now;
    }

    /// Whether to ask for votes now.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        now >= self.due && now >= self.quiet_until
    }

    /// The node asks for votes, or asks whether it should: not again for a while.
    pub(crate) fn tried(&mut self, now: Moment) {
        self.due = now.plus(self.draw());
    }

    /// The others would not vote for it yet.
    pub(crate) fn refused(&mut self, now: Moment) {
        let pause = Duration::from_millis(self.rng.below(millis(self.timings.heartbeat)));
        self.due = now.plus(self.timings.heartbeat + pause);
    }

    /// Does not ask for votes until then.
    pub(crate) fn be_quiet(&mut self, until: Moment) {
        self.quiet_until = self.quiet_until.max(until);
    }

    /// Whether another node may have this node's vote: not while a leader is heard.
    pub(crate) fn would_vote(&self, now: Moment) -> bool {
        !self.has_heard || self.silence(now) >= self.timings.election_min
    }

    /// How long no leader was heard.
    pub(crate) fn silence(&self, now: Moment) -> Duration {
        now.since(self.heard)
    }

    fn draw(&self) -> Duration {
        let Timings { election_min, election_max, .. } = self.timings;
        election_min
            + Duration::from_millis(self.rng.below(millis(election_max.saturating_sub(election_min))))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::default().plus(Duration::from_millis(ms))
    }

    #[test]
    fn a_node_that_hears_its_leader_neither_asks_for_votes_nor_gives_one() {
        let mut election = Election::new(Timings::default(), Rng::seeded(1), at(0));
        assert!(election.would_vote(at(0)), "nobody was heard yet");
        election.hear(at(0));
        for beat in 0..100 {
            assert!(!election.is_due(at(beat * 100 + 99)) && !election.would_vote(at(beat * 100 + 99)));
            election.hear(at(beat * 100 + 100));
        }
        assert!(!election.is_due(at(10_499)) && !election.would_vote(at(10_499)));
        assert!(election.would_vote(at(10_500)) && election.is_due(at(11_000)));
    }

    #[test]
    fn two_nodes_that_collide_once_do_not_collide_for_ever() {
        let rng = Rng::seeded(7);
        let mut nodes = [0, 1].map(|_| Election::new(Timings::default(), rng.clone(), at(0)));
        let apart = (0..10).filter(|round| {
            nodes.iter_mut().for_each(|node| node.tried(at(round * 1000)));
            let due = nodes.each_ref().map(|node| node.due);
            due[0].since(due[1]).max(due[1].since(due[0])) > Duration::from_millis(50)
        });
        assert!(apart.count() > 3);
    }

    #[test]
    fn a_node_that_has_resigned_is_quiet() {
        let mut election = Election::new(Timings::default(), Rng::seeded(1), at(0));
        election.be_quiet(at(3000));
        assert!(!election.is_due(at(2999)) && election.is_due(at(3000)));
        assert!(election.would_vote(at(600)), "it votes for others");
        election.refused(at(3000));
        assert!(!election.is_due(at(3099)) && election.is_due(at(3200)));
    }
}

//! What `quorate dev` tells while it runs: who died, who leads now, how long nobody led. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use quorate_core::runtime::Moment;

use crate::readiness::Readiness;

/// Nobody leading for this long is worth a line of its own.
const LEADERLESS_WORTH_TELLING: Duration = Duration::from_secs(5);

/// A node that somebody else started and that has not answered for this long is taken for dead: nobody here is told of
/// its end.
const SILENCE: Duration = Duration::from_secs(1);

/// What is known of the nodes.
#[derive(Debug)]
pub(crate) struct Story {
    count: usize,
    /// Nodes whose process has ended.
    down: BTreeSet<i32>,
    /// Nodes that somebody else started, and when each last answered.
    elsewhere: BTreeMap<i32, Moment>,
    leader: Option<Led>,
    /// Deaths whose consequences have not been told.
    open: Vec<Death>,
    leaderless_since: Option<Moment>,
    leaderless_told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Led {
    node: i32,
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
struct Death {
    node: i32,
    at: Moment,
    led: bool,
}

impl Story {
    /// Of `count` nodes.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            count,
            down: BTreeSet::new(),
            elsewhere: BTreeMap::new(),
            leader: None,
            open: Vec::new(),
            leaderless_since: None,
            leaderless_told: false,
        }
    }

    /// Who leads the metadata, as last seen.
    pub(crate) fn leader(&self) -> Option<i32> {
        self.leader.map(|led| led.node)
    }

    /// Whether somebody should look often: a consequence is awaited whose time is to be told.
    pub(crate) fn is_urgent(&self) -> bool {
        !self.open.is_empty() || self.leaderless_since.is_some()
    }

    /// A node's process has ended.
    pub(crate) fn died(&mut self, node: i32, now: Moment) {
        let led = self.leader.is_some_and(|led| led.node == node);
        self.down.insert(node);
        self.open.push(Death { node, at: now, led });
        if led {
            self.leader = None;
            self.leaderless_since = Some(now);
        }
    }

    /// The nodes' answers at `now`, by node; those that did not answer are left out. The lines to print.
    pub(crate) fn seen(&mut self, answers: &BTreeMap<i32, Readiness>, now: Moment) -> Vec<String> {
        let mut lines = Vec::new();
        for (node, answer) in answers {
            if let Some(last) = self.elsewhere.get_mut(node) {
                *last = now;
            }
            if self.down.remove(node) {
                self.elsewhere.insert(*node, now);
                self.open.retain(|death| death.node != *node);
                lines.push(format!("node {node} is back (pid {}), started elsewhere", answer.pid));
            }
        }
        let silent = |last: &Moment| now.since(*last) >= SILENCE;
        let gone: Vec<i32> =
            self.elsewhere.iter().filter(|(_, last)| silent(last)).map(|(node, _)| *node).collect();
        for node in gone {
            self.elsewhere.remove(&node);
            let role = if self.leader() == Some(node) { ", which led," } else { "" };
            lines.push(format!(
                "node {node}{role} died: it was started elsewhere and does not answer any more"
            ));
            self.died(node, now);
        }
        match self.leader_of(answers) {
            Some(led) => self.somebody_leads(led, now, &mut lines),
            None => self.nobody_leads(answers, now, &mut lines),
        }
        lines
    }

    /// The newest leadership that any node tells of, unless that leader is down.
    fn leader_of(&self, answers: &BTreeMap<i32, Readiness>) -> Option<Led> {
        let told =
            answers.values().filter_map(|answer| Some(Led { node: answer.leader?, epoch: answer.epoch }));
        told.max_by_key(|led| led.epoch).filter(|led| !self.down.contains(&led.node))
    }

    fn somebody_leads(&mut self, led: Led, now: Moment, lines: &mut Vec<String>) {
        let gap = self.leaderless_since.take().map(|since| now.since(since).as_millis());
        let before = self.leader.replace(led);
        let deaths = std::mem::take(&mut self.open);
        let led_before = deaths.iter().any(|death| death.led);
        if led_before || (gap.is_some() && self.leaderless_told) {
            let gap = gap.unwrap_or_default();
            lines.push(format!("node {} leads now (epoch {}); nobody led for {gap} ms", led.node, led.epoch));
        } else if before.is_some_and(|before| before.node != led.node) {
            lines.push(format!("node {} leads now (epoch {})", led.node, led.epoch));
        } else if !deaths.is_empty() {
            let waited = deaths.iter().map(|death| now.since(death.at).as_millis()).max().unwrap_or_default();
            lines.push(format!(
                "node {} still leads (epoch {}), seen {waited} ms later; at no time did nobody lead",
                led.node, led.epoch
            ));
        }
        self.leaderless_told = false;
    }

    fn nobody_leads(&mut self, answers: &BTreeMap<i32, Readiness>, now: Moment, lines: &mut Vec<String>) {
        self.leader = None;
        let since = *self.leaderless_since.get_or_insert(now);
        let gap = now.since(since);
        if gap < LEADERLESS_WORTH_TELLING || self.leaderless_told {
            return;
        }
        self.leaderless_told = true;
        let reason = answers.values().find_map(|answer| answer.reason.clone());
        let reason = reason.unwrap_or_else(|| "no node answers".to_owned());
        let up = self.count.saturating_sub(self.down.len());
        lines.push(format!(
            "nobody has led for {} ms; {up} of {} nodes run; {reason}",
            gap.as_millis(),
            self.count
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::{Progress, readiness};
    use quorate_core::ids::NodeId;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn answers(nodes: &[(i32, Option<i32>, u64)]) -> BTreeMap<i32, Readiness> {
        let answer = |(node, leader, epoch): &(i32, Option<i32>, u64)| {
            let mut answer = readiness(NodeId(*node), &Progress::default());
            (answer.leader, answer.epoch) = (*leader, *epoch);
            answer.reason = Some("awaited: an election".to_owned());
            (*node, answer)
        };
        nodes.iter().map(answer).collect()
    }

    fn three_led_by_one() -> Story {
        let mut story = Story::new(3);
        assert!(story.seen(&answers(&[(1, Some(1), 4), (2, Some(1), 4)]), at(0)).is_empty());
        story
    }

    #[test]
    fn the_death_of_the_leader_is_followed_by_the_next_and_the_gap() {
        let mut story = three_led_by_one();
        story.died(1, at(1000));
        assert!(story.is_urgent());
        assert!(
            story.seen(&answers(&[(2, Some(1), 4), (3, Some(1), 4)]), at(1100)).is_empty(),
            "stale answers"
        );
        assert!(story.seen(&answers(&[(2, None, 5), (3, Some(1), 4)]), at(1300)).is_empty());
        let lines = story.seen(&answers(&[(2, Some(3), 5), (3, Some(3), 5)]), at(1800));
        assert_eq!(lines, ["node 3 leads now (epoch 5); nobody led for 800 ms"]);
        assert!(!story.is_urgent());
    }

    #[test]
    fn the_death_of_a_follower_leaves_the_leader() {
        let mut story = three_led_by_one();
        story.died(2, at(1000));
        let lines = story.seen(&answers(&[(1, Some(1), 4), (3, Some(1), 4)]), at(1010));
        assert_eq!(lines, ["node 1 still leads (epoch 4), seen 10 ms later; at no time did nobody lead"]);
    }

    #[test]
    fn a_lost_majority_is_told_once_with_the_reason_and_its_return_with_the_gap() {
        let mut story = three_led_by_one();
        story.died(1, at(0));
        story.died(2, at(100));
        let cut = answers(&[(3, None, 4)]);
        assert!(story.seen(&cut, at(200)).is_empty());
        let told = ["nobody has led for 5000 ms; 1 of 3 nodes run; awaited: an election"];
        assert_eq!(story.seen(&cut, at(5000)), told);
        assert!(story.seen(&cut, at(9000)).is_empty());
        let lines = story.seen(&answers(&[(2, Some(3), 6), (3, Some(3), 6)]), at(9500));
        let back = format!("node 2 is back (pid {}), started elsewhere", std::process::id());
        assert_eq!(lines, [back.as_str(), "node 3 leads now (epoch 6); nobody led for 9500 ms"]);
    }

    #[test]
    fn the_silence_of_a_node_that_was_started_elsewhere_is_its_death() {
        let mut story = three_led_by_one();
        story.died(2, at(0));
        story.seen(&answers(&[(1, Some(1), 4)]), at(10));
        assert_eq!(story.seen(&answers(&[(1, Some(1), 4), (2, Some(1), 4)]), at(5000)).len(), 1);
        let alone = answers(&[(1, Some(1), 4)]);
        assert!(story.seen(&alone, at(5900)).is_empty(), "it may be slow");
        let lines = story.seen(&alone, at(6000));
        assert_eq!(lines[0], "node 2 died: it was started elsewhere and does not answer any more");
        assert!(lines[1].starts_with("node 1 still leads"), "{lines:?}");
        assert!(story.seen(&alone, at(9000)).is_empty());
    }

    #[test]
    fn a_change_without_a_death_is_told_too() {
        let mut story = three_led_by_one();
        let lines = story.seen(&answers(&[(1, Some(2), 5)]), at(10));
        assert_eq!(lines, ["node 2 leads now (epoch 5)"]);
    }
}

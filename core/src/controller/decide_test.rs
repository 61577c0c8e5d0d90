use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    ids::{BrokerEpoch, LogIndex, NodeId},
    metadata::{Command, Image, command::*, testing::Story},
    protocol::errors::ErrorCode,
    runtime::Moment,
};

const SESSION: Duration = Duration::from_millis(1500);

fn at(ms: u64) -> Moment {
    Moment(1).plus(Duration::from_millis(ms))
}

/// A cluster with a controller that has led since time 0.
struct Reign {
    story: Story,
    liveness: Liveness,
}

impl Reign {
    fn of(brokers: i32) -> Self {
        Self { story: Story::with_brokers(brokers, &[]), liveness: Liveness::new(at(0), SESSION) }
    }

    fn image(&self) -> &Image {
        &self.story.image
    }

    fn beat(&mut self, node: i32, ms: u64) -> HeartbeatAnswer {
        self.says(node, ms, |_| {}).unwrap()
    }

    fn says(
        &mut self,
        node: i32,
        ms: u64,
        what: impl FnOnce(&mut Heartbeat),
    ) -> Result<HeartbeatAnswer, Refusal> {
        let epoch = self.story.image.broker_epoch(NodeId(node));
        let applied = self.story.image.index;
        let mut heartbeat =
            Heartbeat { node: NodeId(node), epoch, applied, wants_fence: false, wants_shutdown: false };
        what(&mut heartbeat);
        self.liveness.heartbeat(&self.story.image, &heartbeat, at(ms))
    }

    fn decide(&self, ms: u64) -> Decision {
        decide(self.image(), &self.liveness, at(ms), false)
    }

    /// Decides and carries it out, until there is nothing more to do.
    fn settle(&mut self, ms: u64) -> Vec<&'static str> {
        let mut done = Vec::new();
        loop {
            let decision = self.decide(ms);
            if decision.commands.is_empty() {
                return done;
            }
            for command in decision.commands {
                done.push(command.name());
                self.story.accept(command);
            }
            assert!(done.len() < 100, "{done:?}");
        }
    }

    fn unfenced(&self) -> Vec<i32> {
        self.image().live_brokers().map(|broker| broker.node.0).collect()
    }
}

#[test]
fn a_broker_is_let_in_once_its_image_has_its_registration() {
    let mut reign = Reign::of(1);
    let epoch = reign.story.register(2, 1);
    reign.liveness.registered(NodeId(2), epoch, at(10));
    reign.beat(1, 10);
    assert!(reign.settle(10).is_empty(), "it has said nothing yet");
    let before = LogIndex(u64::try_from(epoch.0).unwrap() - 1);
    let answer = reign.says(2, 20, |heartbeat| heartbeat.applied = before).unwrap();
    assert_eq!(answer, HeartbeatAnswer { caught_up: false, fenced: true, may_stop: false });
    assert!(reign.settle(20).is_empty(), "its image has not come to its registration");
    assert!(reign.beat(2, 30).caught_up);
    assert_eq!(reign.settle(30), ["UnfenceBroker"]);
    assert!(!reign.beat(2, 40).fenced);
}

#[test]
fn a_silent_broker_is_probed_once_and_fenced_when_its_session_ends() {
    let mut reign = Reign::of(3);
    for node in 1..=3 {
        reign.beat(node, 0);
    }
    for ms in (100..1500).step_by(100) {
        reign.beat(1, ms);
        reign.beat(2, ms);
        let decision = reign.decide(ms);
        assert!(decision.commands.is_empty());
        assert_eq!(decision.probe, if ms == 500 { vec![NodeId(3)] } else { vec![] }, "{ms}");
        for node in decision.probe {
            reign.liveness.probed.insert(node, at(0));
        }
    }
    assert_eq!(reign.decide(1400).next, Some(at(1500)));
    assert_eq!(reign.settle(1500), ["FenceBroker"]);
    assert_eq!(reign.unfenced(), [1, 2]);
}

#[test]
fn a_broker_that_refuses_connections_is_fenced_at_once() {
    let mut reign = Reign::of(3);
    let epoch = reign.image().broker_epoch(NodeId(2));
    reign.liveness.refused(NodeId(2), BrokerEpoch(epoch.0 - 1));
    for node in [1, 3] {
        reign.beat(node, 5);
    }
    assert!(reign.settle(5).is_empty(), "an older registration was refused");
    reign.liveness.refused(NodeId(2), epoch);
    assert_eq!(reign.settle(5), ["FenceBroker"]);
    let again = reign.says(2, 9, |heartbeat| heartbeat.epoch = BrokerEpoch(1)).unwrap_err();
    assert_eq!(again.code, ErrorCode::STALE_BROKER_EPOCH);
    reign.beat(2, 10);
    assert_eq!(reign.settle(10), ["UnfenceBroker"], "it lives after all");
}

#[test]
fn a_new_controller_gives_every_broker_a_session() {
    let mut reign = Reign::of(3);
    reign.liveness = Liveness::new(at(10_000), SESSION);
    assert!(reign.decide(11_499).commands.is_empty());
    assert!(!reign.decide(11_500).commands.is_empty());
}

#[test]
fn a_controller_that_hears_too_few_resigns_once_and_its_successor_fences() {
    let mut reign = Reign::of(3);
    let hear_only_1 = |reign: &mut Reign, from: u64| {
        for ms in (from..from + 1500).step_by(250) {
            reign.beat(1, ms);
            assert!(reign.settle(ms).is_empty());
        }
        reign.beat(1, from + 1500);
        from + 1500
    };
    let end = hear_only_1(&mut reign, 0);
    let decision = reign.decide(end);
    let told = Command::ControllerDeaf(ControllerDeaf { heard: vec![1] });
    assert_eq!((decision.commands, decision.resign), (vec![told.clone()], false));
    reign.story.accept(told);
    let decision = reign.decide(end);
    assert_eq!((decision.commands, decision.resign), (vec![], true));
    assert_eq!(reign.unfenced(), [1, 2, 3], "nobody was fenced");

    reign.story.next_epoch(2);
    reign.liveness = Liveness::new(at(2000), SESSION);
    let end = hear_only_1(&mut reign, 2000);
    assert_eq!(reign.settle(end), ["FenceBroker", "FenceBroker"]);
    assert_eq!(reign.unfenced(), [1]);
}

#[test]
fn a_successor_that_hears_others_fences_nobody_else_and_forgets() {
    let mut reign = Reign::of(3);
    reign.story.accept(Command::ControllerDeaf(ControllerDeaf { heard: vec![1] }));
    reign.story.next_epoch(2);
    reign.liveness = Liveness::new(at(0), SESSION);
    for ms in (0..=1500).step_by(250) {
        reign.beat(2, ms);
        reign.beat(3, ms);
    }
    assert_eq!(reign.settle(1500), ["FenceBroker"]);
    assert_eq!(reign.unfenced(), [2, 3]);
}

#[test]
fn who_falls_silent_together_is_not_fenced_one_by_one() {
    let mut reign = Reign::of(3);
    reign.beat(2, 0);
    reign.beat(3, 200);
    for ms in (0..=1500).step_by(250) {
        reign.beat(1, ms);
    }
    let decision = reign.decide(1500);
    assert_eq!(decision.commands, [Command::ControllerDeaf(ControllerDeaf { heard: vec![1] })]);
}

#[test]
fn a_broker_may_stop_when_everybody_knows_the_new_leaders() {
    let mut reign = Reign::of(3);
    reign.story.create("a", &[&[1, 2, 3]], &[]);
    for node in 1..=3 {
        reign.beat(node, 0);
    }
    let behind = reign.image().index;
    let stopping = |heartbeat: &mut Heartbeat| heartbeat.wants_shutdown = true;
    assert!(!reign.says(1, 10, stopping).unwrap().may_stop);
    assert_eq!(reign.settle(10), ["BrokerShuttingDown"]);
    assert_eq!(reign.story.state("a").0, 2, "its leaderships move while it still serves");
    assert!(!reign.says(1, 20, stopping).unwrap().may_stop);
    assert!(reign.settle(20).is_empty());
    reign.beat(2, 30);
    reign.says(3, 30, |heartbeat| heartbeat.applied = behind).unwrap();
    assert!(reign.settle(30).is_empty(), "node 3 does not know the new leaders yet");
    reign.beat(3, 40);
    assert_eq!(reign.settle(40), ["FenceBroker"]);
    assert!(reign.says(1, 50, stopping).unwrap().may_stop);
    reign.beat(1, 60);
    assert!(reign.settle(60).is_empty(), "it returns only by registering");
}

#[test]
fn leadership_goes_back_to_the_first_replica_when_it_is_time() {
    let mut reign = Reign::of(3);
    reign.story.create("a", &[&[1, 2, 3], &[2, 3, 1]], &[]);
    reign.story.fence(1);
    reign.story.unfence(1);
    for node in 1..=3 {
        reign.beat(node, 0);
    }
    let rebalance = |reign: &Reign| decide(reign.image(), &reign.liveness, at(0), true).commands;
    assert!(rebalance(&reign).is_empty(), "it is not in sync yet");
    let partition = reign.story.partition("a").clone();
    let member = |node| IsrMember { node, broker_epoch: -1 };
    reign.story.accept(Command::AlterPartitions(AlterPartitions {
        node: 2,
        broker_epoch: reign.image().broker_epoch(NodeId(2)).0,
        changes: vec![IsrChange {
            topic: Some(reign.story.topic("a").id.0.into()),
            partition: 0,
            leader_epoch: partition.leader_epoch.0,
            partition_epoch: partition.partition_epoch.0,
            isr: vec![member(1), member(2), member(3)],
            recovering: false,
        }],
    }));
    assert!(reign.decide(0).commands.is_empty(), "not before it is time");
    for command in rebalance(&reign) {
        reign.story.accept(command);
    }
    assert_eq!(reign.story.state("a").0, 1);
    assert!(rebalance(&reign).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Once faults stop, every broker that lives is let in, and nobody else.
    #[test]
    fn whoever_lives_is_let_in_and_whoever_does_not_is_fenced(
        beats in prop::collection::vec((1i32..=4, 0u64..400, any::<u8>()), 0..80),
        alive in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut reign = Reign::of(4);
        let mut now = 0;
        for (node, pause, kind) in beats {
            now += pause;
            match kind % 8 {
                0 => {
                    let epoch = reign.story.register(node, i32::from(kind));
                    reign.liveness.registered(NodeId(node), epoch, at(now));
                }
                1 => {
                    let epoch = reign.image().broker_epoch(NodeId(node));
                    reign.liveness.refused(NodeId(node), epoch);
                }
                2 => {
                    reign.story.next_epoch(node);
                    reign.liveness = Liveness::new(at(now), SESSION);
                }
                3 => drop(reign.says(node, now, |heartbeat| heartbeat.wants_fence = true)),
                _ => drop(reign.beat(node, now)),
            }
            for _ in 0..10 {
                let decision = reign.decide(now);
                for command in decision.commands {
                    let _ = reign.story.run(command);
                }
                if decision.resign {
                    reign.story.next_epoch(1);
                    reign.liveness = Liveness::new(at(now), SESSION);
                }
            }
        }
        for _ in 0..40 {
            now += 250;
            for node in (1..=4).filter(|node| alive[usize::try_from(*node).unwrap() - 1]) {
                reign.beat(node, now);
            }
            let decision = reign.decide(now);
            for command in decision.commands {
                reign.story.accept(command);
            }
            if decision.resign {
                reign.story.next_epoch(1);
                reign.liveness = Liveness::new(at(now), SESSION);
            }
        }
        let living: Vec<i32> = (1..=4).filter(|node| alive[usize::try_from(*node).unwrap() - 1]).collect();
        prop_assert_eq!(reign.unfenced(), living);
    }
}

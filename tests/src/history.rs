//! The history of a run: what producers were told, against what can be read back in the end.
//!
//! The anomalies are those of Jepsen's Kafka workload, as far as producers and a final read can show them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// What became of one value.
#[derive(Clone, Debug, Deserialize)]
pub struct Outcome {
    /// Who sent it.
    pub producer: u32,
    /// Its number among this producer's values, from 0.
    pub number: u64,
    /// Where it was sent to.
    pub partition: i32,
    /// The value; unique in the history.
    pub value: String,
    /// When it was handed to the client, in nanoseconds since the Unix epoch.
    pub invoked: i64,
    /// When the client told what became of it.
    pub answered: i64,
    /// The offset that the client was told; -1 without one.
    pub offset: i64,
    /// Set when the client gave up: the value may or may not be there.
    pub error: Option<String>,
}

/// One record that was read in the end.
#[derive(Clone, Debug, Deserialize)]
pub struct Read {
    /// Where.
    pub partition: i32,
    /// At which offset.
    pub offset: i64,
    /// What.
    pub value: String,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// An acknowledged value is not in the log.
    Lost(String),
    /// One value stands at more than one offset, although producers are idempotent.
    Duplicate(String),
    /// One offset was seen with two values.
    InconsistentOffset(i32, i64),
    /// A value stands at another offset than the producer was told.
    WrongOffset(String),
    /// A value that nobody sent, or that was sent to another partition.
    Invented(String),
    /// Two values of one producer stand in the other order.
    Reordered(String, String),
    /// A value that was sent after another was acknowledged stands before it.
    RealTime(String, String),
}

/// Everything wrong with a history. `reads` must reach at least to the highest acknowledged offset of each partition.
#[must_use]
pub fn anomalies(outcomes: &[Outcome], reads: &[Read]) -> BTreeSet<Anomaly> {
    let mut found = BTreeSet::new();
    let sent: BTreeMap<&str, &Outcome> = outcomes.iter().map(|o| (o.value.as_str(), o)).collect();
    let mut at: BTreeMap<(i32, i64), &str> = BTreeMap::new();
    let mut offsets: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for read in reads {
        if let Some(other) = at.insert((read.partition, read.offset), &read.value)
            && other != read.value
        {
            found.insert(Anomaly::InconsistentOffset(read.partition, read.offset));
        }
        offsets.entry(&read.value).or_default().insert(read.offset);
        if sent.get(read.value.as_str()).is_none_or(|outcome| outcome.partition != read.partition) {
            found.insert(Anomaly::Invented(read.value.clone()));
        }
    }
    for (value, offsets) in &offsets {
        if offsets.len() > 1 {
            found.insert(Anomaly::Duplicate((*value).to_owned()));
        }
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.error.is_none()) {
        match offsets.get(outcome.value.as_str()) {
            None => {
                found.insert(Anomaly::Lost(outcome.value.clone()));
            }
            Some(offsets) if !offsets.contains(&outcome.offset) => {
                found.insert(Anomaly::WrongOffset(outcome.value.clone()));
            }
            Some(_) => {}
        }
    }
    for partition in at.keys().map(|(partition, _)| *partition).collect::<BTreeSet<_>>() {
        let values = at.range((partition, i64::MIN)..=(partition, i64::MAX));
        order(values.filter_map(|(_, value)| sent.get(value).copied()), &mut found);
    }
    found
}

/// Order within one partition, given its values by offset.
fn order<'a>(log: impl Iterator<Item = &'a Outcome>, found: &mut BTreeSet<Anomaly>) {
    let mut last: BTreeMap<u32, &Outcome> = BTreeMap::new();
    let mut latest_invoked: Option<&Outcome> = None;
    for outcome in log {
        if let Some(before) = last.insert(outcome.producer, outcome)
            && before.number > outcome.number
        {
            found.insert(Anomaly::Reordered(before.value.clone(), outcome.value.clone()));
        }
        // If any value that stands before this one was sent only after this one was acknowledged, time went back.
        if let Some(before) = latest_invoked
            && outcome.error.is_none()
            && before.invoked > outcome.answered
        {
            found.insert(Anomaly::RealTime(before.value.clone(), outcome.value.clone()));
        }
        if latest_invoked.is_none_or(|latest| latest.invoked < outcome.invoked) {
            latest_invoked = Some(outcome);
        }
    }
}

/// The longest time in which no value was acknowledged, in nanoseconds.
#[must_use]
pub fn longest_gap(outcomes: &[Outcome]) -> i64 {
    let mut answered: Vec<i64> =
        outcomes.iter().filter(|outcome| outcome.error.is_none()).map(|outcome| outcome.answered).collect();
    answered.sort_unstable();
    answered.iter().zip(answered.iter().skip(1)).map(|(one, next)| next - one).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(producer: u32, number: u64, offset: i64) -> Outcome {
        let time = i64::try_from(number).unwrap() * 10;
        Outcome {
            producer,
            number,
            partition: 0,
            value: format!("{producer}-{number}"),
            invoked: time,
            answered: time + 5,
            offset,
            error: None,
        }
    }

    fn read(offset: i64, value: &str) -> Read {
        Read { partition: 0, offset, value: value.to_owned() }
    }

    #[test]
    fn a_good_history_has_no_anomaly() {
        let mut given_up = acked(1, 2, -1);
        given_up.error = Some("timed out".into());
        let outcomes = [acked(1, 0, 0), acked(1, 1, 1), given_up];
        assert_eq!(anomalies(&outcomes, &[read(0, "1-0"), read(1, "1-1")]), BTreeSet::new());
        assert_eq!(anomalies(&outcomes, &[read(0, "1-0"), read(1, "1-1"), read(2, "1-2")]), BTreeSet::new());
        assert_eq!(longest_gap(&outcomes), 10);
    }

    #[test]
    fn each_anomaly_is_found() {
        let outcomes = [acked(1, 0, 0), acked(1, 1, 1)];
        let only = |reads: &[Read]| anomalies(&outcomes, reads).into_iter().collect::<Vec<_>>();
        assert_eq!(only(&[read(0, "1-0")]), [Anomaly::Lost("1-1".into())]);
        assert_eq!(
            only(&[read(0, "1-0"), read(1, "1-1"), read(2, "1-1")]),
            [Anomaly::Duplicate("1-1".into())]
        );
        assert_eq!(only(&[read(0, "1-0"), read(2, "1-1")]), [Anomaly::WrongOffset("1-1".into())]);
        assert_eq!(
            only(&[read(0, "1-0"), read(1, "1-1"), read(2, "other")]),
            [Anomaly::Invented("other".into())]
        );
        assert!(
            only(&[read(0, "1-0"), read(1, "1-1"), read(1, "1-0")])
                .contains(&Anomaly::InconsistentOffset(0, 1))
        );
        let reordered = [acked(1, 0, 1), acked(1, 1, 0)];
        let found = anomalies(&reordered, &[read(0, "1-1"), read(1, "1-0")]);
        assert!(found.contains(&Anomaly::Reordered("1-1".into(), "1-0".into())));
        assert!(found.contains(&Anomaly::RealTime("1-1".into(), "1-0".into())));
        let other_producer = [acked(1, 0, 1), acked(2, 1, 0)];
        let found = anomalies(&other_producer, &[read(0, "2-1"), read(1, "1-0")]);
        assert_eq!(found, BTreeSet::from([Anomaly::RealTime("2-1".into(), "1-0".into())]));
    }
}

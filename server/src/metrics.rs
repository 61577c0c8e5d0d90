//! `/metrics`: the names that Kafka's dashboards and alerts use, where the data exists, and our own about the
//! consensus. Everything is a look at the present state; nothing is kept for it.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::gauge::ConstGauge,
    registry::Registry,
};
use quorate_core::{
    consensus::Status,
    ids::NodeId,
    metadata::{Image, settings},
};

use crate::leadership::Leadership;

/// What the metrics are about.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// This node.
    pub(crate) node: NodeId,
    /// The metadata as this node knows it.
    pub(crate) image: Arc<Image>,
    /// Who leads it.
    pub(crate) leadership: Leadership,
    /// The backend's word, once it runs.
    pub(crate) status: Option<Status>,
}

/// Counts of partitions, kept for the image that they were counted in: counting a large image takes a while.
#[derive(Debug, Default)]
pub(crate) struct Counter(Mutex<Option<(Arc<Image>, Counts)>>);

/// What a node says of partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Replicas on this node.
    pub(crate) replicas: i64,
    /// Partitions that this node leads.
    pub(crate) led: i64,
    /// Of those, the ones with fewer in-sync replicas than replicas.
    pub(crate) under_replicated: i64,
    /// Of those, the ones with fewer in-sync replicas than a write with acks=all needs.
    pub(crate) under_min_isr: i64,
    /// All partitions of the cluster.
    pub(crate) partitions: i64,
    /// Partitions of the cluster that nobody leads.
    pub(crate) offline: i64,
}

impl Counter {
    fn counts(&self, image: &Arc<Image>, node: NodeId) -> Counts {
        let mut kept = self.0.lock();
        match kept.as_ref() {
            Some((counted, counts)) if Arc::ptr_eq(counted, image) => *counts,
            _ => kept.insert((image.clone(), count(image, node))).1,
        }
    }
}

fn count(image: &Image, node: NodeId) -> Counts {
    let mut counts = Counts::default();
    for topic in image.topics.values() {
        let min_isr = settings::min_isr(image, topic);
        for partition in &topic.partitions {
            counts.partitions += 1;
            counts.offline += i64::from(!partition.has_leader());
            counts.replicas += i64::from(partition.has_replica(node));
            if partition.leader == node {
                counts.led += 1;
                counts.under_replicated += i64::from(partition.isr.len() < partition.replicas.len());
                counts.under_min_isr +=
                    i64::from(partition.isr.len() < min_isr.min(partition.replicas.len()));
            }
        }
    }
    counts
}

/// All metrics in OpenMetrics' text format.
///
/// # Errors
/// Only if text cannot be formatted.
pub(crate) fn render(counter: &Counter, sample: Sample) -> Result<String, fmt::Error> {
    let counts = counter.counts(&sample.image, sample.node);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page { counts, sample }));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Page {
    counts: Counts,
    sample: Sample,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_partitions(&mut encoder)?;
        self.encode_controller(&mut encoder)?;
        self.encode_consensus(&mut encoder)
    }
}

impl Page {
    fn encode_partitions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.counts;
        for (name, help, value) in [
            ("partitioncount", "Replicas on this broker", counts.replicas),
            ("leadercount", "Partitions that this broker leads", counts.led),
            ("underreplicatedpartitions", "Led here, with replicas out of sync", counts.under_replicated),
            ("underminisrpartitioncount", "Led here, below min.insync.replicas", counts.under_min_isr),
        ] {
            gauge(encoder, &format!("kafka_server_replicamanager_{name}"), help, value)?;
        }
        Ok(())
    }

    /// The controller alone speaks for the cluster, as in Kafka, so that a sum over all nodes is right.
    fn encode_controller(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let leads = self.sample.leadership.leader == Some(self.sample.node);
        let spoken = |value: i64| if leads { value } else { 0 };
        let image = &self.sample.image;
        let fenced = image.brokers.values().filter(|broker| broker.fenced).count();
        for (name, help, value) in [
            ("activecontrollercount", "Whether this node leads the metadata", i64::from(leads)),
            ("offlinepartitionscount", "Partitions that nobody leads", spoken(self.counts.offline)),
            ("globalpartitioncount", "Partitions of the cluster", spoken(self.counts.partitions)),
            ("globaltopiccount", "Topics of the cluster", spoken(size(image.topics.len()))),
            ("activebrokercount", "Brokers that are not fenced", spoken(size(image.brokers.len() - fenced))),
            ("fencedbrokercount", "Brokers that are fenced", spoken(size(fenced))),
        ] {
            gauge(encoder, &format!("kafka_controller_kafkacontroller_{name}"), help, value)?;
        }
        Ok(())
    }

    fn encode_consensus(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Sample { node, image, leadership, status } = &self.sample;
        let gap = leadership.leaderless.unwrap_or_default().as_secs_f64();
        let last_gap = leadership.last_gap.as_secs_f64();
        for (name, help, value) in [
            ("leaderless_seconds", "How long nobody has led", gap),
            ("last_gap_seconds", "The gap before that leader", last_gap),
        ] {
            let name = format!("quorate_consensus_{name}");
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)?;
        }
        let committed = status.as_ref().map_or(0, |status| status.committed.0);
        let silent =
            status.as_ref().map_or(0, |s| s.peers.iter().filter(|peer| peer.problem.is_some()).count());
        for (name, help, value) in [
            ("is_leader", "Whether this node leads", i64::from(leadership.leader == Some(*node))),
            ("epoch", "The newest known epoch", wide(leadership.epoch.0)),
            ("leader_changes", "Leaders seen since the start", wide(leadership.changes)),
            ("committed_index", "The last entry known to be committed", wide(committed)),
            ("applied_index", "The last entry that the image contains", wide(image.index.0)),
            ("apply_lag", "Committed entries not yet applied", wide(committed.saturating_sub(image.index.0))),
            ("silent_peers", "Voters or store members that do not answer", size(silent)),
        ] {
            gauge(encoder, &format!("quorate_consensus_{name}"), help, value)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn wide(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{
        ids::TopicId,
        metadata::image::{Partition, Topic},
    };

    fn partition(leader: i32, replicas: &[i32], isr: &[i32]) -> Partition {
        let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect();
        Partition {
            leader: NodeId(leader),
            replicas: nodes(replicas),
            isr: nodes(isr),
            ..Partition::default()
        }
    }

    fn sample(leader: i32) -> Sample {
        let partitions =
            [partition(1, &[1, 2, 3], &[1, 2]), partition(2, &[2, 1], &[2]), partition(-1, &[3], &[])];
        let configs = Arc::new([("min.insync.replicas".to_owned(), "3".to_owned())].into());
        let topic = Topic {
            id: TopicId::default(),
            name: "t".into(),
            partitions: partitions.into_iter().collect(),
            configs,
        };
        let mut image = Image::default();
        image.topics.insert(topic.id, Arc::new(topic));
        let leadership = Leadership { leader: Some(NodeId(leader)), ..Leadership::default() };
        Sample { node: NodeId(1), image: Arc::new(image), leadership, status: None }
    }

    #[test]
    fn partitions_are_counted_where_they_are_led() {
        let counted = count(&sample(1).image, NodeId(1));
        let expected =
            Counts { replicas: 2, led: 1, under_replicated: 1, under_min_isr: 1, partitions: 3, offline: 1 };
        assert_eq!(counted, expected);
    }

    #[test]
    fn the_leader_alone_speaks_for_the_cluster_and_by_the_usual_names() {
        let counter = Counter::default();
        let page = render(&counter, sample(1)).unwrap();
        for line in [
            "kafka_controller_kafkacontroller_activecontrollercount 1",
            "kafka_controller_kafkacontroller_offlinepartitionscount 1",
            "kafka_server_replicamanager_underreplicatedpartitions 1",
            "# EOF",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
        let page = render(&counter, sample(2)).unwrap();
        assert!(page.contains("kafka_controller_kafkacontroller_activecontrollercount 0"), "{page}");
        assert!(page.contains("kafka_controller_kafkacontroller_offlinepartitionscount 0"), "{page}");
    }
}

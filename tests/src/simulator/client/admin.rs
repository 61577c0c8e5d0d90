//! Somebody who changes configs and deletes topics while others write and read.

use std::time::Duration;

use quorate_core::protocol::bodies::{
    DeleteTopicsRequest, IncrementalAlterConfigsRequest,
    delete_topics_request::DeleteTopicState,
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    text, topic_name,
};

use super::{Told, Wire};
use crate::simulator::topics::{AGAIN, BRIEF, LOOSE, ORDERS, Topic};

/// Kafka's number of a topic among the resources that have configs.
const TOPIC: i8 = 2;

const UNCLEAN: &str = "unclean.leader.election.enable";

pub(super) struct Admin {
    topics: Vec<Topic>,
    wire: Wire,
    told: Told,
}

impl Admin {
    pub(super) fn new(topics: Vec<Topic>, wire: Wire, told: Told) -> Self {
        Self { topics, wire, told }
    }

    pub(super) async fn run(mut self) {
        while !self.told.lock().finishing {
            let pause = 300 + self.wire.rng.below(3000);
            self.wire.clock.sleep(Duration::from_millis(pause)).await;
            self.act().await;
        }
        loop {
            self.wire.clock.sleep(Duration::from_millis(200)).await;
            let given_up = self.told.lock().given_up.clone();
            for name in given_up {
                self.configure(name, UNCLEAN, "true").await;
            }
        }
    }

    async fn act(&mut self) {
        let rng = self.wire.rng.clone();
        let one_of = |values: &[&'static str]| {
            let at = usize::try_from(rng.below(values.len() as u64)).unwrap_or(0);
            values.get(at).copied().unwrap_or_default()
        };
        let at = usize::try_from(rng.below(self.topics.len() as u64)).unwrap_or(0);
        let topic = self.topics.get(at).copied().unwrap_or(ORDERS);
        if topic == ORDERS {
            self.configure(ORDERS.name, "min.insync.replicas", one_of(&["1", "2", "2", "3"])).await;
        } else if topic == LOOSE {
            self.configure(LOOSE.name, UNCLEAN, one_of(&["true", "false"])).await;
        } else if topic == BRIEF && rng.below(2) == 0 {
            self.configure(BRIEF.name, "retention.ms", one_of(&["500", "2500", "-1"])).await;
        } else if topic == BRIEF {
            self.configure(BRIEF.name, "retention.bytes", one_of(&["-1", "1000", "5000"])).await;
        } else if topic == AGAIN {
            self.delete(AGAIN.name).await;
        }
    }

    async fn configure(&mut self, topic: &str, name: &str, value: &str) {
        let Some(client) = self.wire.anybody().await else { return };
        let config = AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(topic))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        // What came of it stands in the metadata.
        let _ = client.call(&request, super::PATIENCE).await;
    }

    async fn delete(&mut self, topic: &str) {
        let Some(client) = self.wire.anybody().await else { return };
        let named = DeleteTopicState::default().with_name(Some(topic_name(topic)));
        let request = DeleteTopicsRequest::default().with_topics(vec![named]).with_timeout_ms(1000);
        let _ = client.call(&request, super::PATIENCE).await;
    }
}

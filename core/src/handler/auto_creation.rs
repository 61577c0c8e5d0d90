//! Topics that are made because somebody asked for them (`auto.create.topics.enable`). Whoever asked is told that there
//! is no such topic, this once, and asks again.

use std::{collections::BTreeSet, sync::Arc};

use super::{Handlers, forwarding, metadata, request::Caller};
use crate::protocol::bodies::{CreateTopicsRequest, create_topics_request::CreatableTopic, topic_name};

/// Topics that are being made at once by this broker; more must wait for their next turn.
const UNDER_WAY_MAX: usize = 1000;

impl Handlers {
    /// Has topics made that are not there, and waits for nothing.
    pub(super) fn create_missing(self: &Arc<Self>, caller: &Caller, names: &BTreeSet<String>) {
        let mut under_way = self.creations.lock();
        // Internal topics are made by whoever keeps something in them, with their own configs.
        let wanted = names.iter().filter(|name| !metadata::is_internal(name) && !under_way.contains(*name));
        let room = UNDER_WAY_MAX.saturating_sub(under_way.len());
        let names: Vec<String> = wanted.take(room).cloned().collect();
        if names.is_empty() {
            return;
        }
        under_way.extend(names.iter().cloned());
        drop(under_way);
        let topic = |name: &String| {
            CreatableTopic::default()
                .with_name(topic_name(name.clone()))
                .with_num_partitions(-1)
                .with_replication_factor(-1)
        };
        let request = CreateTopicsRequest::default().with_topics(names.iter().map(topic).collect());
        let (handlers, caller) = (self.clone(), forwarding::told(caller));
        let deadline = self.broker.runtime.clock.now().plus(self.broker.config.timings.request);
        self.broker.runtime.tasks.spawn(async move {
            let stopping = handlers.broker.runtime.tasks.clone();
            let made = tokio::select! { biased;
                () = stopping.stopping() => return,
                made = handlers.broker.forward(&request, &caller, deadline) => made,
            };
            match made {
                Ok(answer) => {
                    for topic in answer.topics.iter().filter(|topic| topic.error_code != 0) {
                        let reason = topic.error_message.as_deref().unwrap_or_default();
                        tracing::info!(topic = %*topic.name, "not made although it was asked for: {reason}");
                    }
                }
                Err(error) => tracing::info!(topics = names.len(), "not made although asked for: {error}"),
            }
            let mut under_way = handlers.creations.lock();
            under_way.retain(|name| !names.contains(name));
        });
    }
}

//! Produce: appends where this node leads, then waits for as many holders as the producer asks for (acks 0, 1, all).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use smallvec::SmallVec;

use super::{
    Handlers,
    partitions::Hints,
    request::{Begun, Caller, Closed, Overlap, Reply, Request},
};
use crate::{
    ids::Offset,
    metadata::Image,
    partition::replica::{AckError, Acks, ProduceError, Replica, Written},
    protocol::{
        bodies::{StrBytes, text},
        errors::ErrorCode,
        produce::{ProducePartition, ProduceRequest, ProduceResponse, ProducedPartition, RecordError},
        topics::TopicRef,
    },
    runtime::Moment,
};

/// A batch that is in this node's log and not held by enough others yet.
struct Unacknowledged {
    /// Which partition of the answer.
    at: usize,
    replica: Arc<Replica>,
    written: Written,
}

/// The appending half: what is answered so far, and what is waited for.
struct Appended {
    partitions: SmallVec<[ProducedPartition; 4]>,
    waiting: SmallVec<[Unacknowledged; 4]>,
    acks: Acks,
    deadline: Moment,
}

/// Appends at once, in the order of the requests; waits afterwards.
pub(super) fn begin(
    handlers: &Arc<Handlers>,
    caller: &Arc<Caller>,
    mut request: Request,
) -> Result<Begun, Closed> {
    let asked = ProduceRequest::decode(&request.body, request.version)?;
    let image = handlers.broker.image_arc();
    let acks = match asked.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        _ => {
            let refused = asked.partitions.into_iter().map(|partition| {
                ProducedPartition::failed(partition.topic, partition.index, ErrorCode::INVALID_REQUIRED_ACKS)
            });
            return Ok(Begun::Ready(answer(&request, &image, caller, refused.collect())));
        }
    };
    let mut appended = Appended {
        partitions: SmallVec::new(),
        waiting: SmallVec::new(),
        acks,
        deadline: handlers.deadline(asked.timeout_ms),
    };
    for partition in asked.partitions {
        appended.append(handlers, &image, partition);
    }
    if acks == Acks::None {
        return unanswered(&appended);
    }
    if appended.waiting.is_empty() {
        return Ok(Begun::Ready(answer(&request, &image, caller, appended.partitions)));
    }
    // What is waited for needs nothing of the frame, which is large.
    appended.detach();
    (request.body, request.memory) = (Bytes::new(), None);
    let (handlers, caller) = (handlers.clone(), caller.clone());
    let reply = async move {
        let partitions = appended.acknowledged(&handlers).await;
        answer(&request, &handlers.broker.image_arc(), &caller, partitions)
    };
    Ok(Begun::Waiting { reply: Box::pin(reply), hurry: None, overlap: Overlap::Produce })
}

/// With acks=0 the end of the connection is all that can tell of an error.
fn unanswered(appended: &Appended) -> Result<Begun, Closed> {
    match appended.partitions.iter().find(|partition| !partition.error.is_none()) {
        Some(failed) => Err(Closed(format!("a Produce with acks=0 failed: {}", failed.error))),
        None => Ok(Begun::Ready(Reply::Nothing)),
    }
}

fn answer(
    request: &Request,
    image: &Image,
    caller: &Caller,
    mut partitions: SmallVec<[ProducedPartition; 4]>,
) -> Reply {
    let mut hints = Hints::new(image, &caller.listener);
    for partition in &mut partitions {
        partition.leader = hints.about(&partition.topic, partition.index, partition.error);
    }
    let response = ProduceResponse { partitions, throttle_ms: 0, endpoints: hints.into_endpoints() };
    request.reply_raw(|buffer| response.encode(buffer, request.version))
}

impl Appended {
    fn append(&mut self, handlers: &Handlers, image: &Image, partition: ProducePartition) {
        let ProducePartition { topic, index, records } = partition;
        let at = self.partitions.len();
        let replica = match handlers.find(image, &topic, index) {
            Ok(replica) => replica,
            Err(error) => return self.partitions.push(ProducedPartition::failed(topic, index, error)),
        };
        let mut told = ProducedPartition::failed(topic, index, ErrorCode::NONE);
        match replica.append_as_leader(records.as_deref().unwrap_or_default(), self.acks) {
            Ok(written) => {
                tell_written(&mut told, &written);
                match replica.acknowledged(&written, self.acks).now_or_never() {
                    Some(Ok(())) => {}
                    Some(Err(error)) => tell_unacknowledged(&mut told, error.error_code()),
                    None => self.waiting.push(Unacknowledged { at, replica, written }),
                }
            }
            Err(error) => tell_refused(&mut told, &error),
        }
        self.partitions.push(told);
    }

    /// Lets go of the frame that names are slices of.
    fn detach(&mut self) {
        for partition in &mut self.partitions {
            if let TopicRef::Name(name) = &mut partition.topic {
                *name = StrBytes::from_string(name.to_string());
            }
        }
    }

    async fn acknowledged(mut self, handlers: &Handlers) -> SmallVec<[ProducedPartition; 4]> {
        let clock = &handlers.broker.runtime.clock;
        for Unacknowledged { at, replica, written } in self.waiting {
            let left: Duration = self.deadline.since(clock.now());
            let acknowledged = clock.timeout(left, replica.acknowledged(&written, self.acks)).await;
            let error = match acknowledged {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => AckError::error_code(error),
                Err(_) => ErrorCode::REQUEST_TIMED_OUT,
            };
            if let Some(told) = self.partitions.get_mut(at) {
                tell_unacknowledged(told, error);
            }
        }
        self.partitions
    }
}

fn tell_written(told: &mut ProducedPartition, written: &Written) {
    told.base_offset = written.base_offset;
    told.append_time_ms = written.append_time_ms.unwrap_or(-1);
    told.log_start = written.log_start;
}

fn tell_unacknowledged(told: &mut ProducedPartition, error: ErrorCode) {
    told.error = error;
    told.base_offset = Offset(-1);
    told.append_time_ms = -1;
}

fn tell_refused(told: &mut ProducedPartition, error: &ProduceError) {
    told.error = error.error_code();
    // Everything else is retried without a word, as in Kafka.
    if let ProduceError::Invalid(invalid) = error {
        told.message = Some(text(invalid.to_string()));
        let faults = invalid.record_faults().iter();
        told.record_errors = faults
            .map(|fault| RecordError { index: fault.index, message: Some(text(fault.fault.to_string())) })
            .collect();
    }
    if let ProduceError::Storage(storage) = error {
        tracing::warn!("a batch was not appended: {storage}");
    }
}

#[cfg(test)]
#[path = "produce_test.rs"]
mod tests;

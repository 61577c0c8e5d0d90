//! DescribeQuorum (KIP-595, KIP-836, KIP-853): answered by the controller, which hears from the others, wherever it was
//! asked.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    Handlers, forwarding,
    request::{Begun, Caller, Closed, Request},
};
use crate::{
    broker::{ControllerAt, describe_quorum},
    protocol::bodies::{DescribeQuorumRequest, DescribeQuorumResponse},
};

pub(super) fn begin(handlers: &Arc<Handlers>, caller: &Caller, request: Request) -> Result<Begun, Closed> {
    let asked: DescribeQuorumRequest = request.decode()?;
    let broker = handlers.broker.clone();
    let is_elsewhere = matches!(*broker.controller_at().borrow(), ControllerAt::There { .. });
    if !is_elsewhere {
        let answer = older(describe_quorum(&broker, &asked), request.version);
        return Ok(Begun::Ready(request.reply(&answer)));
    }
    let caller = forwarding::told(caller);
    let deadline = broker.runtime.clock.now().plus(broker.config.timings.request);
    Ok(Begun::later(async move {
        let told = broker.forward(&asked, &caller, deadline).await;
        let answer = told.unwrap_or_else(|error| {
            tracing::debug!("the controller does not tell of the quorum: {error}");
            describe_quorum(&broker, &asked)
        });
        request.reply(&older(answer, request.version))
    }))
}

/// The answer as a version has it: times came with 1, names and directories with 2.
fn older(mut answer: DescribeQuorumResponse, version: i16) -> DescribeQuorumResponse {
    if version >= 2 {
        return answer;
    }
    answer.nodes = Vec::new();
    answer.error_message = None;
    for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        partition.error_message = None;
        for replica in partition.current_voters.iter_mut().chain(&mut partition.observers) {
            replica.replica_directory_id = Uuid::nil();
            if version < 1 {
                (replica.last_fetch_timestamp, replica.last_caught_up_timestamp) = (-1, -1);
            }
        }
    }
    answer
}

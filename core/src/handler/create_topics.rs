//! CreateTopics (KIP-4, KIP-464, KIP-525): sent on to the controller.

use std::sync::Arc;

use super::{
    Handlers,
    forwarding::told,
    request::{Begun, Caller, Closed, Request},
};
use crate::protocol::bodies::{
    CreateTopicsRequest, CreateTopicsResponse, create_topics_response::CreatableTopicResult, text,
};

pub(super) fn begin(handlers: &Arc<Handlers>, caller: &Caller, request: Request) -> Result<Begun, Closed> {
    let asked: CreateTopicsRequest = request.decode()?;
    let (broker, caller, deadline) =
        (handlers.broker.clone(), told(caller), handlers.deadline(asked.timeout_ms));
    Ok(Begun::later(async move {
        let answer = broker.forward(&asked, &caller, deadline).await.unwrap_or_else(|error| {
            let topics = asked.topics.iter().map(|topic| {
                CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(error.code().0)
                    .with_error_message(Some(text(error.to_string())))
            });
            CreateTopicsResponse::default().with_topics(topics.collect())
        });
        request.reply(&answer)
    }))
}

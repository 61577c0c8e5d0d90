//! DeleteTopics (KIP-4; by id KIP-516): sent on to the controller. Before version 6 it is a list of names.

use std::sync::Arc;

use super::{
    Handlers,
    forwarding::told,
    request::{Begun, Caller, Closed, Request},
};
use crate::{
    ids::TopicId,
    protocol::{
        bodies::{
            DeleteTopicsRequest, DeleteTopicsResponse, delete_topics_request::DeleteTopicState,
            delete_topics_response::DeletableTopicResult, text,
        },
        errors::ErrorCode,
    },
};

pub(super) fn begin(handlers: &Arc<Handlers>, caller: &Caller, request: Request) -> Result<Begun, Closed> {
    let mut asked: DeleteTopicsRequest = request.decode()?;
    let names = std::mem::take(&mut asked.topic_names);
    asked.topics.extend(names.into_iter().map(|name| DeleteTopicState::default().with_name(Some(name))));
    let (broker, caller, deadline) =
        (handlers.broker.clone(), told(caller), handlers.deadline(asked.timeout_ms));
    Ok(Begun::later(async move {
        let mut answer = broker.forward(&asked, &caller, deadline).await.unwrap_or_else(|error| {
            let topics = asked.topics.iter().map(|topic| {
                DeletableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_topic_id(topic.topic_id)
                    .with_error_code(error.code().0)
                    .with_error_message(Some(text(error.to_string())))
            });
            DeleteTopicsResponse::default().with_responses(topics.collect())
        });
        for topic in &mut answer.responses {
            // Ids and, before that, sentences are newer than this version.
            topic.topic_id = if request.version >= 6 { topic.topic_id } else { TopicId::default().0 };
            topic.error_message = topic.error_message.take().filter(|_| request.version >= 5);
            let disabled = topic.error_code == ErrorCode::TOPIC_DELETION_DISABLED.0;
            if disabled && request.version < 3 {
                topic.error_code = ErrorCode::INVALID_REQUEST.0;
            }
        }
        request.reply(&answer)
    }))
}

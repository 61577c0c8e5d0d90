//! InitProducerId (KIP-98): an identity for an idempotent producer, out of a block that the controller gave.

use std::sync::Arc;

use super::{
    Handlers,
    request::{Begun, Closed, Request},
};
use crate::{
    ids::ProducerId,
    protocol::{
        bodies::{InitProducerIdRequest, InitProducerIdResponse},
        errors::ErrorCode,
    },
};

pub(super) fn begin(handlers: &Arc<Handlers>, request: Request) -> Result<Begun, Closed> {
    let asked: InitProducerIdRequest = request.decode()?;
    let handlers = handlers.clone();
    Ok(Begun::later(async move {
        let id = match &asked.transactional_id {
            Some(id) if id.is_empty() => Err(ErrorCode::INVALID_REQUEST),
            // There is no transaction coordinator yet. Retriable, so that a client says what it waits for.
            Some(_) => Err(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            None => handlers.next_producer_id().await,
        };
        let answer = match id {
            Ok(id) => InitProducerIdResponse::default().with_producer_id(id.0.into()).with_producer_epoch(0),
            Err(error) => InitProducerIdResponse::default()
                .with_error_code(error.0)
                .with_producer_id((-1).into())
                .with_producer_epoch(-1),
        };
        request.reply(&answer)
    }))
}

impl Handlers {
    async fn next_producer_id(&self) -> Result<ProducerId, ErrorCode> {
        if !self.broker.is_image_loaded() {
            return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        }
        self.broker.next_producer_id().await
    }
}

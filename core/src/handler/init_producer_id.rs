//! InitProducerId (KIP-98): an identity for an idempotent producer, out of a block that the controller gave.

use std::sync::Arc;

use super::{
    Handlers,
    request::{Begun, Closed, Request},
};
use crate::{
    ids::ProducerId,
    protocol::{
        bodies::{AllocateProducerIdsRequest, InitProducerIdRequest, InitProducerIdResponse},
        errors::ErrorCode,
    },
};

/// Ids that this broker may still give away.
#[derive(Debug, Default)]
pub(super) struct Block {
    next: i64,
    end: i64,
}

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
    /// The next id of the block; one request at a time gets another block.
    async fn next_producer_id(&self) -> Result<ProducerId, ErrorCode> {
        if !self.broker.is_image_loaded() {
            return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        }
        let mut block = self.producer_ids.lock().await;
        if block.next >= block.end {
            *block = self.next_block().await?;
        }
        let id = ProducerId(block.next);
        block.next += 1;
        Ok(id)
    }

    async fn next_block(&self) -> Result<Block, ErrorCode> {
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(self.broker.node().0.into())
            .with_broker_epoch(self.broker.broker_epoch().0);
        let deadline = self.broker.runtime.clock.now().plus(self.broker.config.timings.request);
        let asked = self.broker.ask_controller(&request, deadline).await;
        // Whatever is wrong, trying again may help; Kafka's brokers say so by this code.
        let (answer, _) = asked.map_err(|error| {
            tracing::info!("no block of producer ids: {error}");
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
        })?;
        if answer.error_code != 0 || answer.producer_id_len <= 0 || answer.producer_id_start.0 < 0 {
            tracing::info!("no block of producer ids: {}", ErrorCode(answer.error_code));
            return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        }
        let next = answer.producer_id_start.0;
        Ok(Block { next, end: next.saturating_add(i64::from(answer.producer_id_len)) })
    }
}

//! Identities of idempotent producers (KIP-98), out of blocks that the controller gives. A broker fetches its next block
//! before the present one is used up, so that new producers begin while nobody is the controller.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use super::{Broker, BrokerState};
use crate::{
    ids::ProducerId,
    protocol::{bodies::AllocateProducerIdsRequest, errors::ErrorCode},
    runtime::watch,
};

/// How many ids are held, at least, while the controller answers: a block of the controller has twice as many.
const HELD_MIN: i64 = 500;
/// Before the controller is asked again; the jitter comes on top.
const PAUSE_MS: u64 = 100;

/// Ids that this broker may still give away.
#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    blocks: watch::Sender<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks(VecDeque<Range<i64>>);

impl Blocks {
    fn held(&self) -> i64 {
        self.0.iter().map(|block| block.end - block.start).sum()
    }

    fn take(&mut self) -> Option<ProducerId> {
        while let Some(block) = self.0.front_mut() {
            if let Some(id) = block.next() {
                return Some(ProducerId(id));
            }
            self.0.pop_front();
        }
        None
    }
}

impl ProducerIds {
    fn take(&self) -> Option<ProducerId> {
        let mut id = None;
        self.blocks.send_if_modified(|blocks| {
            id = blocks.take();
            id.is_some()
        });
        id
    }
}

impl Broker {
    /// An identity that nobody else has. Waits for the controller only if this broker holds none.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS, as Kafka's brokers say it: whatever is wrong, trying again may help.
    pub async fn next_producer_id(&self) -> Result<ProducerId, ErrorCode> {
        let mut blocks = self.producer_ids.blocks.subscribe();
        let waited = async {
            loop {
                if let Some(id) = self.producer_ids.take() {
                    return Some(id);
                }
                blocks.wait_for(|blocks| blocks.held() > 0).await.ok()?;
            }
        };
        let timeout = self.runtime.clock.timeout(self.config.timings.request, waited);
        timeout.await.ok().flatten().ok_or(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)
    }
}

/// Keeps enough ids in reserve.
pub(super) async fn keep(broker: Arc<Broker>) {
    let mut state = broker.state();
    let mut blocks = broker.producer_ids.blocks.subscribe();
    let kept = async {
        loop {
            state.wait_for(|state| *state == BrokerState::Running).await?;
            blocks.wait_for(|blocks| blocks.held() < HELD_MIN).await?;
            if let Some(block) = next_block(&broker).await {
                broker.producer_ids.blocks.send_modify(|blocks| blocks.0.push_back(block));
            } else {
                let pause = PAUSE_MS + broker.runtime.rng.below(PAUSE_MS);
                broker.runtime.clock.sleep(Duration::from_millis(pause)).await;
            }
        }
    };
    tokio::select! { biased;
        () = broker.runtime.tasks.stopping() => {}
        ended = kept => {
            let _closed: Result<(), watch::Closed> = ended;
        }
    }
}

async fn next_block(broker: &Arc<Broker>) -> Option<Range<i64>> {
    let request = AllocateProducerIdsRequest::default()
        .with_broker_id(broker.node().0.into())
        .with_broker_epoch(broker.broker_epoch().0);
    let deadline = broker.runtime.clock.now().plus(broker.config.timings.request);
    let (answer, _) = match broker.ask_controller(&request, deadline).await {
        Ok(answered) => answered,
        Err(error) => {
            tracing::info!("no block of producer ids: {error}");
            return None;
        }
    };
    let first = answer.producer_id_start.0;
    let end = first.checked_add(i64::from(answer.producer_id_len));
    if answer.error_code != 0 || answer.producer_id_len <= 0 || first < 0 || end.is_none() {
        tracing::info!("no block of producer ids: {}", ErrorCode(answer.error_code));
        return None;
    }
    end.map(|end| first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_once_and_across_blocks() {
        let ids = ProducerIds::default();
        assert_eq!(ids.take(), None);
        ids.blocks.send_modify(|blocks| blocks.0.extend([3..5, 5..5, 1000..1001]));
        let given: Vec<i64> = std::iter::from_fn(|| ids.take()).map(|id| id.0).collect();
        assert_eq!(given, [3, 4, 1000]);
        assert_eq!(ids.blocks.borrow().held(), 0);
    }
}

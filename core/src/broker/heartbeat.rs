//! The broker's life as the controller sees it: registered, heard every few hundred milliseconds, gone in order. Runs on
//! a thread of its own with a connection of its own, so that nothing else that the broker does delays it; what must
//! delay it, a disk that hangs, is looked at.

use std::{sync::Arc, time::Duration};

use super::{Broker, ControllerAt, forward::Link, registration::register};
use crate::{
    ids::BrokerEpoch,
    protocol::{
        bodies::{BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerId},
        errors::ErrorCode,
    },
    runtime::Runtime,
};

/// How far a broker has come in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokerState {
    /// Not registered yet.
    #[default]
    Starting,
    /// Registered, and fenced until its image has caught up.
    Fenced,
    /// It leads and follows.
    Running,
    /// It hands its leaderships over.
    Stopping,
    /// The controller has let it go.
    Stopped,
}

/// Registers, then sends heartbeats, until the controller lets the broker go or the node stops.
pub(super) async fn run(broker: Arc<Broker>) {
    let runtime = Runtime { tasks: broker.runtime.tasks.here(), ..broker.runtime.clone() };
    let mut life =
        Life { link: Link::default(), runtime, registered: BrokerEpoch::NONE, broker: broker.clone() };
    loop {
        let pause = tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            pause = life.step() => pause,
        };
        let Some(pause) = pause else { return };
        let mut wants = broker.wants_shutdown.subscribe();
        let mut at = broker.controller_at.subscribe();
        tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            () = broker.runtime.clock.sleep(pause) => {}
            // What is new must not wait for the next heartbeat.
            _ = wants.changed() => {}
            _ = at.changed() => {}
        }
    }
}

struct Life {
    broker: Arc<Broker>,
    link: Link,
    runtime: Runtime,
    /// The registration that this process has had.
    registered: BrokerEpoch,
}

impl Life {
    /// One registration or heartbeat; then the pause before the next. `None` at the end of the life.
    async fn step(&mut self) -> Option<Duration> {
        let interval = self.broker.config.timings.heartbeat;
        if self.is_replaced() {
            let node = self.broker.node();
            self.broker.fail(&format!(
                "another process has registered as node {node} with this node's log directories and has taken its \
                 place: two processes were started on one folder"
            ));
            return None;
        }
        if *self.broker.controller_at.borrow() == ControllerAt::Unknown {
            return Some(interval);
        }
        if self.registered == BrokerEpoch::NONE {
            // An answer may have been lost on its way.
            self.registered = self.broker.broker_epoch();
        }
        if self.registered != BrokerEpoch::NONE {
            return self.heartbeat(interval).await;
        }
        // Once in a process's life: whoever has been replaced must not take its place back.
        self.register(interval).await;
        Some(if self.registered == BrokerEpoch::NONE { interval } else { Duration::ZERO })
    }

    /// Whether another process has taken this one's registration. Before this process has registered, an older one's
    /// is nothing to mind.
    fn is_replaced(&self) -> bool {
        let image = self.broker.image();
        let present = image.brokers.get(&self.broker.node());
        self.registered != BrokerEpoch::NONE
            && present.is_some_and(|present| {
                present.incarnation != self.broker.incarnation && present.epoch > self.registered
            })
    }

    async fn register(&mut self, interval: Duration) {
        let deadline = self.broker.runtime.clock.now().plus(interval.max(self.broker.config.timings.session));
        match register(&self.broker, &self.link, &self.runtime, deadline).await {
            Ok(epoch) => {
                if self.registered != epoch {
                    tracing::info!(%epoch, "this broker is registered");
                }
                self.registered = epoch;
                self.broker.set_state(BrokerState::Fenced);
            }
            Err(reason) => tracing::info!(%reason, "this broker is not registered yet"),
        }
    }

    async fn heartbeat(&self, interval: Duration) -> Option<Duration> {
        let broker = &self.broker;
        let session = broker.config.timings.session;
        let hung = broker.syncs.oldest(broker.runtime.clock.now());
        if hung > session / 2 {
            tracing::warn!(?hung, "a sync of a disk hangs: no heartbeat is sent, so that others take over");
            return Some(interval);
        }
        let stopping = *broker.wants_shutdown.borrow();
        let index = i64::try_from(broker.image().index.0).unwrap_or(i64::MAX);
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(broker.node().0))
            .with_broker_epoch(self.registered.0)
            .with_current_metadata_offset(index)
            .with_want_fence(false)
            .with_want_shut_down(stopping);
        let deadline = broker.runtime.clock.now().plus(session / 2);
        let answer: Result<(BrokerHeartbeatResponse, _), _> =
            broker.ask(&self.link, &self.runtime, &request, true, deadline).await;
        match answer {
            Ok((answer, _)) if ErrorCode(answer.error_code).is_none() => {
                if answer.should_shut_down {
                    broker.set_state(BrokerState::Stopped);
                    return None;
                }
                broker.set_state(match (stopping, answer.is_fenced) {
                    (true, _) => BrokerState::Stopping,
                    (false, true) => BrokerState::Fenced,
                    (false, false) => BrokerState::Running,
                });
                // A broker that waits to be let in or out asks more often: the answer is a matter of milliseconds.
                Some(if stopping || answer.is_fenced { interval / 5 } else { interval })
            }
            Ok((answer, _)) => {
                tracing::info!(code = %ErrorCode(answer.error_code), "a heartbeat is refused");
                Some(interval)
            }
            Err(error) => {
                tracing::debug!(%error, "a heartbeat is not answered");
                Some(interval)
            }
        }
    }
}

//! The task that follows one node: keeps a connection and drives the session over it.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};

use super::{
    Inbox,
    session::{Limits, Session},
};
use crate::{
    broker::Broker,
    ids::{BrokerEpoch, NodeId, PartitionId},
    partition::replica::Position,
    protocol::{
        client::{Client, ClientError},
        fetch_response::FetchResponse,
        internal::Purpose,
    },
    runtime::Moment,
};

/// The shortest pause before another attempt to connect, in ms; each further one doubles it.
const PAUSE_MS: u64 = 20;
/// How often it doubles: up to some 600 ms.
const DOUBLINGS_MAX: u32 = 5;

/// A request that waits at the leader, and one that ends it.
const UNDER_WAY_MAX: usize = 2;

/// Follows `leader` in everything that comes through the inbox, until the node stops.
pub(super) async fn run(broker: Arc<Broker>, leader: NodeId, inbox: Inbox) {
    let session = Session::new(leader, broker.runtime.rng.clone());
    let mut peer = Peer { broker, leader, inbox, session, failures: 0 };
    let stopping = peer.broker.runtime.tasks.clone();
    tokio::select! { biased;
        () = stopping.stopping() => {}
        () = peer.follow() => {}
    }
}

struct Peer {
    broker: Arc<Broker>,
    leader: NodeId,
    inbox: Inbox,
    session: Session,
    /// Attempts since the last answer.
    failures: u32,
}

/// An answer, and the positions that its request was sent with.
type Answer = (Vec<(PartitionId, Position)>, Result<FetchResponse, ClientError>);

impl Peer {
    async fn follow(&mut self) {
        loop {
            while self.session.is_empty() {
                for replica in self.inbox.take().await {
                    self.session.note(replica);
                }
            }
            let ended = match self.connect().await {
                Ok((client, epoch)) => self.converse(&client, epoch).await,
                Err(reason) => reason,
            };
            if self.session.is_empty() {
                continue;
            }
            // Once is usual, when a node goes down or comes up.
            if self.failures > 1 {
                tracing::info!(leader = %self.leader, reason = %ended, "replication is interrupted");
            }
            let pause = PAUSE_MS << self.failures.min(DOUBLINGS_MAX);
            self.failures = self.failures.saturating_add(1);
            let pause = pause / 2 + self.broker.runtime.rng.below(pause);
            self.broker.runtime.clock.sleep(Duration::from_millis(pause)).await;
            for replica in self.inbox.take_now() {
                self.session.note(replica);
            }
        }
    }

    /// A connection to the leader's node, on which this node has said who it is.
    async fn connect(&self) -> Result<(Client, BrokerEpoch), String> {
        let broker = &self.broker;
        let epoch = broker.broker_epoch();
        if epoch == BrokerEpoch::NONE {
            return Err("this broker is not registered".to_owned());
        }
        let listener = &broker.config.inter_broker_listener;
        let endpoint = {
            let image = broker.image();
            let peer = image.brokers.get(&self.leader);
            let endpoint = peer.and_then(|peer| peer.endpoint(listener));
            endpoint.map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port))
        };
        let Some(endpoint) = endpoint else {
            return Err(format!("the node has no listener '{listener}' in the metadata"));
        };
        let timeout = broker.config.timings.connect;
        let client = Client::connect(&broker.runtime, &endpoint, "replica", timeout).await;
        let client = client.map_err(|error| error.to_string())?;
        let hello = client.hello(&broker.hello(Purpose::Replication), timeout).await;
        let hello = hello.map_err(|error| error.to_string())?;
        if hello.node != self.leader {
            return Err(format!("node {} answers at {endpoint}", hello.node));
        }
        Ok((client, epoch))
    }

    /// Fetches over a connection until it ends or nothing is followed any more; returns why it ended.
    async fn converse(&mut self, client: &Client, epoch: BrokerEpoch) -> String {
        self.session.reset();
        let clock = self.broker.runtime.clock.clone();
        let (own, limits) = ((self.broker.node(), epoch), self.limits());
        let wait = Duration::from_millis(u64::try_from(limits.wait_ms).unwrap_or(0));
        let timeout = wait + self.broker.config.timings.request;
        let mut under_way: FuturesOrdered<BoxFuture<'static, Answer>> = FuturesOrdered::new();
        loop {
            if self.session.is_empty() {
                return "nothing is followed".to_owned();
            }
            let now = clock.now();
            let may_send = match under_way.len() {
                0 => true,
                UNDER_WAY_MAX.. => false,
                _ => self.session.is_open() && self.session.has_news(now),
            };
            if may_send {
                let asked = self.session.request(own, &limits, now);
                let client = client.clone();
                under_way.push_back(Box::pin(async move {
                    let answer = client.fetch(&asked.request, timeout).await;
                    (asked.positions, answer)
                }));
            }
            // One that is due already waits for an answer, not for the clock.
            let retry = self.session.next_retry().filter(|moment| *moment > now);
            tokio::select! { biased;
                news = self.inbox.take() => {
                    for replica in news {
                        self.session.note(replica);
                    }
                }
                Some((positions, answer)) = under_way.next() => {
                    let answer = match answer {
                        Ok(answer) => answer,
                        Err(error) => return error.to_string(),
                    };
                    if let Err(lost) = self.session.answered(positions, answer, clock.now()) {
                        return lost.0.to_string();
                    }
                    self.failures = 0;
                }
                () = wake_at(&clock, retry) => {}
            }
        }
    }

    fn limits(&self) -> Limits {
        let number = |name: &str, default: i32| {
            self.broker.setting(name).and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        Limits {
            wait_ms: number("replica.fetch.wait.max.ms", 500),
            bytes_min: number("replica.fetch.min.bytes", 1),
            bytes_max: number("replica.fetch.response.max.bytes", 10 << 20),
            partition_bytes_max: number("replica.fetch.max.bytes", 1 << 20),
        }
    }
}

async fn wake_at(clock: &crate::runtime::Clock, moment: Option<Moment>) {
    match moment {
        Some(moment) => clock.sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

//! Hello (key 32000): who is at the other end of an internal connection. Until there is authentication, this is all
//! that stands between a client and posing as a broker; it is spoken on internal listeners only.

use uuid::Uuid;

use super::{
    Handlers,
    request::{Caller, Closed, Reply, Request},
};
use crate::{
    ids::{BrokerEpoch, NodeId},
    protocol::{
        errors::ErrorCode,
        internal::{HelloRequest, HelloResponse, Purpose},
    },
};

/// Answers, and remembers who it is.
pub(super) fn answer(handlers: &Handlers, caller: &Caller, request: &Request) -> Result<Reply, Closed> {
    let hello = HelloRequest::decode(&request.body)?;
    let image = handlers.broker.image();
    let cluster = image.founding.map_or(Uuid::nil(), |founding| founding.cluster);
    let mut response = HelloResponse {
        error: ErrorCode::NONE,
        message: None,
        cluster,
        node: handlers.broker.node(),
        incarnation: handlers.broker.incarnation,
    };
    match problem(handlers, cluster, &hello) {
        Some((error, message)) => {
            response.error = error;
            response.message = Some(message);
        }
        None => {
            if caller.hello.set(hello).is_err() {
                return Err(Closed("a second hello on one connection".to_owned()));
            }
        }
    }
    Ok(request.reply_raw(|buffer| response.encode(buffer)))
}

fn problem(handlers: &Handlers, cluster: Uuid, hello: &HelloRequest) -> Option<(ErrorCode, String)> {
    let known = !cluster.is_nil() && !hello.cluster.is_nil();
    if known && hello.cluster != cluster {
        let message = "the two nodes belong to different clusters";
        return Some((ErrorCode::INCONSISTENT_CLUSTER_ID, message.to_owned()));
    }
    if hello.node == handlers.broker.node() && hello.incarnation != handlers.broker.incarnation {
        let message = format!("both ends are node {}", hello.node);
        return Some((ErrorCode::DUPLICATE_BROKER_REGISTRATION, message));
    }
    if hello.purpose != Purpose::Replication {
        return None;
    }
    registered(handlers, hello.node, hello)
}

/// A replica must be the process that is registered under its id. A registration that this node's image has not come
/// to is as good, as is one that is older: the partition compares the epochs.
fn registered(handlers: &Handlers, node: NodeId, hello: &HelloRequest) -> Option<(ErrorCode, String)> {
    if hello.broker_epoch == BrokerEpoch::NONE {
        return Some((ErrorCode::BROKER_ID_NOT_REGISTERED, format!("node {node} is not registered")));
    }
    let image = handlers.broker.image();
    let own = image.brokers.get(&node)?;
    let same = own.incarnation == hello.incarnation || own.epoch < hello.broker_epoch;
    (!same).then(|| (ErrorCode::STALE_BROKER_EPOCH, format!("another process is registered as node {node}")))
}

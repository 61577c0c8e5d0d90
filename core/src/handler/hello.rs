//! Hello (key 32000): who is at the other end of an internal connection. Until there is authentication, this is all
//! that stands between a client and posing as a broker; it is spoken on internal listeners only.

use super::{
    Handlers,
    request::{Caller, Closed, Reply, Request},
};
use crate::{
    broker::service,
    ids::{BrokerEpoch, NodeId},
    protocol::{
        apis::Purposes,
        errors::ErrorCode,
        internal::{HelloRequest, Purpose},
    },
};

/// Answers, and remembers who it is.
pub(super) fn answer(handlers: &Handlers, caller: &Caller, request: &Request) -> Result<Reply, Closed> {
    let hello = HelloRequest::decode(&request.body)?;
    let mut response = service::greet(&handlers.broker, &hello);
    if let (true, Some((error, message))) = (response.error.is_none(), problem(handlers, caller, &hello)) {
        response.error = error;
        response.message = Some(message);
    }
    if response.error.is_none() && caller.hello.set(hello).is_err() {
        return Err(Closed("a second hello on one connection".to_owned()));
    }
    Ok(request.reply_raw(|buffer| response.encode(buffer)))
}

fn problem(handlers: &Handlers, caller: &Caller, hello: &HelloRequest) -> Option<(ErrorCode, String)> {
    let replication = hello.purpose == Purpose::Replication;
    let wanted = if replication { Purposes::INTER_BROKER } else { Purposes::CONTROLLER };
    if !caller.purposes.meets(wanted) {
        let message = format!("the listener {} is not for this", caller.listener);
        return Some((ErrorCode::CLUSTER_AUTHORIZATION_FAILED, message));
    }
    if hello.node == handlers.broker.node() && hello.incarnation != handlers.broker.incarnation {
        let message = format!("both ends are node {}", hello.node);
        return Some((ErrorCode::DUPLICATE_BROKER_REGISTRATION, message));
    }
    if replication { registered(handlers, hello.node, hello) } else { None }
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

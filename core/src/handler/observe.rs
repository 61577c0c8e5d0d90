//! Observe (key 32001): a node that is no voter follows the metadata log.

use std::sync::Arc;

use super::{
    Handlers,
    request::{Begun, Caller, Closed, Reply, Request},
};
use crate::{
    broker,
    protocol::{internal::Purpose, observe::ObserveRequest},
};

pub(super) fn begin(handlers: &Arc<Handlers>, caller: &Caller, request: Request) -> Result<Begun, Closed> {
    let greeted = caller.hello.get().is_some_and(|hello| hello.purpose == Purpose::Observe);
    if !greeted {
        return Err(Closed(format!("{} before a hello", request.api.key)));
    }
    let asked = ObserveRequest::decode(&request.body)?;
    let broker = handlers.broker.clone();
    Ok(Begun::later(async move {
        match broker::observe(&broker, &asked).await {
            Some(answer) => request.reply_raw(|buffer| answer.encode(buffer)),
            None => Reply::Close(Closed("the metadata log does not run yet".to_owned())),
        }
    }))
}

//! Requests of brokers to the controller (keys 56, 58, 62, 63, 67): from nodes that have said hello, on the controller
//! listener. What they do is the broker's matter.

use std::sync::Arc;

use super::{
    Handlers,
    request::{Begun, Caller, Closed, Overlap, Reply, Request},
};
use crate::{
    broker::service::{self, Peer, ServeError},
    protocol::{
        errors::ErrorCode,
        header::Extras,
        internal::{HelloRequest, Purpose},
    },
};

pub(super) fn begin(handlers: &Arc<Handlers>, caller: &Caller, request: Request) -> Result<Begun, Closed> {
    let peer = peer(caller).ok_or_else(|| Closed(format!("{} before a hello", request.api.key)))?;
    let broker = handlers.broker.clone();
    let reply = async move {
        let api = (request.api.key, request.version);
        let served = service::serve(&broker, &peer, api, request.body.clone(), &request.extras).await;
        let (body, extras) = match served {
            Ok(answer) => answer,
            Err(ServeError::NotController) => {
                match service::error_answer(api.0, api.1, ErrorCode::NOT_CONTROLLER) {
                    Some(body) => (body, Extras::default()),
                    None => return Reply::Close(Closed(ServeError::NotController.to_string())),
                }
            }
            Err(error) => return Reply::Close(Closed(error.to_string())),
        };
        let mut frame = request.begin_reply(&extras);
        frame.buffer().unsplit(body);
        Reply::Frame(frame)
    };
    Ok(Begun::Waiting { reply: Box::pin(reply), hurry: None, overlap: Overlap::Controller })
}

/// A connection has ended: the controller may learn of a broker's end by it.
pub(super) fn ended(handlers: &Handlers, caller: &Caller) {
    if let Some(peer) = peer(caller) {
        service::connection_lost(&handlers.broker, &peer);
    }
}

fn peer(caller: &Caller) -> Option<Peer> {
    let HelloRequest { node, incarnation, purpose, .. } = caller.hello.get()?;
    (*purpose == Purpose::Controller).then_some(Peer { node: *node, incarnation: *incarnation })
}

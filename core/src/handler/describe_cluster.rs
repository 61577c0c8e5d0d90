//! DescribeCluster (KIP-700, KIP-919, KIP-1073).

use super::{
    Handlers, metadata, operations,
    request::{Caller, Closed, Reply, Request},
};
use crate::{
    ids::{NodeId, base64_id},
    protocol::{
        bodies::{DescribeClusterRequest, DescribeClusterResponse, describe_cluster_response::*, text},
        errors::ErrorCode,
    },
};

/// Asks for brokers; 2 asks for controllers.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(super) fn answer(handlers: &Handlers, caller: &Caller, request: &Request) -> Result<Reply, Closed> {
    let asked: DescribeClusterRequest = request.decode()?;
    let refused = match asked.endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some((ErrorCode::MISMATCHED_ENDPOINT_TYPE, "this is a listener of brokers")),
        _ => Some((
            ErrorCode::UNSUPPORTED_ENDPOINT_TYPE,
            "an endpoint is a broker's (1) or a controller's (2)",
        )),
    };
    let mut response = DescribeClusterResponse::default().with_controller_id(NodeId::NONE.0.into());
    if let Some((error, message)) = refused {
        response.error_code = error.0;
        response.error_message = Some(text(message));
        return Ok(request.reply(&response));
    }
    let image = handlers.broker.image_arc();
    let brokers = metadata::reachable(handlers, &image, &caller.listener, asked.include_fenced_brokers);
    response.cluster_id =
        text(image.founding.map(|founding| base64_id(founding.cluster)).unwrap_or_default());
    response.controller_id = metadata::admin_target(handlers, &brokers).0.into();
    response.cluster_authorized_operations = operations::cluster(asked.include_cluster_authorized_operations);
    response.brokers = brokers
        .into_iter()
        .map(|broker| {
            let mut told = DescribeClusterBroker::default()
                .with_broker_id(broker.node.0.into())
                .with_host(text(broker.host))
                .with_port(i32::from(broker.port))
                .with_rack(broker.rack.map(text));
            if request.version >= 2 {
                told.is_fenced = broker.fenced;
            }
            told
        })
        .collect();
    Ok(request.reply(&response))
}

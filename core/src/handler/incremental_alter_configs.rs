//! IncrementalAlterConfigs (KIP-339): sent on to the controller.

use std::sync::Arc;

use super::{
    Handlers,
    forwarding::told,
    request::{Begun, Caller, Closed, Request},
};
use crate::protocol::bodies::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    incremental_alter_configs_response::AlterConfigsResourceResponse, text,
};

pub(super) fn begin(handlers: &Arc<Handlers>, caller: &Caller, request: Request) -> Result<Begun, Closed> {
    let asked: IncrementalAlterConfigsRequest = request.decode()?;
    let (broker, caller) = (handlers.broker.clone(), told(caller));
    let deadline = broker.runtime.clock.now().plus(broker.config.timings.request);
    Ok(Begun::later(async move {
        let answer = broker.forward(&asked, &caller, deadline).await.unwrap_or_else(|error| {
            let resources = asked.resources.iter().map(|resource| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(error.code().0)
                    .with_error_message(Some(text(error.to_string())))
            });
            IncrementalAlterConfigsResponse::default().with_responses(resources.collect())
        });
        request.reply(&answer)
    }))
}

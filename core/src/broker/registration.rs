//! This broker's registration: what it tells the controller of itself, and what it makes of the answer.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Broker,
    forward::Link,
    service::{TAG_CONTROLLER, TAG_PAGE_CACHE_LOST, TAG_SYNC_FAILED},
};
use crate::{
    ids::{BrokerEpoch, base64_id},
    metadata::image::Endpoint,
    protocol::{
        bodies::{
            BrokerId, BrokerRegistrationRequest, BrokerRegistrationResponse,
            broker_registration_request::{Feature, Listener},
            text,
        },
        errors::ErrorCode,
    },
    runtime::{Moment, Runtime},
};

/// Features that this build supports, from and to these levels.
const FEATURES: &[(&str, i16, i16)] = &[
    ("metadata.version", 1, 27),
    ("kraft.version", 0, 1),
    ("transaction.version", 0, 2),
    ("group.version", 0, 1),
];

/// Registers this process, if it is not registered. `Ok` if it is.
///
/// # Errors
/// The controller refuses it, or cannot be asked now; the reason is a sentence. A refusal for ever fails the node.
pub(super) async fn register(
    broker: &Arc<Broker>,
    link: &Link,
    runtime: &Runtime,
    deadline: Moment,
) -> Result<BrokerEpoch, String> {
    let Some(request) = request(broker) else { return Err("the cluster is not known yet".to_owned()) };
    let (answer, extras): (BrokerRegistrationResponse, _) =
        broker.ask(link, runtime, &request, true, deadline).await.map_err(|error| error.to_string())?;
    match ErrorCode(answer.error_code) {
        ErrorCode::NONE => {
            if let Some(index) = extras.image_index {
                let _ = broker.image_at(index, deadline).await;
            }
            forget_losses(broker);
            Ok(BrokerEpoch(answer.broker_epoch))
        }
        code @ (ErrorCode::INCONSISTENT_CLUSTER_ID
        | ErrorCode::UNSUPPORTED_VERSION
        | ErrorCode::INVALID_REGISTRATION) => {
            let reason = format!(
                "the controller refuses to register this broker ({code}): this folder or this build is not of the \
                 cluster that it was pointed to"
            );
            broker.fail(&reason);
            Err(reason)
        }
        ErrorCode::DUPLICATE_BROKER_REGISTRATION => Err(format!(
            "another process is registered as node {}, or has one of this node's log directories; if that process \
             has ended, its session ends soon",
            broker.node()
        )),
        code => Err(format!("the controller refuses to register this broker: {code}")),
    }
}

/// The cluster knows now what this node had lost. On a thread of its own: nothing must delay the heartbeat.
fn forget_losses(broker: &Arc<Broker>) {
    let told = broker.clone();
    broker.runtime.tasks.spawn_thread("life", async move {
        let disk = told.runtime.disk.as_ref();
        let mut life = told.life.lock();
        let lost = life.as_mut().filter(|life| life.page_cache_lost || life.sync_failed);
        if let Some(Err(error)) = lost.map(|life| life.told(disk)) {
            tracing::error!(%error, "that the cluster knows what was lost could not be written down");
        }
    });
}

/// The request; `None` while the cluster, or what the folders say, is not known.
fn request(broker: &Broker) -> Option<BrokerRegistrationRequest> {
    let cluster = broker.image().founding?.cluster;
    let (facts, bound) = (broker.facts()?, broker.bound()?);
    let listener = |endpoint: &Endpoint| {
        Listener::default()
            .with_name(text(endpoint.listener.clone()))
            .with_host(text(endpoint.host.clone()))
            .with_port(endpoint.port)
            .with_security_protocol(i16::try_from(i32::from(endpoint.protocol)).unwrap_or_default())
    };
    let flags = [
        (TAG_PAGE_CACHE_LOST, facts.page_cache_lost),
        (TAG_SYNC_FAILED, facts.sync_failed),
        (TAG_CONTROLLER, broker.config.roles.controller),
    ];
    let flags = flags.into_iter().filter(|(_, set)| *set).map(|(tag, _)| (tag, Bytes::from_static(&[1])));
    Some(
        BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(broker.node().0))
            .with_cluster_id(text(base64_id(cluster)))
            .with_incarnation_id(broker.incarnation)
            .with_listeners(bound.endpoints.iter().map(listener).collect())
            .with_features(features())
            .with_rack(broker.config.rack.clone().map(text))
            .with_log_dirs(facts.directories.iter().map(|directory| directory.0).collect())
            .with_previous_broker_epoch(-1)
            .with_unknown_tagged_fields(flags.collect()),
    )
}

/// What this build supports.
pub(super) fn features() -> Vec<Feature> {
    let feature = |(name, min, max): &(&str, i16, i16)| {
        Feature::default()
            .with_name(text(*name))
            .with_min_supported_version(*min)
            .with_max_supported_version(*max)
    };
    FEATURES.iter().map(feature).collect()
}

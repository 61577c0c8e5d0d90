//! Which registrations of brokers the controller takes to the log. `apply` has the last word on identities; here is
//! what needs to be known besides the image.

use uuid::Uuid;

use super::Refusal;
use crate::{
    ids::DirectoryId,
    metadata::{
        Command, Image,
        command::{FeatureRange, ListenerEndpoint, RegisterBroker},
        image::{Endpoint, Roles},
    },
    protocol::errors::ErrorCode,
};

use crate::ids::NodeId;

/// Listeners, directories and features of a registration at most: far above any use.
const ITEMS_MAX: usize = 1000;

/// A registration that a broker asks for (KIP-631, KIP-858, KIP-966).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrationPlan {
    /// The node.
    pub node: NodeId,
    /// The cluster that it belongs to, in Kafka's text form.
    pub cluster: String,
    /// The process.
    pub incarnation: Uuid,
    /// Its log directories.
    pub directories: Vec<DirectoryId>,
    /// Its listeners.
    pub endpoints: Vec<Endpoint>,
    /// Its rack.
    pub rack: Option<String>,
    /// What it is.
    pub roles: Roles,
    /// What it supports: name, lowest and highest level.
    pub features: Vec<(String, u32, u32)>,
    /// What was only in the page cache is lost.
    pub page_cache_lost: bool,
    /// An fsync failed in its last life.
    pub sync_failed: bool,
}

/// The command that registers the broker.
///
/// # Errors
/// It is of another cluster, does not support what the cluster uses, or another process stands in its way.
pub fn plan_registration(image: &Image, plan: &RegistrationPlan) -> Result<Command, Refusal> {
    let cluster = image.founding.map(|founding| crate::ids::base64_id(founding.cluster));
    if cluster.as_deref() != Some(&plan.cluster) {
        let message = format!(
            "Expected cluster ID {}, but got cluster ID {}",
            cluster.as_deref().unwrap_or("(none yet)"),
            plan.cluster
        );
        return Err(Refusal::new(ErrorCode::INCONSISTENT_CLUSTER_ID, message));
    }
    if [plan.directories.len(), plan.endpoints.len(), plan.features.len()].iter().any(|n| *n > ITEMS_MAX) {
        return Err(Refusal::new(ErrorCode::INVALID_REGISTRATION, "A registration is not that long."));
    }
    for (name, level) in &image.features {
        let supported = plan.features.iter().find(|(feature, ..)| **feature == **name);
        if !supported.is_some_and(|(_, min, max)| (min..=max).contains(&level)) {
            let message = format!(
                "Unable to register because the broker does not support finalized version {level} of {name}."
            );
            return Err(Refusal::new(ErrorCode::UNSUPPORTED_VERSION, message));
        }
    }
    let endpoint = |endpoint: &Endpoint| ListenerEndpoint {
        name: endpoint.listener.clone(),
        host: endpoint.host.clone(),
        port: u32::from(endpoint.port),
        protocol: endpoint.protocol.into(),
    };
    let feature =
        |(name, min, max): &(String, u32, u32)| FeatureRange { name: name.clone(), min: *min, max: *max };
    Ok(Command::RegisterBroker(RegisterBroker {
        node: plan.node.0,
        incarnation: Some(plan.incarnation.into()),
        directories: plan.directories.iter().map(|directory| directory.0.into()).collect(),
        endpoints: plan.endpoints.iter().map(endpoint).collect(),
        rack: plan.rack.clone(),
        roles: plan.roles.bits(),
        features: plan.features.iter().map(feature).collect(),
        page_cache_lost: plan.page_cache_lost,
        sync_failed: plan.sync_failed,
    }))
}

//! What clients ask of the controller: CreateTopics, DeleteTopics, IncrementalAlterConfigs, DescribeQuorum. They come in
//! an Envelope from whichever broker the client asked.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;

use super::{
    describe_quorum,
    service::{ServeError, Service},
};
use crate::{
    controller::{
        ConfigPlan, Refusal, TopicPlan, TopicRequest, Topics, plan_configs, plan_deletion, plan_topics,
    },
    ids::{LogIndex, NodeId, TopicId},
    metadata::{
        Accepted,
        configs::{TOPIC_KEYS, topic_setting},
        image::Topic,
    },
    protocol::{
        apis::ApiKey,
        bodies::{
            self, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
            DescribeQuorumRequest, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
            create_topics_request,
            create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
            delete_topics_response::DeletableTopicResult,
            incremental_alter_configs_response::AlterConfigsResourceResponse,
        },
        errors::ErrorCode,
    },
};

/// The entry that the sender's image must reach, or, if nothing could be done here, why.
type Served = Result<Option<LogIndex>, ErrorCode>;

/// Serves one of these requests and appends its answer to `data`.
///
/// # Errors
/// The request cannot be read, or is none of these.
pub(super) async fn serve(
    service: &Service<'_>,
    key: ApiKey,
    version: i16,
    body: Bytes,
    data: &mut BytesMut,
) -> Result<Served, ServeError> {
    let (codes, index) = match key {
        ApiKey::CREATE_TOPICS => {
            let request: CreateTopicsRequest = bodies::decode_request(body, version)?;
            let (response, index) = create_topics(service, &request).await;
            bodies::encode(data, &response, key, version)?;
            (response.topics.iter().map(|topic| topic.error_code).collect::<Vec<_>>(), index)
        }
        ApiKey::DELETE_TOPICS => {
            let request: DeleteTopicsRequest = bodies::decode_request(body, version)?;
            let (response, index) = delete_topics(service, &request).await;
            bodies::encode(data, &response, key, version)?;
            (response.responses.iter().map(|topic| topic.error_code).collect(), index)
        }
        ApiKey::INCREMENTAL_ALTER_CONFIGS => {
            let request: IncrementalAlterConfigsRequest = bodies::decode_request(body, version)?;
            let (response, index) = alter_configs(service, &request).await;
            bodies::encode(data, &response, key, version)?;
            (response.responses.iter().map(|resource| resource.error_code).collect(), index)
        }
        ApiKey::DESCRIBE_QUORUM => {
            let request: DescribeQuorumRequest = bodies::decode_request(body, version)?;
            bodies::encode(data, &describe_quorum(service.broker, &request), key, version)?;
            (Vec::new(), None)
        }
        other => return Err(ServeError::NotServed(other)),
    };
    // If nothing at all was done because another leads by now, the sender looks for that one.
    let lost = !codes.is_empty() && codes.iter().all(|code| *code == ErrorCode::NOT_CONTROLLER.0);
    Ok(if lost { Err(ErrorCode::NOT_CONTROLLER) } else { Ok(index) })
}

async fn create_topics(
    service: &Service<'_>,
    request: &CreateTopicsRequest,
) -> (CreateTopicsResponse, Option<LogIndex>) {
    let requests: Vec<TopicRequest> = request.topics.iter().map(topic_request).collect();
    let plans = plan_topics(&topics(service), &requests);
    let proposals = plans.into_iter().map(|plan| async move {
        let plan = plan?;
        if request.validate_only {
            return Ok((plan, None));
        }
        let id = plan.id;
        let made = |image: &crate::metadata::Image| image.topics.get(&id).map(|_| Accepted::Done);
        let (index, _) = service.carry_out(&plan.command, made).await?;
        Ok((plan, Some(index)))
    });
    let results: Vec<Result<(TopicPlan, Option<LogIndex>), Refusal>> = join_all(proposals).await;
    let index = results.iter().filter_map(|result| result.as_ref().ok()?.1).max();
    let answers = request.topics.iter().zip(results).map(|(topic, result)| {
        let answer = CreatableTopicResult::default().with_name(topic.name.clone());
        match result {
            Ok((plan, index)) => created(service, answer, &plan, index.is_some()),
            Err(refusal) => answer
                .with_error_code(refusal.code.0)
                .with_error_message(Some(bodies::text(refusal.message)))
                .with_num_partitions(-1)
                .with_replication_factor(-1),
        }
    });
    (CreateTopicsResponse::default().with_topics(answers.collect()), index)
}

/// The answer for a topic that was made, or could be. A topic that was only validated has no id.
fn created(
    service: &Service<'_>,
    answer: CreatableTopicResult,
    plan: &TopicPlan,
    made: bool,
) -> CreatableTopicResult {
    let topic = Topic {
        id: plan.id,
        name: Arc::from(answer.name.to_string()),
        partitions: imbl::Vector::new(),
        configs: Arc::new(plan.configs.clone()),
    };
    let (node, file) = (service.broker.node(), &service.broker.config.file);
    let configs = TOPIC_KEYS.iter().map(|key| {
        let setting = topic_setting(&service.image, &topic, node, file, key);
        CreatableTopicConfigs::default()
            .with_name(bodies::text(key.name))
            .with_value(setting.value.map(bodies::text))
            .with_config_source(setting.source as i8)
            .with_is_sensitive(key.is_sensitive())
    });
    let answer = if made { answer.with_topic_id(plan.id.0) } else { answer };
    answer
        .with_num_partitions(i32::try_from(plan.partitions).unwrap_or(i32::MAX))
        .with_replication_factor(i16::try_from(plan.replication_factor).unwrap_or(i16::MAX))
        .with_configs(Some(configs.collect()))
}

async fn delete_topics(
    service: &Service<'_>,
    request: &DeleteTopicsRequest,
) -> (DeleteTopicsResponse, Option<LogIndex>) {
    let by_name = request.topic_names.iter().map(|name| (Some(name.to_string()), TopicId::default()));
    let either = request.topics.iter();
    let either =
        either.map(|topic| (topic.name.as_ref().map(|name| name.to_string()), TopicId(topic.topic_id)));
    let asked: Vec<(Option<String>, TopicId)> = by_name.chain(either).collect();
    let proposals = asked.iter().map(|(name, id)| async move {
        let (id, name, command) = plan_deletion(&topics(service), name.as_deref(), *id)?;
        let gone =
            |image: &crate::metadata::Image| (!image.topics.contains_key(&id)).then_some(Accepted::Done);
        let (index, _) = service.carry_out(&command, gone).await?;
        Ok((id, name, index))
    });
    let results: Vec<Result<(TopicId, String, LogIndex), Refusal>> = join_all(proposals).await;
    let index = results.iter().filter_map(|result| result.as_ref().ok().map(|(.., index)| *index)).max();
    let answers = asked.into_iter().zip(results).map(|((name, id), result)| match result {
        Ok((id, name, _)) => {
            DeletableTopicResult::default().with_name(Some(bodies::topic_name(name))).with_topic_id(id.0)
        }
        Err(refusal) => DeletableTopicResult::default()
            .with_name(name.map(bodies::topic_name))
            .with_topic_id(id.0)
            .with_error_code(refusal.code.0)
            .with_error_message(Some(bodies::text(refusal.message))),
    });
    (DeleteTopicsResponse::default().with_responses(answers.collect()), index)
}

async fn alter_configs(
    service: &Service<'_>,
    request: &IncrementalAlterConfigsRequest,
) -> (IncrementalAlterConfigsResponse, Option<LogIndex>) {
    let proposals = request.resources.iter().map(|resource| async move {
        let change = |config: &bodies::incremental_alter_configs_request::AlterableConfig| {
            (config.name.to_string(), config.config_operation, config.value.as_ref().map(ToString::to_string))
        };
        let plan = ConfigPlan {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.to_string(),
            changes: resource.configs.iter().map(change).collect(),
        };
        let command = plan_configs(&service.image, &plan)?;
        if request.validate_only || plan.changes.is_empty() {
            return Ok(None);
        }
        let (index, _) = service.carry_out(&command, |_| None).await?;
        Ok(Some(index))
    });
    let results: Vec<Result<Option<LogIndex>, Refusal>> = join_all(proposals).await;
    let index = results.iter().filter_map(|result| *result.as_ref().ok()?).max();
    let answers = request.resources.iter().zip(results).map(|(resource, result)| {
        let answer = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match result {
            Ok(_) => answer,
            Err(refusal) => {
                answer.with_error_code(refusal.code.0).with_error_message(Some(bodies::text(refusal.message)))
            }
        }
    });
    (IncrementalAlterConfigsResponse::default().with_responses(answers.collect()), index)
}

fn topics<'a>(service: &'a Service<'_>) -> Topics<'a> {
    Topics {
        image: &service.image,
        node: service.broker.node(),
        file: &service.broker.config.file,
        rng: &service.broker.runtime.rng,
    }
}

fn topic_request(topic: &create_topics_request::CreatableTopic) -> TopicRequest {
    let assignment = |assignment: &create_topics_request::CreatableReplicaAssignment| {
        let nodes = assignment.broker_ids.iter().map(|node| NodeId(node.0)).collect();
        (assignment.partition_index, nodes)
    };
    let config = |config: &create_topics_request::CreatableTopicConfig| {
        (config.name.to_string(), config.value.as_ref().map(ToString::to_string))
    };
    TopicRequest {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic.assignments.iter().map(assignment).collect(),
        configs: topic.configs.iter().map(config).collect(),
    }
}

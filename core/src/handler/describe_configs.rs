//! DescribeConfigs (KIP-133, KIP-226, KIP-569): every key, its value, where it comes from and what stands behind it.

use std::collections::BTreeSet;

use super::{
    Handlers, metadata,
    request::{Closed, Reply, Request},
};
use crate::{
    ids::NodeId,
    metadata::{
        Image,
        configs::{
            Key, Scope, Setting, Source, TOPIC_KEYS, broker_key, broker_keys, broker_setting, topic_setting,
        },
        image::{Configs, Topic},
    },
    protocol::{
        bodies::{
            DescribeConfigsRequest, DescribeConfigsResponse,
            describe_configs_request::DescribeConfigsResource, describe_configs_response::*, text,
        },
        errors::ErrorCode,
    },
};

/// Kafka's numbers of the kinds of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

pub(super) fn answer(handlers: &Handlers, request: &Request) -> Result<Reply, Closed> {
    let asked: DescribeConfigsRequest = request.decode()?;
    let image = handlers.broker.image_arc();
    let describer = Describer {
        image: &image,
        node: handlers.broker.node(),
        file: &handlers.broker.config.file,
        loaded: handlers.broker.is_image_loaded(),
        synonyms: asked.include_synonyms,
        documentation: asked.include_documentation && request.version >= 3,
        types: request.version >= 3,
    };
    let results = asked.resources.iter().map(|resource| describer.resource(resource)).collect();
    Ok(request.reply(&DescribeConfigsResponse::default().with_results(results)))
}

struct Describer<'a> {
    image: &'a Image,
    node: NodeId,
    file: &'a Configs,
    loaded: bool,
    synonyms: bool,
    documentation: bool,
    types: bool,
}

type Refused = (ErrorCode, String);

impl Describer<'_> {
    fn resource(&self, resource: &DescribeConfigsResource) -> DescribeConfigsResult {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        let described = match resource.resource_type {
            TOPIC => self.topic(&resource.resource_name),
            BROKER => self.broker(&resource.resource_name),
            other => {
                Err((ErrorCode::INVALID_REQUEST, format!("resources of type {other} have no configs here")))
            }
        };
        match described {
            Ok(mut configs) => {
                let wanted: BTreeSet<&str> =
                    resource.configuration_keys.iter().flatten().map(|key| key.as_str()).collect();
                // No key in particular asks for all of them.
                configs.retain(|config| wanted.is_empty() || wanted.contains(config.name.as_str()));
                result.with_configs(configs)
            }
            Err((error, message)) => result.with_error_code(error.0).with_error_message(Some(text(message))),
        }
    }

    fn topic(&self, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
        if !metadata::is_topic_name(name) {
            return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, format!("'{name}' is no name of a topic")));
        }
        let Some(topic) = self.image.topic(name) else {
            let error = if self.loaded {
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            } else {
                ErrorCode::LEADER_NOT_AVAILABLE
            };
            return Err((error, format!("there is no topic '{name}'")));
        };
        Ok(TOPIC_KEYS
            .iter()
            .map(|key| {
                let setting = topic_setting(self.image, topic, self.node, self.file, key);
                self.told(key, &setting, self.topic_synonyms(topic, key), false)
            })
            .collect())
    }

    /// This broker, or with an empty name what all brokers were told while they ran.
    fn broker(&self, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
        if name.is_empty() {
            let keys = self
                .image
                .cluster_configs
                .iter()
                .filter_map(|(name, value)| Some((broker_key(name).ok()?, value)));
            return Ok(keys
                .map(|(key, value)| {
                    let setting = Setting {
                        value: Some(value.clone()),
                        source: Source::DynamicCluster,
                        name: key.name,
                    };
                    self.told(key, &setting, vec![setting.clone()], false)
                })
                .collect());
        }
        let node: i32 = name
            .parse()
            .map_err(|_| (ErrorCode::INVALID_REQUEST, format!("'{name}' is no id of a broker")))?;
        if NodeId(node) != self.node {
            let message =
                format!("this is broker {}, which does not know the configs of broker {node}", self.node);
            return Err((ErrorCode::INVALID_REQUEST, message));
        }
        Ok(broker_keys()
            .map(|key| {
                let setting = broker_setting(self.image, self.node, self.file, key);
                self.told(key, &setting, self.broker_synonyms(key), key.scope == Scope::ReadOnly)
            })
            .collect())
    }

    fn told(
        &self,
        key: &Key,
        setting: &Setting,
        synonyms: Vec<Setting>,
        read_only: bool,
    ) -> DescribeConfigsResourceResult {
        let shown = |value: &Option<String>| value.clone().filter(|_| !key.is_sensitive()).map(text);
        let mut told = DescribeConfigsResourceResult::default()
            .with_name(text(key.name))
            .with_value(shown(&setting.value))
            .with_read_only(read_only)
            .with_config_source(setting.source as i8)
            .with_is_sensitive(key.is_sensitive());
        if self.synonyms {
            let synonym = |setting: Setting| {
                DescribeConfigsSynonym::default()
                    .with_name(text(setting.name))
                    .with_value(shown(&setting.value))
                    .with_source(setting.source as i8)
            };
            told.synonyms = synonyms.into_iter().map(synonym).collect();
        }
        if self.types {
            told.config_type = key.kind.number();
            told.documentation = self.documentation.then(|| text(key.doc));
        }
        told
    }

    /// What would apply, first what does.
    fn topic_synonyms(&self, topic: &Topic, key: &'static Key) -> Vec<Setting> {
        let own = topic.configs.get(key.name).map(|value| Setting {
            value: Some(value.clone()),
            source: Source::Topic,
            name: key.name,
        });
        let mut settings: Vec<Setting> = own.into_iter().collect();
        match key.scope {
            Scope::Topic { broker } => {
                settings.extend(broker_key(broker).ok().into_iter().flat_map(|key| self.broker_synonyms(key)))
            }
            _ => settings.extend(self.fallback(topic, key, settings.is_empty())),
        }
        settings
    }

    /// What applies where nobody set the topic's own key.
    fn fallback(&self, topic: &Topic, key: &'static Key, unset: bool) -> Option<Setting> {
        if unset {
            let setting = topic_setting(self.image, topic, self.node, self.file, key);
            return setting.value.is_some().then_some(setting);
        }
        key.default.map(|value| Setting {
            value: Some(value.to_owned()),
            source: Source::Default,
            name: key.name,
        })
    }

    fn broker_synonyms(&self, key: &'static Key) -> Vec<Setting> {
        let own = self.image.broker_configs.get(&self.node).and_then(|configs| configs.get(key.name));
        let default = key.default.map(str::to_owned);
        let places = [
            (own.filter(|_| key.scope == Scope::PerBroker).cloned(), Source::DynamicBroker),
            (self.image.cluster_configs.get(key.name).cloned(), Source::DynamicCluster),
            (self.file.get(key.name).cloned(), Source::StaticBroker),
            (default, Source::Default),
        ];
        let settings = places
            .into_iter()
            .filter_map(|(value, source)| Some(Setting { value: Some(value?), source, name: key.name }));
        settings.collect()
    }
}

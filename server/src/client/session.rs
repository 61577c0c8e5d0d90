//! A conversation with a cluster: which brokers there are, who leads what, and trying again until time is up.

use std::{collections::BTreeMap, time::Duration};

use quorate_core::{
    ids::TopicId,
    protocol::{
        bodies::{MetadataRequest, MetadataResponse, RequestBody, metadata_request, topic_name},
        client::{Client, ClientError},
        errors::ErrorCode,
    },
    runtime::{Moment, Runtime},
};

use super::words::sentence;
use crate::{cli::ClusterArgs, config::endpoints::items};

const CLIENT_ID: &str = "quorate-cli";
/// One attempt to connect; there may be other servers to try.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// One answer, a long poll's wait included.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Another attempt may succeed; else this is what to say.
    Again(String),
    /// No attempt will.
    Never(String),
}

impl Trouble {
    /// Judges an error code about `subject`.
    pub(crate) fn of(error: ErrorCode, subject: &str, message: Option<&str>) -> Self {
        let text = sentence(error, subject, message);
        if error.is_retriable() { Self::Again(text) } else { Self::Never(text) }
    }
}

/// The conversation.
pub(crate) struct Session {
    pub(crate) runtime: Runtime,
    servers: Vec<String>,
    patience: Duration,
    connections: BTreeMap<String, Client>,
    endpoints: BTreeMap<i32, String>,
    /// Topics as last described; forgotten when something did not go as they said.
    known: BTreeMap<String, TopicView>,
}

/// A topic as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicView {
    pub(crate) name: String,
    pub(crate) id: TopicId,
    pub(crate) partitions: Vec<PartitionView>,
}

/// A partition as the cluster describes it; -1 for no leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionView {
    pub(crate) index: i32,
    pub(crate) leader: i32,
    pub(crate) epoch: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) isr: Vec<i32>,
    pub(crate) offline: Vec<i32>,
}

impl Session {
    /// Connects to nobody yet.
    pub(crate) fn new(cluster: &ClusterArgs, runtime: Runtime) -> Self {
        Self {
            runtime,
            servers: items(&cluster.bootstrap_server).map(str::to_owned).collect(),
            patience: Duration::from_secs(cluster.timeout),
            connections: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// Tries until it succeeds, cannot succeed, or the time of the command line is up.
    ///
    /// # Errors
    /// What the last attempt said.
    pub(crate) async fn retry<T>(
        &mut self,
        attempt: impl AsyncFnMut(&mut Self) -> Result<T, Trouble>,
    ) -> Result<T, String> {
        let deadline = self.runtime.clock.now().plus(self.patience);
        self.retry_until(deadline, attempt).await
    }

    /// As [`Session::retry`], until `deadline`.
    ///
    /// # Errors
    /// What the last attempt said.
    pub(crate) async fn retry_until<T>(
        &mut self,
        deadline: Moment,
        mut attempt: impl AsyncFnMut(&mut Self) -> Result<T, Trouble>,
    ) -> Result<T, String> {
        loop {
            match attempt(self).await {
                Ok(value) => return Ok(value),
                Err(Trouble::Never(problem)) => return Err(problem),
                Err(Trouble::Again(problem)) if self.runtime.clock.now() >= deadline => return Err(problem),
                Err(Trouble::Again(_)) => {
                    self.known.clear();
                    self.runtime.clock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Asks any broker.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn ask<R: RequestBody>(&mut self, request: &R) -> Result<R::Response, Trouble> {
        let client = self.any().await?;
        let answer = client.call(request, ANSWER_MAX).await;
        self.judge(&client, answer)
    }

    /// A connection to the broker, which Metadata must have told of.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn broker(&mut self, node: i32) -> Result<Client, Trouble> {
        let Some(endpoint) = self.endpoints.get(&node).cloned() else {
            return Err(Trouble::Again(format!("broker {node} is not known to the cluster at the moment")));
        };
        self.connect(&endpoint).await
    }

    /// Turns a failed call into trouble, and forgets the connection.
    ///
    /// # Errors
    /// [`Trouble`], if `answer` is an error.
    pub(crate) fn judge<T>(&mut self, client: &Client, answer: Result<T, ClientError>) -> Result<T, Trouble> {
        answer.map_err(|error| {
            self.connections.remove(client.endpoint());
            match error {
                ClientError::Encode(_) | ClientError::Malformed(_) | ClientError::Refused { .. } => {
                    Trouble::Never(error.to_string())
                }
                _ => Trouble::Again(error.to_string()),
            }
        })
    }

    async fn connect(&mut self, endpoint: &str) -> Result<Client, Trouble> {
        if let Some(client) = self.connections.get(endpoint).filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let connected = Client::connect(&self.runtime, endpoint, CLIENT_ID, CONNECT_MAX).await;
        let client = connected.map_err(|error| Trouble::Again(error.to_string()))?;
        self.connections.insert(endpoint.to_owned(), client.clone());
        Ok(client)
    }

    async fn any(&mut self) -> Result<Client, Trouble> {
        if let Some(client) = self.connections.values().find(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let mut problems = Vec::new();
        let known: Vec<String> = self.servers.iter().chain(self.endpoints.values()).cloned().collect();
        for endpoint in known {
            match self.connect(&endpoint).await {
                Ok(client) => return Ok(client),
                Err(Trouble::Again(problem) | Trouble::Never(problem)) if !problems.contains(&problem) => {
                    problems.push(problem);
                }
                Err(_) => {}
            }
        }
        let problems = problems.join("; ");
        Err(Trouble::Again(format!(
            "no broker answers ({problems}); is the cluster running? --bootstrap-server says where"
        )))
    }

    /// Describes the named topics, or all; with `create`, the cluster may make one that does not exist. A topic with an
    /// error is trouble.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn topics(
        &mut self,
        names: Option<&[String]>,
        create: bool,
    ) -> Result<Vec<TopicView>, Trouble> {
        let topic = |name: &String| {
            metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name(name.clone())))
        };
        let request = MetadataRequest::default()
            .with_topics(names.map(|names| names.iter().map(topic).collect()))
            .with_allow_auto_topic_creation(create);
        let answer = self.ask(&request).await?;
        self.note_brokers(&answer);
        let mut views = Vec::new();
        for topic in answer.topics {
            let name = topic.name.map(|name| name.0.to_string()).unwrap_or_default();
            let error = ErrorCode(topic.error_code);
            let subject = format!("topic '{name}'");
            match error {
                ErrorCode::NONE => {}
                // It only comes about if somebody makes it.
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION if !create => {
                    return Err(Trouble::Never(sentence(error, &subject, None)));
                }
                _ => return Err(Trouble::of(error, &subject, None)),
            }
            let ids = |nodes: &[_]| {
                nodes.iter().map(|node: &quorate_core::protocol::bodies::BrokerId| node.0).collect()
            };
            let mut partitions: Vec<PartitionView> = topic
                .partitions
                .iter()
                .map(|partition| PartitionView {
                    index: partition.partition_index,
                    leader: partition.leader_id.0,
                    epoch: partition.leader_epoch,
                    replicas: ids(&partition.replica_nodes),
                    isr: ids(&partition.isr_nodes),
                    offline: ids(&partition.offline_replicas),
                })
                .collect();
            partitions.sort_by_key(|partition| partition.index);
            views.push(TopicView { name, id: TopicId(topic.topic_id), partitions });
        }
        Ok(views)
    }

    /// As [`Session::topics`], for one, and as it was last described.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn topic(&mut self, name: &str, create: bool) -> Result<TopicView, Trouble> {
        let found = self.topics(Some(&[name.to_owned()]), create).await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| Trouble::Again(format!("the cluster does not tell of topic '{name}'")))
    }

    fn note_brokers(&mut self, answer: &MetadataResponse) {
        self.endpoints = answer
            .brokers
            .iter()
            .map(|broker| {
                let host = broker.host.to_string();
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                (broker.node_id.0, format!("{host}:{}", broker.port))
            })
            .collect();
    }
}

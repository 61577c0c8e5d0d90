//! `quorate topic create|list|describe`.

use quorate_core::{
    protocol::{
        bodies::{CreateTopicsRequest, create_topics_request, text, topic_name},
        errors::ErrorCode,
    },
    runtime::Runtime,
};

use super::session::{Session, TopicView, Trouble};
use crate::cli::{TopicCommand, TopicCreateArgs, TopicDescribeArgs};

/// Carries out the command.
///
/// # Errors
/// A sentence.
pub(crate) async fn run(command: &TopicCommand, runtime: Runtime) -> Result<(), String> {
    match command {
        TopicCommand::Create(args) => create(args, Session::new(&args.cluster, runtime)).await,
        TopicCommand::List(cluster) => {
            let mut session = Session::new(cluster, runtime);
            let topics = session.retry(async |session| session.topics(None, false).await).await?;
            let mut names: Vec<String> = topics.into_iter().map(|topic| topic.name).collect();
            names.sort();
            names.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        TopicCommand::Describe(args) => describe(args, Session::new(&args.cluster, runtime)).await,
    }
}

async fn create(args: &TopicCreateArgs, mut session: Session) -> Result<(), String> {
    let mut configs = Vec::new();
    for assignment in &args.configs {
        let (key, value) =
            assignment.split_once('=').ok_or_else(|| format!("--config '{assignment}' is not key=value"))?;
        let config = create_topics_request::CreatableTopicConfig::default();
        configs.push(config.with_name(text(key)).with_value(Some(text(value))));
    }
    let topic = create_topics_request::CreatableTopic::default()
        .with_name(topic_name(args.topic.clone()))
        .with_num_partitions(args.partitions.unwrap_or(-1))
        .with_replication_factor(args.replication_factor.unwrap_or(-1))
        .with_configs(configs);
    let timeout_ms = i32::try_from(args.cluster.timeout.saturating_mul(1000)).unwrap_or(i32::MAX);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
    let subject = format!("topic '{}'", args.topic);
    let mut unanswered = false;
    let created = session.retry(async |session| {
        let answer = session.ask(&request).await;
        // The broker may have carried out what it did not answer.
        let lost = unanswered;
        unanswered |= answer.is_err();
        let result = answer?
            .topics
            .into_iter()
            .next()
            .ok_or_else(|| Trouble::Never(format!("{subject}: no answer")))?;
        match ErrorCode(result.error_code) {
            ErrorCode::NONE => Ok(Some((result.num_partitions, result.replication_factor))),
            ErrorCode::TOPIC_ALREADY_EXISTS if lost => Ok(None),
            error => Err(Trouble::of(error, &subject, result.error_message.as_deref())),
        }
    });
    match created.await? {
        Some((partitions, replication)) => {
            println!("created {subject}: {partitions} partitions, replication factor {replication}");
        }
        None => println!("created {subject}"),
    }
    Ok(())
}

async fn describe(args: &TopicDescribeArgs, mut session: Session) -> Result<(), String> {
    let names = (!args.topics.is_empty()).then_some(args.topics.as_slice());
    let mut topics = session.retry(async |session| session.topics(names, false).await).await?;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics.iter().for_each(|topic| print!("{}", description(topic)));
    Ok(())
}

fn description(topic: &TopicView) -> String {
    let list = |nodes: &[i32]| nodes.iter().map(i32::to_string).collect::<Vec<String>>().join(",");
    let replication = topic.partitions.first().map_or(0, |partition| partition.replicas.len());
    let mut text = format!(
        "{}  id {}  {} partitions  replication factor {replication}\n",
        topic.name,
        topic.id,
        topic.partitions.len()
    );
    for partition in &topic.partitions {
        let leader = if partition.leader < 0 { "none".to_owned() } else { partition.leader.to_string() };
        let offline = if partition.offline.is_empty() {
            String::new()
        } else {
            format!("  offline {}", list(&partition.offline))
        };
        text += &format!(
            "  partition {}  leader {leader} (epoch {})  replicas {}  in sync {}{offline}\n",
            partition.index,
            partition.epoch,
            list(&partition.replicas),
            list(&partition.isr)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::session::PartitionView;
    use quorate_core::ids::TopicId;

    #[test]
    fn a_topic_is_described_with_its_leaders_and_replicas() {
        let partition = |index, leader, offline: &[i32]| PartitionView {
            index,
            leader,
            epoch: 4,
            replicas: vec![1, 2],
            isr: vec![2],
            offline: offline.to_vec(),
        };
        let partitions = vec![partition(0, 2, &[]), partition(1, -1, &[1])];
        let text = description(&TopicView { name: "t".to_owned(), id: TopicId::default(), partitions });
        assert!(
            text.starts_with("t  id AAAAAAAAAAAAAAAAAAAAAA  2 partitions  replication factor 2\n"),
            "{text}"
        );
        assert!(text.contains("  partition 0  leader 2 (epoch 4)  replicas 1,2  in sync 2\n"), "{text}");
        assert!(
            text.contains("  partition 1  leader none (epoch 4)  replicas 1,2  in sync 2  offline 1\n"),
            "{text}"
        );
    }
}

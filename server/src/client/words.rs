//! Kafka's error codes as sentences.

use quorate_core::protocol::errors::ErrorCode;

/// What the code means for `subject`, a topic or a partition, and what helps where something does.
pub(crate) fn sentence(error: ErrorCode, subject: &str, message: Option<&str>) -> String {
    let known = match error {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID => {
            format!("there is no {subject}; 'quorate topic list' shows what there is")
        }
        ErrorCode::TOPIC_ALREADY_EXISTS => format!("{subject} exists already"),
        ErrorCode::INVALID_TOPIC_EXCEPTION => {
            format!(
                "{subject}: a topic's name has 1 to 249 letters, digits, '.', '_' or '-', and is not '.' or '..'"
            )
        }
        ErrorCode::LEADER_NOT_AVAILABLE | ErrorCode::NOT_LEADER_OR_FOLLOWER => {
            format!("{subject} has no leader at the moment; are enough brokers running?")
        }
        ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
            format!(
                "{subject}: fewer replicas are in sync than min.insync.replicas asks for; are brokers down?"
            )
        }
        ErrorCode::REQUEST_TIMED_OUT => format!("{subject}: it was not confirmed in time"),
        ErrorCode::NOT_CONTROLLER => {
            format!("{subject}: nobody leads the cluster's metadata at the moment; are enough nodes running?")
        }
        ErrorCode::OFFSET_OUT_OF_RANGE => format!("{subject} does not have that offset"),
        ErrorCode::MESSAGE_TOO_LARGE => {
            format!("{subject}: a record is larger than max.message.bytes allows")
        }
        _ => String::new(),
    };
    match (known.is_empty(), message.filter(|message| !message.is_empty())) {
        (true, Some(message)) => format!("{subject}: {message}"),
        (true, None) => format!("{subject}: {error}"),
        (false, Some(message)) => format!("{known} ({message})"),
        (false, None) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_sentence_and_keeps_what_the_broker_said() {
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        assert!(sentence(unknown, "topic 'x'", None).starts_with("there is no topic 'x';"));
        let refused = ErrorCode::INVALID_REPLICATION_FACTOR;
        assert_eq!(sentence(refused, "topic 'x'", Some("3 of 1")), "topic 'x': 3 of 1");
        assert!(sentence(ErrorCode(-77), "topic 'x'", None).contains("-77"));
    }
}

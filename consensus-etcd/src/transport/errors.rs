//! What an error of the etcd client means, in a sentence that names the cause.

use std::error::Error as _;

use etcd_client::Error;

use crate::storage::{Refusal, StoreError};

/// gRPC's numbers for the codes that etcd answers with when it has decided not to do something.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// Sorts an error into 'may have been carried out' and 'refused'.
pub(crate) fn classify(error: &Error) -> StoreError {
    match error {
        Error::GRpcStatus(status) => of_status(status.code().into(), status.message())
            .unwrap_or_else(|| StoreError::Unknown(describe(error))),
        Error::LeaseKeepAliveError(reason) if reason == "lease not found" => {
            StoreError::Refused(Refusal::LeaseGone, "the lease has run out".to_owned())
        }
        _ => StoreError::Unknown(describe(error)),
    }
}

/// `None`: the answer does not say whether the request was carried out.
fn of_status(code: i32, message: &str) -> Option<StoreError> {
    let refused = |refusal, sentence: String| Some(StoreError::Refused(refusal, sentence));
    let said = message.strip_prefix("etcdserver: ").unwrap_or(message);
    match (code, said) {
        (RESOURCE_EXHAUSTED, "mvcc: database space exceeded") => refused(Refusal::NoSpace, no_space()),
        (INVALID_ARGUMENT, "request is too large") => refused(Refusal::TooLarge, said.to_owned()),
        (INVALID_ARGUMENT, "too many operations in txn request") => {
            refused(Refusal::TooManyOperations, said.to_owned())
        }
        (NOT_FOUND, "requested lease not found") => refused(Refusal::LeaseGone, "the lease has run out".to_owned()),
        (OUT_OF_RANGE, "mvcc: required revision has been compacted") => {
            refused(Refusal::Compacted, said.to_owned())
        }
        (OUT_OF_RANGE, _) if said.contains("message length too large") => {
            refused(Refusal::PageTooLarge, said.to_owned())
        }
        (INVALID_ARGUMENT, "authentication failed, invalid user ID or password") => refused(
            Refusal::Credentials,
            "wrong user or password: correct consensus.etcd.username and consensus.etcd.password".to_owned(),
        ),
        (INVALID_ARGUMENT, "user name is empty") => refused(
            Refusal::Credentials,
            "etcd demands a user: set consensus.etcd.username and consensus.etcd.password".to_owned(),
        ),
        (PERMISSION_DENIED, _) => refused(
            Refusal::Credentials,
            "etcd does not permit this user to read and write here: grant it 'readwrite' on consensus.etcd.prefix"
                .to_owned(),
        ),
        (UNAUTHENTICATED, _) => refused(Refusal::Credentials, format!("etcd refused the credentials: {said}")),
        (UNIMPLEMENTED, _) => {
            refused(Refusal::Other, format!("this is not etcd's client port (it answers: {message})"))
        }
        (INVALID_ARGUMENT | NOT_FOUND | RESOURCE_EXHAUSTED | FAILED_PRECONDITION | OUT_OF_RANGE, _)
            if message.starts_with("etcdserver: ") =>
        {
            refused(Refusal::Other, format!("etcd refused: {said}"))
        }
        _ => None,
    }
}

/// The sentence for a store without space.
pub(crate) fn no_space() -> String {
    "etcd is full (NOSPACE): compact and defragment it, raise --quota-backend-bytes, then 'etcdctl alarm disarm'"
        .to_owned()
}

/// The innermost cause, which is what an operator can act on.
fn describe(error: &Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        Error::GRpcStatus(status) => status.source(),
        Error::TransportError(transport) => transport.source(),
        _ => None,
    };
    let mut sentence = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    while let Some(inner) = cause {
        sentence = inner.to_string();
        cause = inner.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_decided_answer_is_a_refusal() {
        let kind = |code, message| match of_status(code, message) {
            Some(StoreError::Refused(refusal, _)) => Some(refusal),
            _ => None,
        };
        assert_eq!(kind(8, "etcdserver: mvcc: database space exceeded"), Some(Refusal::NoSpace));
        assert_eq!(kind(3, "etcdserver: request is too large"), Some(Refusal::TooLarge));
        assert_eq!(kind(5, "etcdserver: requested lease not found"), Some(Refusal::LeaseGone));
        assert_eq!(kind(7, "etcdserver: permission denied"), Some(Refusal::Credentials));
        assert_eq!(kind(8, "etcdserver: too many requests"), Some(Refusal::Other));
        for (code, message) in [
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: leader changed"),
            (4, "context deadline exceeded"),
            (2, "transport error"),
            (8, "enhance your calm"),
            (13, "h2 protocol error"),
        ] {
            assert_eq!(kind(code, message), None, "{message}");
        }
    }
}

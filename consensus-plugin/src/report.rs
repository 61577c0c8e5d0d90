//! A backend's status as JSON, both ways.

use std::{collections::BTreeMap, time::Duration};

use quorate_core::consensus::{Epoch, Founding, LogId, LogIndex, NodeId, Peer, Status};
use serde::{Deserialize, Serialize};

/// The largest report that is read, in bytes.
pub(crate) const REPORT_BYTES: usize = 1 << 20;

/// The JSON form of a status.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    log_id: Option<String>,
    epoch: u64,
    committed: u64,
    first: u64,
    #[serde(default)]
    quorum_contact_age_ms: Option<u64>,
    #[serde(default)]
    voters: BTreeMap<i32, String>,
    #[serde(default)]
    peers: Vec<ReportedPeer>,
    #[serde(default)]
    founding: Option<ReportedFounding>,
    max_entry_bytes: usize,
    #[serde(default)]
    fatal: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ReportedPeer {
    #[serde(default)]
    node: Option<i32>,
    endpoint: String,
    #[serde(default)]
    contact_age_ms: Option<u64>,
    #[serde(default)]
    matched: Option<u64>,
    #[serde(default)]
    problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ReportedFounding {
    have: Vec<i32>,
    awaited: Vec<ReportedPeer>,
}

/// Writes a status.
pub(crate) fn write(status: &Status) -> Vec<u8> {
    let report = Report {
        log_id: status.log_id.map(|id| format!("{:032x}", u128::from_be_bytes(id.0))),
        epoch: status.epoch.0,
        committed: status.committed.0,
        first: status.first.0,
        quorum_contact_age_ms: status.quorum_contact_age.map(millis),
        voters: status.voters.iter().map(|(node, endpoint)| (node.0, endpoint.clone())).collect(),
        peers: status.peers.iter().map(reported).collect(),
        founding: status.founding.as_ref().map(|founding| ReportedFounding {
            have: founding.have.iter().map(|node| node.0).collect(),
            awaited: founding.awaited.iter().map(reported).collect(),
        }),
        max_entry_bytes: status.max_entry_bytes,
        fatal: status.fatal.clone(),
    };
    // A struct of texts and numbers has a JSON form.
    serde_json::to_vec(&report).unwrap_or_default()
}

/// Reads a status of the backend `backend`.
///
/// # Errors
/// A sentence, if it is not what the header says.
pub(crate) fn read(text: &[u8], backend: &'static str) -> Result<Status, String> {
    let report: Report = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok(Status {
        backend,
        log_id: report.log_id.as_deref().map(log_id).transpose()?,
        epoch: Epoch(report.epoch),
        committed: LogIndex(report.committed),
        first: LogIndex(report.first),
        quorum_contact_age: report.quorum_contact_age_ms.map(Duration::from_millis),
        voters: report.voters.into_iter().map(|(node, endpoint)| (NodeId(node), endpoint)).collect(),
        peers: report.peers.into_iter().map(peer).collect(),
        founding: report.founding.map(|founding| Founding {
            have: founding.have.into_iter().map(NodeId).collect(),
            awaited: founding.awaited.into_iter().map(peer).collect(),
        }),
        max_entry_bytes: report.max_entry_bytes,
        fatal: report.fatal,
    })
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

fn log_id(text: &str) -> Result<LogId, String> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits);
    number.map(|number| LogId(number.to_be_bytes())).ok_or_else(|| "log_id is not 32 hex digits".to_owned())
}

fn reported(peer: &Peer) -> ReportedPeer {
    ReportedPeer {
        node: peer.node.map(|node| node.0),
        endpoint: peer.endpoint.clone(),
        contact_age_ms: peer.contact_age.map(millis),
        matched: peer.matched.map(|index| index.0),
        problem: peer.problem.clone(),
    }
}

fn peer(peer: ReportedPeer) -> Peer {
    Peer {
        node: peer.node.map(NodeId),
        endpoint: peer.endpoint,
        contact_age: peer.contact_age_ms.map(Duration::from_millis),
        matched: peer.matched.map(LogIndex),
        problem: peer.problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_way_through_json() {
        let peer = Peer {
            node: Some(NodeId(2)),
            endpoint: "h:1".to_owned(),
            contact_age: Some(Duration::from_millis(7)),
            matched: Some(LogIndex(4)),
            problem: Some("silent".to_owned()),
        };
        let status = Status {
            backend: "plugin:x",
            log_id: Some(LogId([0x0a; 16])),
            epoch: Epoch(3),
            committed: LogIndex(9),
            first: LogIndex(2),
            quorum_contact_age: Some(Duration::from_millis(12)),
            voters: BTreeMap::from([(NodeId(0), "a:1".to_owned()), (NodeId(2), "h:1".to_owned())]),
            founding: Some(Founding { have: vec![NodeId(0)], awaited: vec![peer.clone()] }),
            peers: vec![peer],
            max_entry_bytes: 1 << 20,
            fatal: Some("why".to_owned()),
        };
        assert_eq!(read(&write(&status), "plugin:x").unwrap(), status);
    }

    #[test]
    fn a_malformed_report_is_refused() {
        for text in
            ["", "{}", "[]", r#"{"log_id":"+1","epoch":1,"committed":1,"first":1,"max_entry_bytes":1}"#]
        {
            assert!(read(text.as_bytes(), "x").is_err(), "{text}");
        }
    }
}

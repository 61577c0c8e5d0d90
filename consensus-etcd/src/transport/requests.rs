//! Between the backend's vocabulary and the etcd client's.

use bytes::Bytes;
use etcd_client::{
    Compare as ClientCompare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue as ClientKeyValue,
    PutOptions, Txn as ClientTxn, TxnOp, TxnOpResponse, TxnResponse,
};

use crate::storage::{Compare, KeyValue, Op, Page, Range, Txn, TxnReply};

pub(super) fn txn(txn: &Txn) -> ClientTxn {
    let when = txn.when.iter().map(|compare| match compare {
        Compare::Unmoved(key, revision) => {
            ClientCompare::mod_revision(key.as_str(), CompareOp::Equal, *revision)
        }
        Compare::Holds(key, value) => ClientCompare::value(key.as_str(), CompareOp::Equal, value.as_ref()),
    });
    ClientTxn::new()
        .when(when.collect::<Vec<_>>())
        .and_then(txn.then.iter().map(op).collect::<Vec<_>>())
        .or_else(txn.otherwise.iter().map(op).collect::<Vec<_>>())
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            TxnOp::put(key.as_str(), value.as_ref(), options)
        }
        Op::Get(range) => {
            let (key, options) = get(range);
            TxnOp::get(key, Some(options))
        }
        Op::Delete { from, to } => {
            TxnOp::delete(from.as_str(), Some(DeleteOptions::new().with_range(to.as_str())))
        }
    }
}

pub(super) fn get(range: &Range) -> (String, GetOptions) {
    let mut options = GetOptions::new().with_limit(range.limit).with_revision(range.revision);
    if let Some(to) = &range.to {
        options = options.with_range(to.as_str());
    }
    (range.from.clone(), if range.keys_only { options.with_keys_only() } else { options })
}

pub(super) fn page(response: &GetResponse) -> Page {
    let revision = response.header().map_or(0, |header| header.revision());
    Page { entries: response.kvs().iter().map(key_value).collect(), revision }
}

pub(super) fn txn_reply(response: &TxnResponse) -> TxnReply {
    let gets = response.op_responses().into_iter().filter_map(|op| match op {
        TxnOpResponse::Get(found) => Some(found.kvs().iter().map(key_value).collect()),
        _ => None,
    });
    let revision = response.header().map_or(0, |header| header.revision());
    TxnReply { succeeded: response.succeeded(), revision, gets: gets.collect() }
}

/// A key that is not text is none of ours; it is kept readable and will match nothing.
fn key_value(kv: &ClientKeyValue) -> KeyValue {
    KeyValue {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: Bytes::copy_from_slice(kv.value()),
        modified: kv.mod_revision(),
    }
}

//! A library that panics in any of its entry points takes nobody with it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use quorate_consensus_plugin::Library;
use quorate_core::{
    consensus::{
        CompactError, Epoch, LogIndex, MembershipChange, MembershipError, NodeId, ProposeError, Resume,
        Running, Snapshot, SnapshotMeta, StartError,
    },
    runtime::Clock,
};

/// Cargo builds examples before it runs tests, into the folder above the tests' own.
fn library() -> (tempfile::TempDir, Arc<Library>) {
    let program = std::env::current_exe().expect("a path");
    let built = program.ancestors().nth(2).expect("target/<profile>").join("examples/libpanics.so");
    // The folder of the build may be writable by a group.
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("libpanics.so");
    fs::copy(&built, &copy).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    let library = Library::open(Path::new(&copy)).expect("a library");
    (folder, library)
}

fn config(entry: &str) -> String {
    format!(
        r#"{{"node":1,"directory_id":"67e55044-10b1-426f-9247-bb680e5fe0c8","folder":"/f","options":{{"in":"{entry}"}}}}"#
    )
}

async fn start(entry: &str) -> Result<Arc<dyn Running>, StartError> {
    library().1.construct(&config(entry))?.start(Resume::default()).await
}

async fn in_time<F: Future>(future: F) -> F::Output {
    Clock::system().timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// Calls whatever panics in `entry`, and says how that was answered.
async fn call(node: &dyn Running, entry: &str) {
    match entry {
        "propose" => {
            let proposed = node.propose(Epoch(1), Bytes::from_static(b"a")).await;
            assert_eq!(proposed, Err(ProposeError::Unknown));
        }
        "read_barrier" => assert!(node.read_barrier().await.is_err()),
        "compact_finish" => {
            let meta = SnapshotMeta { index: LogIndex(1), ..SnapshotMeta::default() };
            let kept = node.compact(Snapshot { meta, chunks: stream::empty().boxed() }).await;
            assert!(matches!(kept, Err(CompactError::Unavailable(_))), "{kept:?}");
        }
        "change_membership" => {
            let changed = node.change_membership(MembershipChange::Remove(NodeId(2))).await;
            assert!(matches!(changed, Err(MembershipError::Unavailable(_))), "{changed:?}");
        }
        "resign" => node.resign(Epoch(1)).await,
        "next_committed" => assert!(node.committed(LogIndex(0)).next().await.is_none()),
        "next_leader" => assert!(node.leader_events().next().await.is_none()),
        "status" => drop(node.status()),
        "shutdown" => node.shutdown().await,
        other => panic!("no entry point {other}"),
    }
}

#[tokio::test]
async fn a_panic_in_create_or_start_is_a_refusal() {
    for entry in ["create", "start"] {
        let error = in_time(start(entry)).await.err().expect("a refusal");
        assert!(error.to_string().contains(&format!("panicked in {entry}")), "{error}");
    }
}

#[tokio::test]
async fn a_panic_in_any_call_is_contained_and_fatal() {
    for entry in [
        "propose",
        "read_barrier",
        "compact_finish",
        "change_membership",
        "resign",
        "next_committed",
        "next_leader",
        "status",
        "shutdown",
    ] {
        let node = in_time(start(entry)).await.unwrap();
        in_time(call(node.as_ref(), entry)).await;
        let fatal = node.status().fatal.unwrap_or_else(|| panic!("{entry} is not fatal"));
        assert!(fatal.contains(&format!("panicked in {entry}")), "{fatal}");
        let proposed = node.propose(Epoch(1), Bytes::from_static(b"a")).await;
        assert_eq!(proposed, Err(ProposeError::Stopped), "{entry}");
        in_time(node.shutdown()).await;
    }
}

#[tokio::test]
async fn a_panic_in_destroy_is_contained() {
    let node = in_time(start("destroy")).await.unwrap();
    drop(node);
    let node = in_time(start("")).await.unwrap();
    assert_eq!(node.propose(Epoch(1), Bytes::from_static(b"a")).await, Ok(LogIndex(1)));
    in_time(node.shutdown()).await;
}

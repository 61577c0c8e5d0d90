//! Libraries that are none, are others, or misbehave: each is refused or contained, with a sentence.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use quorate_consensus_plugin::{Library, Limits, LoadError, UnsafePath};
use quorate_core::{
    consensus::{
        Committed, CompactError, Consensus, Epoch, Leader, LogIndex, MembershipChange, MembershipError,
        NodeId, ProposeError, Resume, Running, Snapshot, SnapshotMeta, StartError,
    },
    runtime::Clock,
};
use tempfile::TempDir;

const SHORT: Limits = Limits {
    start: Duration::from_millis(300),
    propose: Duration::from_millis(300),
    call: Duration::from_millis(300),
    stop: Duration::from_millis(300),
};

/// Builds a fixture of this folder into a library.
fn build(folder: &TempDir, source: &str, defines: &[&str]) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = folder.path().join("libfixture.so");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]).args(defines);
    if let Some(checks) = std::env::var_os("SANITIZE") {
        cc.arg(format!("-fsanitize={}", checks.display())).env_remove("LD_PRELOAD");
    }
    cc.arg("-I").arg(here.join("include")).arg("-o").arg(&library);
    let out = cc.arg(here.join("tests/fixtures").join(source)).output().expect("a C compiler");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    library
}

fn refused(defines: &[&str]) -> LoadError {
    let folder = tempfile::tempdir().expect("a folder");
    Library::open(&build(&folder, "hostile.c", defines)).expect_err("a refusal")
}

fn construct(does: &str) -> Result<Box<dyn Consensus>, StartError> {
    let folder = tempfile::tempdir().expect("a folder");
    let library = Library::open_with(&build(&folder, "hostile.c", &[]), SHORT).expect("a library");
    let config = format!(
        r#"{{"node":1,"directory_id":"67e55044-10b1-426f-9247-bb680e5fe0c8","folder":"/f","options":{{"does":"{does}"}}}}"#
    );
    library.construct(&config)
}

async fn start(does: &str) -> Arc<dyn Running> {
    let idle = construct(does).expect("a node");
    idle.start(Resume::default()).await.expect("a running node")
}

async fn in_time<F: Future>(future: F) -> F::Output {
    Clock::system().timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// The sentence with which a node has failed. Its streams have ended and its calls are answered.
async fn failure(running: &dyn Running) -> String {
    let mut events = running.leader_events();
    in_time(async { while events.next().await.is_some() {} }).await;
    assert_eq!(running.propose(Epoch(1), Bytes::from_static(b"a")).await, Err(ProposeError::Stopped));
    assert!(running.committed(LogIndex(0)).next().await.is_none());
    running.status().fatal.expect("a fatal failure")
}

#[test]
fn what_is_no_library_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("libtext.so");
    fs::write(&text, "not a library").unwrap();
    let error = Library::open(&text).unwrap_err();
    assert!(matches!(error, LoadError::NotALibrary { .. }), "{error}");
    let error = Library::open(Path::new("libtext.so")).unwrap_err();
    assert!(matches!(error, LoadError::Unsafe { error: UnsafePath::Relative, .. }), "{error}");
}

#[test]
fn a_library_of_something_else_is_refused() {
    let libm = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"];
    let libm = libm.into_iter().map(Path::new).find(|path| path.exists()).expect("a libm");
    let error = Library::open(libm).unwrap_err();
    assert!(matches!(error, LoadError::NoSymbol(_)), "{error}");
    assert!(error.to_string().contains("has no symbol quorate_consensus_v0"), "{error}");
}

#[test]
fn another_major_version_is_refused_before_anything_else_of_the_table_is_read() {
    let error = refused(&["-DMAJOR=1", "-DTABLE_SIZE=8"]);
    assert!(matches!(error, LoadError::OtherVersion { found: 1, .. }), "{error}");
}

#[test]
fn a_shorter_table_and_one_with_a_gap_are_refused() {
    let error = refused(&["-DTABLE_SIZE=176"]).to_string();
    assert!(error.contains("its table has 176 bytes, and version 0 has 184"), "{error}");
    let error = refused(&["-DRESIGN=NULL"]).to_string();
    assert!(error.contains("its table has no resign"), "{error}");
}

#[test]
fn a_longer_table_of_the_same_major_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Library::open(&build(&folder, "hostile.c", &["-DTABLE_SIZE=200"])).is_ok());
}

#[test]
fn create_that_refuses_is_quoted_and_one_that_does_not_answer_is_blamed() {
    for (does, sentence) in [
        ("refuse", "colour: no such colour"),
        ("silent create", "returned from create without an answer"),
        ("no node", "answered create with OK and made no node"),
    ] {
        let error = construct(does).err().expect("a refusal");
        assert!(matches!(&error, StartError::Config(why) if why.contains(sentence)), "{does}: {error}");
    }
}

#[tokio::test]
async fn a_start_that_is_never_answered_ends_in_time() {
    let error = construct("never start").unwrap().start(Resume::default()).await.err().expect("an error");
    assert!(error.to_string().contains("has not answered its start"), "{error}");
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends_in_time() {
    let node = start("never").await;
    let entry = Bytes::from_static(b"a");
    assert_eq!(in_time(node.propose(Epoch(1), entry)).await, Err(ProposeError::Unknown));
    let barrier = in_time(node.read_barrier()).await.unwrap_err();
    assert!(barrier.0.contains("has not answered within"), "{barrier}");
    let chunks = futures_util::stream::empty().boxed();
    let meta = SnapshotMeta { index: LogIndex(1), ..SnapshotMeta::default() };
    let kept = in_time(node.compact(Snapshot { meta, chunks })).await;
    assert!(matches!(kept, Err(CompactError::Unavailable(_))), "{kept:?}");
    let changed = in_time(node.change_membership(MembershipChange::Remove(NodeId(2)))).await;
    assert!(matches!(changed, Err(MembershipError::Unavailable(_))), "{changed:?}");
    in_time(node.resign(Epoch(1))).await;
    in_time(node.shutdown()).await;
    assert!(in_time(node.leader_events().next()).await.is_none());
}

#[tokio::test]
async fn a_second_answer_and_answers_to_nobody_are_ignored() {
    let node = start("twice").await;
    for _ in 0..100 {
        assert_eq!(node.propose(Epoch(1), Bytes::from_static(b"a")).await, Ok(LogIndex(7)));
    }
    assert_eq!(node.status().fatal, None);
    in_time(node.shutdown()).await;
}

#[tokio::test]
async fn answers_after_destroy_have_no_effect() {
    let node = start("after destroy").await;
    let event = in_time(node.leader_events().next()).await.unwrap();
    assert_eq!(event.leader, Leader::Me { opened_at: LogIndex(1) });
    let mut log = node.committed(LogIndex(0));
    assert!(in_time(log.next()).await.is_some());
    drop(node);
    assert!(in_time(log.next()).await.is_none());
}

#[tokio::test]
async fn a_panic_leaves_the_outcome_unknown_and_ends_the_node() {
    let node = start("panic").await;
    assert_eq!(node.propose(Epoch(1), Bytes::from_static(b"a")).await, Err(ProposeError::Unknown));
    let fatal = failure(node.as_ref()).await;
    assert!(fatal.contains("plugin:hostile panicked in propose"), "{fatal}");
}

#[tokio::test]
async fn a_confirmed_proposal_without_a_place_is_no_confirmation() {
    let node = start("index 0").await;
    assert_eq!(node.propose(Epoch(1), Bytes::from_static(b"a")).await, Err(ProposeError::Unknown));
    assert!(failure(node.as_ref()).await.contains("breaks its contract"));
}

#[tokio::test]
async fn a_leader_that_cannot_be_ends_the_node() {
    for (does, sentence) in
        [("odd leader", "a leader that cannot be"), ("old leader", "event 1 after event 1")]
    {
        let fatal = failure(start(does).await.as_ref()).await;
        assert!(fatal.contains(sentence), "{does}: {fatal}");
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_ends_the_node() {
    for (does, sentence) in [
        ("hole", "entry 3 of epoch 1 after 1 of 1"),
        ("falling epoch", "entry 2 of epoch 2 after 1 of 3"),
        ("long entry", "larger than the library's limit"),
        ("nothing", "no entry"),
        ("short reply", "a reply of 8 bytes"),
        ("nowhere", "nowhere or too many"),
        ("odd status", "the status 99"),
        ("empty snapshot", "a snapshot that is none"),
    ] {
        let node = start(does).await;
        let read: Vec<Committed> = in_time(node.committed(LogIndex(0)).take(10).collect()).await;
        assert!(read.len() < 3, "{does}: {read:?}");
        let fatal = failure(node.as_ref()).await;
        assert!(fatal.contains(sentence) && fatal.contains("next_committed"), "{does}: {fatal}");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_longer_than_its_head_says_is_cut_off() {
    let node = start("endless snapshot").await;
    let item = in_time(node.committed(LogIndex(0)).next()).await;
    let Some(Committed::Snapshot(mut snapshot)) = item else { panic!("{item:?}") };
    let error = in_time(snapshot.chunks.next()).await.unwrap().unwrap_err();
    assert!(error.0.contains("a chunk of 20 bytes where 4 are left"), "{error}");
    assert!(in_time(snapshot.chunks.next()).await.is_none());
}

#[tokio::test]
async fn a_status_that_cannot_be_read_ends_the_node() {
    for (does, sentence) in [("bad report", "malformed report"), ("silent status", "without an answer")] {
        let node = start(does).await;
        let fatal = node.status().fatal.expect("a fatal failure");
        assert!(fatal.contains(sentence), "{does}: {fatal}");
    }
}

//! The command `quorate conformance`, as an author of a backend runs it: each node a process of its own.
//!
//! `make test` runs some groups of the short list on the default backend; with `CONFORMANCE=full`, as `make conformance`
//! sets it, every target runs the full list.

use std::{
    path::Path,
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
};

use quorate_tests::{
    cluster::binary,
    etcd::{EtcdServer, Release},
};
use serde_json::{Value, json};

/// One target at a time: each makes use of the whole machine.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn full() -> bool {
    std::env::var_os("CONFORMANCE").is_some_and(|list| list == "full")
}

fn quorate(arguments: &[&str]) -> Output {
    Command::new(binary()).arg("conformance").args(arguments).output().expect("quorate runs")
}

/// Runs the command and returns what it says for programs.
fn passes(arguments: &[&str]) -> Value {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("report.json");
    let mut arguments = arguments.to_vec();
    arguments.extend(["--json", json.to_str().expect("a path in UTF-8")]);
    let out = quorate(&arguments);
    let text = String::from_utf8_lossy(&out.stdout);
    println!("{text}");
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&std::fs::read(json).expect("a report")).expect("JSON")
}

#[test]
fn the_default_backend_keeps_the_contract() {
    if full() {
        passes(&["--consensus", "raftrs", "--full"]);
        return;
    }
    let groups = ["lifecycle", "log", "durability", "compaction"].map(|group| ["--case", group]);
    let arguments: Vec<&str> =
        ["--consensus", "raftrs", "--nodes", "3"].into_iter().chain(groups.into_iter().flatten()).collect();
    let report = passes(&arguments);
    assert!(report["passed"].as_u64() > Some(30), "{report}");
}

#[test]
fn openraft_keeps_the_contract() {
    if full() {
        passes(&["--consensus", "openraft", "--full"]);
    }
}

fn on_etcd(release: Release) {
    if !full() {
        return;
    }
    let server = EtcdServer::start_with(release, &[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("etcd.json");
    let text = json!({ "options": { "endpoints": server.address() } }).to_string();
    std::fs::write(&config, text).expect("a configuration");
    passes(&["--consensus", "etcd", "--full", "--config", config.to_str().expect("a path in UTF-8")]);
}

#[test]
fn etcd_keeps_the_contract() {
    on_etcd(Release::Current);
}

#[test]
fn the_oldest_etcd_keeps_the_contract() {
    on_etcd(Release::Floor);
}

#[test]
fn wrong_usage_is_told_from_a_failed_case() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("wrong.json");
    std::fs::write(&config, r#"{"lacks": {"flight": "no wings"}}"#).expect("a configuration");
    let config = config.to_str().expect("a path in UTF-8");
    for (arguments, sentence) in [
        (vec!["--consensus", "nothing"], "there is no such backend"),
        (vec!["--consensus", "raftrs", "--case", "nothing"], "there is no such case"),
        (vec!["--consensus", "raftrs", "--config", config], "there is no capability 'flight'"),
        (vec!["--plugin", "/nowhere.so"], "/nowhere.so"),
        (vec![], "--plugin"),
    ] {
        let out = quorate(&arguments);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(sentence), "{arguments:?}: {said}");
    }
    assert!(!Path::new("/nowhere.so").exists());
}

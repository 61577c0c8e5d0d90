//! Clusters of real processes whose consensus is a shared library, and libraries that are refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use quorate_tests::{
    cluster::{Backend, Cluster, binary, http_get, wait_for},
    labs::library::build_c_example,
};
use rustix::process::Signal;

mod shared_folder_in_rust {
    use quorate_tests::labs::library::LibraryBackend;

    quorate_conformance::conformance!(LibraryBackend::in_rust());
}

mod shared_folder_in_c {
    use quorate_tests::labs::library::LibraryBackend;

    quorate_conformance::conformance!(LibraryBackend::in_c());
}

/// The metadata survives the death of the node that leads it, of all nodes, and an orderly end.
fn lives_through_deaths(backend: &Backend) {
    let mut cluster = Cluster::start(3, backend);
    cluster.wait_ready();
    cluster.create_topic("before", 3, 3);
    let leader = cluster.controller();
    cluster.node(leader).kill();
    let next = cluster.controller();
    assert_ne!(next, leader);
    cluster.create_topic("without", 1, 2);
    cluster.node(leader).start();
    cluster.wait_ready();
    for id in cluster.ids() {
        cluster.node(id).kill();
    }
    for id in cluster.ids() {
        cluster.node(id).start();
    }
    cluster.wait_ready();
    cluster.create_topic("after", 1, 3);
    for topic in ["before", "without", "after"] {
        wait_for("the topic's leaders", Duration::from_secs(30), || {
            let leaders = cluster.leaders(topic);
            (!leaders.is_empty() && leaders.iter().all(|leader| *leader > 0)).then_some(())
        });
    }
    for id in cluster.ids() {
        assert_eq!(cluster.node(id).terminate(), Some(0), "{}", cluster.logs());
    }
}

#[test]
fn three_nodes_run_on_the_raftrs_library() {
    let folder = tempfile::tempdir().expect("a folder");
    lives_through_deaths(&Backend::library(folder.path(), "libraftrs_library.so"));
}

#[test]
fn three_nodes_run_on_the_openraft_library() {
    let folder = tempfile::tempdir().expect("a folder");
    lives_through_deaths(&Backend::library(folder.path(), "libopenraft_library.so"));
}

/// A library whose nodes share a folder.
fn sharing(path: PathBuf, folder: &Path) -> Backend {
    let store = folder.join("store").display().to_string();
    Backend::Library { path, options: vec![("store".to_owned(), store)] }
}

#[test]
fn three_nodes_run_on_the_example_in_rust() {
    let folder = tempfile::tempdir().expect("a folder");
    let Backend::Library { path, .. } = Backend::library(folder.path(), "libshared_folder.so") else {
        panic!("a library");
    };
    lives_through_deaths(&sharing(path, folder.path()));
}

#[test]
fn three_nodes_run_on_the_example_in_c() {
    let folder = tempfile::tempdir().expect("a folder");
    lives_through_deaths(&sharing(build_c_example(folder.path()), folder.path()));
}

fn leads(cluster: &mut Cluster, id: u32) -> bool {
    let line = |line: &str| line.contains("activecontrollercount") && line.ends_with(" 1");
    http_get(cluster.node(id).http_port(), "/metrics").is_ok_and(|(_, body)| body.lines().any(line))
}

/// The leader stands still for several leases. Another takes over, and what the first then still wants is refused.
#[test]
fn a_paused_leader_is_fenced_when_it_wakes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut cluster = Cluster::start(3, &sharing(build_c_example(folder.path()), folder.path()));
    cluster.wait_ready();
    let leader = cluster.controller();
    cluster.node(leader).signal(Signal::STOP);
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let next = wait_for("another leader", Duration::from_secs(30), || {
        others.iter().copied().find(|id| leads(&mut cluster, *id))
    });
    cluster.node(leader).signal(Signal::CONT);
    wait_for("the first to follow", Duration::from_secs(30), || (!leads(&mut cluster, leader)).then_some(()));
    cluster.wait_ready();
    assert!(leads(&mut cluster, next), "the one that took over has lost its leadership");
    cluster.create_topic("after", 1, 3);
}

/// What `quorate server` says of a configuration, and its exit code.
fn refusal(folder: &Path, consensus: &str, extra: &str) -> (Option<i32>, String) {
    let file = folder.join("server.properties");
    let data = folder.join("data");
    let text = format!(
        "node.id=1\nprocess.roles=broker,controller\nlisteners=PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:0\n\
         controller.listener.names=CONTROLLER\nquorate.http.listener=none\nlog.dirs={}\nconsensus={consensus}\n{extra}",
        data.display()
    );
    fs::write(&file, text).expect("the properties");
    let out =
        Command::new("timeout").arg("60").arg(binary()).arg("server").arg(&file).output().expect("a process");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    (out.status.code(), said)
}

#[test]
fn a_library_that_cannot_be_is_refused_with_a_sentence_and_the_code_of_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| format!("plugin:{}", folder.path().join(name).display());
    fs::write(folder.path().join("text.so"), "no library").expect("a file");
    let Backend::Library { path: library, .. } = Backend::library(folder.path(), "libraftrs_library.so")
    else {
        panic!("a library");
    };
    let named = format!("plugin:{}", library.display());
    for (consensus, extra, sentence) in [
        ("plugin:relative.so".to_owned(), "", "must be absolute"),
        (path("missing.so"), "", "No such file"),
        (path("text.so"), "", "is not a shared library that this machine can load"),
        ("plugin:/lib/x86_64-linux-gnu/libm.so.6".to_owned(), "", "has no symbol quorate_consensus_v0"),
        (named.clone(), "", "consensus.listener is not set"),
        (named.clone(), "consensus.listener=127.0.0.1:0\n", "are set together"),
        (named, "consensus.plugin.tail=long\n", "consensus.plugin.tail: 'long' is not a number"),
    ] {
        let (code, said) = refusal(folder.path(), &consensus, extra);
        assert_eq!(code, Some(78), "{consensus} {extra}: {said}");
        assert!(said.contains(sentence), "{consensus} {extra}: {said}");
    }
}

#[test]
fn folders_remember_the_library_by_its_name_and_refuse_another_backend() {
    let folder = tempfile::tempdir().expect("a folder");
    let backend = Backend::library(folder.path(), "libraftrs_library.so");
    let mut cluster = Cluster::start(1, &backend);
    cluster.wait_ready();
    assert_eq!(cluster.node(1).terminate(), Some(0), "{}", cluster.logs());
    let properties = cluster.node(1).properties().to_owned();
    let text = fs::read_to_string(&properties).expect("the properties");
    let named = |consensus: &str| {
        let line = |line: &str| match line.starts_with("consensus=") {
            true => format!("consensus={consensus}\n"),
            false => format!("{line}\n"),
        };
        text.lines().map(line).collect::<String>()
    };
    fs::write(&properties, named("raftrs")).expect("the properties");
    cluster.node(1).start();
    assert_eq!(cluster.node(1).wait_exit(Duration::from_secs(30)), Some(78));
    let log = cluster.node(1).log_tail();
    assert!(log.contains("kept by plugin:raftrs, and consensus=raftrs is asked for"), "{log}");
    // The same library at another place is the same backend.
    let moved = folder.path().join("moved.so");
    fs::copy(folder.path().join("libraftrs_library.so"), &moved).expect("a copy");
    fs::write(&properties, named(&format!("plugin:{}", moved.display()))).expect("the properties");
    cluster.node(1).start();
    cluster.wait_ready();
}

//! What the command line does, on real processes.
#![expect(clippy::disallowed_methods, reason = "real processes run on real time")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

fn quorate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a file `server.properties` of this text.
fn folder_with(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("server.properties"), text).unwrap();
    folder
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Whether the process exists and is no zombie.
fn runs(number: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    test_kill_process(pid(number)).is_ok() && !status.contains("State:\tZ")
}

#[test]
fn check_shows_every_effective_value_with_its_origin() {
    let folder = folder_with("# one\nnode.id=7\nlog.dirs=/file\nnum.partitions=3\n");
    let mut command = quorate();
    command.current_dir(folder.path()).args(["server", "--check", "server.properties"]);
    command.args(["--override", "log.dirs=/flag", "--override", "consensus.etcd.endpoints=http://h:2379"]);
    command.args(["--consensus", "etcd"]).env("QUORATE_NUM_PARTITIONS", "5");
    let output = run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    for line in [
        "node.id=7  (server.properties:2)",
        "log.dirs=/flag  (command line)",
        "num.partitions=5  (environment QUORATE_NUM_PARTITIONS)",
        "consensus=etcd  (command line)",
        "auto.create.topics.enable=true  (default)",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_78_and_names_every_mistake_with_its_line() {
    let folder = folder_with("node.id=one\nlisteneres=PLAINTEXT://:9092\n");
    for check in [&["--check"][..], &[]] {
        let mut command = quorate();
        command.current_dir(folder.path()).args(["server", "server.properties"]).args(check);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(78));
        let text = stderr(&output);
        assert!(text.contains("server.properties:1: 'one' is no value of 'node.id'"), "{text}");
        assert!(text.contains("unknown key 'listeneres'; did you mean 'listeners'?"), "{text}");
    }
    let output = run(quorate().args(["server", "/nowhere/server.properties"]));
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("/nowhere/server.properties"), "{}", stderr(&output));
}

#[test]
fn a_backend_that_is_not_there_is_refused_by_name() {
    let folder = folder_with("node.id=1\n");
    let mut command = quorate();
    command.current_dir(folder.path()).args([
        "server",
        "server.properties",
        "--check",
        "--consensus",
        "paxos",
    ]);
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("this build has raftrs, etcd"), "{}", stderr(&output));
}

#[test]
fn the_version_is_told_in_numbers() {
    let output = run(quorate().args(["version", "--json"]));
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["on_disk_format"].is_u64() && version["peer_protocol"].is_u64());
}

#[test]
fn dev_names_a_busy_port_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    // Some other port of node 2 than its first.
    let port = busy.local_addr().unwrap().port() - 12;
    let mut command = quorate();
    command.args(["dev", "--nodes", "3", "--port", &port.to_string(), "--data-dir"]).arg(folder.path());
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains(&format!("node 2, HTTP: 127.0.0.1:{} is in use", port + 12)), "{text}");
    assert!(text.contains("--port"), "{text}");
    assert!(!folder.path().join("node-1").exists());
    assert_eq!(stdout(&output), "");
}

#[test]
fn dev_refuses_another_number_of_nodes_or_another_backend_than_the_folders() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("dev.properties"), "nodes=3\nconsensus=raftrs\nport=9092\n").unwrap();
    for (flags, reason) in [
        (["--nodes", "1"], "holds 3 nodes, not 1"),
        (["--consensus", "etcd"], "a cluster on raftrs, not on etcd"),
    ] {
        let output = run(quorate().arg("dev").args(flags).arg("--data-dir").arg(folder.path()));
        assert_eq!(output.status.code(), Some(78));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        assert!(stderr(&output).contains("--data-dir"), "{}", stderr(&output));
    }
}

#[test]
fn dev_without_an_etcd_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = quorate();
    command.args(["dev", "--consensus", "etcd", "--data-dir"]).arg(folder.path()).env("PATH", "/nowhere");
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("apt-get install etcd-server"), "{}", stderr(&output));
}

#[test]
fn a_tied_process_dies_with_its_parent_even_on_kill_9() {
    let mut parent = Command::new("sh");
    parent
        .arg("-c")
        .arg(format!("'{}' tied --parent $$ sleep 600 & echo $!; wait", env!("CARGO_BIN_EXE_quorate")));
    let mut parent = parent.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let child: u32 = line.trim().parse().unwrap();
    let is_sleep =
        || fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|text| text.starts_with("sleep"));
    wait_for("the child to become the other program", is_sleep);
    kill_process(pid(parent.id()), Signal::KILL).unwrap();
    parent.wait().unwrap();
    wait_for("the child to die", || !runs(child));
}

#[test]
fn a_tied_process_whose_parent_is_gone_does_not_start() {
    let output = run(quorate().args(["tied", "--parent", "1", "echo", "started"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("parent process 1 has already ended"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_client_without_a_cluster_says_who_does_not_answer() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = quorate();
    command.args(["topic", "list", "--timeout", "0", "-b", &free]);
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains(&free) && text.contains("is the cluster running?"), "{text}");
}

#[test]
fn the_help_names_every_command_and_the_exit_codes() {
    let text = stdout(&run(quorate().arg("--help")));
    for word in ["dev", "server", "topic", "produce", "consume", "version", "78"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    assert!(!text.contains("tied"), "{text}");
    assert!(Path::new(env!("CARGO_BIN_EXE_quorate")).exists());
}

//! What the command line does, on real processes.
#![expect(clippy::disallowed_methods, reason = "real processes run on real time")]
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it must be")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, channel},
    },
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
    assert!(stderr(&output).contains("this build has raftrs, openraft, etcd"), "{}", stderr(&output));
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

/// The first of as many ports as three nodes take, which nobody uses and no other test gets.
fn free_ports() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Below the range that the system hands out by itself.
    let start = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let next = || start + TAKEN.fetch_add(30, Ordering::Relaxed) % 2000;
    let free = |port: &u16| (0..30).all(|offset| TcpListener::bind(("127.0.0.1", port + offset)).is_ok());
    std::iter::repeat_with(next).find(free).unwrap()
}

/// A `quorate dev` that has said it is ready.
struct Dev {
    process: Child,
    lines: Receiver<String>,
    said: String,
}

impl Dev {
    fn start(folder: &Path, port: u16, nodes: u16) -> Self {
        let mut command = quorate();
        command
            .args(["dev", "--nodes", &nodes.to_string(), "--port", &port.to_string(), "--data-dir"])
            .arg(folder);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::Builder::new()
            .spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)))
            .unwrap();
        let mut dev = Self { process, lines, said: String::new() };
        dev.wait_line("ready in ");
        dev
    }

    /// Waits for a line that contains `text`, and gives it.
    fn wait_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) else { continue };
            self.said += &format!("{line}\n");
            if line.contains(text) {
                return line;
            }
        }
        panic!("'{text}' was not said:\n{}", self.said);
    }

    /// The processes of the nodes, as they were printed.
    fn pids(&self) -> Vec<u32> {
        let pids =
            self.said.lines().filter_map(|line| line.split_once("  pid ")).map(|(_, pid)| pid.trim().parse());
        pids.collect::<Result<_, _>>().unwrap()
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(pid(self.process.id()), signal).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_nodes_of_dev_die_with_it_even_on_kill_9_and_the_folder_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, port) = (folder.path().join("data"), free_ports());
    let mut dev = Dev::start(&path, port, 1);
    let nodes = dev.pids();
    assert_eq!(nodes.len(), 1);
    assert!(runs(nodes[0]));
    let second = run(quorate().arg("dev").arg("--data-dir").arg(&path));
    assert_eq!(second.status.code(), Some(78));
    assert!(stderr(&second).contains("another 'quorate dev' is running"), "{}", stderr(&second));
    dev.end(Signal::KILL);
    wait_for("the node to die", || !runs(nodes[0]));

    let mut dev = Dev::start(&path, port, 1);
    let nodes = dev.pids();
    assert_eq!(dev.end(Signal::INT), Some(0));
    assert!(!runs(nodes[0]));
    dev.wait_line("node 1: stopped");
    dev.wait_line("all stopped");
    let log = fs::read_to_string(path.join("node-1/node.log")).unwrap();
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}

/// Runs a client command against the cluster from `port` on; its standard output.
fn client(port: u16, args: &[&str], input: &str) -> String {
    let bootstrap = format!("127.0.0.1:{port},127.0.0.1:{},127.0.0.1:{}", port + 10, port + 20);
    let mut command = quorate();
    command.args(args).args(["--bootstrap-server", &bootstrap]).stdin(Stdio::piped());
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads nothing may have ended before it is written to.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

#[test]
fn three_nodes_lose_their_leader_and_say_so_and_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let (path, port) = (folder.path().join("data"), free_ports());
    let mut dev = Dev::start(&path, port, 3);
    assert!(dev.said.contains("replication factor 3, min in-sync replicas 2"), "{}", dev.said);
    client(port, &["topic", "create", "t", "--partitions", "3"], "");
    client(port, &["produce", "t", "--partition", "0"], "before\n");

    let described = client(port, &["topic", "describe", "t"], "");
    let first = described.lines().find(|line| line.contains("partition 0")).unwrap();
    let leader: usize = first.split("leader ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let victim = dev.pids()[leader - 1];
    kill_process(pid(victim), Signal::KILL).unwrap();
    let died = dev.wait_line(&format!("(pid {victim})"));
    assert!(died.starts_with(&format!("node {leader} ")) && died.contains("killed by signal 9"), "{died}");
    let restart = dev.wait_line("start it again: ");
    dev.wait_line("lead");
    client(port, &["produce", "t", "--partition", "0"], "after\n");
    assert_eq!(client(port, &["consume", "t", "--partition", "0"], ""), "before\nafter\n");

    let line = restart.split_once("start it again: ").unwrap().1;
    let mut again = Command::new("sh");
    let log = fs::File::create(folder.path().join("again.log")).unwrap();
    again.args(["-c", &format!("exec {line}")]).stderr(log).stdout(Stdio::null());
    let mut again = again.spawn().unwrap();
    dev.wait_line(&format!("node {leader} is back (pid {})", again.id()));
    assert_eq!(dev.end(Signal::INT), Some(0));
    assert!(dev.pids().into_iter().all(|node| !runs(node)));
    kill_process(pid(again.id()), Signal::KILL).unwrap();
    again.wait().unwrap();
}

#[test]
fn a_founder_that_is_alone_says_in_its_log_who_is_awaited() {
    let port = free_ports();
    let (two, three) = (port + 11, port + 21);
    let folder = folder_with("");
    let data = folder.path().join("data");
    let text = format!(
        "node.id=1\nlisteners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{}\nlog.dirs={}\n\
         quorate.http.listener=none\n\
         controller.quorum.voters=1@127.0.0.1:{},2@127.0.0.1:{two},3@127.0.0.1:{three}\n",
        port + 1,
        data.display(),
        port + 1
    );
    fs::write(folder.path().join("server.properties"), text).unwrap();
    let log = folder.path().join("log");
    let mut command = quorate();
    command
        .arg("server")
        .arg(folder.path().join("server.properties"))
        .stderr(fs::File::create(&log).unwrap());
    let mut node = command.spawn().unwrap();
    let says = |text: String| fs::read_to_string(&log).unwrap().contains(&text);
    wait_for("node 2 to be named", || says(format!("node 2 at 127.0.0.1:{two}")));
    wait_for("node 3 to be named", || says(format!("node 3 at 127.0.0.1:{three}")));
    kill_process(pid(node.id()), Signal::HUP).unwrap();
    wait_for("HUP to be told", || says("HUP is ignored".to_owned()));
    kill_process(pid(node.id()), Signal::TERM).unwrap();
    assert_eq!(node.wait().unwrap().code(), Some(0));
}

#[test]
fn a_node_whose_folder_is_another_nodes_says_so_and_ends_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let (path, port) = (folder.path().join("data"), free_ports());
    Dev::start(&path, port, 1).end(Signal::TERM);
    let mut command = quorate();
    command.arg("server").arg(path.join("node-1/server.properties"));
    command.args(["--override", "node.id=2", "--override"]);
    let output = run(command.arg(format!("controller.quorum.voters=2@127.0.0.1:{}", port + 1)));
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("belongs to node 1, this is node 2"), "{}", stderr(&output));
}

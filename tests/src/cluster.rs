//! Clusters of real processes: the binary as an operator starts it, on loopback, in a folder that goes with the test.
#![expect(clippy::disallowed_methods, reason = "real processes run on real time")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic here is a failed test")]

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use crate::backend::Backend;

/// A cluster of `quorate server` processes.
pub struct Cluster {
    folder: TempDir,
    nodes: Vec<Node>,
}

/// One process and what is needed to start it again.
pub struct Node {
    id: u32,
    roles: Roles,
    port: u16,
    properties: PathBuf,
    log: PathBuf,
    /// The length of the log when the process was last started.
    log_before: usize,
    child: Option<Child>,
}

/// `process.roles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Roles {
    Both,
    Controller,
    Broker,
}

/// Ports a node takes: client, controller, HTTP, inter-broker, and a margin like `quorate dev` leaves.
const PORTS_PER_NODE: u16 = 10;

impl Cluster {
    /// Starts `count` brokers that are controllers too, and does not wait for them.
    #[must_use]
    pub fn start(count: u32, backend: &Backend) -> Self {
        Self::start_with(count, backend, "")
    }

    /// Like [`Cluster::start`], with more lines in every node's properties.
    #[must_use]
    pub fn start_with(count: u32, backend: &Backend, extra: &str) -> Self {
        let mut cluster = Self::prepare_with(count, backend, extra);
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster
    }

    /// A cluster of which nothing runs yet.
    #[must_use]
    pub fn prepare(count: u32, backend: &Backend) -> Self {
        Self::prepare_with(count, backend, "")
    }

    /// Like [`Cluster::prepare`], with more lines in every node's properties.
    ///
    /// # Panics
    /// If the temporary folder cannot be written.
    #[must_use]
    pub fn prepare_with(count: u32, backend: &Backend, extra: &str) -> Self {
        Self::prepare_nodes(count, count, backend, extra)
    }

    /// A cluster of which nothing runs yet, whose first `controllers` nodes keep no records and whose others are no
    /// controllers.
    #[must_use]
    pub fn prepare_apart(controllers: u32, brokers: u32, backend: &Backend, extra: &str) -> Self {
        Self::prepare_nodes(controllers + brokers, controllers, backend, extra)
    }

    fn prepare_nodes(count: u32, controllers: u32, backend: &Backend, extra: &str) -> Self {
        let brokers = if count == controllers { count } else { count - controllers };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = free_ports(PORTS_PER_NODE * u16::try_from(count).expect("few nodes"));
        let port = |id: u32| base + PORTS_PER_NODE * u16::try_from(id - 1).expect("few nodes");
        let voters: Vec<String> =
            (1..=controllers).map(|id| format!("{id}@127.0.0.1:{}", port(id) + 1)).collect();
        let mut nodes = Vec::new();
        for id in 1..=count {
            let at = folder.path().join(format!("node-{id}"));
            fs::create_dir_all(&at).expect("a folder for the node");
            let roles = match id <= controllers {
                true if count == controllers => Roles::Both,
                true => Roles::Controller,
                false => Roles::Broker,
            };
            let node = Node {
                id,
                roles,
                port: port(id),
                properties: at.join("server.properties"),
                log: at.join("quorate.log"),
                log_before: 0,
                child: None,
            };
            let text = node.properties_text(&at, &voters.join(","), brokers, backend) + extra;
            fs::write(&node.properties, text).expect("the properties");
            nodes.push(node);
        }
        Self { folder, nodes }
    }

    /// Waits until every running node is ready.
    ///
    /// # Panics
    /// If one is not within a minute; its log is in the message.
    pub fn wait_ready(&mut self) {
        for node in &mut self.nodes {
            node.wait_ready();
        }
    }

    /// The client listeners, as `bootstrap.servers` takes them.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let brokers = self.nodes.iter().filter(|node| node.roles != Roles::Controller);
        let addresses: Vec<String> = brokers.map(Node::address).collect();
        addresses.join(",")
    }

    /// A node, by its id.
    pub fn node(&mut self, id: u32) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of this cluster")
    }

    /// The ids of all nodes.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// The folder of everything that belongs to the cluster.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The node that leads the metadata, waiting for one up to a minute.
    ///
    /// # Panics
    /// If there is none by then.
    pub fn controller(&mut self) -> u32 {
        let running: Vec<u16> =
            self.nodes.iter().filter(|node| node.child.is_some()).map(|node| node.port + 2).collect();
        let ids: Vec<u32> =
            self.nodes.iter().filter(|node| node.child.is_some()).map(|node| node.id).collect();
        wait_for("a controller", Duration::from_secs(60), || {
            running.iter().zip(&ids).find_map(|(port, id)| {
                let (status, body) = http_get(*port, "/metrics").ok()?;
                let active = body.lines().any(|line| {
                    line.starts_with("kafka_controller_kafkacontroller_activecontrollercount")
                        && line.ends_with(" 1")
                });
                (status == 200 && active).then_some(*id)
            })
        })
    }

    /// Creates a topic by the binary's own command.
    ///
    /// # Panics
    /// If the cluster refuses.
    pub fn create_topic(&self, name: &str, partitions: u32, replication: u32) {
        let out = run(
            Command::new(binary())
                .args(["topic", "create", name, "--bootstrap-server", &self.bootstrap()])
                .args([
                    "--partitions",
                    &partitions.to_string(),
                    "--replication-factor",
                    &replication.to_string(),
                ]),
            "",
            Duration::from_secs(60),
        );
        assert!(out.ok, "topic create: {out:?}");
    }

    /// The leader of each partition of a topic, as a client sees it; -1 where there is none.
    #[must_use]
    pub fn leaders(&self, topic: &str) -> Vec<i64> {
        let mut kcat = Command::new("kcat");
        let out = run(
            kcat.args(["-b", &self.bootstrap(), "-L", "-J", "-t", topic, "-m", "10"]),
            "",
            Duration::from_secs(20),
        );
        let Ok(metadata) = serde_json::from_str::<serde_json::Value>(&out.stdout) else { return Vec::new() };
        let partitions = metadata["topics"][0]["partitions"].as_array().cloned().unwrap_or_default();
        partitions.iter().map(|partition| partition["leader"].as_i64().unwrap_or(-1)).collect()
    }

    /// What every node has logged, for a failing test's message.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for node in &self.nodes {
            let _ = write!(all, "--- node {} ---\n{}\n", node.id, node.log_tail());
        }
        all
    }
}

impl Node {
    fn properties_text(&self, at: &Path, voters: &str, brokers: u32, backend: &Backend) -> String {
        let Self { id, port, roles, .. } = self;
        let (controller, http, internal) = (port + 1, port + 2, port + 3);
        let (replication, min_isr) = (brokers.min(3), if brokers >= 3 { 2 } else { 1 });
        let for_records = format!(
            "PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal}\ninter.broker.listener.name=INTERNAL"
        );
        let for_metadata = format!("CONTROLLER://127.0.0.1:{controller}");
        let (roles, listeners) = match roles {
            Roles::Both => ("broker,controller", format!("{for_metadata},{for_records}")),
            Roles::Controller => ("controller", for_metadata),
            Roles::Broker => ("broker", for_records),
        };
        let mut text = format!(
            "node.id={id}\n\
             process.roles={roles}\n\
             listeners={listeners}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.voters={voters}\n\
             quorate.http.listener=127.0.0.1:{http}\n\
             log.dirs={}\n\
             default.replication.factor={replication}\n\
             min.insync.replicas={min_isr}\n",
            at.join("data").display(),
        );
        text.push_str(&backend.properties(controller, voters));
        text
    }

    /// Starts the process (again).
    ///
    /// # Panics
    /// If the binary is missing.
    pub fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("the node's log");
        self.log_before = fs::metadata(&self.log).map_or(0, |log| usize::try_from(log.len()).unwrap_or(0));
        let child = Command::new(binary())
            .arg("server")
            .arg(&self.properties)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the process");
        self.child = Some(child);
    }

    /// Where clients reach the node.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port of the node's client listener.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the node's HTTP listener.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.port + 2
    }

    /// Its log directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.properties.with_file_name("data")
    }

    /// The file it is configured by.
    #[must_use]
    pub fn properties(&self) -> &Path {
        &self.properties
    }

    /// Whether a process runs (a paused one does).
    #[must_use]
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The process id.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running node").id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("a signal that arrives");
    }

    /// Asks for a controlled shutdown and waits for it; the exit code.
    ///
    /// # Panics
    /// If it takes more than 30 s.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let code = self.wait_exit(Duration::from_secs(30));
        self.child = None;
        code
    }

    /// Waits until the process has ended by itself; its exit code.
    ///
    /// # Panics
    /// If it has not by then.
    pub fn wait_exit(&mut self, within: Duration) -> Option<i32> {
        let tail = self.log.clone();
        let child = self.child.as_mut().expect("a running node");
        let what = format!("node {} to end; {}", self.id, tail.display());
        wait_for(&what, within, || child.try_wait().expect("a child")).code()
    }

    /// Waits until the node says that it is ready.
    ///
    /// # Panics
    /// If it does not within a minute.
    pub fn wait_ready(&mut self) {
        if self.child.is_none() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut last = String::from("no answer");
        while Instant::now() < deadline {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                panic!("node {} ended with {status}:\n{}", self.id, self.log_tail());
            }
            match http_get(self.http_port(), "/readyz") {
                Ok((200, _)) => return,
                Ok((_, body)) => last = body,
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("node {} is not ready ({last}):\n{}", self.id, self.log_tail());
    }

    /// The last 60 lines that it has logged since it was last started.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(self.log_before..).unwrap_or(&[]));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("kept for a look: {}", self.folder.path().display());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The binary under test, built by the same profile as the test.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the program's own path");
    // Tests are in target/<profile>/deps, programs one folder above.
    let folder = own.parent().expect("a folder");
    let profile = if folder.ends_with("deps") { folder.parent().expect("target/<profile>") } else { folder };
    let binary = profile.join("quorate");
    assert!(binary.exists(), "{} is missing: run `make build`", binary.display());
    binary
}

/// Something that `tests/install.sh` puts into the folder `.deps`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn installed(path: &str) -> PathBuf {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps").join(path);
    assert!(at.exists(), "{} is missing: run `make deps`", at.display());
    at
}

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// Whether it ended with exit code 0.
    pub ok: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end with `input` on its standard input; kills it when `within` is over.
///
/// # Panics
/// If the command cannot be started.
pub fn run(command: &mut Command, input: &str, within: Duration) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|threads| {
        threads.spawn(move || stdin.write_all(input.as_bytes()));
        let out = threads.spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let err = threads.spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let deadline = Instant::now() + within;
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        Output {
            ok: status.is_some_and(|status| status.success()),
            stdout: out.join().unwrap(),
            stderr: err.join().unwrap() + if status.is_none() { "\nkilled: it took too long" } else { "" },
        }
    })
}

/// Asks again until there is an answer.
///
/// # Panics
/// If there is none within the time.
pub fn wait_for<T>(what: &str, within: Duration, ask: impl FnMut() -> Option<T>) -> T {
    wait_within(within, ask).unwrap_or_else(|| panic!("waited {within:?} for {what}"))
}

/// Asks again until there is an answer, or the time is up.
pub fn wait_within<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A small HTTP/1.0 GET on loopback: status and body.
///
/// # Errors
/// If nobody answers.
pub fn http_get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok((status, body))
}

/// The first of `count` neighbouring ports that were free a moment ago.
///
/// # Panics
/// If there is no such run of ports.
#[must_use]
pub fn free_ports(count: u16) -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    // Below the ephemeral range, and another place for every test of every test process.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let home = 10_000 + u16::try_from(std::process::id() % 180).expect("small") * 100;
    for _ in 0..200 {
        let step = NEXT.fetch_add(count.next_multiple_of(10), Ordering::Relaxed);
        let base = 10_000 + (home - 10_000 + step) % 20_000;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..base + count).all(free) {
            return base;
        }
    }
    panic!("no {count} neighbouring free ports");
}

/// Asks a listener for its APIs (ApiVersions v0): key, lowest and highest version of each.
///
/// # Errors
/// If nobody answers within 2 s, or with anything but an ApiVersions answer.
pub fn api_versions(port: u16) -> std::io::Result<Vec<(i16, i16, i16)>> {
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let within = Some(Duration::from_secs(2));
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(within)?;
    stream.write_all(&REQUEST)?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap_or(0).min(1 << 16)];
    stream.read_exact(&mut body)?;
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let number =
        |at: usize| body.get(at..at + 2).map(|b| i16::from_be_bytes([b[0], b[1]])).ok_or_else(invalid);
    if body.get(..4) != Some(&[0, 0, 0, 7]) || number(4)? != 0 {
        return Err(invalid());
    }
    (10..body.len()).step_by(6).map(|at| Ok((number(at)?, number(at + 2)?, number(at + 4)?))).collect()
}

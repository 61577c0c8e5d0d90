//! Private etcd servers: real processes on free loopback ports, in a folder that goes with the test.
#![expect(clippy::disallowed_methods, reason = "real processes run on real time")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcd_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Which etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The one that `tests/install.sh` builds, or that the variable `ETCD_BINARY` names.
    Current,
    /// Debian's 3.4, the oldest that works.
    Floor,
}

impl Release {
    /// The server's program.
    ///
    /// # Panics
    /// If it is not installed; the message says how to.
    #[must_use]
    pub fn binary(self) -> PathBuf {
        let deps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps");
        let binary = match (self, std::env::var_os("ETCD_BINARY")) {
            (Self::Current, Some(named)) => named.into(),
            (Self::Current, None) => deps.join("bin/etcd"),
            (Self::Floor, _) => deps.join("etcd-floor/usr/bin/etcd"),
        };
        assert!(binary.exists(), "{} is missing; run tests/install.sh", binary.display());
        binary
    }
}

/// One etcd server, a member of its cluster, mostly the only one. Dropping it kills it.
pub struct EtcdServer {
    release: Release,
    folder: TempDir,
    /// Counts the data folders: a restore makes a new one.
    life: u32,
    name: String,
    ports: Ports,
    /// Every member: `name=http://host:port,…`.
    members: String,
    arguments: Vec<String>,
    child: Option<Child>,
}

#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    peer: u16,
    /// Tells of the health without TLS.
    metrics: u16,
}

impl Ports {
    /// All of them are held until all are known, so that they differ.
    fn free(members: usize) -> Vec<Self> {
        let held: Vec<[TcpListener; 3]> = (0..members)
            .map(|_| [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port")))
            .collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let ports = held.iter().map(|held| held.each_ref().map(port));
        ports.map(|[client, peer, metrics]| Self { client, peer, metrics }).collect()
    }
}

impl EtcdServer {
    /// Starts the current release and waits until it serves.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Release::Current, &[])
    }

    /// Starts a release with more command line arguments and waits until it serves.
    #[must_use]
    pub fn start_with(release: Release, arguments: &[&str]) -> Self {
        let mut server = Self::stopped(release, arguments);
        server.restart();
        server
    }

    /// A server that has its ports and is not started.
    ///
    /// # Panics
    /// If there is no folder or port to be had.
    #[must_use]
    pub fn stopped(release: Release, arguments: &[&str]) -> Self {
        Self::members(1, release, arguments).pop().expect("a member")
    }

    /// Starts a cluster of the current release and waits until every member serves.
    #[must_use]
    pub fn start_cluster(members: usize) -> Vec<Self> {
        let mut servers = Self::members(members, Release::Current, &["--unsafe-no-fsync"]);
        servers.iter_mut().for_each(Self::spawn);
        servers.iter_mut().for_each(Self::wait_serving);
        servers
    }

    fn members(count: usize, release: Release, arguments: &[&str]) -> Vec<Self> {
        let ports = Ports::free(count);
        let name = |number: usize| format!("member-{number}");
        let members = ports.iter().enumerate();
        let members: Vec<String> = members
            .map(|(number, ports)| format!("{}=http://127.0.0.1:{}", name(number), ports.peer))
            .collect();
        let server = |(number, ports)| Self {
            release,
            folder: tempfile::tempdir().expect("a temporary folder"),
            life: 1,
            name: name(number),
            ports,
            members: members.join(","),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            child: None,
        };
        ports.into_iter().enumerate().map(server).collect()
    }

    /// Where clients connect: `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// Where other members would connect, which is no place for clients: `host:port`.
    #[must_use]
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.peer)
    }

    /// Starts the server on its ports and data and waits until it serves.
    ///
    /// # Panics
    /// If it does not within half a minute.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_serving();
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server runs");
        let scheme =
            if self.arguments.iter().any(|argument| argument == "--cert-file") { "https" } else { "http" };
        let (client, peer) =
            (format!("{scheme}://{}", self.address()), format!("http://{}", self.peer_address()));
        let log = std::fs::File::create(self.folder.path().join("etcd.log")).expect("a log file");
        let mut command = dying_with_parent(&self.release.binary());
        command
            .args(["--name", &self.name, "--logger", "zap", "--log-level", "warn"])
            // Fast elections inside etcd, which also permit short leases.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{}", self.ports.metrics)])
            .args(["--initial-cluster", &self.members])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("etcd starts"));
    }

    fn wait_serving(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if self.is_healthy() {
                return;
            }
            let exited = self.child.as_mut().and_then(|child| child.try_wait().expect("a child to wait for"));
            assert!(exited.is_none(), "etcd has exited ({exited:?}): {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("etcd does not serve: {}", self.log());
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports.metrics))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
    }

    /// What it has said since its start.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("etcd.log")).unwrap_or_default()
    }

    /// A folder that goes with the server, for certificates and backups.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join(format!("data-{}", self.life))
    }

    /// Kills it as a crash would (`kill -9`).
    ///
    /// # Panics
    /// If the system does not let it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child to kill");
            child.wait().expect("a child to wait for");
        }
    }

    /// Stops its processes where they stand (`SIGSTOP`).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running server");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("a child to signal");
    }

    /// A client without credentials.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn client(&self) -> Client {
        Client::connect([self.address()], None).await.expect("a client")
    }

    /// Writes a backup and returns its file.
    ///
    /// # Panics
    /// If the server does not give one.
    pub async fn back_up(&self) -> PathBuf {
        let file = self.folder.path().join(format!("backup-{}.db", self.life));
        let mut stream = self.client().await.snapshot().await.expect("a backup");
        let mut bytes = Vec::new();
        while let Some(part) = stream.message().await.expect("a part of the backup") {
            bytes.extend_from_slice(part.blob());
        }
        std::fs::write(&file, bytes).expect("the backup is written");
        file
    }

    /// Replaces all data by a backup's, as `etcdutl snapshot restore` does, and serves it. Every member of a cluster
    /// has to be restored.
    ///
    /// # Panics
    /// If the restore fails.
    pub fn restore(&mut self, backup: &Path) {
        self.restore_data(backup);
        self.restart();
    }

    /// [`EtcdServer::restore`] for all members of a cluster.
    ///
    /// # Panics
    /// If a restore fails.
    pub fn restore_cluster(servers: &mut [Self], backup: &Path) {
        servers.iter_mut().for_each(|server| server.restore_data(backup));
        servers.iter_mut().for_each(Self::spawn);
        servers.iter_mut().for_each(Self::wait_serving);
    }

    fn restore_data(&mut self, backup: &Path) {
        self.kill();
        self.life += 1;
        let program = match self.release {
            Release::Current => self.release.binary(),
            Release::Floor => self.release.binary().with_file_name("etcdctl"),
        };
        let peer = format!("http://{}", self.peer_address());
        let done = Command::new(program)
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(backup)
            .arg("--data-dir")
            .arg(self.data())
            .args(["--name", &self.name, "--initial-cluster", &self.members])
            .args(["--initial-advertise-peer-urls", &peer])
            .output()
            .expect("the restore runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that the kernel kills when this process ends, however it ends.
fn dying_with_parent(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

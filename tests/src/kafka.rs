//! Apache Kafka itself, from its jars: the reference that measurements are compared with.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    clients::{java, jvm},
    cluster::{free_ports, run},
};

/// A cluster of Kafka brokers that are controllers too.
pub struct Kafka {
    folder: TempDir,
    nodes: Vec<Child>,
    ports: Vec<u16>,
}

/// Any id will do; all nodes must be formatted with the same.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";

impl Kafka {
    /// Formats and starts `count` brokers and does not wait for them. `extra` goes into every node's properties.
    ///
    /// # Panics
    /// If the storage tool fails.
    #[must_use]
    pub fn start(count: u16, extra: &str) -> Self {
        let mut cluster = Self::formatted(count, extra);
        for id in 1..=count {
            cluster.run(id);
        }
        cluster
    }

    /// Formats `count` brokers and starts none.
    ///
    /// # Panics
    /// If the storage tool fails.
    #[must_use]
    pub fn formatted(count: u16, extra: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = free_ports(count * 10);
        let port = |id: u16| base + (id - 1) * 10;
        let voters: Vec<String> = (1..=count).map(|id| format!("{id}@127.0.0.1:{}", port(id) + 1)).collect();
        let (voters, replication) = (voters.join(","), count.min(3));
        let cluster = Self { folder, nodes: Vec::new(), ports: (1..=count).map(port).collect() };
        for id in 1..=count {
            let (client, controller) = (port(id), port(id) + 1);
            let data = cluster.folder.path().join(format!("kafka-{id}"));
            let text = format!(
                "node.id={id}\nprocess.roles=broker,controller\n\
                 listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}\n\
                 controller.listener.names=CONTROLLER\ncontroller.quorum.voters={voters}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 log.dirs={}\ndefault.replication.factor={replication}\nmin.insync.replicas={}\n\
                 offsets.topic.replication.factor={replication}\n{extra}",
                data.display(),
                if count >= 3 { 2 } else { 1 },
            );
            let file = cluster.properties(id);
            fs::write(&file, text).expect("the properties");
            let mut format = java("kafka.tools.StorageTool");
            format.args(["format", "-t", CLUSTER_ID, "-c"]).arg(&file);
            let out = run(&mut format, "", Duration::from_secs(60));
            assert!(out.ok, "{}{}", out.stdout, out.stderr);
        }
        cluster
    }

    /// Starts one formatted broker.
    ///
    /// # Panics
    /// If there is no Java.
    pub fn run(&mut self, id: u16) {
        let log = fs::File::create(self.folder.path().join(format!("kafka-{id}.log"))).expect("a log");
        // The options of Kafka's own start script.
        let options = [
            "-server",
            "-Xms1g",
            "-Xmx1g",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:InitiatingHeapOccupancyPercent=35",
            "-XX:+ExplicitGCInvokesConcurrent",
        ];
        let mut broker = jvm(&options, "kafka.Kafka");
        broker.arg(self.properties(id));
        broker.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.nodes.push(broker.spawn().expect("java"));
    }

    fn properties(&self, id: u16) -> PathBuf {
        self.folder.path().join(format!("kafka-{id}.properties"))
    }

    /// The client listeners.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    /// The processes, in the order of their ids.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::id).collect()
    }

    /// `kill -9` of one node.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn kill(&mut self, id: u16) {
        let node = self.nodes.get_mut(usize::from(id) - 1).expect("a node of this cluster");
        let _ = node.kill();
        let _ = node.wait();
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// `quorate`.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about = "A Kafka-compatible broker cluster", after_help = crate::exit::CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a cluster on this machine, to try things: nothing to configure, loopback only.
    Dev(DevArgs),
    /// Run one node from a configuration file.
    Server(ServerArgs),
    /// Create, list and describe topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Write records: one for each line of the standard input, or one given by --value.
    Produce(ProduceArgs),
    /// Read records and print their values.
    Consume(ConsumeArgs),
    /// Decide what only an operator can decide about the cluster's metadata.
    #[command(subcommand)]
    Consensus(ConsensusCommand),
    /// Print the version and the numbers of what it reads and writes.
    Version(VersionArgs),
    /// Prove a consensus backend: run the conformance suite on it, each node a process of its own. Exit codes: 0 every
    /// case passed, 1 a case failed, 2 wrong usage.
    #[cfg(feature = "conformance")]
    Conformance(ConformanceArgs),
    /// Be one node of the conformance suite.
    #[cfg(feature = "conformance")]
    #[command(hide = true)]
    ConformanceNode(ConformanceNodeArgs),
    /// Run a program that dies with the process that started this one; `dev` starts etcd so.
    #[command(hide = true)]
    Tied(TiedArgs),
}

/// `quorate dev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DevArgs {
    /// How many nodes, each a process of its own [default: 1, or as many as the data folder has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=15))]
    pub(crate) nodes: Option<u16>,
    /// The consensus backend: raftrs or openraft (built in), etcd, or plugin:/path/of/a/library.so. etcd is reached at
    /// `consensus.etcd.endpoints` (--override, or QUORATE_CONSENSUS_ETCD_ENDPOINTS); without that, one private etcd is
    /// started
    /// [default: raftrs, or the data folder's]
    #[arg(long, value_name = "NAME")]
    pub(crate) consensus: Option<String>,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "./quorate-data")]
    pub(crate) data_dir: PathBuf,
    /// The first port P. Node n listens at P+10(n-1), its controller at +1, its HTTP at +2, its inter-broker
    /// listener at +3; a private etcd at P+4 (clients) and P+5 (peers)
    /// [default: 9092, or the data folder's]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The etcd to start, where it is not the `etcd` on PATH
    #[arg(long, value_name = "PATH")]
    pub(crate) etcd_binary: Option<PathBuf>,
    /// A setting of every node; may be given again
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

/// `quorate server`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// The configuration, in the syntax and with the names of Kafka's server.properties
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// A setting that wins over the file's and the environment's (QUORATE_KEY, dots as underscores); may be given
    /// again
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// The consensus backend, as --override consensus=NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) consensus: Option<String>,
    /// Print every effective value with its origin, and do not start
    #[arg(long)]
    pub(crate) check: bool,
    /// Die when this process ends, which must be the one that started this
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<u32>,
}

impl ServerArgs {
    /// All overrides, `--consensus` the last of them.
    pub(crate) fn all_overrides(&self) -> Vec<String> {
        let consensus = self.consensus.iter().map(|name| format!("consensus={name}"));
        self.overrides.iter().cloned().chain(consensus).collect()
    }
}

/// `quorate consensus`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConsensusCommand {
    /// After etcd was restored from an old backup: go on with the metadata that this node has kept, and let go of what
    /// was lost. Run it on every node before any is started again; the node that knows most wins.
    AcceptRestore(AcceptRestoreArgs),
}

/// `quorate consensus accept-restore`.
#[derive(Args, Clone, Debug)]
pub(crate) struct AcceptRestoreArgs {
    /// The configuration of this node, which must not run
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// A setting that wins over the file's and the environment's; may be given again
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

/// Where the cluster is.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// One or more brokers, host:port, separated by commas
    #[arg(
        short,
        long,
        visible_alias = "bootstrap",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092"
    )]
    pub(crate) bootstrap_server: String,
    /// How long to try
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub(crate) timeout: u64,
}

/// `quorate topic`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic.
    Create(TopicCreateArgs),
    /// List the topics' names.
    List(ClusterArgs),
    /// Describe topics: partitions, leaders, replicas, in-sync replicas.
    Describe(TopicDescribeArgs),
}

/// `quorate topic create`.
#[derive(Args, Debug)]
pub(crate) struct TopicCreateArgs {
    /// The topic's name
    pub(crate) topic: String,
    /// Partitions [default: the cluster's num.partitions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) partitions: Option<i32>,
    /// Replicas of each partition [default: the cluster's default.replication.factor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    pub(crate) replication_factor: Option<i16>,
    /// A setting of the topic; may be given again
    #[arg(long = "config", value_name = "KEY=VALUE")]
    pub(crate) configs: Vec<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `quorate topic describe`.
#[derive(Args, Debug)]
pub(crate) struct TopicDescribeArgs {
    /// The topics [default: all]
    pub(crate) topics: Vec<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `quorate produce`.
#[derive(Args, Debug)]
pub(crate) struct ProduceArgs {
    /// The topic
    pub(crate) topic: String,
    /// One record's value, instead of the standard input's lines
    #[arg(long, value_name = "TEXT")]
    pub(crate) value: Option<String>,
    /// The key of each record
    #[arg(long, value_name = "TEXT")]
    pub(crate) key: Option<String>,
    /// A header of each record; may be given again, the order is kept
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub(crate) headers: Vec<String>,
    /// The partition [default: by the key as Kafka's clients choose it, else one partition after the other]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,
    /// Who must have a record before it counts as written: all in-sync replicas, or 1, the leader
    #[arg(long, default_value = "all", value_parser = ["all", "1"])]
    pub(crate) acks: String,
    /// How records are compressed
    #[arg(long, default_value = "none", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"])]
    pub(crate) compression: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `quorate consume`.
#[derive(Args, Debug)]
pub(crate) struct ConsumeArgs {
    /// The topic
    pub(crate) topic: String,
    /// The partition [default: all]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,
    /// Where to begin: an offset, `beginning` or `end`
    #[arg(long, value_name = "OFFSET", default_value = "beginning")]
    pub(crate) offset: String,
    /// The same as --offset beginning, which is the default
    #[arg(long, conflicts_with = "offset")]
    pub(crate) from_beginning: bool,
    /// Go on at the end and wait for more
    #[arg(long)]
    pub(crate) follow: bool,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u64>,
    /// Print partition, offset, timestamp, headers and key before each value
    #[arg(long)]
    pub(crate) details: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `quorate version`.
#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `quorate conformance`.
#[cfg(feature = "conformance")]
#[derive(Args, Clone, Debug)]
pub(crate) struct ConformanceArgs {
    /// The library to prove, an absolute path
    #[arg(long, value_name = "PATH", conflicts_with = "consensus", required_unless_present_any = ["consensus", "list"])]
    pub(crate) plugin: Option<PathBuf>,
    /// The built-in backend to prove
    #[arg(long, value_name = "NAME")]
    pub(crate) consensus: Option<String>,
    /// What the suite must know of the backend, as JSON: its options, what it lacks and why
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The sizes of cluster
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,3,5")]
    pub(crate) nodes: Vec<usize>,
    /// What random choices come from [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Run the full list, every case on each of its sizes, which takes minutes
    #[arg(long)]
    pub(crate) full: bool,
    /// Write the outcomes to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Run only this case, or this group of cases; may be given again
    #[arg(long = "case", value_name = "NAME")]
    pub(crate) cases: Vec<String>,
    /// Print the cases and the sizes of cluster that each is run on
    #[arg(long)]
    pub(crate) list: bool,
    /// Where the nodes keep their files; those of failed cases stay [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Cases at once [default: three a core]
    #[arg(long, value_name = "N")]
    pub(crate) parallel: Option<usize>,
}

/// `quorate conformance-node`.
#[cfg(feature = "conformance")]
#[derive(Args, Debug)]
pub(crate) struct ConformanceNodeArgs {
    /// The built-in backend.
    #[arg(long)]
    pub(crate) consensus: Option<String>,
    /// The library.
    #[arg(long)]
    pub(crate) plugin: Option<PathBuf>,
    /// The process that started this one.
    #[arg(long)]
    pub(crate) parent: u32,
}

/// `quorate tied`.
#[derive(Args, Debug)]
pub(crate) struct TiedArgs {
    /// The process that started this one.
    #[arg(long)]
    pub(crate) parent: u32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

//! The keys that the process itself reads. Those of the broker and its topics stand in `quorate_core`'s table; here
//! is what decides where a node listens, who its peers are and how it reports.

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything.
    Text,
    /// Values separated by commas.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number from the first to the second, both allowed.
    Number(i64, i64),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Its name, Kafka's where Kafka has it.
    pub(crate) name: &'static str,
    /// What its value must look like.
    pub(crate) kind: Kind,
    /// What stands where nothing is set; `None` where the meaning of that is not a value.
    pub(crate) default: Option<&'static str>,
    /// What it does.
    pub(crate) doc: &'static str,
}

/// Keys of this prefix go to the consensus backend, which knows them.
pub(crate) const BACKEND_PREFIX: &str = "consensus.";

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, kind, default, doc }
}

const NODE_ID: Kind = Kind::Number(0, i32::MAX as i64);

/// The process's keys, in the order in which `--check` prints them.
pub(crate) const KEYS: &[Key] = &[
    key("node.id", NODE_ID, None, "This node's number in the cluster, 0 or more. Required."),
    key("broker.id", NODE_ID, None, "Kafka's older name of node.id; read where node.id is not set."),
    key(
        "process.roles",
        Kind::List,
        Some("broker,controller"),
        "broker (serves clients), controller (votes on the metadata) or both.",
    ),
    key(
        "listeners",
        Kind::List,
        Some("PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"),
        "NAME://host:port of each listener; an empty host is every address of the machine.",
    ),
    key(
        "advertised.listeners",
        Kind::List,
        None,
        "NAME://host:port as clients and peers reach it; else the listener's host, else (every address) the \
         machine's name.",
    ),
    key(
        "listener.security.protocol.map",
        Kind::List,
        None,
        "NAME:PROTOCOL of each listener; a name that is not listed is PLAINTEXT, the only protocol served so far.",
    ),
    key(
        "controller.listener.names",
        Kind::List,
        Some("CONTROLLER"),
        "The listeners that serve controllers, on controllers; their names at the controllers, on a mere broker.",
    ),
    key(
        "inter.broker.listener.name",
        Kind::Text,
        None,
        "The listener by which brokers reach each other; else PLAINTEXT, else the first that is no controller's.",
    ),
    key(
        "controller.quorum.voters",
        Kind::List,
        None,
        "id@host:port of every controller. Else controller.quorum.bootstrap.servers; a lone controller needs neither.",
    ),
    key(
        "controller.quorum.bootstrap.servers",
        Kind::List,
        None,
        "host:port of every controller; their ids come from the controllers themselves.",
    ),
    key("log.dirs", Kind::List, None, "Folders for the partitions' files. Else log.dir."),
    key("log.dir", Kind::Text, Some("/tmp/kafka-logs"), "One folder for the partitions' files."),
    key("metadata.log.dir", Kind::Text, None, "Folder for the metadata log; else the first of log.dirs."),
    key("broker.rack", Kind::Text, None, "Where the broker stands; replicas are spread over racks."),
    key(
        "consensus",
        Kind::Text,
        Some("raftrs"),
        "The backend that keeps the metadata log: raftrs (built in) or etcd (outside). The same on every node; \
         consensus.* are its own keys.",
    ),
    key(
        "quorate.http.listener",
        Kind::Text,
        Some("127.0.0.1:9644"),
        "host:port of /livez, /readyz and /metrics; 'none' turns them off.",
    ),
    key(
        "quorate.shards",
        Kind::Number(1, 1024),
        None,
        "Threads that serve connections, each with an event loop of its own; else one for each core.",
    ),
    key(
        "quorate.log.format",
        Kind::Choice(&["text", "json"]),
        Some("text"),
        "How log lines are written to the standard error.",
    ),
];

/// The key of this name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

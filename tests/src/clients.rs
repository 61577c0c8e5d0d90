//! The ordinary Kafka clients that `tests/install.sh` brings, behind one interface: write these records, read those.

use std::{fmt::Write as _, path::PathBuf, process::Command, time::Duration};

use serde::{Deserialize, Serialize};

use crate::cluster::{Output, installed, run};

/// A record as the client programs exchange it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Set where it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// The key; a record may have none.
    pub key: Option<String>,
    /// The value; none is a tombstone.
    pub value: Option<String>,
    /// Names may repeat, and their order counts.
    pub headers: Vec<(String, Option<String>)>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
}

/// A client library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// librdkafka, the current one, by confluent-kafka.
    Python,
    /// Kafka's own.
    Java,
    /// franz-go.
    Go,
    /// Debian's kcat, with an old librdkafka.
    Kcat,
}

/// How long a client may take for anything.
const WITHIN: Duration = Duration::from_secs(120);

/// Every codec of Kafka.
pub const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

impl Client {
    fn command(self) -> Command {
        match self {
            Self::Python => {
                let mut python = Command::new(installed("python/bin/python"));
                python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/roundtrip.py"));
                python
            }
            Self::Java => java("Roundtrip"),
            Self::Go => Command::new(installed("bin/quorate-go-client")),
            Self::Kcat => Command::new("kcat"),
        }
    }

    /// Writes records with acks=all; the offsets, in the order of the answers.
    ///
    /// # Panics
    /// If the client fails.
    pub fn produce(
        self,
        bootstrap: &str,
        topic: &str,
        partition: usize,
        codec: &str,
        records: &[Record],
    ) -> Vec<i64> {
        assert_ne!(self, Self::Kcat, "kcat takes lines, see `kcat_produce`");
        let mut input = String::new();
        for record in records {
            let _ = writeln!(input, "{}", serde_json::to_string(record).expect("a record"));
        }
        let mut command = self.command();
        command.args(["produce", bootstrap, topic, &partition.to_string(), codec]);
        let out = run(&mut command, &input, WITHIN);
        assert!(out.ok, "{self:?} could not produce: {}", out.stderr);
        #[derive(Deserialize)]
        struct Answer {
            offset: i64,
        }
        let answers = out.stdout.lines().map(|line| serde_json::from_str::<Answer>(line).expect(line));
        answers.map(|answer| answer.offset).collect()
    }

    /// Reads the first records of a partition.
    ///
    /// # Panics
    /// If the client fails, or does not get so many.
    #[must_use]
    pub fn consume(self, bootstrap: &str, topic: &str, partition: usize, count: usize) -> Vec<Record> {
        let mut command = self.command();
        let (partition, count) = (partition.to_string(), count.to_string());
        if self == Self::Kcat {
            command.args(["-C", "-q", "-J", "-e", "-b", bootstrap, "-t", topic, "-p", &partition]);
            command.args(["-o", "beginning", "-c", &count]);
        } else {
            command.args(["consume", bootstrap, topic, &partition, &count]);
        }
        let out = run(&mut command, "", WITHIN);
        assert!(out.ok, "{self:?} could not consume: {}", out.stderr);
        let parse = if self == Self::Kcat { from_kcat } else { from_program };
        out.stdout.lines().map(parse).collect()
    }
}

/// A short-lived Java program with every jar of Kafka on its class path.
#[must_use]
pub fn java(class: &str) -> Command {
    jvm(&["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"], class)
}

/// A Java program with these options of the virtual machine.
#[must_use]
pub fn jvm(options: &[&str], class: &str) -> Command {
    let mut java = Command::new("java");
    let jars: PathBuf = installed("java/jars").join("*");
    let path = format!("{}:{}", installed("java/classes").display(), jars.display());
    java.args(options).args(["-cp", &path, class]);
    java
}

/// Runs one of Kafka's own tools.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn kafka_tool(class: &str, args: &[&str], input: &str) -> Output {
    run(java(class).args(args), input, WITHIN)
}

/// Writes `key:value` lines with kcat.
///
/// # Panics
/// If kcat fails.
pub fn kcat_produce(bootstrap: &str, topic: &str, partition: usize, extra: &[&str], lines: &str) {
    let mut kcat = Command::new("kcat");
    kcat.args(["-P", "-b", bootstrap, "-t", topic, "-p", &partition.to_string(), "-K:", "-X", "acks=all"]);
    let out = run(kcat.args(extra), lines, WITHIN);
    assert!(out.ok, "kcat could not produce: {}", out.stderr);
}

fn from_program(line: &str) -> Record {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn from_kcat(line: &str) -> Record {
    #[derive(Deserialize)]
    struct Message {
        offset: i64,
        ts: i64,
        key: Option<String>,
        payload: Option<String>,
        #[serde(default)]
        headers: Vec<Option<String>>,
    }
    let message: Message = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let headers = message.headers.chunks(2).map(|pair| match pair {
        [Some(name), value] => (name.clone(), value.clone()),
        _ => panic!("headers come in pairs: {line}"),
    });
    Record {
        offset: Some(message.offset),
        key: message.key,
        value: message.payload,
        headers: headers.collect(),
        timestamp: message.ts,
    }
}

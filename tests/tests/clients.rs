//! Ordinary clients against three processes, on each backend.
#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::{process::Command, time::Duration};

use quorate_tests::{
    clients::{CODECS, Client, Record, kafka_tool, kcat_produce},
    cluster::{Backend, Cluster, installed, run},
    etcd::EtcdServer,
};

fn records() -> Vec<Record> {
    let record =
        |key: Option<&str>, value: Option<&str>, headers: &[(&str, Option<&str>)], timestamp| Record {
            offset: None,
            key: key.map(str::to_owned),
            value: value.map(str::to_owned),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
                .collect(),
            timestamp,
        };
    let mut all = vec![
        record(Some("key"), Some("value"), &[], 1_700_000_000_000),
        record(None, Some("no key"), &[], 1_700_000_000_001),
        record(Some("tombstone"), None, &[], 1_700_000_000_002),
        record(Some(""), Some(""), &[], 1_700_000_000_003),
        record(
            Some("headers"),
            Some("x"),
            &[("h", Some("1")), ("h", Some("2")), ("empty", Some("")), ("null", None)],
            1_600_000_000_000,
        ),
        record(Some("ключ"), Some("värde ✓"), &[("заголовок", Some("πράγμα"))], 1_700_000_000_005),
        record(Some("large"), Some(&"0123456789abcdef".repeat(12_000)), &[], 1_700_000_000_006),
    ];
    for number in 0..500 {
        let (key, value) =
            (format!("k{}", number % 7), format!("{{\"number\": {number}, \"text\": \"some text\"}}"));
        all.push(record(Some(&key), Some(&value), &[], 1_700_000_001_000 + number));
    }
    all
}

fn every_client_reads_what_every_client_wrote(cluster: &Cluster) {
    let bootstrap = cluster.bootstrap();
    let writers = [Client::Python, Client::Java, Client::Go];
    cluster.create_topic("matrix", u32::try_from(writers.len() * CODECS.len()).unwrap(), 3);
    let sent = records();
    for (w, writer) in writers.into_iter().enumerate() {
        for (c, codec) in CODECS.into_iter().enumerate() {
            let partition = w * CODECS.len() + c;
            let offsets = writer.produce(&bootstrap, "matrix", partition, codec, &sent);
            let expected: Vec<i64> = (0..i64::try_from(sent.len()).unwrap()).collect();
            assert_eq!(offsets, expected, "{writer:?} with {codec}");
            let mut readers = vec![Client::Python, Client::Go, Client::Kcat];
            if (w + c) % 3 == 0 {
                readers.push(Client::Java);
            }
            for reader in readers {
                let read = reader.consume(&bootstrap, "matrix", partition, sent.len());
                assert_eq!(read.len(), sent.len(), "{reader:?} reads {writer:?} with {codec}");
                for (at, (read, sent)) in read.into_iter().zip(&sent).enumerate() {
                    let expected = Record { offset: Some(i64::try_from(at).unwrap()), ..sent.clone() };
                    assert_eq!(read, expected, "{reader:?} reads {writer:?} with {codec}");
                }
            }
        }
    }
}

fn kcat_writes_every_codec(cluster: &Cluster) {
    let bootstrap = cluster.bootstrap();
    cluster.create_topic("kcat", 5, 3);
    for (partition, codec) in CODECS.into_iter().enumerate() {
        let lines = "a:1\nb:2\nc:\n";
        kcat_produce(&bootstrap, "kcat", partition, &["-z", codec, "-H", "h=1", "-H", "h=2", "-Z"], lines);
        let read = Client::Go.consume(&bootstrap, "kcat", partition, 3);
        let pairs: Vec<_> = read.iter().map(|r| (r.key.as_deref(), r.value.as_deref())).collect();
        assert_eq!(pairs, [(Some("a"), Some("1")), (Some("b"), Some("2")), (Some("c"), None)], "{codec}");
        let headers = vec![("h".to_owned(), Some("1".to_owned())), ("h".to_owned(), Some("2".to_owned()))];
        assert!(read.iter().all(|r| r.headers == headers), "{codec}: {read:?}");
    }
}

fn console_tools_work(cluster: &mut Cluster) {
    let bootstrap = cluster.bootstrap();
    let tool = |class: &str, args: &[&str], input: &str| {
        let class = format!("org.apache.kafka.tools.{class}");
        let out = kafka_tool(&class, args, input);
        assert!(out.ok, "{class} {args:?}: {}{}", out.stdout, out.stderr);
        out.stdout
    };
    let at = ["--bootstrap-server", &bootstrap];
    let with = |args: &[&'static str]| -> Vec<String> {
        at.iter().map(|s| (*s).to_owned()).chain(args.iter().map(|s| (*s).to_owned())).collect()
    };
    let call = |class: &str, args: &[&'static str], input: &str| {
        let args = with(args);
        tool(class, &args.iter().map(String::as_str).collect::<Vec<_>>(), input)
    };
    let created = call(
        "TopicCommand",
        &[
            "--create",
            "--topic",
            "console",
            "--partitions",
            "2",
            "--replication-factor",
            "3",
            "--config",
            "retention.ms=86400000",
        ],
        "",
    );
    assert!(created.contains("Created topic console"), "{created}");
    assert!(call("TopicCommand", &["--list"], "").lines().any(|line| line == "console"));
    let described = call("TopicCommand", &["--describe", "--topic", "console"], "");
    assert!(
        described.contains("PartitionCount: 2") && described.contains("ReplicationFactor: 3"),
        "{described}"
    );
    assert!(described.contains("retention.ms=86400000"), "{described}");

    call("ConsoleProducer", &["--topic", "console", "--sync"], "one\ntwo\nthree\n");
    let mut read = Vec::new();
    for partition in ["0", "1"] {
        let lines = call(
            "consumer.ConsoleConsumer",
            &["--topic", "console", "--partition", partition, "--offset", "earliest", "--timeout-ms", "6000"],
            "",
        );
        read.extend(lines.lines().map(str::to_owned));
    }
    read.sort();
    assert_eq!(read, ["one", "three", "two"]);

    let quorum = call("MetadataQuorumCommand", &["describe", "--status"], "");
    assert!(quorum.contains("LeaderId:") && quorum.contains("CurrentVoters:"), "{quorum}");
    let replication = call("MetadataQuorumCommand", &["describe", "--replication"], "");
    assert!(replication.lines().count() >= 4, "three nodes and a heading: {replication}");

    let deleted = call("TopicCommand", &["--delete", "--topic", "console"], "");
    assert!(!deleted.contains("Error"), "{deleted}");
    assert!(!call("TopicCommand", &["--list"], "").lines().any(|line| line == "console"));
}

/// The dump tool reads the files of a running and of a stopped node, and its index check passes.
fn the_dump_tool_reads_the_files(cluster: &mut Cluster) {
    let folder = cluster.node(1).data().join("matrix-0");
    let dump = |running: bool| {
        for file in
            ["00000000000000000000.log", "00000000000000000000.index", "00000000000000000000.timeindex"]
        {
            let path = folder.join(file);
            let mut args = vec!["--files", path.to_str().unwrap()];
            if file.ends_with(".log") {
                args.extend(["--deep-iteration", "--print-data-log"]);
            } else {
                args.push("--index-sanity-check");
            }
            let out = kafka_tool("org.apache.kafka.tools.DumpLogSegments", &args, "");
            let out = if out.ok { out } else { kafka_tool("kafka.tools.DumpLogSegments", &args, "") };
            assert!(out.ok, "running {running}, {file}: {}{}", out.stdout, out.stderr);
            let bad = ["Mismatches", "not passed", "Exception", "isvalid: false", "Non-sequential"];
            assert!(
                !bad.iter().any(|bad| out.stdout.contains(bad)),
                "running {running}, {file}: {}",
                out.stdout
            );
            if file.ends_with(".log") {
                assert!(
                    out.stdout.contains("värde ✓") || out.stdout.contains("isvalid: true"),
                    "{}",
                    out.stdout
                );
            }
        }
    };
    dump(true);
    assert_eq!(cluster.node(1).terminate(), Some(0));
    dump(false);
    cluster.node(1).start();
    cluster.node(1).wait_ready();
}

/// Real files, written by one client, killed and restarted, read byte for byte by another.
fn a_data_set_survives_the_death_of_all_nodes(cluster: &mut Cluster) {
    let bootstrap = cluster.bootstrap();
    cluster.create_topic("files", 1, 3);
    #[expect(
        clippy::disallowed_methods,
        reason = "where cargo keeps what it fetched is an environment variable"
    )]
    let home = std::env::var("CARGO_HOME").unwrap_or_else(|_| std::env::var("HOME").unwrap() + "/.cargo");
    let sources = format!("{home}/registry/src");
    let sent = run(
        Command::new(installed("bin/quorate-go-client")).args([
            "files",
            &bootstrap,
            "files",
            "0",
            &sources,
            "104857600",
        ]),
        "",
        Duration::from_secs(300),
    );
    assert!(sent.ok, "{}", sent.stderr);
    let (files, count) = sent.stdout.trim_end().rsplit_once('\n').expect("files and a count");
    let count = count.strip_prefix("records ").expect("a count");
    for id in cluster.ids() {
        cluster.node(id).kill();
    }
    for id in cluster.ids() {
        cluster.node(id).start();
    }
    cluster.wait_ready();
    let read = run(
        Command::new(installed("python/bin/python"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/roundtrip.py"))
            .args(["files", &bootstrap, "files", "0", count]),
        "",
        Duration::from_secs(300),
    );
    assert!(read.ok, "{}\n{}", read.stderr, cluster.logs());
    assert!(read.stdout.trim_end() == files, "what was read differs from what was written");
    println!("{count} records of {} files, the same bytes after kill -9 of all nodes", files.lines().count());
}

fn all(mut cluster: Cluster) {
    cluster.wait_ready();
    every_client_reads_what_every_client_wrote(&cluster);
    kcat_writes_every_codec(&cluster);
    console_tools_work(&mut cluster);
    the_dump_tool_reads_the_files(&mut cluster);
    a_data_set_survives_the_death_of_all_nodes(&mut cluster);
}

#[test]
fn clients_and_tools_work_on_raftrs() {
    all(Cluster::start(3, &Backend::Raftrs));
}

/// Clients do not see the backend; that it is there at all, and comes back, is enough.
#[test]
fn clients_work_on_openraft() {
    let mut cluster = Cluster::start(3, &Backend::Openraft);
    cluster.wait_ready();
    kcat_writes_every_codec(&cluster);
    a_data_set_survives_the_death_of_all_nodes(&mut cluster);
}

#[test]
fn clients_and_tools_work_on_etcd() {
    let etcd = EtcdServer::start();
    all(Cluster::start(3, &Backend::etcd(&etcd.address())));
}

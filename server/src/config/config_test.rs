use std::path::Path;

use super::*;
use settings::Sources;

fn config(text: &str) -> Result<ServerConfig, ConfigErrors> {
    let file = Some((Path::new("f"), text));
    ServerConfig::from_settings(&Settings::gather(&Sources { file, ..Sources::default() })?)
}

fn refused(text: &str) -> String {
    config(text).unwrap_err().to_string()
}

/// The file that Kafka ships as `config/server.properties`, without its comments.
const KAFKAS_OWN: &str = "
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
";

#[test]
fn kafkas_own_file_is_understood() {
    let config = config(KAFKAS_OWN).unwrap();
    assert_eq!((config.node, config.roles), (NodeId(1), Roles { broker: true, controller: true }));
    let purposes: Vec<ListenerPurpose> = config.listeners.iter().map(|listener| listener.purpose).collect();
    assert_eq!(purposes, [ListenerPurpose::InterBroker, ListenerPurpose::Controller]);
    assert_eq!(config.listeners[0].advertised.to_string(), "localhost:9092");
    assert!(config.listeners[0].bind.is_wildcard());
    assert_eq!(config.voters.len(), 1);
    assert_eq!(config.metadata_dir, Path::new("/tmp/kraft-combined-logs"));
}

#[test]
fn one_line_is_enough_for_a_node_of_its_own_and_it_is_bound_to_loopback() {
    let config = config("node.id=0").unwrap();
    assert!(config.listeners.iter().all(|listener| listener.bind.host == "127.0.0.1"));
    assert_eq!(config.voters, BTreeMap::from([(NodeId(0), config.listeners[1].advertised.clone())]));
    assert_eq!(config.consensus.name, "raftrs");
    assert_eq!(config.http.unwrap().to_string(), "127.0.0.1:9644");
}

#[test]
fn the_internal_listener_is_told_apart_from_the_clients() {
    let text =
        "node.id=1\nlisteners=INTERNAL://h:3,OUT://h:1,CONTROLLER://h:2\ninter.broker.listener.name=internal";
    let purposes: Vec<ListenerPurpose> =
        config(text).unwrap().listeners.iter().map(|listener| listener.purpose).collect();
    assert_eq!(
        purposes,
        [ListenerPurpose::InterBroker, ListenerPurpose::Client, ListenerPurpose::Controller]
    );
}

#[test]
fn a_mere_broker_needs_voters_and_no_controller_listener() {
    assert!(refused("node.id=4\nprocess.roles=broker").contains("controller.quorum.voters is not set"));
    let text = "node.id=4\nprocess.roles=broker\ncontroller.quorum.voters=1@a:1,2@b:1,3@c:1";
    let config = config(text).unwrap();
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.voters.len(), 3);
}

#[test]
fn a_mere_controller_needs_no_listener_for_clients() {
    let config = config("node.id=1\nprocess.roles=controller").unwrap();
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.inter_broker_listener, "");
}

#[test]
fn what_is_missing_or_contradicts_itself_is_named() {
    for (text, reason) in [
        ("", "node.id is not set"),
        ("node.id=1\nprocess.roles=broker,observer", "f:2: 'broker,observer' is no value of 'process.roles'"),
        ("node.id=1\nprocess.roles=", "process.roles: names no role"),
        ("node.id=1\nlisteners=PLAINTEXT://h:1", "names none of the listeners"),
        ("node.id=1\nlisteners=CONTROLLER://h:1", "has none for clients"),
        ("node.id=1\ncontroller.quorum.voters=2@h:1", "f:2: controller.quorum.voters: does not list node 1"),
        ("node.id=1\nlisteners=SSL://h:1,CONTROLLER://h:2", "SSL, which is not served yet"),
        (
            "node.id=1\ncontroller.quorum.bootstrap.servers=a:9093,b:9093",
            "f:2: controller.quorum.bootstrap.servers: the ids",
        ),
        ("node.id=1\nadvertised.listeners=X://h:1", "X is not among the listeners"),
        ("node.id=1\nadvertised.listeners=PLAINTEXT://:9092", "needs a host"),
        ("node.id=1\ninter.broker.listener.name=CONTROLLER", "is a controller's listener"),
        ("node.id=1\nlog.dirs=/a,/a", "names a folder twice"),
        ("node.id=1\nquorate.http.listener=9644", "is not host:port"),
    ] {
        let error = refused(text);
        assert!(error.contains(reason), "{text:?}: {error}");
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let error = refused("process.roles=\nlog.dirs=,\nquorate.http.listener=y");
    assert_eq!(error.lines().count(), 4, "{error}");
}

#[test]
fn options_of_the_backend_keep_their_full_names() {
    let config = config("node.id=1\nconsensus=etcd\nconsensus.etcd.prefix=/q").unwrap();
    assert_eq!(config.consensus.name, "etcd");
    assert_eq!(config.consensus.options.get("consensus.etcd.prefix").map(String::as_str), Some("/q"));
}

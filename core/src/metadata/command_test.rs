use super::{
    command::*,
    snapshot,
    testing::{Story, creation, founding, registration, topic_id, uuid},
};

/// One command of each kind, with every field set, and its bytes. The bytes are what clusters have on their disks:
/// they may gain lines here, and no line ever changes.
#[expect(clippy::too_many_lines, reason = "a table")]
fn golden() -> Vec<(Command, &'static str)> {
    let id: Id = topic_id("a").0.into();
    let topic = Some(id);
    let registration = RegisterBroker {
        rack: Some("r1".to_owned()),
        features: vec![FeatureRange { name: "f".to_owned(), min: 1, max: 2 }],
        page_cache_lost: true,
        sync_failed: true,
        ..registration(1, 1)
    };
    let change = ConfigChange { name: "k".to_owned(), value: "v".to_owned(), operation: 2 };
    let configs = |target| SetConfigs { target: Some(target), changes: vec![change.clone()] };
    let isr = IsrChange {
        topic,
        partition: 1,
        leader_epoch: 2,
        partition_epoch: 3,
        isr: vec![IsrMember { node: 1, broker_epoch: 7 }, IsrMember { node: 2, broker_epoch: -1 }],
        recovering: true,
    };
    let up = ControllerUp {
        epoch: 5,
        node: 2,
        incarnation: Some(uuid(1, 2, 3).into()),
        host: "h".to_owned(),
        port: 9093,
    };
    let features = vec![FeatureLevel { name: "f".to_owned(), level: 4 }];
    let founding = FoundCluster { durability: 1, features, ..founding(&[("k", "v")]) };
    vec![
        (Command::NoOp(NoOp {}), "0801820100"),
        (Command::ControllerUp(up), "08018a011e080510021a12090200000000000001110400000000000000220168288547"),
        (
            Command::FoundCluster(founding),
            "08019201270a120907070707070707071107070707070707071001180122050a016610042a060a016b12 \
             0176",
        ),
        (
            Command::RegisterBroker(registration),
            "08019a0154080112120901000000000000011102000000000000001a1209010000000000000211010000 \
             000000000022150a09504c41494e544558541205686f7374311884472a02723130013a070a0166100118 \
             0240014801",
        ),
        (Command::FenceBroker(FenceBroker { node: 1, broker_epoch: 9 }), "0801a2010408011009"),
        (Command::UnfenceBroker(UnfenceBroker { node: 1, broker_epoch: 9 }), "0801aa010408011009"),
        (Command::BrokerShuttingDown(BrokerShuttingDown { node: 1, broker_epoch: 9 }), "0801b2010408011009"),
        (
            Command::CreateTopic(creation("a", &[&[1, 300], &[0]], &[("k", "v")])),
            "0801ba012b0a016112120903030303030303611103030303030303031a050a0301ac021a030a01002206 \
             0a016b120176",
        ),
        (Command::DeleteTopic(DeleteTopic { topic }), "0801c201140a12090303030303030361110303030303030303"),
        (
            Command::AlterPartitions(AlterPartitions { node: 1, broker_epoch: 9, changes: vec![isr] }),
            "0801ca0137080110091a310a120903030303030303611103030303030303031001180220032a04080110 \
             072a0d080210ffffffffffffffffff013001",
        ),
        (
            Command::ElectLeaders(ElectLeaders {
                election: 1,
                partitions: vec![PartitionKey { topic, partition: 1 }],
            }),
            "0801d2011a080112160a120903030303030303611103030303030303031001",
        ),
        (
            Command::SetConfigs(configs(ConfigTarget::Topic(id))),
            "0801da011e0a1209030303030303036111030303030303030322080a016b1201761802",
        ),
        (Command::SetConfigs(configs(ConfigTarget::Broker(0))), "0801da010c100022080a016b1201761802"),
        (Command::SetConfigs(configs(ConfigTarget::Cluster(NoOp {}))), "0801da010c1a0022080a016b1201761802"),
        (
            Command::AllocateProducerIds(AllocateProducerIds { node: 1, broker_epoch: 9, count: 1000 }),
            "0801e201070801100918e807",
        ),
        (Command::ControllerDeaf(ControllerDeaf { heard: vec![1, 3] }), "0801ea01040a020103"),
    ]
}

#[test]
fn the_bytes_of_every_command_stay_what_they_are() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (command, bytes) in golden() {
        assert_eq!(hex(&command.to_entry()), bytes.replace(' ', ""), "{}", command.name());
        assert_eq!(Command::from_entry(&command.to_entry()).as_ref(), Ok(&command));
    }
}

/// A log as the first release writes it comes to the same image for ever, and the image to the same bytes.
#[test]
fn the_image_of_a_log_stays_what_it_is() {
    let mut story = Story::with_brokers(3, &[("min.insync.replicas", "2")]);
    story.create("a", &[&[1, 2, 3], &[2, 3]], &[("retention.ms", "5")]);
    story.create("b", &[&[3]], &[]);
    story.fence(1);
    story.fence(2);
    story.register(2, 2);
    story.accept(Command::ControllerDeaf(ControllerDeaf { heard: vec![3] }));
    let hash: String = snapshot::hash(&story.image).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "2b7912915b656d73bc2509cd86f5a7cae97d4b16b11225e9f74f7f7e4bc7abeb");
    assert_eq!(story.image.chain.to_string(), "9348ea85b2a159a43d5eb73611dbc8a5");
}

use std::{path::Path, sync::Arc, time::Duration};

use uuid::Uuid;

use super::*;
use crate::{
    broker::{
        BrokerConfig,
        config::{FoundingConfig, Timings},
        folders::Folders,
    },
    ids::{NodeId, Offset, PartitionId, TopicId},
    log::{Log, Opening, PageCache},
    metadata::image::{Configs, DurabilityLevel, Roles},
    partition::{replica::Duties, settings::Settings},
    protocol::{builder::BatchBuilder, compression::Codec},
    runtime::{
        Clock, Rng, Runtime, TaskScope,
        simulated::{Keep, SimulatedDisk, SimulatedNetwork},
    },
};

/// One directory with one partition whose log ends at 3, on a simulated machine.
struct Bench {
    disk: SimulatedDisk,
    broker: Arc<Broker>,
    directory: Arc<LogDirectory>,
    replica: Arc<Replica>,
    folders: Folders,
}

impl Bench {
    fn new() -> Self {
        let (clock, _) = Clock::simulated(1_000_000);
        let disk = SimulatedDisk::new(clock.clone(), Rng::seeded(1));
        disk.mount("/data".as_ref()).unwrap();
        let tasks = TaskScope::single_threaded();
        let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(2), tasks.clone());
        let network = network.machine("one");
        let runtime = Runtime { clock, rng: Rng::seeded(3), disk: Arc::new(disk.clone()), network, tasks };
        let config = BrokerConfig {
            node: NodeId(1),
            roles: Roles { broker: true, controller: true },
            listeners: Vec::new(),
            inter_broker_listener: String::new(),
            voters: BTreeMap::new(),
            rack: None,
            log_dirs: vec!["/data".into()],
            metadata_dir: "/meta".into(),
            backend: "memory".to_owned(),
            founding: FoundingConfig { durability: DurabilityLevel::Synced, defaults: Configs::new() },
            file: Configs::new(),
            timings: Timings::default(),
        };
        let broker = Broker::new(config, runtime);
        let mut folders = Folders::new(&broker.runtime, &broker.config.log_dirs, PageCache::Kept);
        folders.scan().unwrap();
        let id = PartitionId { topic: TopicId(Uuid::from_u128(7)), index: 0 };
        let place = folders.place("orders", id).unwrap();
        let parts = folders.parts(&place.directory);
        let settings = Settings::default();
        let (mut log, _) = Log::open(&place.path, settings.log, &parts, Opening::unknown()).unwrap();
        let batch = BatchBuilder::new(Codec::None.into());
        let batch = (0..3).fold(batch, |batch, _| batch.simple(1, None, Some(b"value"))).build().unwrap();
        log.append(&[&batch]).unwrap();
        let duties = Duties { sync: place.directory.dirty.clone(), ..Duties::default() };
        let at = (NodeId(1), broker.runtime.clock.clone());
        let replica = Replica::new(id, "orders".into(), log, settings, at, duties).unwrap();
        broker.partitions.insert(replica.clone());
        Self { disk, broker, directory: place.directory, replica, folders }
    }

    fn kept(&self) -> Option<Offset> {
        self.directory.checkpoints.find("orders", 0).recovery_point
    }

    async fn after(&self, seconds: u64) {
        self.broker.runtime.clock.sleep(Duration::from_secs(seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovery_point_is_kept_while_it_runs_and_an_end_in_order_keeps_everything() {
    let bench = Bench::new();
    let (broker, clean) = (&bench.broker, Path::new("/data").join(CLEAN));
    broker.runtime.tasks.spawn(keep_checkpoints(broker.clone(), bench.directory.clone()));
    bench.after(6).await;
    assert_eq!(bench.kept(), Some(Offset(0)), "the first rounds make nothing durable");
    bench.after(60).await;
    assert_eq!(bench.kept(), Some(Offset(3)));
    assert!(!bench.disk.exists(&clean));
    broker.runtime.tasks.stop().await;
    bench.disk.crash(Keep::None);
    assert!(bench.disk.exists(&clean));
    bench.directory.checkpoints.load().unwrap();
    let dir = bench.replica.with_log(|log, _| log.dir().to_owned());
    let opening = Opening { recovery_point: bench.kept(), ..Opening::unknown() };
    let parts = Folders::new(&broker.runtime, &[], PageCache::Lost).parts(&bench.directory);
    let (log, recovery) = Log::open(&dir, Settings::default().log, &parts, opening).unwrap();
    assert_eq!((log.end_offset(), recovery.checked_bytes), (Offset(3), 0));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_removed_leaves_no_mark() {
    let mut bench = Bench::new();
    write_marks(&bench.broker, &bench.directory).unwrap();
    assert_eq!(bench.kept(), Some(Offset(0)));
    bench.broker.partitions.remove(bench.replica.partition);
    bench.replica.retire();
    bench.folders.remove_partition("orders", bench.replica.partition).unwrap();
    write_marks(&bench.broker, &bench.directory).unwrap();
    assert_eq!(bench.kept(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_space_refuses_records_until_there_is_space_again() {
    let bench = Bench::new();
    let tasks = &bench.broker.runtime.tasks;
    tasks.spawn(watch_disk(bench.broker.clone(), bench.directory.clone()));
    bench.after(2).await;
    assert!(!bench.directory.health.is_full());
    bench.disk.set_capacity(Some(100 << 20));
    bench.after(2).await;
    assert!(bench.directory.health.is_full(), "less than the reserve is left");
    bench.disk.set_capacity(None);
    bench.after(2).await;
    assert!(!bench.directory.health.is_full());
    assert_eq!(*bench.broker.fatal().borrow(), None);
    tasks.stop().await;
}

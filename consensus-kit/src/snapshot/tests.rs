use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use quorate_core::{
    consensus::{Chain, LogId, SnapshotError, SnapshotMeta},
    ids::{Epoch, LogIndex},
    runtime::{Disk, Open, Runtime, simulated::Keep},
};

use super::{SnapshotFile, SnapshotFileError, Snapshots};
use crate::testing::Machine;

const FOLDER: &str = "/data/snapshots";
const LOG: LogId = LogId([4; 16]);

fn meta(index: u64, bytes: u64) -> SnapshotMeta {
    SnapshotMeta { index: LogIndex(index), epoch: Epoch(2), chain: Chain([1; 16]), bytes }
}

fn open(process: &Runtime) -> Result<Snapshots, SnapshotFileError> {
    Snapshots::open(FOLDER.into(), LOG, process)
}

async fn keep(
    snapshots: &Snapshots,
    index: u64,
    chunks: &[&[u8]],
) -> Result<Arc<SnapshotFile>, SnapshotFileError> {
    let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    let mut writer = snapshots.begin(meta(index, bytes), Bytes::from_static(b"the voters"))?;
    for chunk in chunks {
        writer.push(chunk)?;
    }
    snapshots.publish(writer.finish()?).await
}

async fn read(file: Arc<SnapshotFile>) -> Result<Vec<Bytes>, SnapshotError> {
    file.chunks().try_collect().await
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_read_as_it_was_written_and_replaces_the_older_one() {
    let machine = Machine::new(1);
    let process = machine.process();
    let snapshots = open(&process).unwrap();
    let older = keep(&snapshots, 3, &[b"old"]).await.unwrap();
    keep(&snapshots, 5, &[b"ab", b"", b"cd"]).await.unwrap();
    assert_eq!(keep(&snapshots, 4, &[b"late"]).await.unwrap().meta().index, LogIndex(5));
    assert_eq!(read(older).await.unwrap(), ["old"], "a reader goes on");
    machine.crash(&process, Keep::None);
    let snapshots = open(&machine.process()).unwrap();
    let newest = snapshots.newest().unwrap();
    assert_eq!((newest.meta(), newest.engine().as_ref()), (meta(5, 4), b"the voters".as_slice()));
    assert_eq!(read(newest).await.unwrap(), ["ab", "cd"]);
    assert_eq!(machine.disk.list(Path::new(FOLDER)).unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_each_write_and_sync_leaves_the_old_snapshot_or_the_new_one() {
    let mut points = 0;
    for kept in [Keep::None, Keep::Some, Keep::All] {
        for operations in 0.. {
            let machine = Machine::new(operations);
            let process = machine.process();
            let snapshots = open(&process).unwrap();
            keep(&snapshots, 3, &[b"old"]).await.unwrap();
            machine.disk.cut_power_after(machine.disk.operations() + operations);
            let published = keep(&snapshots, 5, &[b"new", b"er"]).await.is_ok();
            machine.crash(&process, kept);
            let newest = open(&machine.process()).unwrap().newest().unwrap();
            let whole: &[&str] = if newest.meta().index.0 == 3 { &["old"] } else { &["new", "er"] };
            assert!(!published || newest.meta().index.0 == 5);
            assert_eq!(read(newest).await.unwrap(), whole);
            if published {
                break;
            }
            points += 1;
        }
    }
    println!("crashed the writing of a snapshot at {points} points");
    assert!(points > 15);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_as_announced_is_not_kept() {
    let machine = Machine::new(1);
    let snapshots = open(&machine.process()).unwrap();
    let mut short = snapshots.begin(meta(1, 10), Bytes::new()).unwrap();
    short.push(b"123").unwrap();
    assert!(matches!(short.finish(), Err(SnapshotFileError::Malformed(_))));
    let mut long = snapshots.begin(meta(1, 2), Bytes::new()).unwrap();
    assert!(matches!(long.push(b"123"), Err(SnapshotFileError::Malformed(_))));
    drop(long);
    assert_eq!(machine.disk.list(Path::new(FOLDER)).unwrap(), [""; 0]);
    machine.disk.set_capacity(Some(20));
    assert!(matches!(snapshots.begin(meta(1, 2), Bytes::new()), Err(SnapshotFileError::Full(_))));
}

#[tokio::test(start_paused = true)]
async fn every_flipped_bit_is_found() {
    let machine = Machine::new(1);
    let process = machine.process();
    keep(&open(&process).unwrap(), 3, &[b"data"]).await.unwrap();
    let name = machine.disk.list(Path::new(FOLDER)).unwrap().remove(0);
    let path = Path::new(FOLDER).join(name);
    for offset in 0..machine.disk.open(&path, Open::Read).unwrap().len().unwrap() {
        machine.disk.flip_bit(&path, offset, 3).unwrap();
        if let Ok(snapshots) = open(&process) {
            let mut chunks = snapshots.newest().unwrap().chunks();
            let mut failed = false;
            while let Some(chunk) = chunks.next().await {
                failed |= chunk.is_err();
            }
            assert!(failed, "offset {offset}");
        }
        machine.disk.flip_bit(&path, offset, 3).unwrap();
    }
}

use std::{io::IoSlice, path::Path, sync::Arc, time::Duration};

use super::{Fault, Keep, SimulatedDisk};
use crate::runtime::{Clock, Disk, DiskFile, Open, Rng};

fn disk(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(Clock::system(), Rng::seeded(seed));
    disk.mount(Path::new("/data")).unwrap();
    disk
}

fn write(file: &Arc<dyn DiskFile>, bytes: &[u8], offset: u64) {
    file.write_at(&mut [IoSlice::new(bytes)], offset).unwrap();
}

fn read(disk: &SimulatedDisk, path: &str) -> Vec<u8> {
    let file = disk.open(Path::new(path), Open::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

#[tokio::test]
async fn a_crash_loses_what_was_not_synced_and_nothing_else() {
    let disk = disk(1);
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    write(&file, b"durable", 0);
    file.sync().await.unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    write(&file, b" lost", 7);
    disk.crash(Keep::None);
    assert_eq!(read(&disk, "/data/a"), b"durable");
    assert!(file.len().is_err(), "a handle of an older boot");
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_one_sync_has_made_durable_is_not_made_again_by_the_next() {
    let disk = disk(1);
    disk.set_sync_delay(Duration::from_millis(1), Duration::from_millis(1));
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    write(&file, &[1; 2000], 0);
    file.set_len(1000).unwrap();
    write(&file, &[2; 1000], 1000);
    let other = async {
        tokio::task::yield_now().await;
        write(&file, &[3; 1000], 2000);
    };
    let (synced, ()) = tokio::join!(file.sync(), other);
    synced.unwrap();
    file.sync().await.unwrap();
    disk.crash(Keep::None);
    let expected = [vec![1; 1000], vec![2; 1000], vec![3; 1000]].concat();
    assert_eq!(read(&disk, "/data/a"), expected);
}

#[tokio::test]
async fn a_killed_process_loses_nothing() {
    let disk = disk(1);
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    write(&file, b"cached", 0);
    disk.crash(Keep::All);
    assert_eq!(read(&disk, "/data/a"), b"cached");
    disk.crash(Keep::None);
    assert!(!disk.exists(Path::new("/data/a")), "neither bytes nor name were synced");
}

#[tokio::test]
async fn a_name_is_durable_only_after_a_sync_of_its_folder() {
    let disk = disk(1);
    let file = disk.open(Path::new("/data/new"), Open::Write).unwrap();
    write(&file, b"x", 0);
    file.sync().await.unwrap();
    disk.rename(Path::new("/data/new"), Path::new("/data/old")).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    disk.rename(Path::new("/data/old"), Path::new("/data/older")).unwrap();
    disk.remove_file(Path::new("/data/older")).unwrap();
    disk.crash(Keep::None);
    assert_eq!(disk.list(Path::new("/data")).unwrap(), ["old"]);
    assert_eq!(read(&disk, "/data/old"), b"x");
}

#[tokio::test]
async fn a_power_cut_keeps_any_part_of_a_write() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = disk(seed);
        let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
        disk.sync_dir(Path::new("/data")).unwrap();
        write(&file, &[1; 1024], 0);
        disk.crash(Keep::Some);
        let bytes = read(&disk, "/data/a");
        seen.insert((bytes.len(), bytes.first().copied()));
    }
    let all = [(0, None), (512, Some(1)), (1024, Some(0)), (1024, Some(1))];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}

#[tokio::test]
async fn a_failed_sync_is_followed_by_one_that_lies() {
    let disk = disk(1);
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    write(&file, b"gone", 0);
    disk.inject("/data/a", Fault::FailSync, 1);
    assert!(file.sync().await.is_err());
    assert!(file.sync().await.is_ok());
    assert_eq!(read(&disk, "/data/a"), b"gone");
    disk.crash(Keep::None);
    assert_eq!(read(&disk, "/data/a"), [0; 4], "the length was synced, the bytes never");
}

#[tokio::test(start_paused = true)]
async fn a_sync_covers_what_was_written_before_it_began() {
    let disk = disk(1);
    disk.set_sync_delay(Duration::from_millis(5), Duration::from_millis(5));
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    write(&file, b"before", 0);
    let (synced, ()) = tokio::join!(file.sync(), async { write(&file, b"during", 6) });
    synced.unwrap();
    assert!(!disk.is_clean(Path::new("/data/a")).unwrap());
    disk.crash(Keep::None);
    assert_eq!(read(&disk, "/data/a"), b"before");
}

#[tokio::test]
async fn a_cut_that_was_not_synced_comes_back() {
    let disk = disk(1);
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    write(&file, &[7; 1000], 0);
    file.sync().await.unwrap();
    file.set_len(10).unwrap();
    assert_eq!(read(&disk, "/data/a").len(), 10);
    disk.crash(Keep::None);
    assert_eq!(read(&disk, "/data/a"), vec![7; 1000]);
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    file.set_len(10).unwrap();
    file.sync().await.unwrap();
    disk.crash(Keep::None);
    assert_eq!(read(&disk, "/data/a"), vec![7; 10]);
}

#[test]
fn a_full_disk_takes_a_part_of_a_write() {
    let disk = disk(1);
    let file = disk.open(Path::new("/data/a"), Open::Write).unwrap();
    disk.set_capacity(Some(6));
    let error = file.write_at(&mut [IoSlice::new(b"too "), IoSlice::new(b"long")], 0).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(read(&disk, "/data/a"), b"too lo");
    assert_eq!(disk.free_bytes(Path::new("/data")).unwrap(), 0);
    disk.heal();
    write(&file, b"long", 4);
}

#[tokio::test]
async fn the_power_can_be_cut_at_every_operation() {
    let run = |until: Option<u64>| async move {
        let disk = disk(9);
        if let Some(until) = until {
            disk.cut_power_after(until);
        }
        let work = async {
            let file = disk.open(Path::new("/data/a"), Open::CreateNew)?;
            file.write_at(&mut [IoSlice::new(b"abc")], 0)?;
            file.sync().await?;
            disk.sync_dir(Path::new("/data"))
        };
        let done = work.await.is_ok();
        assert_eq!(disk.is_without_power(), !done);
        let operations = disk.operations();
        disk.crash(Keep::None);
        (operations, done, disk.exists(Path::new("/data/a")))
    };
    let (operations, done, there) = run(None).await;
    assert_eq!((operations, done, there), (4, true, true));
    for until in 0..operations {
        assert_eq!(run(Some(until)).await, (until + 1, false, false));
    }
}

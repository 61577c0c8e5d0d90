//! What a log does when its files are not what they should be.

use std::path::PathBuf;

use super::{
    testing::{Bench, batch, known, read_all, sync},
    *,
};
use crate::{
    ids::Offset,
    runtime::{
        Disk as _, Open,
        simulated::{Fault, Keep},
    },
};

/// Appends batches of three records and 121 bytes until the log ends at `end`.
fn fill(log: &mut Log, end: i64) {
    while log.end_offset().0 < end {
        let base = log.end_offset().0;
        log.append(&[&batch(base, 3, 1, 1000 + base, 60)]).unwrap();
    }
}

fn segment(base: i64) -> PathBuf {
    format!("/data/orders-0/{base:020}.log").into()
}

fn ask(from: i64) -> ReadRequest {
    ReadRequest { from: Offset(from), below: Offset(i64::MAX), max_bytes: 1000, at_least_one: true }
}

#[tokio::test(start_paused = true)]
async fn a_bit_that_flips_below_the_recovery_point_is_never_served() {
    let mut bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 120);
    sync(&mut log, SyncDepth::Everything).await;
    bench.disk.flip_bit(&segment(0), 121 * 2 + 80, 3).unwrap();
    let (mut log, recovery) = bench.crash(log, Keep::None, known(120));
    assert_eq!((recovery.damage, recovery.checked_bytes), (None, 0), "nothing there is read at a start");
    let Err(ReadError::Unusable(Unusable::Damaged(damage))) = log.read(ask(0)) else {
        panic!("a broken batch was served")
    };
    assert_eq!((damage.offset, damage.position), (Offset(6), 242));
    assert!(log.read(ask(60)).is_err(), "the partition is out of service");
    assert!(matches!(log.append(&[&batch(120, 1, 1, 0, 1)]), Err(AppendError::Unusable(_))));
    assert!(matches!(log.begin_sync(SyncDepth::Everything), Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn damage_is_cut_only_when_it_is_told_to_be() {
    let mut bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 120);
    sync(&mut log, SyncDepth::Everything).await;
    bench.disk.flip_bit(&segment(0), 121 * 2 + 80, 3).unwrap();
    let (log, recovery) = bench.crash(log, Keep::All, known(0));
    let damage = recovery.damage.unwrap();
    assert_eq!((damage.offset, recovery.cut), (Offset(6), None));
    let (mut log, again) = bench.crash(log, Keep::None, known(0));
    assert!(again.damage.is_none() && again.cut.is_some(), "after a power cut it may be an unsynced write");
    fill(&mut log, 120);
    sync(&mut log, SyncDepth::Everything).await;
    bench.disk.flip_bit(&segment(0), 121 * 2 + 80, 3).unwrap();
    let (mut log, _) = bench.crash(log, Keep::All, known(0));
    assert_eq!(log.discard_damage().unwrap(), Offset(6));
    fill(&mut log, 60);
    assert_eq!(read_all(&mut log, 0, 60).len(), 20 * 121);
    let (log, recovery) = bench.crash(log, Keep::All, known(0));
    assert_eq!((log.end_offset(), recovery.damage), (Offset(60), None));
}

#[tokio::test(start_paused = true)]
async fn a_torn_tail_is_cut_and_told() {
    let mut bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 12);
    drop(log);
    let file = bench.disk.open(&segment(0), Open::Write).unwrap();
    file.set_len(121 * 4 - 7).unwrap();
    let (log, _) = bench.open(Opening::unknown());
    let (log, recovery) = {
        drop(file);
        assert_eq!(log.end_offset(), Offset(9));
        bench.crash(log, Keep::All, known(0))
    };
    assert_eq!((log.end_offset(), recovery.cut), (Offset(9), None), "it is cut once");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_shorter_than_it_was_durable_is_damaged() {
    let mut bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 12);
    sync(&mut log, SyncDepth::Everything).await;
    bench.disk.open(&segment(0), Open::Write).unwrap().set_len(121 * 2).unwrap();
    let (log, recovery) = bench.crash(log, Keep::All, known(12));
    assert_eq!(recovery.damage.unwrap().offset, Offset(6));
    assert!(matches!(log.unusable(), Some(Unusable::Damaged(_))));
}

#[tokio::test(start_paused = true)]
async fn a_torn_tail_after_a_truncation_is_no_damage_though_the_checkpoint_is_larger() {
    let mut bench = Bench::new(3);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 12);
    sync(&mut log, SyncDepth::Everything).await;
    let kept = log.recovery_point_to_keep();
    log.note_kept_recovery_point(kept).unwrap();
    assert_eq!(log.truncate_to(Offset(6)).unwrap(), Offset(6));
    fill(&mut log, 12);
    bench.disk.open(&segment(0), Open::Write).unwrap().set_len(121 * 3 + 50).unwrap();
    let (mut log, recovery) = bench.crash(log, Keep::All, known(12));
    assert_eq!((recovery.damage, log.end_offset()), (None, Offset(9)));
    sync(&mut log, SyncDepth::Everything).await;
    let kept = log.recovery_point_to_keep();
    log.note_kept_recovery_point(kept).unwrap();
    assert!(!bench.disk.exists(&bench.dir.join("recovery-point-lowered")));
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_fails_raises_nothing() {
    let bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 12);
    bench.disk.inject(".log", Fault::FailSync, 1);
    let job = log.begin_sync(SyncDepth::Batches).unwrap().unwrap();
    assert!(job.run().await.is_err());
    assert_eq!(log.synced_end(), Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_the_append_and_keeps_what_is_there() {
    let bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 12);
    let all = read_all(&mut log, 0, 12);
    bench.disk.set_capacity(Some(all.len() as u64 + 60));
    let refused = log.append(&[&batch(12, 3, 1, 0, 60)]);
    assert!(matches!(refused, Err(AppendError::Disk(_))), "{refused:?}");
    assert!(log.unusable().is_none() && log.health().is_full() && log.health().failure().is_none());
    assert_eq!(read_all(&mut log, 0, 12), all);
    bench.disk.heal();
    fill(&mut log, 24);
    assert_eq!(read_all(&mut log, 0, 24).len(), 8 * 121);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_told_to_the_directory() {
    let bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 12);
    bench.disk.inject(".log", Fault::FailWrite, 1);
    assert!(matches!(log.append(&[&batch(12, 3, 1, 0, 60)]), Err(AppendError::Disk(_))));
    assert!(log.health().failure().is_some());
}

/// Every file, every byte, three kinds of garbage, with the page cache kept and lost: an answer, never a panic, and
/// nothing is served whose checksum does not fit.
#[tokio::test(start_paused = true)]
async fn garbage_in_any_file_at_any_byte_never_panics_and_is_never_served() {
    let bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 75);
    sync(&mut log, SyncDepth::Everything).await;
    log.keep_producers(&producers::Producers::default(), Offset(75)).unwrap();
    fill(&mut log, 81);
    drop(log);
    let names = bench.disk.list(&bench.dir).unwrap();
    let files: Vec<(PathBuf, Vec<u8>)> = names
        .iter()
        .map(|name| bench.dir.join(name))
        .map(|path| {
            let content = crate::runtime::read_file(&bench.disk, &path, 1 << 20).unwrap();
            (path, content)
        })
        .collect();
    assert!(files.len() >= 8, "{names:?}");
    for (path, content) in &files {
        // In the batches' payloads one byte is like the next.
        let step = if path.extension().is_some_and(|kind| kind == "log") { 7 } else { 1 };
        for at in (0..content.len()).step_by(step) {
            for garbage in [0_u8, 0xff, content[at] ^ 0x10] {
                restore(&bench, &files);
                let mut broken = content.clone();
                broken[at] = garbage;
                write(&bench, path, &broken);
                probe(&bench, if at % 2 == 0 { PageCache::Kept } else { PageCache::Lost });
            }
        }
        for len in [0, 1, content.len() / 2, content.len().saturating_sub(1)] {
            restore(&bench, &files);
            write(&bench, path, &content[..len]);
            probe(&bench, PageCache::Lost);
        }
    }
}

fn write(bench: &Bench, path: &std::path::Path, content: &[u8]) {
    let file = bench.disk.open(path, Open::Write).unwrap();
    file.set_len(0).unwrap();
    file.write_at(&mut [std::io::IoSlice::new(content)], 0).unwrap();
}

fn restore(bench: &Bench, files: &[(PathBuf, Vec<u8>)]) {
    for name in bench.disk.list(&bench.dir).unwrap() {
        bench.disk.remove_file(&bench.dir.join(name)).unwrap();
    }
    files.iter().for_each(|(path, content)| write(bench, path, content));
}

/// Opens the log and uses all of it. `read_all` asserts every checksum.
fn probe(bench: &Bench, page_cache: PageCache) {
    let opening = Opening { page_cache, ..known(75) };
    let Ok((mut log, _)) = Log::open(&bench.dir, bench.config, &bench.parts, opening) else { return };
    let _ = log.load_producers();
    let _ = log.first_batch_since(1040);
    let _ = log.newest_batch();
    let (start, end) = (log.start_offset(), log.end_offset());
    let mut from = start;
    while let Ok(Some(region)) = log.read(ReadRequest { from, ..ask(0) }) {
        let bytes = region.read().unwrap();
        let before = from;
        for batch in crate::protocol::batch::Batches::of(&bytes).map_while(Result::ok) {
            batch.check_crc().unwrap();
            from = batch.header().next_offset();
        }
        assert!(from > before && from <= end, "from {before} to {from} of {end}");
    }
    let _ = log.append(&[&batch(end.0, 1, 9, 5000, 10)]);
    let _ = log.truncate_to(Offset(40));
    let _ = log.delete_before(Offset(20));
    let _ = log.discard_damage();
}

use super::{
    testing::{Bench, batch, known, read_all, real, small, sync},
    *,
};
use crate::{
    ids::{LeaderEpoch, Offset},
    runtime::simulated::{Fault, Keep},
};

/// Appends `count` batches of three records and returns their bytes.
fn fill(log: &mut Log, count: i64, epoch: i32) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..count {
        let base = log.end_offset().0;
        let bytes = batch(base, 3, epoch, 1000 + base, 60);
        let appended = log.append(&[&bytes]).unwrap();
        assert_eq!((appended.first.0, appended.end.0), (base, base + 3));
        all.extend(bytes);
    }
    all
}

#[test]
fn what_is_appended_is_read_back_byte_for_byte_over_many_segments() {
    let (_folder, mut log) = real(small());
    let all = fill(&mut log, 100, 1);
    assert!(log.segment_count() > 3);
    assert_eq!(read_all(&mut log, 0, 300), all);
    assert_eq!(read_all(&mut log, 0, 150), all[..150 / 3 * 121]);
    assert_eq!(log.size_bytes(), all.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_sync_left_in_the_page_cache_is_written_again() {
    let mut bench = Bench::new(3);
    let (mut log, _) = bench.open(known(0));
    let all = fill(&mut log, 40, 1);
    bench.disk.inject(".log", Fault::FailSync, 10);
    let job = log.begin_sync(SyncDepth::Batches).unwrap().unwrap();
    job.run().await.unwrap_err();
    bench.disk.heal();
    let (mut log, _) = bench.crash(log, Keep::All, Opening { rewrite: true, ..known(0) });
    assert_eq!(sync(&mut log, SyncDepth::Batches).await, Offset(120));
    let (mut log, _) = bench.crash(log, Keep::None, known(0));
    assert_eq!(read_all(&mut log, 0, 120), all);
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_offset() {
    let (_folder, mut log) = real(small());
    let all = fill(&mut log, 60, 1);
    for from in 0..180 {
        let bytes = read_all(&mut log, from, 180);
        assert_eq!(bytes, all[(from as usize / 3) * 121..]);
    }
}

#[test]
fn an_offset_outside_of_the_log_is_out_of_range_and_its_end_is_empty() {
    let (_folder, mut log) = real(small());
    fill(&mut log, 5, 1);
    let ask = |from| ReadRequest { from: Offset(from), below: Offset(99), max_bytes: 10, at_least_one: true };
    assert!(matches!(log.read(ask(16)), Err(ReadError::OutOfRange { .. })));
    assert!(log.read(ask(15)).unwrap().is_none());
    assert!(log.read(ReadRequest { at_least_one: false, max_bytes: 0, ..ask(0) }).unwrap().is_none());
}

#[test]
fn batches_out_of_order_or_of_an_older_epoch_are_refused() {
    let (_folder, mut log) = real(small());
    fill(&mut log, 2, 5);
    let again = batch(3, 3, 5, 0, 10);
    assert!(matches!(log.append(&[&again]), Err(AppendError::OutOfOrder { .. })));
    let older = batch(6, 3, 4, 0, 10);
    assert!(matches!(log.append(&[&older]), Err(AppendError::EpochFell { .. })));
    let (first, second) = (batch(6, 3, 5, 0, 10), batch(8, 3, 5, 0, 10));
    assert!(matches!(log.append(&[&first, &second]), Err(AppendError::OutOfOrder { .. })));
    assert!(matches!(log.append(&[&first[..40]]), Err(AppendError::Batch(_))));
    assert!(matches!(log.append(&[]), Err(AppendError::Batch(_))));
    assert_eq!(log.end_offset(), Offset(6));
}

#[tokio::test(start_paused = true)]
async fn only_what_was_synced_survives_a_power_cut() {
    let mut bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    let all = fill(&mut log, 40, 1);
    assert_eq!(log.synced_end(), Offset(0));
    assert_eq!(sync(&mut log, SyncDepth::Batches).await, Offset(120));
    fill(&mut log, 40, 1);
    let (mut log, recovery) = bench.crash(log, Keep::None, known(0));
    assert_eq!(recovery.damage, None);
    assert_eq!(log.end_offset(), Offset(120));
    assert_eq!(read_all(&mut log, 0, 120), all);
}

#[tokio::test(start_paused = true)]
async fn recovery_reads_only_what_lies_past_the_recovery_point() {
    let mut bench = Bench::new(1);
    let (mut log, _) = bench.open(Opening::unknown());
    fill(&mut log, 40, 1);
    sync(&mut log, SyncDepth::Everything).await;
    assert_eq!(log.recovery_point(), Offset(120));
    fill(&mut log, 2, 1);
    let (log, recovery) = bench.crash(log, Keep::All, known(120));
    assert_eq!(recovery.checked_bytes, 2 * 121);
    assert!(!recovery.epochs_rebuilt && !recovery.indexes_rebuilt);
    assert_eq!((log.synced_end(), log.end_offset()), (Offset(120), Offset(126)));
    assert_eq!(log.epochs().entries(), [EpochStart { epoch: LeaderEpoch(1), start: Offset(0) }]);
}

#[test]
fn retention_by_age_and_by_size_removes_whole_segments_below_the_high_watermark() {
    let config = LogConfig { retention_ms: Some(100), ..small() };
    let (_folder, mut log) = real(config);
    fill(&mut log, 60, 1);
    let segments = log.segment_count();
    assert_eq!(log.expire(10_000, Offset(0)).unwrap().segments, 0, "nothing above the high watermark goes");
    let expired = log.expire(1000 + 120, Offset(180)).unwrap();
    assert_eq!(expired, Expired::default(), "records of timestamp 1000 and later are not a hundred old");
    let expired = log.expire(1000 + 190, Offset(180)).unwrap();
    assert!(expired.segments > 0 && log.segment_count() == segments - expired.segments);
    let start = log.start_offset();
    assert!(start > Offset(0) && start < Offset(180));
    assert_eq!(read_all(&mut log, start.0, 180).len(), ((180 - start.0) / 3 * 121) as usize);
    assert_eq!(log.epochs().entries()[0].start, start);
    log.reconfigure(LogConfig { retention_ms: None, retention_bytes: Some(2000), ..config });
    log.expire(0, Offset(180)).unwrap();
    assert!(log.size_bytes() >= 2000 && log.size_bytes() < 4000);
    log.reconfigure(LogConfig { deletes: false, retention_bytes: Some(0), ..config });
    assert_eq!(log.expire(i64::MAX, Offset(180)).unwrap().segments, 0, "a compacted topic keeps all");
    log.reconfigure(LogConfig { retention_bytes: Some(0), ..config });
    log.expire(0, Offset(180)).unwrap();
    assert_eq!((log.start_offset(), log.size_bytes()), (Offset(180), 0), "the active segment goes too");
    fill(&mut log, 2, 1);
}

#[tokio::test(start_paused = true)]
async fn deep_syncs_that_overlap_do_not_take_each_others_files_away() {
    let bench = Bench::new(1);
    bench.disk.set_sync_delay(std::time::Duration::from_millis(1), std::time::Duration::from_millis(9));
    let (mut log, _) = bench.open(Opening::unknown());
    log.append(&[&batch(0, 1, 1, 10, 50)]).unwrap();
    let older = log.begin_sync(SyncDepth::Everything).unwrap().unwrap();
    log.append(&[&batch(1, 1, 2, 10, 50)]).unwrap();
    let newer = log.begin_sync(SyncDepth::Everything).unwrap().unwrap();
    let (first, second) = tokio::join!(older.run(), newer.run());
    first.unwrap();
    second.unwrap();
    log.finish_sync(newer);
    log.finish_sync(older);
    let epochs = log.epochs().encode();
    let path = bench.dir.join("leader-epoch-checkpoint");
    let kept = crate::runtime::read_file(&bench.disk, &path, 1000).unwrap();
    assert_eq!(String::from_utf8(kept).unwrap(), epochs, "the newer epochs stay");
}

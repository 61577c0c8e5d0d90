use std::{path::Path, time::Duration};

use bytes::Bytes;
use quorate_core::{
    consensus::{Chain, LogId},
    ids::{Epoch, LogIndex, NodeId},
    runtime::{
        Disk, Open, Runtime,
        simulated::{Fault, Keep},
    },
};

use super::{
    Batch, Entry, Log, LogConfig, LogError, Point, Vote,
    format::{FileId, Header, Record, decode_batch, encode_batch},
};
use crate::{codec::slice, disk::read_whole, testing::Machine};

const FOLDER: &str = "/data/consensus/log";
const LOG: LogId = LogId([9; 16]);

fn config(snapshot: Option<Point>) -> LogConfig {
    LogConfig { folder: FOLDER.into(), log: LOG, segment_bytes: 600, snapshot, must_exist: false }
}

async fn open(process: &Runtime, snapshot: Option<Point>) -> Result<Log, LogError> {
    Log::open(config(snapshot), process).await
}

fn entry(index: u64, epoch: u64, data: &str) -> Entry {
    Entry { index: LogIndex(index), epoch: Epoch(epoch), engine: 0, data: Bytes::from(data.to_owned()) }
}

fn vote(term: u64, node: Option<i32>, commit: u64) -> Vote {
    Vote { term, voted_for: node.map(NodeId), commit: LogIndex(commit) }
}

fn batch(entries: Vec<Entry>, vote: Option<Vote>) -> Batch {
    Batch { truncate_after: None, entries, vote }
}

/// Everything that the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    base: Point,
    last: Point,
    vote: Vote,
    entries: Vec<Entry>,
}

fn contents(log: &Log) -> Contents {
    let (base, last) = (log.base(), log.last());
    let entries = log.entries(base.index.next(), last.index, u64::MAX).unwrap();
    assert_eq!(entries.len() as u64, last.index.0 - base.index.0);
    let mut chain = base.chain;
    for entry in &entries {
        chain = chain.link(entry.epoch, entry.published());
        assert_eq!(log.point(entry.index).unwrap().chain, chain);
    }
    Contents { base, last, vote: log.vote(), entries }
}

/// What a log must say for its clients, whatever it has let go of.
fn promised(contents: &Contents) -> (Point, Vote) {
    (contents.last, contents.vote)
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_there_after_a_restart() {
    let machine = Machine::new(1);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    for index in 1..=40 {
        let written =
            batch(vec![entry(index, 3, &format!("entry {index}"))], Some(vote(3, Some(0), index - 1)));
        log.write(written).await.unwrap();
    }
    let before = contents(&log);
    assert!(machine.disk.list(Path::new(FOLDER)).unwrap().len() > 4, "several segments");
    machine.crash(&process, Keep::None);
    let process = machine.process();
    assert_eq!(contents(&open(&process, None).await.unwrap()), before);
}

#[tokio::test(start_paused = true)]
async fn a_newer_entry_voids_the_older_ones_from_its_index_on() {
    let machine = Machine::new(1);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    let old = (1..=5).map(|index| entry(index, 1, "old")).collect();
    log.write(batch(old, Some(vote(1, None, 2)))).await.unwrap();
    log.write(batch(vec![entry(4, 2, "new")], None)).await.unwrap();
    assert_eq!(log.last().index, LogIndex(4));
    log.write(Batch { truncate_after: Some(LogIndex(3)), ..Batch::default() }).await.unwrap();
    assert_eq!((log.last().index, log.last().epoch), (LogIndex(3), Epoch(1)));
    let before = contents(&log);
    machine.crash(&process, Keep::None);
    assert_eq!(contents(&open(&machine.process(), None).await.unwrap()), before);
}

#[tokio::test(start_paused = true)]
async fn a_hole_and_the_undoing_of_a_committed_entry_are_refused() {
    let machine = Machine::new(1);
    for refused in [entry(5, 1, "hole"), entry(1, 2, "committed")] {
        let process = machine.process();
        let log = open(&process, None).await.unwrap();
        let first = (1..=3).map(|index| entry(index, 1, "x")).collect();
        if log.last().index.0 == 0 {
            log.write(batch(first, Some(vote(1, None, 2)))).await.unwrap();
        }
        assert!(log.write(batch(vec![refused], None)).await.is_err());
        machine.crash(&process, Keep::None);
    }
}

/// A life of a log: every kind of write, with segments that roll, a snapshot and a restart behind another.
/// `acknowledged` is told after each step that returned.
async fn live(
    log: &Log,
    snapshot: &mut Option<Point>,
    mut acknowledged: impl FnMut(&Log),
) -> Result<(), LogError> {
    for index in 1..=12_u64 {
        let entries = vec![entry(index, index / 4 + 1, "some data of an entry")];
        log.write(batch(entries, Some(vote(index / 4 + 1, Some(1), index.saturating_sub(3))))).await?;
        acknowledged(log);
    }
    log.write(batch(vec![], Some(vote(9, Some(2), 9)))).await?;
    acknowledged(log);
    let entries = (11..=14).map(|index| entry(index, 9, "another leader's")).collect();
    log.write(batch(entries, None)).await?;
    acknowledged(log);
    *snapshot = log.point(LogIndex(9));
    log.forget(LogIndex(9)).await?;
    acknowledged(log);
    let ahead = Point { index: LogIndex(50), epoch: Epoch(11), ..Point::start(LOG) };
    *snapshot = Some(ahead);
    log.restart(ahead, vote(9, Some(2), 9)).await?;
    acknowledged(log);
    log.write(batch(vec![entry(51, 12, "after the snapshot")], Some(vote(12, None, 50)))).await?;
    acknowledged(log);
    Ok(())
}

/// Lives once until the power fails after `operations`, then comes back.
async fn crash_after(operations: u64, keep: Keep, seed: u64) -> bool {
    let machine = Machine::new(seed);
    machine.disk.cut_power_after(operations);
    let process = machine.process();
    let mut seen = Vec::new();
    let mut snapshot = None;
    let finished = match open(&process, None).await {
        Ok(log) => live(&log, &mut snapshot, |log| seen.push(contents(log))).await.is_ok(),
        Err(_) => false,
    };
    machine.crash(&process, keep);
    let process = machine.process();
    let log = open(&process, snapshot).await.unwrap_or_else(|error| panic!("after {operations}: {error}"));
    let after = contents(&log);
    let acknowledged = seen.last().map(promised).unwrap_or((Point::start(LOG), Vote::default()));
    let mut uncut = Vec::new();
    let other = Machine::new(seed);
    let twin = other.process();
    let log = open(&twin, None).await.unwrap();
    live(&log, &mut None, |log| uncut.push(promised(&contents(log)))).await.unwrap();
    let next = uncut.get(seen.len()).copied().unwrap_or(acknowledged);
    let found = promised(&after);
    assert!(
        found == acknowledged || found == next,
        "after {operations} operations, {keep:?}: {found:?} is neither {acknowledged:?} nor {next:?}"
    );
    finished
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_each_write_and_sync_loses_nothing_that_was_acknowledged() {
    let mut points = 0;
    for keep in [Keep::None, Keep::Some, Keep::All] {
        let mut operations = 0;
        while !crash_after(operations, keep, operations).await {
            operations += 1;
            points += 1;
        }
    }
    println!("crashed the log at {points} writes and syncs");
    assert!(points > 150);
}

#[tokio::test(start_paused = true)]
async fn every_flipped_bit_of_what_was_acknowledged_refuses_the_start() {
    let machine = Machine::new(3);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    for index in 1..=6 {
        log.write(batch(vec![entry(index, 1, "data")], Some(vote(1, None, index - 1)))).await.unwrap();
    }
    log.close().await.unwrap();
    machine.crash(&process, Keep::None);
    for name in machine.disk.list(Path::new(FOLDER)).unwrap() {
        let path = Path::new(FOLDER).join(&name);
        let Some(sequence) = name.strip_suffix(".log") else { continue };
        let length = machine.disk.open(&path, Open::Read).unwrap().len().unwrap();
        for offset in 0..length {
            let bit = u8::try_from(offset % 8).unwrap();
            machine.disk.flip_bit(&path, offset, bit).unwrap();
            let before = machine.disk.list(Path::new(FOLDER)).unwrap();
            let process = machine.process();
            let error = open(&process, None).await.err();
            let error = error.unwrap_or_else(|| panic!("{name} offset {offset} was served")).to_string();
            assert!(error.contains(sequence), "{error}");
            assert_eq!(machine.disk.list(Path::new(FOLDER)).unwrap(), before, "nothing was changed");
            machine.crash(&process, Keep::None);
            machine.disk.flip_bit(&path, offset, bit).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_torn_end_is_cut_and_the_log_goes_on() {
    let machine = Machine::new(3);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    log.write(batch(vec![entry(1, 1, "kept")], None)).await.unwrap();
    let before = contents(&log);
    machine.crash(&process, Keep::All);
    let names = machine.disk.list(Path::new(FOLDER)).unwrap();
    let path = Path::new(FOLDER).join(names.first().unwrap());
    let file = machine.disk.open(&path, Open::Write).unwrap();
    file.write_at(&mut slice(b"QRBT the beginning of a batch"), file.len().unwrap()).unwrap();
    for _ in 0..2 {
        let process = machine.process();
        let log = open(&process, None).await.unwrap();
        assert_eq!(contents(&log), before);
        machine.crash(&process, Keep::All);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_forgot_an_acknowledged_write_is_found_out() {
    let machine = Machine::new(3);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    log.write(batch(vec![entry(1, 1, "one")], None)).await.unwrap();
    machine.disk.inject(".log", Fault::ForgetSync, 1);
    log.write(batch(vec![entry(2, 1, "two")], None)).await.unwrap();
    log.close().await.unwrap();
    machine.crash(&process, Keep::None);
    let error = open(&machine.process(), None).await.err().unwrap().to_string();
    assert!(error.contains("batch 2 was acknowledged"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_makes_the_writer_wait_and_loses_nothing() {
    let machine = Machine::new(5);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    log.write(batch(vec![entry(1, 1, "one")], None)).await.unwrap();
    machine.disk.set_capacity(Some(200));
    let meanwhile = async {
        process.clock.sleep(Duration::from_secs(3)).await;
        assert!(log.trouble().unwrap().starts_with("the disk is full"), "{:?}", log.trouble());
        assert_eq!(log.last().index, LogIndex(1));
        machine.disk.set_capacity(None);
    };
    let (written, ()) = tokio::join!(log.write(batch(vec![entry(2, 1, "two")], None)), meanwhile);
    written.unwrap();
    assert_eq!((log.trouble(), log.last().index), (None, LogIndex(2)));
    machine.crash(&process, Keep::None);
    assert_eq!(open(&machine.process(), None).await.unwrap().last().index, LogIndex(2));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_final_and_never_tried_again() {
    let machine = Machine::new(5);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    machine.disk.inject(".log", Fault::FailSync, 1);
    let error = log.write(batch(vec![entry(1, 1, "one")], None)).await.unwrap_err();
    assert!(matches!(error, LogError::Storage(_)));
    let operations = machine.disk.operations();
    assert_eq!(log.write(batch(vec![entry(1, 1, "one")], None)).await, Err(error));
    assert_eq!(machine.disk.operations(), operations);
    assert_eq!(log.last().index, LogIndex(0), "what is not durable is not seen");
}

#[tokio::test(start_paused = true)]
async fn another_log_a_stray_file_and_a_lost_folder_are_refused() {
    let machine = Machine::new(5);
    let process = machine.process();
    open(&process, None).await.unwrap();
    process.tasks.kill();
    let foreign = LogConfig { log: LogId([1; 16]), ..config(None) };
    assert!(matches!(Log::open(foreign, &machine.process()).await, Err(LogError::Foreign(_))));
    let path = Path::new(FOLDER).join("notes.txt");
    machine.disk.open(&path, Open::Write).unwrap();
    assert!(matches!(open(&machine.process(), None).await, Err(LogError::Foreign(_))));
    machine.disk.remove_dir_all(Path::new(FOLDER)).unwrap();
    let used = LogConfig { must_exist: true, ..config(None) };
    assert!(matches!(Log::open(used, &machine.process()).await, Err(LogError::Damaged(_))));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_entry_is_never_read() {
    let machine = Machine::new(5);
    let process = machine.process();
    let log = open(&process, None).await.unwrap();
    log.write(batch(vec![entry(1, 1, "the data")], None)).await.unwrap();
    let names = machine.disk.list(Path::new(FOLDER)).unwrap();
    let path = Path::new(FOLDER).join(names.first().unwrap());
    let bytes = read_whole(&*machine.disk.open(&path, Open::Read).unwrap(), 1 << 20).unwrap();
    let at = bytes.windows(8).position(|window| window == b"the data").unwrap();
    machine.disk.flip_bit(&path, at as u64, 0).unwrap();
    assert!(matches!(log.entries(LogIndex(1), LogIndex(1), 100), Err(LogError::Damaged(_))));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(0_u8.., 0..300), cut in 0_usize..300) {
        let file = FileId([3; 16]);
        let _nonsense = (Header::decode(&bytes).is_ok(), decode_batch(file, 5, &bytes).is_some());
        let entry = Record::Entry(entry(1, 1, "data"), Chain::default());
        let mut good = encode_batch(file, 5, 1, &[entry]).unwrap().bytes;
        proptest::prop_assert!(decode_batch(file, 5, &good).is_some());
        proptest::prop_assert!(decode_batch(file, 6, &good).is_none(), "the position counts");
        if let (Some(byte), Some(other)) = (good.get_mut(cut), bytes.first()) {
            *byte ^= other | 1;
            proptest::prop_assert!(decode_batch(file, 5, &good).is_none());
        }
    }
}

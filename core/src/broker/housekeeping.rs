//! Keeps a log directory in order: checkpoints, so that a restart has little to read; retention; an eye on the space that
//! is left and on the disk.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use super::{
    Broker,
    checkpoints::{Mark, Name},
    folders::LogDirectory,
};
use crate::{
    log::SyncDepth,
    partition::replica::Replica,
    runtime::{Disk, replace_file},
};

/// How often checkpoints are written: what consumers had seen is at most so old after a restart.
const CHECKPOINT: Duration = Duration::from_secs(5);

/// Every so many rounds everything is made durable with its indexes, once a minute; until then a restart reads it again.
const DEEP_ROUNDS: u32 = 12;

/// A log that has grown by so many bytes is made durable in the next round: it takes a restart a second to read them.
const DEEP_BYTES: u64 = 256 << 20;

/// How often the space that is left is looked at. What is written in between must fit into the reserve.
const SPACE: Duration = Duration::from_secs(1);

/// Kafka's mark of a directory that was left in order.
const CLEAN: &str = ".kafka_cleanshutdown";

/// How often a round that met a partition's removal is begun again, before it is left to the next one.
const ATTEMPTS: usize = 3;

/// Writes the checkpoints of a directory until the node stops, and then once more, with everything durable.
pub(super) async fn keep_checkpoints(broker: Arc<Broker>, directory: Arc<LogDirectory>) {
    if let Err(error) = unmark(&*broker.runtime.disk, &directory) {
        return broker.fail(&format!("{}: {error}", directory.path.display()));
    }
    let mut round = 0_u32;
    loop {
        tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => break,
            () = broker.runtime.clock.sleep(CHECKPOINT) => {}
        }
        if broker.fatal().borrow().is_some() {
            return;
        }
        round = round.wrapping_add(1);
        let all = round.is_multiple_of(DEEP_ROUNDS);
        let due = |replica: &Replica| {
            replica.with_log(|log, _| {
                let is_large = log.bytes_since_deep_sync() >= DEEP_BYTES;
                (all || is_large) && log.needs_sync(SyncDepth::Everything)
            })
        };
        if !checkpoint(&broker, &directory, due).await {
            return;
        }
    }
    // After a sync that failed nothing is said of the disk any more.
    if broker.fatal().borrow().is_none()
        && checkpoint(&broker, &directory, |_| true).await
        && let Err(error) = mark(&broker, &directory)
    {
        tracing::warn!("{}: {error}: the end in order could not be marked", directory.path.display());
    }
}

/// Makes the logs durable that are due, and writes the checkpoints. False if the node cannot go on.
async fn checkpoint(broker: &Arc<Broker>, directory: &LogDirectory, due: impl Fn(&Replica) -> bool) -> bool {
    let written = async {
        for replica in replicas(broker, directory) {
            if due(&replica) {
                sync_everything(broker, &replica).await?;
            }
        }
        write_marks(broker, directory)
    };
    match written.await {
        Ok(()) => true,
        // The old file stands; a restart reads more.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            tracing::warn!("{}: {error}: the checkpoints stay as they are", directory.path.display());
            true
        }
        Err(error) => {
            broker.fail_sync(&format!(
                "{}: {error}: nobody can say what is on the disk. The process ends and must be started anew; other \
                 replicas go on",
                directory.path.display()
            ));
            false
        }
    }
}

/// Its batches, indexes, epochs; and a snapshot of its producers, which may be lost.
async fn sync_everything(broker: &Broker, replica: &Arc<Replica>) -> io::Result<()> {
    let job = replica.with_log(|log, producers| {
        if log.needs_sync(SyncDepth::Everything) && log.unusable().is_none() {
            // Without it a restart reads more batches.
            let _ = log.keep_producers(producers, log.end_offset());
        }
        log.begin_sync(SyncDepth::Everything)
    });
    let gone_or = |error: io::Error| if replica.is_gone() { Ok(()) } else { Err(error) };
    let job = match job {
        Ok(Some(job)) => job,
        Ok(None) => return Ok(()),
        Err(failure) => return gone_or(failure.source),
    };
    let under_way = broker.syncs.begin(broker.runtime.clock.now());
    let synced = job.run().await;
    drop(under_way);
    match synced {
        Ok(()) => {
            replica.finish_sync(job);
            Ok(())
        }
        // The batches are durable. What comes after them found no place.
        Err(failure) if failure.source.kind() == io::ErrorKind::StorageFull => gone_or(failure.source),
        Err(failure) => gone_or(io::Error::other(failure)),
    }
}

fn write_marks(broker: &Broker, directory: &LogDirectory) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        let ticket = directory.checkpoints.ticket();
        let running = replicas(broker, directory);
        let mut marks: BTreeMap<Name, Mark> = BTreeMap::new();
        for replica in running.iter().filter(|replica| !replica.is_gone()) {
            let high_watermark = replica.progress().high_watermark;
            let mark = replica.with_log(|log, _| Mark {
                recovery_point: log.recovery_point_to_keep(),
                log_start: log.start_offset(),
                high_watermark,
            });
            marks.insert((replica.topic.clone(), replica.partition.index), mark);
        }
        if !directory.checkpoints.write(ticket, &marks)? {
            continue;
        }
        for replica in running {
            let Some(mark) = marks.get(&(replica.topic.clone(), replica.partition.index)) else { continue };
            let noted = replica.with_log(|log, _| log.note_kept_recovery_point(mark.recovery_point));
            // A marker that stays makes a restart read more.
            if let Err(failure) = noted {
                tracing::warn!("{failure}");
            }
        }
        return Ok(());
    }
    Ok(())
}

fn replicas(broker: &Broker, directory: &LogDirectory) -> Vec<Arc<Replica>> {
    let all = broker.partitions.all().into_iter();
    all.filter(|replica| replica.is_synced_by(&directory.dirty)).collect()
}

/// Writes Kafka's mark of an end in order.
fn mark(broker: &Broker, directory: &LogDirectory) -> io::Result<()> {
    let content = format!("{{\"version\":\"0\",\"broker_epoch\":\"{}\"}}", broker.broker_epoch());
    replace_file(&*broker.runtime.disk, &directory.path.join(CLEAN), content.as_bytes())
}

/// Takes the mark away, durably: from now on things are not in order.
fn unmark(disk: &dyn Disk, directory: &LogDirectory) -> io::Result<()> {
    match disk.remove_file(&directory.path.join(CLEAN)) {
        Ok(()) => disk.sync_dir(&directory.path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes old segments until the node stops.
pub(super) async fn keep_retention(broker: Arc<Broker>, directory: Arc<LogDirectory>) {
    let setting = broker.setting("log.retention.check.interval.ms").and_then(|text| text.parse().ok());
    let interval = Duration::from_millis(setting.unwrap_or(300_000));
    loop {
        tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            () = broker.runtime.clock.sleep(interval) => {}
        }
        for replica in replicas(&broker, &directory) {
            if replica.is_gone() {
                continue;
            }
            let (topic, index) = (&replica.topic, replica.partition.index);
            match replica.expire() {
                Ok(expired) if expired.segments > 0 => {
                    let start = replica.progress().log_start;
                    let (segments, bytes) = (expired.segments, expired.bytes);
                    tracing::info!(
                        "{topic}-{index}: {segments} old segments of {bytes} bytes are removed; it begins at {start}"
                    );
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("{topic}-{index}: old segments could not be removed: {error}"),
            }
        }
    }
}

/// Watches the space and the disk under a directory until the node stops. A lack of space refuses the records of clients
/// until there is space again; any other failure ends the process, so that other replicas take over.
pub(super) async fn watch_disk(broker: Arc<Broker>, directory: Arc<LogDirectory>) {
    let reserve = broker.setting("quorate.log.reserve.bytes").and_then(|text| text.parse().ok());
    let reserve: u64 = reserve.unwrap_or_default();
    let path = directory.path.display();
    loop {
        match broker.runtime.disk.free_bytes(&directory.path) {
            Ok(free) if directory.health.set_full(free < reserve) => {
                if free < reserve {
                    tracing::error!(
                        "{path}: {free} bytes are left, fewer than quorate.log.reserve.bytes={reserve}: records of \
                         clients are refused until there is space again; delete topics or shorten their retention"
                    );
                } else {
                    tracing::info!("{path}: there is space again; records of clients are taken");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{path}: the space that is left cannot be told: {error}"),
        }
        tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            failure = directory.health.failed() => {
                return broker.fail(&format!(
                    "the log directory {path} failed: {failure}. The process ends; other replicas go on. Look at the \
                     disk before it is started anew"
                ));
            }
            () = broker.runtime.clock.sleep(SPACE) => {}
        }
    }
}

#[cfg(test)]
#[path = "housekeeping_test.rs"]
mod tests;

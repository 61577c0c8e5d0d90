//! What goes wrong with disks and clocks. What loses records that were synced strikes one replica at a time, when all
//! others are complete: more no replication survives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_core::{
    consensus::NodeId,
    log::ReadRequest,
    protocol::batch::Batches,
    runtime::{
        Disk as _,
        simulated::{Fault, Keep, SimulatedDisk},
    },
};

use super::{
    Violation,
    faults::must_start,
    invariants::{self, holds},
    node::Lost,
    oracle::partitions,
    world::World,
};

/// Where the records are.
const RECORDS: &str = "/data/records";

/// The largest step of a wall clock, in milliseconds: a producer's timestamp may be an hour ahead.
const STEP_MS: u64 = 600_000;

/// One fault of a disk or a clock.
pub(super) async fn strike(world: &mut World, node: NodeId) -> Result<(), Violation> {
    let chosen = world.rng.below(8);
    let Some(machine) = world.machines.get(&node) else { return Ok(()) };
    let disk = machine.disk.clone();
    let what = match chosen {
        0 | 1 => {
            disk.set_sync_delay(Duration::from_millis(20), Duration::from_millis(300));
            "syncs are slow".to_owned()
        }
        2 => {
            // More than half a session: the broker must fall silent.
            disk.set_sync_delay(Duration::from_millis(500), Duration::from_millis(1500));
            "syncs are very slow".to_owned()
        }
        3 => {
            disk.inject("/data", Fault::HangSync, 1);
            "a sync hangs".to_owned()
        }
        4 => {
            let left = world.rng.below(40_000);
            disk.set_capacity(Some(disk.used_bytes() + left));
            format!("{left} bytes are left")
        }
        5 => {
            let by = i64::try_from(world.rng.below(STEP_MS)).unwrap_or(0);
            let by = if world.rng.below(2) == 0 { by } else { -by };
            machine.step_wall(by);
            format!("the wall clock steps by {by} ms")
        }
        6 if is_whole(world)? => {
            disk.inject(".log", Fault::FailSync, 1);
            "the next sync of records fails".to_owned()
        }
        8 if !machine.torn && is_whole(world)? => return rot(world, node, &disk).await,
        7 if is_whole(world)? => {
            world.crash(node, Keep::All).await;
            world.replace_disk(node);
            return must_start(world, node).await;
        }
        _ => return Ok(()),
    };
    world.note(format!("node {node}: {what}"));
    Ok(())
}

/// Whether every replica of every partition is in sync, runs, and can be read from end to end.
fn is_whole(world: &World) -> Result<bool, Violation> {
    let image = world.oracle.newest();
    if world.observer.restarts.is_incomplete() {
        return Ok(false);
    }
    for machine in world.machines.values() {
        let Some(process) = &machine.process else { return Ok(false) };
        if machine.lost != Lost::default() || machine.disk.failed_syncs() != machine.failed_syncs {
            return Ok(false);
        }
        for (id, partition) in partitions(&image) {
            let replica = process.broker.partitions.get(id);
            let Some(replica) = replica.filter(|_| partition.isr.len() == partition.replicas.len()) else {
                return Ok(false);
            };
            if !invariants::can_be_read(&replica)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Restarts a node's process, and meanwhile a bit flips in one of its logs, before the last batch: a last batch that is
/// broken is a torn tail by its looks, and so is any other that is not known to be durable after a power cut.
async fn rot(world: &mut World, node: NodeId, disk: &SimulatedDisk) -> Result<(), Violation> {
    let Some((path, position)) = before_the_last_batch(world, node) else { return Ok(()) };
    world.crash(node, Keep::All).await;
    let bit = u8::try_from(world.rng.below(8)).unwrap_or(0);
    let flipped = disk.flip_bit(&path, position, bit);
    flipped.map_err(|error| Violation::new(38, format!("{}: {error}", path.display())))?;
    // What is broken may be cut before anybody looks.
    world.observer.restarts.forget(node);
    world.note(format!("node {node}: a bit flips at {position} in {}", path.display()));
    must_start(world, node).await
}

/// A place in a log that is not in its last batch.
fn before_the_last_batch(world: &World, node: NodeId) -> Option<(PathBuf, u64)> {
    let process = world.machines.get(&node)?.process.as_ref()?;
    let replicas = process.broker.partitions.all();
    let at = usize::try_from(world.rng.below(replicas.len() as u64)).ok()?;
    let replica = replicas.get(at)?;
    let (folder, bytes) = replica.with_log(|log, _| {
        let request = ReadRequest {
            from: log.start_offset(),
            below: log.end_offset(),
            max_bytes: 1 << 30,
            at_least_one: true,
        };
        Some((log.dir().to_owned(), log.read(request).ok()??.read().ok()?))
    })?;
    let last = Batches::of(&bytes).map_while(Result::ok).last()?.header().size_bytes;
    let most = bytes.len().checked_sub(last).filter(|most| *most > 0)?;
    let names = world.machines.get(&node)?.disk.list(&folder).ok()?;
    let first = names.into_iter().find(|name| name.ends_with(".log"))?;
    Some((Path::new(RECORDS).join(folder).join(first), world.rng.below(most as u64)))
}

/// Ends processes that cannot go on. Nothing ends one but a sync that failed.
pub(super) async fn end_failed(world: &mut World) -> Result<(), Violation> {
    for node in world.nodes() {
        let Some(machine) = world.machines.get_mut(&node) else { continue };
        let fatal = machine.process.as_ref().and_then(|process| process.broker.fatal().borrow().clone());
        let Some(fatal) = fatal else { continue };
        let failed = machine.disk.failed_syncs();
        machine.lost.anything |= failed > machine.failed_syncs;
        holds!(40, failed > machine.failed_syncs, "node {node} has failed without a cause: {fatal}");
        machine.failed_syncs = failed;
        world.note(format!("node {node} cannot go on: {fatal}"));
        world.crash(node, Keep::All).await;
    }
    Ok(())
}

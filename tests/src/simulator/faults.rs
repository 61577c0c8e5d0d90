//! What goes wrong, by the seed, and the course of a run.

use std::time::Duration;

use quorate_core::{
    consensus::NodeId,
    runtime::simulated::{Fault, Keep},
};

use tokio::sync::oneshot::error::TryRecvError;

use super::{Options, Violation, invariants, node::name, world::World};

/// How often the invariants are looked at.
const STEP: Duration = Duration::from_millis(20);

/// For how long a node may take to end in order.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// By when a healed cluster must have come to rest.
const REST_MS: u64 = 60_000;

/// The whole course: start, faults, heal, rest.
pub(super) async fn live(world: &mut World, options: Options) -> Result<(), Violation> {
    for node in world.nodes() {
        must_start(world, node).await?;
    }
    let end = world.shared.clock.now().plus(Duration::from_millis(options.faulty_ms));
    while world.shared.clock.now() < end {
        let pause = world.between(20, 800);
        watch(world, pause).await?;
        world.counts.faults += 1;
        strike(world).await?;
        revive(world).await?;
    }
    heal(world).await?;
    world.told.lock().finishing = true;
    let deadline = world.shared.clock.now().plus(Duration::from_millis(REST_MS));
    loop {
        watch(world, STEP * 10).await?;
        let restless = invariants::rest::restless(world);
        let Some(restless) = restless else { return invariants::rest::history(world) };
        if world.shared.clock.now() >= deadline && !invariants::asserts(40) {
            // Nobody asks for rest; what can be said of the history is said all the same.
            return invariants::rest::history(world);
        }
        if world.shared.clock.now() >= deadline {
            return Err(Violation::new(
                40,
                format!("no rest {REST_MS} ms after everything was healed: {restless}"),
            ));
        }
    }
}

async fn must_start(world: &mut World, node: NodeId) -> Result<(), Violation> {
    let started = world.start(node).await;
    started.map_err(|error| Violation::new(40, format!("node {node} does not start: {error}")))
}

/// Lets time pass and looks at the invariants meanwhile.
async fn watch(world: &mut World, time: Duration) -> Result<(), Violation> {
    let end = world.shared.clock.now().plus(time);
    while world.shared.clock.now() < end {
        world.pass(STEP).await;
        invariants::look(world)?;
    }
    Ok(())
}

/// One fault.
async fn strike(world: &mut World) -> Result<(), Violation> {
    let node = world.any_node();
    let machine_disk = |world: &World| world.machines.get(&node).map(|machine| machine.disk.clone());
    match world.rng.below(14) {
        0 => world.crash(node, Keep::All).await,
        1 => world.crash(node, Keep::Some).await,
        2 => world.crash(node, Keep::None).await,
        3 => {
            let leader = world.shared.cluster.leader().map_or(node, |(leader, _)| leader);
            world.crash(leader, Keep::Some).await;
        }
        4 if world.cut_off.is_empty() => world.cut_off(node),
        5 => {
            let other = world.any_node();
            world.shared.network.cut(&name(node), &name(other));
        }
        6 => world.shared.cluster.depose(),
        7 => drop(world.shared.cluster.elect(node)),
        8 => world.shared.cluster.hold(node),
        9 => {
            if let Some(disk) = machine_disk(world) {
                disk.set_sync_delay(Duration::from_millis(20), Duration::from_millis(300));
            }
        }
        10 => {
            if let Some(disk) = machine_disk(world) {
                disk.inject("/data", Fault::HangSync, 1);
            }
        }
        11 if world.rng.below(4) == 0 => {
            for node in world.nodes() {
                world.crash(node, Keep::Some).await;
            }
        }
        12 => stop(world, node).await?,
        _ => heal(world).await?,
    }
    Ok(())
}

/// Ends a node in order. What it does on its way out is looked at like everything else.
async fn stop(world: &mut World, node: NodeId) -> Result<(), Violation> {
    let shared = world.shared.clone();
    let Some(machine) = world.machines.get_mut(&node).filter(|machine| machine.process.is_some()) else {
        return Ok(());
    };
    let mut stopped = machine.begin_stop(&shared);
    let deadline = shared.clock.now().plus(STOP_LIMIT);
    while stopped.try_recv().is_err_and(|error| error == TryRecvError::Empty) && shared.clock.now() < deadline
    {
        watch(world, STEP).await?;
    }
    invariants::look(world)?;
    if let Some(machine) = world.machines.get_mut(&node) {
        machine.kill(&shared);
    }
    world.let_tasks_end().await;
    Ok(())
}

/// Restarts what is down, mostly; a process that has failed for good is down too.
async fn revive(world: &mut World) -> Result<(), Violation> {
    for node in world.nodes() {
        let Some(machine) = world.machines.get(&node) else { continue };
        let fatal = machine.process.as_ref().and_then(|process| process.broker.fatal().borrow().clone());
        if fatal.is_some() {
            world.crash(node, Keep::All).await;
        }
        let down = world.machines.get(&node).is_some_and(|machine| machine.process.is_none());
        if down && world.rng.below(3) > 0 {
            must_start(world, node).await?;
        }
    }
    Ok(())
}

/// Ends every fault.
async fn heal(world: &mut World) -> Result<(), Violation> {
    world.heal_links();
    for machine in world.machines.values() {
        machine.disk.heal();
        machine.disk.set_sync_delay(Duration::from_micros(200), Duration::from_millis(4));
    }
    for node in world.nodes() {
        must_start(world, node).await?;
    }
    Ok(())
}

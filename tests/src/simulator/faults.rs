//! What goes wrong, by the seed, and the course of a run.

use std::time::Duration;

use quorate_core::{consensus::NodeId, runtime::simulated::Keep};

use tokio::sync::oneshot::error::TryRecvError;

use super::{
    Options, Violation, damage, invariants,
    node::{SYNC_DELAY, name},
    world::World,
};

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
        revive(world).await?;
        invariants::rest::give_up(world);
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

/// Starts a node. Whoever does so has made room on its disk.
pub(super) async fn must_start(world: &mut World, node: NodeId) -> Result<(), Violation> {
    if let Some(machine) = world.machines.get(&node) {
        machine.disk.set_capacity(None);
    }
    let started = world.start(node).await;
    started.map_err(|error| Violation::new(40, format!("node {node} does not start: {error}")))
}

/// Lets time pass and looks at the invariants meanwhile. A process that cannot go on ends, as the server's does.
async fn watch(world: &mut World, time: Duration) -> Result<(), Violation> {
    let end = world.shared.clock.now().plus(time);
    while world.shared.clock.now() < end {
        world.pass(STEP).await;
        invariants::look(world)?;
        damage::end_failed(world).await?;
    }
    Ok(())
}

/// One fault.
async fn strike(world: &mut World) -> Result<(), Violation> {
    let node = world.any_node();
    match world.rng.below(22) {
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
            world.note(format!("nothing goes from node {node} to node {other}"));
        }
        6 => world.shared.cluster.depose(),
        7 => {
            let elected = world.shared.cluster.elect(node);
            world.note(format!("node {node} is elected: {elected:?}"));
        }
        8 => {
            world.shared.cluster.hold(node);
            world.note(format!("node {node} learns of no more entries"));
        }
        9 if world.rng.below(4) == 0 => world.crash_all(Keep::Some).await,
        9 if world.rng.below(2) == 0 => world.crash_all(Keep::None).await,
        10 => stop(world, node).await?,
        11..=19 => damage::strike(world, node).await?,
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
    let in_order = loop {
        match stopped.try_recv() {
            Err(TryRecvError::Empty) if shared.clock.now() < deadline => watch(world, STEP).await?,
            ended => break ended == Ok(true),
        }
    };
    world.end(node, in_order);
    world.let_tasks_end().await;
    Ok(())
}

/// Restarts what is down, mostly.
async fn revive(world: &mut World) -> Result<(), Violation> {
    let finishing = world.told.lock().finishing;
    for node in world.nodes() {
        let down = world.machines.get(&node).is_some_and(|machine| machine.process.is_none());
        if down && (finishing || world.rng.below(3) > 0) {
            must_start(world, node).await?;
        }
    }
    Ok(())
}

/// Ends every fault.
async fn heal(world: &mut World) -> Result<(), Violation> {
    world.heal_links();
    world.note("everything is healed");
    for machine in world.machines.values() {
        machine.disk.heal();
        machine.disk.set_sync_delay(SYNC_DELAY.0, SYNC_DELAY.1);
        machine.mend_wall();
    }
    for node in world.nodes() {
        must_start(world, node).await?;
    }
    Ok(())
}

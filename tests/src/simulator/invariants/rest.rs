//! Liveness: once faults stop, the cluster comes to rest.

use quorate_core::broker::BrokerState;

use crate::simulator::world::World;

/// Why the cluster is not at rest; `None` if it is.
pub(in crate::simulator) fn restless(world: &World) -> Option<String> {
    let Some((leader, epoch)) = world.shared.cluster.leader() else { return Some("nobody leads".to_owned()) };
    let committed = world.shared.cluster.committed();
    for machine in world.machines.values() {
        let node = machine.node;
        let Some(process) = &machine.process else { return Some(format!("node {node} is down")) };
        let fatal = process.broker.fatal().borrow().clone();
        if let Some(fatal) = fatal {
            return Some(format!("node {node} has failed: {fatal}"));
        }
        let image = process.broker.image_arc();
        if image.index != committed {
            return Some(format!("node {node} has applied {}, committed is {committed}", image.index));
        }
        if image.controller.as_ref().is_none_or(|up| (up.node, up.epoch) != (leader, epoch)) {
            return Some(format!(
                "node {node} does not know that {leader} is the controller of epoch {epoch}"
            ));
        }
        let state = *process.broker.state().borrow();
        if state != BrokerState::Running || image.brokers.get(&node).is_none_or(|broker| !broker.is_active())
        {
            return Some(format!("broker {node} is {state:?}"));
        }
    }
    None
}

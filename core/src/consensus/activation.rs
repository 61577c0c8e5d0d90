//! Turns leader events into tokens. Whatever initialises metadata, runs the controller or registers a broker demands
//! one, and only this module makes them: metadata work without a leader event does not compile.

use crate::runtime::watch;

use super::{Epoch, Leader, LeaderEvent, LeaderEvents, LogIndex, NodeId};

/// Proof that this node leads `epoch` and has applied every entry up to the one that opened it. An overtaken leader
/// may still hold one; its proposals are refused by their epoch.
#[derive(Debug, PartialEq, Eq)]
pub struct Leading {
    epoch: Epoch,
}

/// Proof that another node leads `epoch` and that the image says where its controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderKnown {
    epoch: Epoch,
    node: NodeId,
}

impl Leading {
    /// The epoch to propose in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl LeaderKnown {
    /// The epoch that requests to the controller carry.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The controller.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }
}

/// What this node may do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Role {
    /// Initialise metadata and run the controller, until the next role.
    Leading(Leading),
    /// Send requests to the controller.
    Following(LeaderKnown),
    /// Serve what the image says; wait.
    Leaderless,
}

/// How far this node's image has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied entry.
    pub index: LogIndex,
    /// The newest controller that the image names, by its `ControllerUp`.
    pub controller: Option<(Epoch, NodeId)>,
}

/// The roles of this node, one after the other.
#[derive(Debug)]
pub struct Roles {
    events: LeaderEvents,
    applied: watch::Receiver<Applied>,
    pending: Option<LeaderEvent>,
}

impl Roles {
    /// Needs the applier's progress: without an applier there are no roles.
    #[must_use]
    pub fn new(events: LeaderEvents, applied: watch::Receiver<Applied>) -> Self {
        Self { events, applied, pending: None }
    }

    /// The next role. A leader event is followed by [`Role::Leaderless`] at once if the image does not permit more
    /// yet, and by the role that it stands for when the image has caught up, unless a newer event has come by then.
    /// `None` once the backend or the applier has stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<Role> {
        loop {
            let Some(event) = self.pending else {
                let event = self.events.next().await?;
                if event.leader == Leader::Unknown {
                    return Some(Role::Leaderless);
                }
                self.pending = Some(event);
                if permitted(event, *self.applied.borrow()) {
                    continue;
                }
                return Some(Role::Leaderless);
            };
            tokio::select! { biased;
                newer = self.events.next() => {
                    let newer = newer?;
                    self.pending = (newer.leader != Leader::Unknown).then_some(newer);
                    if self.pending.is_none() {
                        return Some(Role::Leaderless);
                    }
                }
                caught_up = self.applied.wait_for(|applied| permitted(event, *applied)) => {
                    caught_up.ok()?;
                    self.pending = None;
                    return Some(role(event));
                }
            }
        }
    }
}

fn permitted(event: LeaderEvent, applied: Applied) -> bool {
    match event.leader {
        Leader::Unknown => false,
        Leader::Me { opened_at } => applied.index >= opened_at,
        Leader::Other(node) => applied.controller == Some((event.epoch, node)),
    }
}

fn role(event: LeaderEvent) -> Role {
    match event.leader {
        Leader::Unknown => Role::Leaderless,
        Leader::Me { .. } => Role::Leading(Leading { epoch: event.epoch }),
        Leader::Other(node) => Role::Following(LeaderKnown { epoch: event.epoch, node }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::leader_channel;

    fn applied(index: u64) -> Applied {
        Applied { index: LogIndex(index), controller: None }
    }

    #[tokio::test]
    async fn leading_waits_for_the_opening_entry() {
        let (announcer, events) = leader_channel();
        let (progress, watched) = watch::channel(applied(3));
        let mut roles = Roles::new(events, watched);
        announcer.announce(Epoch(2), Leader::Me { opened_at: LogIndex(4) });
        assert_eq!(roles.next().await, Some(Role::Leaderless));
        progress.send_replace(applied(4));
        assert_eq!(roles.next().await, Some(Role::Leading(Leading { epoch: Epoch(2) })));
    }

    #[tokio::test]
    async fn an_overtaken_leader_is_never_leading() {
        let (announcer, events) = leader_channel();
        let (progress, watched) = watch::channel(applied(3));
        let mut roles = Roles::new(events, watched);
        announcer.announce(Epoch(2), Leader::Me { opened_at: LogIndex(4) });
        assert_eq!(roles.next().await, Some(Role::Leaderless));
        announcer.announce(Epoch(3), Leader::Other(NodeId(2)));
        progress.send_replace(Applied { index: LogIndex(9), controller: Some((Epoch(3), NodeId(2))) });
        let known = LeaderKnown { epoch: Epoch(3), node: NodeId(2) };
        assert_eq!(roles.next().await, Some(Role::Following(known)));
    }

    #[tokio::test]
    async fn another_leader_is_known_only_when_the_image_names_its_controller() {
        let (announcer, events) = leader_channel();
        let (progress, watched) = watch::channel(applied(3));
        let mut roles = Roles::new(events, watched);
        announcer.announce(Epoch(3), Leader::Other(NodeId(2)));
        assert_eq!(roles.next().await, Some(Role::Leaderless));
        progress.send_replace(Applied { index: LogIndex(8), controller: Some((Epoch(2), NodeId(2))) });
        announcer.announce(Epoch(3), Leader::Unknown);
        assert_eq!(roles.next().await, Some(Role::Leaderless));
        announcer.stop();
        assert_eq!(roles.next().await, None);
    }
}

//! A library's node as the port sees it: configured, then started.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use quorate_core::{
    consensus::{Consensus, Leader, LeaderAnnouncer, Resume, Running, StartError, Status, leader_channel},
    runtime::TaskScope,
};
use tokio_util::sync::CancellationToken;

use super::{calls::NoAnswer, library::Library, node::Node, running::Handle};
use crate::{
    answer::Answer,
    raw::{leader, status},
    report,
};

/// A configured node.
pub(super) struct Idle {
    pub(super) node: Node,
    pub(super) library: Arc<Library>,
}

#[async_trait]
impl Consensus for Idle {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        let Self { node, library } = *self;
        let limit = library.limits().start;
        let name = library.recorded_name();
        let answer = match node.start(resume).answer_within(limit).await {
            Ok(answer) => answer,
            Err(NoAnswer::Late) => {
                let sentence = format!("{name} has not answered its start within {} s", limit.as_secs());
                return Err(StartError::Storage(sentence));
            }
            Err(NoAnswer::Malformed(what)) => {
                let sentence = format!("{name} breaks its contract: it answered start with {what}");
                return Err(StartError::Storage(sentence));
            }
            Err(NoAnswer::Ended) => return Err(StartError::Storage(format!("{name} has ended"))),
        };
        match answer.status {
            status::OK => {}
            status::CONFIG => return Err(StartError::Config(answer.sentence())),
            status::FOREIGN => return Err(StartError::Foreign(answer.sentence())),
            status::STORAGE => return Err(StartError::Storage(answer.sentence())),
            status::PANIC => {
                let sentence = format!("{name} panicked in start; the lines before this one say where");
                return Err(StartError::Storage(sentence));
            }
            other => {
                let sentence =
                    format!("{name} breaks its contract: it answered start with the status {other}");
                return Err(StartError::Storage(sentence));
            }
        }
        let (announcer, _) = leader_channel();
        let shared = Arc::new(Shared {
            node,
            library,
            announcer,
            ended: CancellationToken::new(),
            said: Mutex::new(Said::default()),
        });
        let tasks = TaskScope::threaded();
        tasks.spawn(announce_leaders(Arc::downgrade(&shared)));
        Ok(Arc::new(Handle::new(shared, tasks)))
    }
}

/// What the calls, the streams and the announcing of leaders share. Only [`Handle`] owns it; the others let go of it
/// while they wait, so that dropping the handle destroys the node at once.
pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) library: Arc<Library>,
    pub(super) announcer: LeaderAnnouncer,
    /// Cancelled once the node has stopped or failed: nothing but `destroy` is called from then on.
    pub(super) ended: CancellationToken,
    said: Mutex<Said>,
}

/// What is known of the node when it says nothing any more.
#[derive(Default)]
struct Said {
    fatal: Option<String>,
    last: Status,
}

impl Shared {
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The node has stopped: streams end, calls are answered without it.
    pub(super) fn end(&self) {
        self.ended.cancel();
        self.announcer.stop();
        self.node.calls().end();
    }

    /// The library cannot be trusted with this node any more.
    pub(super) fn fail(&self, what: &str) {
        let sentence = format!("{} {what}", self.library.recorded_name());
        let first = {
            let mut said = self.said.lock();
            let first = said.fatal.is_none();
            said.fatal.get_or_insert_with(|| sentence.clone());
            first
        };
        if first {
            tracing::error!("the consensus backend has failed: {sentence}");
        }
        self.end();
    }

    pub(super) fn fail_contract(&self, entry: &str, what: &str) {
        self.fail(&format!("breaks its contract: it answered {entry} with {what}"));
    }

    /// Lets through what a library may answer; anything else is its failure.
    pub(super) fn checked(&self, entry: &str, outcome: Result<Answer, NoAnswer>) -> Result<Answer, NoAnswer> {
        match outcome {
            Err(NoAnswer::Malformed(what)) => {
                self.fail_contract(entry, &what);
                Err(NoAnswer::Ended)
            }
            Ok(answer) if answer.status == status::PANIC => {
                self.fail(&format!("panicked in {entry}; the lines before this one say where"));
                Err(NoAnswer::Ended)
            }
            other => other,
        }
    }

    /// A status that this entry does not have.
    pub(super) fn unexpected(&self, entry: &str, answer: &Answer) {
        self.fail_contract(entry, &format!("the status {}", answer.status));
    }

    pub(super) fn status(&self) -> Status {
        if !self.has_ended() {
            self.ask_status();
        }
        let said = self.said.lock();
        let mut status = said.last.clone();
        status.backend = self.library.recorded_name();
        status.fatal = said.fatal.clone().or(status.fatal);
        status
    }

    fn ask_status(&self) {
        let answer = match self.checked("status", self.node.status().answer_now()) {
            Ok(answer) => answer,
            Err(NoAnswer::Late) => {
                return self.fail("breaks its contract: it returned from status without an answer");
            }
            Err(_) => return,
        };
        match (answer.status, report::read(&answer.data, self.library.recorded_name())) {
            (status::OK, Ok(status)) => self.said.lock().last = status,
            (status::OK, Err(problem)) => {
                self.fail_contract("status", &format!("a malformed report: {problem}"))
            }
            (status::STOPPED, _) => {}
            _ => self.unexpected("status", &answer),
        }
    }
}

async fn announce_leaders(shared: Weak<Shared>) {
    let mut seen = 0;
    loop {
        let call = match shared.upgrade() {
            Some(shared) if !shared.has_ended() => shared.node.next_leader(seen),
            _ => return,
        };
        let outcome = call.answer().await;
        let Some(shared) = shared.upgrade() else { return };
        let Ok(answer) = shared.checked("next_leader", outcome) else { return };
        if !announce(&shared, &answer, seen) {
            return;
        }
        seen = answer.seq;
    }
}

/// Whether more is to be expected.
fn announce(shared: &Shared, answer: &Answer, seen: u64) -> bool {
    match answer.status {
        status::OK => {}
        status::STOPPED => {
            shared.announcer.stop();
            return false;
        }
        _ => {
            shared.unexpected("next_leader", answer);
            return false;
        }
    }
    let leader = match (answer.kind, answer.node) {
        (leader::UNKNOWN, _) => Leader::Unknown,
        (leader::OTHER, Some(node)) => Leader::Other(node),
        (leader::ME, _) if answer.index.0 > 0 => Leader::Me { opened_at: answer.index },
        _ => {
            shared.fail_contract("next_leader", "a leader that cannot be");
            return false;
        }
    };
    if answer.seq <= seen {
        shared.fail_contract("next_leader", &format!("event {} after event {seen}", answer.seq));
        return false;
    }
    // What lies between two events may make the later one a repeat of the earlier, which is no news.
    if !shared.announcer.announce(answer.epoch, leader) {
        tracing::debug!(epoch = %answer.epoch, ?leader, "a leader event that is no news");
    }
    true
}

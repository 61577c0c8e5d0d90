//! A library that panics in the entry point that its option `in` names.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use quorate_consensus_plugin::{PluginConfig, export_consensus};
use quorate_core::consensus::{
    Committed, CompactError, Consensus, Epoch, LeaderAnnouncer, LeaderEvents, LogIndex, MembershipChange,
    MembershipError, ProposeError, Resume, Running, Snapshot, StartError, Status, Unavailable,
    leader_channel,
};

export_consensus! { name: "panics", version: "0.0.1", capabilities: [Membership], new: Panics::new }

/// The name of the entry point.
struct Panics(String);

impl Panics {
    fn new(config: PluginConfig) -> Result<Self, StartError> {
        let panics = Self(config.option("in").unwrap_or_default().to_owned());
        panics.here("create");
        Ok(panics)
    }

    fn here(&self, entry: &str) {
        assert_ne!(self.0, entry, "asked for");
    }
}

#[async_trait]
impl Consensus for Panics {
    async fn start(self: Box<Self>, _: Resume) -> Result<Arc<dyn Running>, StartError> {
        self.here("start");
        Ok(Arc::new(Started { panics: *self, announcer: leader_channel().0 }))
    }
}

struct Started {
    panics: Panics,
    announcer: LeaderAnnouncer,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.panics.here("destroy");
    }
}

#[async_trait]
impl Running for Started {
    fn leader_events(&self) -> LeaderEvents {
        self.panics.here("next_leader");
        self.announcer.subscribe()
    }

    fn committed(&self, _: LogIndex) -> BoxStream<'static, Committed> {
        self.panics.here("next_committed");
        stream::pending().boxed()
    }

    async fn propose(&self, _: Epoch, _: Bytes) -> Result<LogIndex, ProposeError> {
        self.panics.here("propose");
        Ok(LogIndex(1))
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        self.panics.here("read_barrier");
        Ok(LogIndex(1))
    }

    async fn compact(&self, _: Snapshot) -> Result<(), CompactError> {
        self.panics.here("compact_finish");
        Ok(())
    }

    async fn change_membership(&self, _: MembershipChange) -> Result<(), MembershipError> {
        self.panics.here("change_membership");
        Ok(())
    }

    async fn resign(&self, _: Epoch) {
        self.panics.here("resign");
    }

    fn status(&self) -> Status {
        self.panics.here("status");
        Status::default()
    }

    async fn shutdown(&self) {
        self.panics.here("shutdown");
        self.announcer.stop();
    }
}

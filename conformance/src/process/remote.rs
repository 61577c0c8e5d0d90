//! A backend that is in another process, behind the port.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use quorate_core::consensus::{
    Committed, CompactError, Consensus, Epoch, LeaderEvents, LogIndex, MembershipChange, MembershipError,
    ProposeError, Resume, Running, Snapshot, SnapshotError, SnapshotMeta, StartError, Status, Unavailable,
};

use super::{
    link::{Link, Silence},
    wire::{Answer, Call, WireItem},
};

const GONE: &str = "the node's process has ended";

/// A backend in a process that was told to construct it.
pub(super) struct RemoteConsensus {
    link: Option<Arc<Link>>,
}

impl RemoteConsensus {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link: Some(link) }
    }
}

impl Drop for RemoteConsensus {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.kill();
        }
    }
}

#[async_trait]
impl Consensus for RemoteConsensus {
    async fn start(mut self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        let Some(link) = self.link.take() else { return Err(StartError::Config(GONE.to_owned())) };
        let running = RemoteRunning { link };
        match running.link.call(Call::Start(resume.into())).await {
            Ok((Answer::Started(None), _)) => Ok(Arc::new(running)),
            Ok((Answer::Started(Some(error)), _)) => Err(error.into()),
            Ok((other, _)) => panic!("start() is answered by {other:?}"),
            // No answer of the port stands for this.
            Err(_) => {
                panic!("the node's process ended in start(): {}", running.link.ended().unwrap_or_default())
            }
        }
    }
}

/// A running backend in another process. Dropping it kills the process.
struct RemoteRunning {
    link: Arc<Link>,
}

impl Drop for RemoteRunning {
    fn drop(&mut self) {
        self.link.kill();
    }
}

#[async_trait]
impl Running for RemoteRunning {
    fn leader_events(&self) -> LeaderEvents {
        self.link.heard.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        let id = self.link.next_id();
        // A process that is gone ends the stream at its first item.
        let _ = self.link.tell(id, Call::Committed(after.0), Bytes::new());
        let reader = Reader { link: self.link.clone(), id };
        stream::unfold((reader, VecDeque::new()), |(reader, mut ready)| async move {
            if ready.is_empty() {
                ready = reader.next_items().await?;
            }
            let item = ready.pop_front()?;
            Some((item, (reader, ready)))
        })
        .boxed()
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        let asked = self.link.ask(self.link.next_id(), Call::Propose(epoch.0), entry);
        let asked = asked.map_err(|silence| match silence {
            Silence::Gone => ProposeError::Stopped,
            Silence::Busy => ProposeError::Busy,
        })?;
        match asked.answer().await {
            Ok((Answer::Proposed(Ok(index)), _)) => Ok(LogIndex(index)),
            Ok((Answer::Proposed(Err(error)), _)) => Err(error.into()),
            Ok(_) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        match self.link.call(Call::ReadBarrier).await {
            Ok((Answer::Barrier(Ok(index)), _)) => Ok(LogIndex(index)),
            Ok((Answer::Barrier(Err(problem)), _)) => Err(Unavailable(problem)),
            Ok(_) | Err(_) => Err(Unavailable(GONE.to_owned())),
        }
    }

    async fn compact(&self, mut snapshot: Snapshot) -> Result<(), CompactError> {
        let gone = |_| CompactError::Unavailable(GONE.to_owned());
        let link = &self.link;
        let id = link.next_id();
        let mut wants = link.wants(id);
        let asked = link.ask(id, Call::Compact(snapshot.meta.into()), Bytes::new()).map_err(gone)?;
        let mut answer = std::pin::pin!(asked.answer());
        let answered = loop {
            tokio::select! { biased;
                answered = &mut answer => break answered,
                Some(()) = wants.recv() => {
                    let (chunk, body) = match snapshot.chunks.next().await {
                        Some(Ok(body)) => (Some(Ok(())), body),
                        Some(Err(SnapshotError(problem))) => (Some(Err(problem)), Bytes::new()),
                        None => (None, Bytes::new()),
                    };
                    link.tell(link.next_id(), Call::CompactChunk { of: id, chunk }, body).map_err(gone)?;
                }
            }
        };
        link.wants_no_more(id);
        match answered.map_err(gone)? {
            (Answer::Compacted(None), _) => Ok(()),
            (Answer::Compacted(Some(error)), _) => Err(error.into()),
            (other, _) => Err(CompactError::Unavailable(format!("answered by {other:?}"))),
        }
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), MembershipError> {
        match self.link.call(Call::ChangeMembership(change.into())).await {
            Ok((Answer::Changed(None), _)) => Ok(()),
            Ok((Answer::Changed(Some(error)), _)) => Err(error.into()),
            Ok(_) | Err(_) => Err(MembershipError::Unavailable(GONE.to_owned())),
        }
    }

    async fn resign(&self, epoch: Epoch) {
        // A process that is gone leads nothing.
        let _ = self.link.call(Call::Resign(epoch.0)).await;
    }

    fn status(&self) -> Status {
        self.link.status()
    }

    async fn shutdown(&self) {
        // A process that is gone has shut down.
        let _ = self.link.call(Call::Shutdown).await;
    }
}

/// Reads a stream of the process by asking for each next piece.
struct Reader {
    link: Arc<Link>,
    id: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // A process that is gone reads for nobody.
        let _ = self.link.tell(self.link.next_id(), Call::Close(self.id), Bytes::new());
    }
}

impl Reader {
    async fn next_items(&self) -> Option<VecDeque<Committed>> {
        let (answer, mut body) = self.link.call(Call::Next(self.id)).await.ok()?;
        let Answer::Items(items) = answer else { return None };
        let mut ready = VecDeque::new();
        for item in items {
            ready.push_back(match item {
                WireItem::Entry { index, epoch, bytes } => {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(body.remaining());
                    let (index, epoch) = (LogIndex(index), Epoch(epoch));
                    Committed::Entry { index, epoch, data: body.split_to(bytes) }
                }
                WireItem::Snapshot { meta, number } => {
                    Committed::Snapshot(self.snapshot(meta.into(), number))
                }
            });
        }
        Some(ready)
    }

    fn snapshot(&self, meta: SnapshotMeta, number: u64) -> Snapshot {
        let reader = Self { link: self.link.clone(), id: number };
        let chunks = stream::unfold(Some(reader), |reader| async move {
            let reader = reader?;
            match reader.link.call(Call::Chunk(reader.id)).await {
                Ok((Answer::Chunk(None), _)) => None,
                Ok((Answer::Chunk(Some(Ok(()))), body)) => Some((Ok(body), Some(reader))),
                Ok((Answer::Chunk(Some(Err(problem))), _)) => Some((Err(SnapshotError(problem)), None)),
                Ok(_) | Err(_) => Some((Err(SnapshotError(GONE.to_owned())), None)),
            }
        });
        Snapshot { meta, chunks: chunks.boxed() }
    }
}

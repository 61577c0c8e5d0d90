//! The node's end: a backend in this process does what a lab says on the standard input, and says on the standard
//! output what becomes of it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write as _},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream, Fuse},
};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{
        Committed, Consensus, Epoch, Leader, LeaderEvents, LogIndex, Running, SNAPSHOT_CHUNK_BYTES, Snapshot,
        SnapshotError, StartError,
    },
    runtime::{Clock, TaskScope},
};
use tokio::sync::mpsc;

use super::wire::{Answer, Call, Report, Request, WireItem, WireLeader, WireStatus, read_frame, write_frame};

/// A backend whose surroundings are ready: calling this constructs it.
pub type Prepared = Box<dyn FnOnce() -> Result<Box<dyn Consensus>, StartError>>;

/// Requests that wait for the runtime, reports that wait for the pipe.
const QUEUED: usize = 4096;
/// How often the status is looked at by itself, and after how many looks it is told though only its ages have grown.
const STATUS_EVERY: Duration = Duration::from_millis(20);
const STATUS_LOOKS: u32 = 10;
/// Items that are sent together.
const BATCH_ITEMS: usize = 64;

type Said = (Report, Bytes);

/// Is a node until the lab closes the standard input: then the process ends at once.
///
/// `make` is given the node's configuration as JSON. It does what is the host's part (a listener that the backend does
/// not bind itself, a library that is loaded), on the runtime that the backend will run on, which is of one thread as
/// in the server.
///
/// # Errors
/// If the system has no thread, no runtime or no descriptor to give.
pub fn serve_node(make: impl FnOnce(&str) -> Result<Prepared, StartError>) -> io::Result<()> {
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = engine.enter();
    let (requests, incoming) = mpsc::channel(QUEUED);
    let (said, to_say) = sync_channel(QUEUED);
    let running = Arc::new(OnceLock::new());
    // Whatever else prints must not print into the frames.
    let output = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    let speaker = Speaker { output: BufWriter::new(output), running: running.clone(), last: None, looks: 0 };
    std::thread::Builder::new().name("lab-out".to_owned()).spawn(move || speaker.run(&to_say))?;
    std::thread::Builder::new().name("lab-in".to_owned()).spawn(move || listen(&requests))?;
    let tasks = TaskScope::threaded();
    let node =
        Node { said, running, idle: None, readers: Arc::default(), compactions: Arc::default(), tasks };
    engine.block_on(node.run(make, incoming));
    Ok(())
}

fn listen(requests: &mpsc::Sender<(Request, Bytes)>) {
    let mut input = BufReader::new(io::stdin());
    while let Ok(Some(request)) = read_frame(&mut input) {
        if requests.blocking_send(request).is_err() {
            break;
        }
    }
    // The lab has gone, or says what nobody understands.
    std::process::exit(0);
}

/// Writes what is said, and the newest status before it.
struct Speaker {
    output: BufWriter<File>,
    running: Arc<OnceLock<Arc<dyn Running>>>,
    last: Option<WireStatus>,
    looks: u32,
}

impl Speaker {
    fn run(mut self, to_say: &Receiver<Said>) {
        loop {
            let said = match to_say.recv_timeout(STATUS_EVERY) {
                Ok(said) => Some(said),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.say(said, to_say).is_err() {
                // The lab has gone.
                std::process::exit(0);
            }
        }
    }

    fn say(&mut self, mut next: Option<Said>, to_say: &Receiver<Said>) -> io::Result<()> {
        self.look()?;
        while let Some((report, body)) = next {
            write_frame(&mut self.output, &report, &body)?;
            next = to_say.try_recv().ok();
            if next.is_some() {
                self.look()?;
            }
        }
        self.output.flush()
    }

    fn look(&mut self) -> io::Result<()> {
        let Some(running) = self.running.get() else { return Ok(()) };
        let status = WireStatus::from(running.status());
        self.looks += 1;
        if self.looks < STATUS_LOOKS && self.last.as_ref().is_some_and(|last| !last.differs(&status)) {
            return Ok(());
        }
        self.looks = 0;
        self.last = Some(status.clone());
        write_frame(&mut self.output, &Report::Status(Box::new(status)), &[])
    }
}

/// Who waits for the numbers of requests: streams and snapshots that are read piece by piece.
type Readers = Arc<Mutex<HashMap<u64, mpsc::Sender<u64>>>>;
type Chunk = Result<Bytes, SnapshotError>;

struct Node {
    said: SyncSender<Said>,
    running: Arc<OnceLock<Arc<dyn Running>>>,
    idle: Option<Box<dyn Consensus>>,
    readers: Readers,
    compactions: Arc<Mutex<HashMap<u64, mpsc::Sender<Option<Chunk>>>>>,
    tasks: TaskScope,
}

fn answer(said: &SyncSender<Said>, id: u64, answer: Answer, body: Bytes) {
    // Without the speaker the process ends.
    let _ = said.send((Report::Answer { id, answer }, body));
}

impl Node {
    async fn run(
        mut self,
        make: impl FnOnce(&str) -> Result<Prepared, StartError>,
        mut incoming: mpsc::Receiver<(Request, Bytes)>,
    ) {
        let mut make = Some(make);
        while let Some((Request { id, call }, body)) = incoming.recv().await {
            match call {
                Call::Construct(config) => {
                    let constructed = make.take().map(|make| construct(|| make(&config)));
                    let said = self.constructed(constructed);
                    answer(&self.said, id, said, Bytes::new());
                }
                Call::Start(resume) => {
                    let failed = self.start(resume.into()).await;
                    answer(&self.said, id, Answer::Started(failed.err().map(Into::into)), Bytes::new());
                }
                call => self.handle(id, call, body),
            }
        }
    }

    fn constructed(&mut self, constructed: Option<Constructed>) -> Answer {
        let again = || StartError::Config("a node is constructed once".to_owned());
        let Some(constructed) = constructed else {
            return Answer::Constructed { failed: Some(again().into()), traces: None, took_us: 0 };
        };
        let failed = match constructed.outcome {
            Ok(idle) => {
                self.idle = Some(idle);
                None
            }
            Err(error) => Some(error.into()),
        };
        let took_us = u64::try_from(constructed.took.as_micros()).unwrap_or(u64::MAX);
        Answer::Constructed { failed, traces: constructed.traces, took_us }
    }

    async fn start(&mut self, resume: quorate_core::consensus::Resume) -> Result<(), StartError> {
        let not_idle = || StartError::Config("nothing is constructed".to_owned());
        let running = self.idle.take().ok_or_else(not_idle)?.start(resume).await?;
        self.tasks.spawn(tell_leaders(self.said.clone(), running.leader_events()));
        // It starts once, because it is idle once.
        let _ = self.running.set(running);
        Ok(())
    }

    fn handle(&self, id: u64, call: Call, body: Bytes) {
        let Some(running) = self.running.get().cloned() else { return };
        let said = self.said.clone();
        match call {
            Call::Construct(_) | Call::Start(_) => {}
            Call::Committed(after) => {
                let (wishes, receiver) = mpsc::channel(1);
                self.readers.lock().insert(id, wishes);
                let stream = running.committed(LogIndex(after)).fuse();
                let reading =
                    Reading { said, readers: self.readers.clone(), tasks: self.tasks.clone(), stream };
                self.tasks.spawn(reading.run(receiver));
            }
            Call::Next(reader) | Call::Chunk(reader) => {
                let wishes = self.readers.lock().get(&reader).cloned();
                if wishes.is_none_or(|wishes| wishes.try_send(id).is_err()) {
                    let end = if matches!(call, Call::Next(_)) {
                        Answer::Items(Vec::new())
                    } else {
                        Answer::Chunk(None)
                    };
                    answer(&said, id, end, Bytes::new());
                }
            }
            Call::Close(reader) => drop(self.readers.lock().remove(&reader)),
            Call::CompactChunk { of, chunk } => {
                let chunk = chunk.map(|chunk| chunk.map(|()| body).map_err(SnapshotError));
                let waiting = self.compactions.lock().get(&of).cloned();
                // A compaction that is over takes no more chunks.
                let _ = waiting.map(|waiting| waiting.try_send(chunk));
            }
            call => self.ask(id, call, body, running),
        }
    }

    /// What has one answer. It is polled here first, so that proposals are polled in the order of their requests.
    fn ask(&self, id: u64, call: Call, body: Bytes, running: Arc<dyn Running>) {
        let (said, node) = (self.said.clone(), (self.said.clone(), self.compactions.clone()));
        let mut asked = Box::pin(async move {
            match call {
                Call::Propose(epoch) => {
                    let proposed = running.propose(Epoch(epoch), body).await;
                    Answer::Proposed(proposed.map(|index| index.0).map_err(Into::into))
                }
                Call::ReadBarrier => {
                    let barrier = running.read_barrier().await;
                    Answer::Barrier(barrier.map(|index| index.0).map_err(|unavailable| unavailable.0))
                }
                Call::Compact(meta) => {
                    let (said, compactions) = node;
                    let (sender, chunks) = mpsc::channel(1);
                    compactions.lock().insert(id, sender);
                    let chunks = wanted_chunks(said, id, chunks);
                    let compacted = running.compact(Snapshot { meta: meta.into(), chunks }).await;
                    compactions.lock().remove(&id);
                    Answer::Compacted(compacted.err().map(Into::into))
                }
                Call::ChangeMembership(change) => {
                    let changed = running.change_membership(change.into()).await;
                    Answer::Changed(changed.err().map(Into::into))
                }
                Call::Resign(epoch) => {
                    running.resign(Epoch(epoch)).await;
                    Answer::Done
                }
                _ => {
                    running.shutdown().await;
                    Answer::Done
                }
            }
        });
        match asked.as_mut().now_or_never() {
            Some(done) => answer(&said, id, done, Bytes::new()),
            None => self.tasks.spawn(async move { answer(&said, id, asked.await, Bytes::new()) }),
        }
    }
}

struct Constructed {
    outcome: Result<Box<dyn Consensus>, StartError>,
    traces: Option<String>,
    took: Duration,
}

/// Constructs, and looks at what that leaves in the process.
fn construct(make: impl FnOnce() -> Result<Prepared, StartError>) -> Constructed {
    let prepared = match make() {
        Ok(prepared) => prepared,
        Err(error) => return Constructed { outcome: Err(error), traces: None, took: Duration::ZERO },
    };
    let count = |folder: &str| fs::read_dir(folder).map_or(0, Iterator::count);
    let look = || (count("/proc/self/task"), count("/proc/self/fd"));
    let clock = Clock::system();
    let (before, begun) = (look(), clock.now());
    let outcome = prepared();
    let (took, after) = (clock.now().since(begun), look());
    let mut traces = Vec::new();
    if after.0 > before.0 {
        traces.push(format!("{} threads", after.0 - before.0));
    }
    if after.1 > before.1 {
        traces.push(format!("{} open files or sockets", after.1 - before.1));
    }
    Constructed { outcome, traces: (!traces.is_empty()).then(|| traces.join(" and ")), took }
}

async fn tell_leaders(said: SyncSender<Said>, mut events: LeaderEvents) {
    while let Some(event) = events.next().await {
        let leader = match event.leader {
            Leader::Unknown => WireLeader::Unknown,
            Leader::Other(node) => WireLeader::Other(node.0),
            Leader::Me { opened_at } => WireLeader::Me(opened_at.0),
        };
        // Without the speaker the process ends.
        let _ = said.send((Report::Leader(event.epoch.0, leader), Bytes::new()));
    }
    let _ = said.send((Report::LeadersEnd, Bytes::new()));
}

/// The chunks that a lab sends, each once it is wanted.
fn wanted_chunks(
    said: SyncSender<Said>,
    id: u64,
    chunks: mpsc::Receiver<Option<Chunk>>,
) -> BoxStream<'static, Chunk> {
    stream::unfold((said, chunks), move |(said, mut chunks)| async move {
        // Without the speaker the process ends.
        let _ = said.send((Report::Want(id), Bytes::new()));
        let chunk = chunks.recv().await.flatten()?;
        Some((chunk, (said, chunks)))
    })
    .boxed()
}

/// A stream that a lab reads.
struct Reading {
    said: SyncSender<Said>,
    readers: Readers,
    tasks: TaskScope,
    stream: Fuse<BoxStream<'static, Committed>>,
}

impl Reading {
    async fn run(mut self, mut wishes: mpsc::Receiver<u64>) {
        while let Some(id) = wishes.recv().await {
            tokio::select! { biased;
                // Closed, for nobody asks twice at once.
                _ = wishes.recv() => return,
                (items, body) = self.batch(id) => answer(&self.said, id, Answer::Items(items), body),
            }
        }
    }

    /// What is there, and at least one item; none at the end. A snapshot is named after the request that found it.
    async fn batch(&mut self, id: u64) -> (Vec<WireItem>, Bytes) {
        let (mut items, mut body) = (Vec::new(), Vec::new());
        let mut next = self.stream.next().await;
        while let Some(committed) = next {
            match committed {
                Committed::Entry { index, epoch, data } => {
                    let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
                    items.push(WireItem::Entry { index: index.0, epoch: epoch.0, bytes });
                    body.extend_from_slice(&data);
                }
                Committed::Snapshot(snapshot) => {
                    items.push(WireItem::Snapshot { meta: snapshot.meta.into(), number: id });
                    let (wishes, receiver) = mpsc::channel(1);
                    self.readers.lock().insert(id, wishes);
                    self.tasks.spawn(read_snapshot(self.said.clone(), snapshot, receiver));
                    break;
                }
            }
            if items.len() >= BATCH_ITEMS || body.len() >= SNAPSHOT_CHUNK_BYTES {
                break;
            }
            next = self.stream.next().now_or_never().flatten();
        }
        (items, body.into())
    }
}

async fn read_snapshot(said: SyncSender<Said>, mut snapshot: Snapshot, mut wishes: mpsc::Receiver<u64>) {
    while let Some(id) = wishes.recv().await {
        let next = tokio::select! { biased;
            _ = wishes.recv() => return,
            next = snapshot.chunks.next() => next,
        };
        match next {
            Some(Ok(bytes)) => answer(&said, id, Answer::Chunk(Some(Ok(()))), bytes),
            Some(Err(SnapshotError(problem))) => {
                answer(&said, id, Answer::Chunk(Some(Err(problem))), Bytes::new());
            }
            None => answer(&said, id, Answer::Chunk(None), Bytes::new()),
        }
    }
}

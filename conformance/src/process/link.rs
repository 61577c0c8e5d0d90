//! A lab's end of a node that is a process: what it is asked, what it answers, and its death.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::consensus::{Epoch, Leader, LeaderAnnouncer, LogIndex, NodeId, Status, leader_channel};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{mpsc, oneshot};

use super::wire::{Answer, Call, Report, Request, WireLeader, read_frame, write_frame};

/// Requests that wait to be written; proposals beyond are refused as busy.
const REQUESTS: usize = 1 << 17;

/// Why a node does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Its process has ended, or is about to.
    Gone,
    /// Too much waits for it.
    Busy,
}

type Waiting = oneshot::Sender<(Answer, Bytes)>;

/// One life of a node.
pub(super) struct Link {
    pid: Pid,
    child: Mutex<Child>,
    requests: SyncSender<(Request, Bytes)>,
    ids: AtomicU64,
    pub(super) heard: Arc<Heard>,
}

/// What the process has said so far.
pub(super) struct Heard {
    gone: AtomicBool,
    waiting: Mutex<HashMap<u64, Waiting>>,
    wants: Mutex<HashMap<u64, mpsc::Sender<()>>>,
    status: Mutex<Status>,
    backend: &'static str,
    pub(super) announcer: LeaderAnnouncer,
}

impl Link {
    /// Starts the process of a node; what it writes to its standard error goes to `log`.
    pub(super) fn spawn(mut command: Command, backend: &'static str, log: File) -> io::Result<Arc<Self>> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("a process without pipes"))?;
        let (requests, to_write) = sync_channel(REQUESTS);
        let heard = Arc::new(Heard {
            gone: AtomicBool::new(false),
            waiting: Mutex::default(),
            wants: Mutex::default(),
            status: Mutex::default(),
            backend,
            announcer: leader_channel().0,
        });
        let hearing = heard.clone();
        std::thread::Builder::new().name("to-node".to_owned()).spawn(move || write(input, &to_write))?;
        std::thread::Builder::new().name("from-node".to_owned()).spawn(move || hearing.read(output))?;
        Ok(Arc::new(Self { pid, child: Mutex::new(child), requests, ids: AtomicU64::new(1), heard }))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request whose answer nobody awaits.
    pub(super) fn tell(&self, id: u64, call: Call, body: Bytes) -> Result<(), Silence> {
        if self.heard.gone.load(Ordering::SeqCst) {
            return Err(Silence::Gone);
        }
        self.requests.try_send((Request { id, call }, body)).map_err(|error| match error {
            TrySendError::Full(_) => Silence::Busy,
            TrySendError::Disconnected(_) => Silence::Gone,
        })
    }

    /// Sends a request at once, so that requests keep the order of these calls.
    pub(super) fn ask(&self, id: u64, call: Call, body: Bytes) -> Result<Asked, Silence> {
        let (sender, answer) = oneshot::channel();
        self.heard.waiting.lock().insert(id, sender);
        if let Err(silence) = self.tell(id, call, body) {
            self.heard.waiting.lock().remove(&id);
            return Err(silence);
        }
        Ok(Asked(answer))
    }

    /// Asks and waits.
    pub(super) async fn call(&self, call: Call) -> Result<(Answer, Bytes), Silence> {
        self.ask(self.next_id(), call, Bytes::new())?.answer().await
    }

    /// The compaction of a request says through the channel when it wants a chunk.
    pub(super) fn wants(&self, id: u64) -> mpsc::Receiver<()> {
        let (sender, wants) = mpsc::channel(1);
        self.heard.wants.lock().insert(id, sender);
        wants
    }

    pub(super) fn wants_no_more(&self, id: u64) {
        self.heard.wants.lock().remove(&id);
    }

    pub(super) fn signal(&self, signal: Signal) {
        // A process that has ended cannot be told anything, which is as well.
        let mut child = self.child.lock();
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Ends the process as a crash does.
    pub(super) fn kill(&self) {
        self.heard.end();
        self.signal(Signal::KILL);
    }

    /// Ends the process and waits until it has.
    pub(super) fn reap(&self) {
        self.kill();
        let _ = self.child.lock().wait();
    }

    /// How the process ended, if it has by itself.
    pub(super) fn ended(&self) -> Option<String> {
        self.child.lock().try_wait().ok().flatten().map(|status| status.to_string())
    }

    pub(super) fn status(&self) -> Status {
        self.heard.status.lock().clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reap();
    }
}

/// A request that was sent.
pub(super) struct Asked(oneshot::Receiver<(Answer, Bytes)>);

impl Asked {
    pub(super) async fn answer(self) -> Result<(Answer, Bytes), Silence> {
        self.0.await.map_err(|_| Silence::Gone)
    }

    /// Waits on a thread that is no runtime's.
    pub(super) fn answer_now(self) -> Result<(Answer, Bytes), Silence> {
        self.0.blocking_recv().map_err(|_| Silence::Gone)
    }
}

fn write(input: ChildStdin, requests: &Receiver<(Request, Bytes)>) {
    let mut input = BufWriter::new(input);
    while let Ok(first) = requests.recv() {
        let mut next = Some(first);
        while let Some((request, body)) = next {
            if write_frame(&mut input, &request, &body).is_err() {
                return;
            }
            next = requests.try_recv().ok();
        }
        if input.flush().is_err() {
            return;
        }
    }
}

impl Heard {
    fn read(&self, output: ChildStdout) {
        let mut output = BufReader::new(output);
        while let Ok(Some((report, body))) = read_frame(&mut output) {
            match report {
                Report::Answer { id, answer } => {
                    let waiting = self.waiting.lock().remove(&id);
                    // Whoever asked may have gone.
                    let _ = waiting.map(|waiting| waiting.send((answer, body)));
                }
                Report::Leader(epoch, leader) => {
                    self.announcer.announce(Epoch(epoch), leader_of(leader));
                }
                Report::LeadersEnd => self.announcer.stop(),
                Report::Status(status) => *self.status.lock() = status.status(self.backend),
                Report::Want(id) => {
                    let _ = self.wants.lock().get(&id).map(|wants| wants.try_send(()));
                }
            }
        }
        self.end();
    }

    /// The process is gone, or as good as: nobody waits for it any more.
    fn end(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.waiting.lock().clear();
        self.wants.lock().clear();
        self.announcer.stop();
    }
}

fn leader_of(wire: WireLeader) -> Leader {
    match wire {
        WireLeader::Unknown => Leader::Unknown,
        WireLeader::Other(node) => Leader::Other(NodeId(node)),
        WireLeader::Me(index) => Leader::Me { opened_at: LogIndex(index) },
    }
}

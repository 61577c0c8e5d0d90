//! A network in memory between named machines: see [`SimulatedNetwork`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{Notify, mpsc},
};

use super::digest::Digest;
use crate::runtime::{Clock, Connection, Listener, Network, Rng, TaskScope};

/// Bytes that a connection holds on their way, each way; a writer waits while it is full.
const IN_FLIGHT_BYTES: usize = 256 << 10;

/// What one step of a link carries at most, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Ports from here on are given to whoever asks for any.
const FIRST_FREE_PORT: u16 = 49_152;

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// A simulated network of several machines. Clones are the same network.
///
/// Bytes take a seeded time. A link that is cut in one direction holds the bytes of that direction until it is healed,
/// as TCP does across a partition that ends; [`SimulatedNetwork::kill`] resets every connection of a machine and
/// refuses new ones. A connection to a machine that is cut off does not come about until the link is healed.
#[derive(Clone)]
pub struct SimulatedNetwork(Arc<Shared>);

struct Shared {
    clock: Clock,
    rng: Rng,
    tasks: TaskScope,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    delay: Range<Duration>,
    /// Directions that carry nothing: from, to.
    cut: BTreeSet<(String, String)>,
    /// By machine and port.
    listeners: BTreeMap<(String, u16), Bound>,
    /// Counts the kills of a machine; a connection of an older life is reset.
    lives: BTreeMap<String, u64>,
    next_port: u16,
    digest: Digest,
}

#[derive(Clone)]
struct Bound {
    address: SocketAddr,
    incoming: mpsc::Sender<(Connection, SocketAddr)>,
}

impl SimulatedNetwork {
    /// A network without delay. Its tasks run in `tasks`, which outlives every machine.
    #[must_use]
    pub fn new(clock: Clock, rng: Rng, tasks: TaskScope) -> Self {
        let state = State {
            delay: Duration::ZERO..Duration::ZERO,
            cut: BTreeSet::new(),
            listeners: BTreeMap::new(),
            lives: BTreeMap::new(),
            next_port: 32_768,
            digest: Digest::new(),
        };
        Self(Arc::new(Shared { clock, rng, tasks, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// The network as the machine of that name sees it. Endpoints are `name:port`, or an address
    /// that this machine listens on, else any other.
    #[must_use]
    pub fn machine(&self, name: &str) -> Arc<dyn Network> {
        Arc::new(Machine { network: self.clone(), name: name.to_owned() })
    }

    /// How long each piece of bytes takes from now on.
    pub fn set_delay(&self, delay: Range<Duration>) {
        self.0.state.lock().delay = delay;
    }

    /// Stops what goes from one machine to another; the other way stays as it is.
    pub fn cut(&self, from: &str, to: &str) {
        self.0.state.lock().cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Lets what goes from one machine to another pass again.
    pub fn heal(&self, from: &str, to: &str) {
        self.0.state.lock().cut.remove(&(from.to_owned(), to.to_owned()));
        self.0.changed.notify_waiters();
    }

    /// Heals every link.
    pub fn heal_all(&self) {
        self.0.state.lock().cut.clear();
        self.0.changed.notify_waiters();
    }

    /// A digest of every byte that was carried, from where to where and when. Two runs of one seed have the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.state.lock().digest.value()
    }

    /// Resets every connection of a machine and closes its listeners, as the end of its process does.
    pub fn kill(&self, machine: &str) {
        let mut state = self.0.state.lock();
        *state.lives.entry(machine.to_owned()).or_default() += 1;
        state.listeners.retain(|(name, _), _| name != machine);
        drop(state);
        self.0.changed.notify_waiters();
    }
}

impl fmt::Debug for SimulatedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedNetwork").finish_non_exhaustive()
    }
}

impl State {
    fn life(&self, machine: &str) -> u64 {
        self.lives.get(machine).copied().unwrap_or_default()
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.contains(&(from.to_owned(), to.to_owned()))
    }
}

/// One direction of a connection, in the lives of both ends.
#[derive(Clone)]
struct Link {
    network: SimulatedNetwork,
    from: (String, u64),
    to: (String, u64),
}

impl Link {
    fn back(&self) -> Self {
        Self { network: self.network.clone(), from: self.to.clone(), to: self.from.clone() }
    }

    /// Waits for the delay and for the link; false if an end has died.
    async fn pass(&self) -> bool {
        let shared = &self.network.0;
        let delay = {
            let delay = shared.state.lock().delay.clone();
            let span = delay.end.saturating_sub(delay.start).as_nanos();
            delay.start + Duration::from_nanos(shared.rng.below(u64::try_from(span).unwrap_or(u64::MAX)))
        };
        if !delay.is_zero() {
            shared.clock.sleep(delay).await;
        }
        loop {
            let changed = shared.changed.notified();
            {
                let state = shared.state.lock();
                if !self.lives(&state) {
                    return false;
                }
                if !state.is_cut(&self.from.0, &self.to.0) {
                    return true;
                }
            }
            changed.await;
        }
    }

    fn lives(&self, state: &State) -> bool {
        [&self.from, &self.to].into_iter().all(|(machine, life)| state.life(machine) == *life)
    }

    fn note(&self, piece: &[u8]) {
        let shared = &self.network.0;
        let now = shared.clock.now();
        let digest = &mut shared.state.lock().digest;
        digest.number(now.0);
        digest.bytes(self.from.0.as_bytes());
        digest.bytes(self.to.0.as_bytes());
        digest.bytes(piece);
    }

    /// Resolves when an end has died.
    async fn died(&self) {
        loop {
            let changed = self.network.0.changed.notified();
            if !self.lives(&self.network.0.state.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Carries bytes until the sender ends or an end dies.
    async fn carry(self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = tokio::select! { biased;
                () = self.died() => return,
                read = from.read(&mut piece) => read,
            };
            let count = read.unwrap_or(0);
            self.note(piece.get(..count).unwrap_or_default());
            if !self.pass().await {
                return;
            }
            if count == 0 {
                // The sender has closed its half; the other half goes on.
                let _ = to.shutdown().await;
                return;
            }
            let written = tokio::select! { biased;
                () = self.died() => return,
                written = to.write_all(piece.get(..count).unwrap_or_default()) => written,
            };
            if written.is_err() {
                return;
            }
        }
    }
}

struct Machine {
    network: SimulatedNetwork,
    name: String,
}

impl Machine {
    /// The machine that an endpoint means, and the port there.
    fn resolve(&self, endpoint: &str) -> io::Result<(String, u16)> {
        let Ok(address) = endpoint.parse::<SocketAddr>() else {
            let (machine, port) = endpoint.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            return Ok((machine.to_owned(), port.parse().map_err(|_| io::ErrorKind::InvalidInput)?));
        };
        let mine = (self.name.clone(), address.port());
        let state = self.network.0.state.lock();
        if state.listeners.contains_key(&mine) {
            return Ok(mine);
        }
        let found = state.listeners.iter().find(|(_, bound)| bound.address == address);
        found.map(|(place, _)| place.clone()).ok_or(io::ErrorKind::ConnectionRefused.into())
    }

    fn link_to(&self, machine: &str) -> Link {
        let state = self.network.0.state.lock();
        Link {
            network: self.network.clone(),
            from: (self.name.clone(), state.life(&self.name)),
            to: (machine.to_owned(), state.life(machine)),
        }
    }
}

#[async_trait]
impl Network for Machine {
    async fn connect(&self, endpoint: &str) -> io::Result<Connection> {
        let shared = &self.network.0;
        let place = self.resolve(endpoint)?;
        let there = self.link_to(&place.0);
        if !there.pass().await || !there.back().pass().await {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let bound = shared.state.lock().listeners.get(&place).cloned();
        let bound = bound.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (mine, mine_far) = duplex(IN_FLIGHT_BYTES);
        let (theirs, theirs_far) = duplex(IN_FLIGHT_BYTES);
        let (mine_read, mine_write) = split(mine_far);
        let (theirs_read, theirs_write) = split(theirs_far);
        let here = {
            let mut state = shared.state.lock();
            state.next_port = state.next_port.checked_add(1).unwrap_or(32_768);
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), state.next_port)
        };
        let refused = |_| io::ErrorKind::ConnectionRefused;
        bound.incoming.try_send((Connection::Memory(theirs), here)).map_err(refused)?;
        let back = there.back();
        shared.tasks.spawn(there.carry(mine_read, theirs_write));
        shared.tasks.spawn(back.carry(theirs_read, mine_write));
        Ok(Connection::Memory(mine))
    }

    fn listen(&self, mut address: SocketAddr) -> io::Result<Listener> {
        let mut state = self.network.0.state.lock();
        // A listener that was dropped has freed its port.
        state.listeners.retain(|_, bound| !bound.incoming.is_closed());
        let taken = |port: u16| state.listeners.contains_key(&(self.name.clone(), port));
        if address.port() == 0 {
            let free = (FIRST_FREE_PORT..u16::MAX).find(|port| !taken(*port));
            address.set_port(free.ok_or(io::ErrorKind::AddrInUse)?);
        } else if taken(address.port()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (incoming, accepted) = mpsc::channel(BACKLOG);
        state.listeners.insert((self.name.clone(), address.port()), Bound { address, incoming });
        Ok(Listener::Memory(accepted, address))
    }
}

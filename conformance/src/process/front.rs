//! Where nodes reach each other: a proxy before each node, which knows who has connected and treats each direction
//! between two nodes as the lab says.
//!
//! One address a node, the same for all, because backends keep addresses in their log and hand them on. Who has
//! connected is told by the address that the preloaded library binds; without that, by the kernel's table of sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::machine::node_of;
use parking_lot::Mutex;
use quorate_core::{consensus::NodeId, runtime::Clock};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
};

/// The processes of the nodes.
type Processes = Arc<Mutex<BTreeMap<NodeId, u32>>>;

/// What the network is like.
#[derive(Clone, Debug, Default)]
pub(super) struct Sky {
    cut: BTreeSet<(NodeId, NodeId)>,
    delays: BTreeMap<NodeId, Duration>,
}

impl Sky {
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId, cut: bool) {
        if cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    pub(super) fn delay(&mut self, node: NodeId, delay: Duration) {
        self.delays.insert(node, delay);
    }

    /// Whether bytes pass. A stranger is treated like the worst treated node.
    fn passes(&self, from: Option<NodeId>, to: Option<NodeId>) -> bool {
        !self
            .cut
            .iter()
            .any(|(one, other)| from.is_none_or(|from| from == *one) && to.is_none_or(|to| to == *other))
    }

    fn delay_between(&self, one: Option<NodeId>, other: Option<NodeId>) -> Duration {
        let of = |node: Option<NodeId>| self.delays.get(&node?).copied();
        of(one).unwrap_or_default().max(of(other).unwrap_or_default())
    }
}

/// The proxies of a lab.
pub(super) struct Fronts {
    lab: Ipv4Addr,
    pub(super) sky: Arc<watch::Sender<Sky>>,
    pub(super) processes: Processes,
    tasks: JoinSet<()>,
}

impl Fronts {
    pub(super) fn new(lab: Ipv4Addr) -> Self {
        Self { lab, sky: Arc::default(), processes: Arc::default(), tasks: JoinSet::new() }
    }

    /// Accepts at `front` for a node that listens at `behind`.
    pub(super) async fn open(
        &mut self,
        node: NodeId,
        front: SocketAddr,
        behind: SocketAddr,
    ) -> io::Result<()> {
        let listener = TcpListener::bind(front).await?;
        let (lab, sky, processes) = (self.lab, self.sky.clone(), self.processes.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, from)) = listener.accept().await {
                let told = match from.ip() {
                    IpAddr::V4(ip) => node_of(lab, ip),
                    IpAddr::V6(_) => None,
                };
                let who = Who { address: from, told, processes: processes.clone() };
                connections.spawn(join(client, behind, who, node, sky.subscribe()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(())
    }
}

/// Which node's process has the socket that is bound to an address.
fn owner(address: SocketAddr, processes: &BTreeMap<NodeId, u32>) -> Option<NodeId> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let row = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let inode = row.filter(|row| row.get(1) == Some(&local.as_str())).find_map(|row| row.get(9).copied())?;
    let socket = format!("socket:[{inode}]");
    let has = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        links.any(|link| link == Path::new(&socket)).then_some(())
    };
    processes.iter().find_map(|(node, pid)| has(*pid).map(|()| *node))
}

/// How often the kernel is asked who has connected: its table of sockets changes while it is read.
const LOOKS: usize = 5;

/// Who has connected.
struct Who {
    address: SocketAddr,
    /// What the address says by itself.
    told: Option<NodeId>,
    processes: Processes,
}

impl Who {
    async fn node(&self) -> Option<NodeId> {
        for _ in 0..LOOKS {
            let known = self.processes.lock().clone();
            let node = self.told.or_else(|| owner(self.address, &known));
            if node.is_some() {
                return node;
            }
            Clock::system().sleep(Duration::from_millis(3)).await;
        }
        None
    }
}

async fn join(client: TcpStream, behind: SocketAddr, who: Who, node: NodeId, sky: watch::Receiver<Sky>) {
    let (from, to) = (who.node().await, Some(node));
    let mut weather = sky.clone();
    if weather.wait_for(|sky| sky.passes(from, to) && sky.passes(to, from)).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(behind).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! { biased;
        () = carry(from_client, to_server, (from, to), sky.clone()) => {}
        () = carry(from_server, to_client, (to, from), sky) => {}
    }
}

/// Chunks on their way in one direction. More wait where they come from.
const UNDER_WAY: usize = 64;

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: (Option<NodeId>, Option<NodeId>),
    mut sky: watch::Receiver<Sky>,
) {
    let clock = Clock::system();
    let (sender, mut receiver) = mpsc::channel(UNDER_WAY);
    let (reading_sky, reading_clock) = (sky.clone(), clock.clone());
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let delay = reading_sky.borrow().delay_between(way.0, way.1);
            let chunk = buffer.get(..count).unwrap_or_default().to_vec();
            if sender.send((reading_clock.now().plus(delay), chunk)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            clock.sleep_until(due).await;
            if sky.wait_for(|sky| sky.passes(way.0, way.1)).await.is_err()
                || to.write_all(&chunk).await.is_err()
            {
                return;
            }
        }
        // Across a cut, nobody hears that the other end has closed either.
        let _ = sky.wait_for(|sky| sky.passes(way.0, way.1)).await;
    };
    futures_util::future::join(read, write).await;
}

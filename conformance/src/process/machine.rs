//! One node of a lab: its folder, its addresses, its lives.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use quorate_core::consensus::NodeId;
use uuid::Uuid;

use super::{link::Link, shim::Shim};
use crate::proxy::Proxy;

/// The program that is a node: it calls [`super::serve_node`].
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// What it is told.
    pub arguments: Vec<OsString>,
}

pub(super) struct Machine {
    /// What the backend keeps.
    pub(super) folder: PathBuf,
    place: PathBuf,
    pub(super) directory: Uuid,
    pub(super) listener: SocketAddr,
    pub(super) front: SocketAddr,
    /// Where its connections come from.
    source: Ipv4Addr,
    pub(super) shim: Option<Shim>,
    pub(super) link: Option<Arc<Link>>,
    /// Before the quorum outside.
    pub(super) external: Vec<Proxy>,
    /// Accepts in the node's place, and never answers.
    pub(super) silent: Option<TcpListener>,
    /// A bit that was turned over, to turn back.
    flipped: Option<(PathBuf, u64)>,
    lives: u32,
}

/// The ports of node 1; node n has the ones that are n-1 higher. Every lab has an address of its own.
const LISTENER_PORT: u16 = 7001;
const FRONT_PORT: u16 = 7101;

/// The addresses of a lab are sixteen: its own is the second, node n's is the one that is n after that.
const LAB_ADDRESSES: u8 = 16;

/// A lab's own address out of three random bytes, on the loopback interface: fixed ports are free there.
pub(super) fn lab_address([a, b, c]: [u8; 3]) -> Ipv4Addr {
    Ipv4Addr::new(127, a.max(1), b, (c / LAB_ADDRESSES) * LAB_ADDRESSES + 1)
}

fn source(lab: Ipv4Addr, node: NodeId) -> Ipv4Addr {
    let offset = u32::try_from(node.0).unwrap_or_default();
    Ipv4Addr::from_bits(lab.to_bits().saturating_add(offset))
}

/// The node of a lab that a connection comes from, if its address says so.
pub(super) fn node_of(lab: Ipv4Addr, from: Ipv4Addr) -> Option<NodeId> {
    let offset = from.to_bits().checked_sub(lab.to_bits())?;
    (1..u32::from(LAB_ADDRESSES) - 1).contains(&offset).then_some(NodeId(i32::try_from(offset).ok()?))
}

impl Machine {
    pub(super) fn new(place: &Path, ip: Ipv4Addr, node: NodeId, spoilable: bool) -> io::Result<Self> {
        let place = place.join(format!("node-{node}"));
        let folder = place.join("data");
        fs::create_dir_all(&folder)?;
        let offset = u16::try_from(node.0 - 1).map_err(io::Error::other)?;
        let shim = spoilable.then(|| Shim::prepare(&place, &folder)).transpose()?;
        if let Some(shim) = &shim {
            shim.begin_copies()?;
        }
        Ok(Self {
            folder,
            place,
            directory: Uuid::new_v4(),
            listener: (ip, LISTENER_PORT + offset).into(),
            front: (ip, FRONT_PORT + offset).into(),
            source: source(ip, node),
            shim,
            link: None,
            external: Vec::new(),
            silent: None,
            flipped: None,
            lives: 0,
        })
    }

    /// Starts the next life, which is told nothing yet.
    pub(super) fn live(&mut self, program: &Program, backend: &'static str) -> io::Result<Arc<Link>> {
        self.end();
        self.lives += 1;
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).arg("--parent").arg(std::process::id().to_string());
        if let Some(shim) = &self.shim {
            shim.preload(&mut command, self.source);
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let link = Link::spawn(command, backend, log)?;
        self.link = Some(link.clone());
        Ok(link)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.place.join("log")
    }

    /// The last lines that the node has written to its log.
    pub(super) fn last_words(&self) -> Option<String> {
        let text = fs::read_to_string(self.log()).ok()?;
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        (!lines.is_empty()).then(|| lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
    }

    pub(super) fn end(&mut self) {
        self.silent = None;
        if let Some(link) = self.link.take() {
            link.reap();
        }
    }

    /// Ends the life as a loss of power does, where that can be had; else as a kill.
    pub(super) fn crash(&mut self) -> io::Result<()> {
        let lived = self.link.is_some();
        self.end();
        match &self.shim {
            Some(shim) if lived => shim.lose_power(),
            _ => Ok(()),
        }
    }

    /// Empties the folder, which belongs to another node from then on.
    pub(super) fn wipe(&mut self) -> io::Result<()> {
        self.end();
        fs::remove_dir_all(&self.folder)?;
        fs::create_dir(&self.folder)?;
        self.directory = Uuid::new_v4();
        self.shim.as_ref().map_or(Ok(()), Shim::begin_copies)
    }

    /// Writes behind the log what a write begun and not ended leaves there: the beginning of what comes next, and a
    /// page that never reached the disk.
    pub(super) fn tear_tail(&self, ending: &str) -> io::Result<()> {
        let path = self.newest(ending)?;
        let file = File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        file.write_all_at(&[0; 61], length)
    }

    /// Turns over a bit in the middle of what the log holds.
    pub(super) fn flip(&mut self, ending: &str) -> io::Result<()> {
        let path = self.newest(ending)?;
        let bytes = fs::read(&path)?;
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let offset = (used / 2) as u64;
        turn_over(&path, offset)?;
        self.flipped = Some((path, offset));
        Ok(())
    }

    pub(super) fn mend(&mut self) -> io::Result<()> {
        match self.flipped.take() {
            Some((path, offset)) => turn_over(&path, offset),
            None => Ok(()),
        }
    }

    /// The file of the log that was written last, of those that hold something.
    fn newest(&self, ending: &str) -> io::Result<PathBuf> {
        let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let (path, facts) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
                if facts.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().ends_with(ending) && facts.len() > 64 {
                    let written = facts.modified()?;
                    if newest.as_ref().is_none_or(|(newest, _)| *newest <= written) {
                        newest = Some((written, path));
                    }
                }
            }
        }
        let none =
            || io::Error::other(format!("no file of the log ('*{ending}') in {}", self.folder.display()));
        newest.map(|(_, path)| path).ok_or_else(none)
    }
}

fn turn_over(path: &Path, offset: u64) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&byte.map(|byte| byte ^ 4), offset)
}

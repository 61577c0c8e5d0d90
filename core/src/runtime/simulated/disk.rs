//! A disk in memory that behaves as a real one at its worst: see [`SimulatedDisk`].

use std::{
    fmt, io,
    io::IoSlice,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    content::Content,
    digest::Digest,
    names::{Names, Node},
};
use crate::runtime::{Clock, Disk, DiskFile, Open, Rng};

/// A simulated disk of one machine. Clones are the same disk.
///
/// Writes go to a page cache; a sync makes them durable, after a delay in the clock's time; names are durable after a
/// sync of their folder. [`SimulatedDisk::crash`] loses what was not synced, in sectors of 512 bytes, and makes every
/// open file useless, as a restart does.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Shared>);

struct Shared {
    clock: Clock,
    rng: Rng,
    state: Mutex<State>,
    healed: Notify,
}

struct State {
    names: Names,
    /// Grows at every crash: an open file of an older boot is dead.
    boot: u64,
    /// Grows when the machine, and not only the process, goes down.
    power_cuts: u64,
    sync_delay: (Duration, Duration),
    capacity: Option<u64>,
    injections: Vec<Injection>,
    operations: u64,
    failed_syncs: u64,
    power_until: Option<u64>,
    digest: Digest,
}

struct Injection {
    path_part: String,
    fault: Fault,
    times: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read fails with EIO.
    FailRead,
    /// A write fails with EIO, half done.
    FailWrite,
    /// A sync fails with EIO; as on Linux, the next one succeeds and the data are lost all the same.
    FailSync,
    /// A sync answers that all is well and does nothing.
    ForgetSync,
    /// A sync does not return until [`SimulatedDisk::heal`].
    HangSync,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything: the process died, the machine did not.
    All,
    /// Some of it, by the seed: a power cut.
    Some,
    /// Nothing: the worst power cut.
    None,
}

impl SimulatedDisk {
    /// An empty disk that syncs without delay and has no end.
    #[must_use]
    pub fn new(clock: Clock, rng: Rng) -> Self {
        let state = State {
            names: Names::new(),
            boot: 1,
            power_cuts: 0,
            sync_delay: (Duration::ZERO, Duration::ZERO),
            capacity: None,
            injections: Vec::new(),
            operations: 0,
            failed_syncs: 0,
            power_until: None,
            digest: Digest::new(),
        };
        Self(Arc::new(Shared { clock, rng, state: Mutex::new(state), healed: Notify::new() }))
    }

    /// Makes a folder that is durable at once, as a mounted volume is.
    ///
    /// # Errors
    /// If a file stands in the way.
    pub fn mount(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.names.create_folders(path)?;
        state.names.sync_all();
        Ok(())
    }

    /// Loses what was not synced, as far as `keep` says, and starts the next boot: open files fail from now on.
    pub fn crash(&self, keep: Keep) {
        let mut state = self.0.state.lock();
        state.boot += 1;
        state.power_until = None;
        if keep != Keep::All {
            state.power_cuts += 1;
            let some = (keep == Keep::Some).then_some(&self.0.rng);
            state.names.lose_power(some);
            for file in state.names.files() {
                file.lock().lose_power(some);
            }
        }
        drop(state);
        self.0.healed.notify_waiters();
    }

    /// How long a sync takes from now on, at least and at most.
    pub fn set_sync_delay(&self, least: Duration, most: Duration) {
        self.0.state.lock().sync_delay = (least, most);
    }

    /// How many bytes the files may have in all; a write beyond fails with ENOSPC, half done. `None` is no end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.state.lock().capacity = bytes;
    }

    /// Lets `fault` happen to the next `times` operations on files whose path contains `path_part`.
    pub fn inject(&self, path_part: &str, fault: Fault, times: u32) {
        let injection = Injection { path_part: path_part.to_owned(), fault, times };
        self.0.state.lock().injections.push(injection);
    }

    /// Ends every injected fault and the end of the space.
    pub fn heal(&self) {
        let mut state = self.0.state.lock();
        state.injections.clear();
        state.capacity = None;
        drop(state);
        self.0.healed.notify_waiters();
    }

    /// How many operations have changed the disk: writes, cuts, syncs, changes of names.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.state.lock().operations
    }

    /// How many syncs have failed with [`Fault::FailSync`].
    #[must_use]
    pub fn failed_syncs(&self) -> u64 {
        self.0.state.lock().failed_syncs
    }

    /// The bytes of all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.0.state.lock().used_bytes()
    }

    /// A digest of every operation and every byte that was written. Two runs of one seed have the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.state.lock().digest.value()
    }

    /// Cuts the power after so many operations in all, see [`SimulatedDisk::operations`]: the next one and all later
    /// ones fail, until [`SimulatedDisk::crash`]. A test that runs once to count and then once for every number kills
    /// at each write and sync.
    pub fn cut_power_after(&self, operations: u64) {
        self.0.state.lock().power_until = Some(operations);
    }

    /// Whether [`SimulatedDisk::cut_power_after`] has struck.
    #[must_use]
    pub fn is_without_power(&self) -> bool {
        self.0.state.lock().powered().is_err()
    }

    /// Turns one bit of a file over, on the platter and in the cache.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        match self.0.state.lock().names.find(path)? {
            Node::File(content) => content.lock().flip(index(offset)?, bit),
            Node::Folder(_) => return Err(io::ErrorKind::IsADirectory.into()),
        }
        Ok(())
    }

    /// Whether every byte of a file is durable (its name may not be).
    ///
    /// # Errors
    /// If there is no such file.
    pub fn is_clean(&self, path: &Path) -> io::Result<bool> {
        match self.0.state.lock().names.find(path)? {
            Node::File(content) => Ok(content.lock().is_clean()),
            Node::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Changes names, as one operation.
    fn change<T>(&self, change: impl FnOnce(&mut Names) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.state.lock();
        state.operate()?;
        change(&mut state.names)
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").finish_non_exhaustive()
    }
}

impl State {
    /// Counts an operation that changes the disk; fails where the power is cut.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        self.digest.number(self.operations);
        self.powered()
    }

    fn powered(&self) -> io::Result<()> {
        match self.power_until {
            Some(until) if self.operations > until => Err(powerless()),
            _ => Ok(()),
        }
    }

    /// Whether a fault strikes now.
    fn strikes(&mut self, path: &Path, fault: Fault) -> bool {
        let path = path.to_string_lossy();
        let hit = |one: &&mut Injection| {
            one.fault == fault && one.times > 0 && path.contains(one.path_part.as_str())
        };
        let Some(injection) = self.injections.iter_mut().find(hit) else { return false };
        injection.times -= 1;
        self.failed_syncs += u64::from(fault == Fault::FailSync);
        true
    }

    fn free_bytes(&self) -> u64 {
        self.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    fn used_bytes(&self) -> u64 {
        self.names.files().iter().map(|file| file.lock().len() as u64).sum()
    }
}

fn powerless() -> io::Error {
    io::Error::other("the simulated machine has no power")
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.0.state.lock().powered()?;
        let found = self.0.state.lock().names.find(path);
        let content = match (found, open) {
            (Ok(Node::Folder(_)), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Ok(Node::File(_)), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(Node::File(content)), _) => content,
            (Err(error), Open::Read) => return Err(error),
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            (Err(_), _) => self.change(|names| names.create_file(path))?,
        };
        let boot = self.0.state.lock().boot;
        let writable = open != Open::Read;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), path: path.to_owned(), content, boot, writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.0.state.lock().names.folder(path).is_ok() {
            return Ok(());
        }
        self.change(|names| names.create_folders(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.state.lock().names.list(path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.state.lock().names.find(path).is_ok()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|names| names.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|names| names.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change(|names| names.remove_folder(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let folder = state.names.folder(path)?;
        state.operate()?;
        if state.strikes(path, Fault::FailSync) {
            return Err(eio());
        }
        if !state.strikes(path, Fault::ForgetSync) {
            state.names.sync(folder);
        }
        Ok(())
    }

    fn boot_id(&self) -> io::Result<String> {
        Ok(format!("boot-{}", self.0.state.lock().power_cuts))
    }

    /// One process at a time runs on a simulated machine: nobody else can hold a lock.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.open(path, Open::Write).map(|file| Box::new(file) as Box<dyn Send + Sync>)
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.0.state.lock().free_bytes())
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
    content: Arc<Mutex<Content>>,
    boot: u64,
    writable: bool,
}

impl SimulatedFile {
    /// Whether the handle is of this boot and may write; counts the operation.
    fn begin(&self, state: &mut State) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.living(state)?;
        state.operate()
    }

    fn living(&self, state: &State) -> io::Result<()> {
        if state.boot == self.boot { state.powered() } else { Err(powerless()) }
    }

    /// How long the sync that begins now takes; `None` is until the disk is healed.
    fn sync_delay(&self, state: &mut State) -> Option<Duration> {
        if state.strikes(&self.path, Fault::HangSync) {
            return None;
        }
        let (least, most) = state.sync_delay;
        let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
        Some(least + Duration::from_nanos(self.disk.0.rng.below(span)))
    }
}

#[async_trait]
impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.0.state.lock();
        self.living(&state)?;
        if state.strikes(&self.path, Fault::FailRead) {
            return Err(eio());
        }
        Ok(self.content.lock().read(buffer, index(offset)?))
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        self.begin(&mut state)?;
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let offset = index(offset)?;
        state.digest.number(offset as u64);
        state.digest.bytes(&bytes);
        let mut content = self.content.lock();
        if state.strikes(&self.path, Fault::FailWrite) {
            content.write(bytes.get(..bytes.len() / 2).unwrap_or_default(), offset);
            return Err(eio());
        }
        let more = (offset + bytes.len()).saturating_sub(content.len()) as u64;
        drop(content);
        let free = state.free_bytes();
        let mut content = self.content.lock();
        if more > free {
            let fits = bytes.len().saturating_sub(usize::try_from(more - free).unwrap_or(usize::MAX));
            content.write(bytes.get(..fits).unwrap_or_default(), offset);
            return Err(io::ErrorKind::StorageFull.into());
        }
        content.write(&bytes, offset);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.living(&self.disk.0.state.lock())?;
        Ok(self.content.lock().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        self.begin(&mut state)?;
        self.content.lock().set_len(index(len)?);
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        let shared = &self.disk.0;
        let healed = shared.healed.notified();
        let (delay, flush) = {
            let mut state = shared.state.lock();
            self.living(&state)?;
            state.operate()?;
            (self.sync_delay(&mut state), self.content.lock().begin_flush())
        };
        match delay {
            Some(Duration::ZERO) => {}
            Some(delay) => shared.clock.sleep(delay).await,
            None => healed.await,
        }
        let mut state = shared.state.lock();
        self.living(&state)?;
        if state.strikes(&self.path, Fault::FailSync) {
            self.content.lock().fail_flush(&flush);
            return Err(eio());
        }
        if state.strikes(&self.path, Fault::ForgetSync) {
            return Ok(());
        }
        self.content.lock().finish_flush(&flush);
        Ok(())
    }

    fn sync_now(&self) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        self.living(&state)?;
        state.operate()?;
        let mut content = self.content.lock();
        let flush = content.begin_flush();
        if state.strikes(&self.path, Fault::FailSync) {
            content.fail_flush(&flush);
            return Err(eio());
        }
        if !state.strikes(&self.path, Fault::ForgetSync) {
            content.finish_flush(&flush);
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

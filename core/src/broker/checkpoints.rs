//! Kafka's three checkpoint files of a log directory: how far each partition is durable, where it begins, and what its
//! consumers had seen.
//!
//! A partition is named by its topic there, and names are used again; so before a folder is made, what the files say of
//! its name must be gone from them: [`Checkpoints::forget_durably`]. The recovery point is written last, because the
//! start of a log must be known where its recovery point is.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    ids::Offset,
    runtime::{Disk, read_file, replace_file},
};

/// The largest file that is read, in bytes: about a million partitions.
const BYTES_MAX: u64 = 256 << 20;

/// A partition as the files name it.
pub(super) type Name = (Arc<str>, i32);

/// What is kept of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Durable up to here, with its indexes.
    pub(super) recovery_point: Offset,
    /// The first offset.
    pub(super) log_start: Offset,
    /// What consumers could see ended here.
    pub(super) high_watermark: Offset,
}

/// What the files say of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) recovery_point: Option<Offset>,
    pub(super) log_start: Option<Offset>,
    pub(super) high_watermark: Option<Offset>,
}

type Offsets = BTreeMap<Name, Offset>;

/// The files of one log directory.
pub(super) struct Checkpoints {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    starts: File,
    high_watermarks: File,
    recovery_points: File,
    /// Grows whenever a name is forgotten: marks that were taken before may be of the partition that had it.
    forgotten: u64,
}

/// One file: what it should say, and what it says.
#[derive(Default)]
struct File {
    wanted: Offsets,
    written: Offsets,
}

/// When marks were taken; see [`Checkpoints::ticket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

const STARTS: &str = "log-start-offset-checkpoint";
const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";

impl Checkpoints {
    /// Those of a folder, not read yet.
    pub(super) fn new(disk: Arc<dyn Disk>, folder: &Path) -> Self {
        Self { disk, folder: folder.to_owned(), state: Mutex::default() }
    }

    /// Reads the files, before anything else is asked. One that is missing or damaged says nothing: more is read at
    /// recovery then.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn load(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        for (name, file) in state.files() {
            file.wanted = read_offsets(&*self.disk, &self.folder.join(name))?;
            file.written = file.wanted.clone();
        }
        state.forgotten += 1;
        Ok(())
    }

    /// What is kept of a partition.
    pub(super) fn find(&self, topic: &str, partition: i32) -> Found {
        let name = (Arc::from(topic), partition);
        let state = self.state.lock();
        let find = |file: &File| file.wanted.get(&name).copied();
        Found {
            recovery_point: find(&state.recovery_points),
            log_start: find(&state.starts),
            high_watermark: find(&state.high_watermarks),
        }
    }

    /// Forgets a name, in memory: its folder is going away.
    pub(super) fn forget(&self, topic: &str, partition: i32) {
        self.state.lock().forget(&(Arc::from(topic), partition));
    }

    /// Forgets a name, and everything else that was forgotten, durably: a folder of that name is about to be made.
    ///
    /// # Errors
    /// The disk failed; the folder must not be made.
    pub(super) fn forget_durably(&self, topic: &str, partition: i32) -> io::Result<()> {
        let name = (Arc::from(topic), partition);
        let mut state = self.state.lock();
        state.forget(&name);
        let is_written = state.files().iter().any(|(_, file)| file.written.contains_key(&name));
        if is_written { self.save(&mut state) } else { Ok(()) }
    }

    /// To be taken before marks are, and given back with them.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.state.lock().forgotten)
    }

    /// Writes marks, durably, and leaves other partitions as they are. False if a name was forgotten since the ticket
    /// was taken: nothing is written then, and the marks must be taken again.
    ///
    /// # Errors
    /// The disk failed. A file has the old content or the new one.
    pub(super) fn write(&self, ticket: Ticket, marks: &BTreeMap<Name, Mark>) -> io::Result<bool> {
        let mut state = self.state.lock();
        if Ticket(state.forgotten) != ticket {
            return Ok(false);
        }
        for (name, mark) in marks {
            state.starts.wanted.insert(name.clone(), mark.log_start);
            state.high_watermarks.wanted.insert(name.clone(), mark.high_watermark);
            state.recovery_points.wanted.insert(name.clone(), mark.recovery_point);
        }
        self.save(&mut state).map(|()| true)
    }

    fn save(&self, state: &mut State) -> io::Result<()> {
        for (name, file) in state.files() {
            if file.wanted != file.written {
                replace_file(&*self.disk, &self.folder.join(name), encode(&file.wanted).as_bytes())?;
                file.written = file.wanted.clone();
            }
        }
        Ok(())
    }
}

impl State {
    /// In the order in which they are written.
    fn files(&mut self) -> [(&'static str, &mut File); 3] {
        [
            (STARTS, &mut self.starts),
            (HIGH_WATERMARKS, &mut self.high_watermarks),
            (RECOVERY_POINTS, &mut self.recovery_points),
        ]
    }

    fn forget(&mut self, name: &Name) {
        self.forgotten += 1;
        for (_, file) in self.files() {
            file.wanted.remove(name);
        }
    }
}

fn read_offsets(disk: &dyn Disk, path: &Path) -> io::Result<Offsets> {
    let content = match read_file(disk, path, BYTES_MAX) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Offsets::new()),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
        Err(error) => return Err(error),
    };
    let offsets = std::str::from_utf8(&content).ok().and_then(decode);
    Ok(offsets.unwrap_or_else(|| {
        tracing::warn!("{}: it cannot be read; more is checked when logs are opened", path.display());
        Offsets::new()
    }))
}

/// Kafka's form: version 0, the count, a line a partition.
fn encode(offsets: &Offsets) -> String {
    let mut text = format!("0\n{}\n", offsets.len());
    for ((topic, partition), offset) in offsets {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{topic} {partition} {offset}");
    }
    text
}

fn decode(text: &str) -> Option<Offsets> {
    let mut lines = text.lines();
    if lines.next()? != "0" {
        return None;
    }
    let count: usize = lines.next()?.parse().ok()?;
    let mut offsets = Offsets::new();
    for line in lines {
        let mut words = line.split(' ');
        let (topic, partition, offset) = (words.next()?, words.next()?, words.next()?);
        let offset = Offset(offset.parse().ok()?);
        if words.next().is_some() || offset < Offset(0) {
            return None;
        }
        offsets.insert((Arc::from(topic), partition.parse().ok()?), offset);
    }
    (offsets.len() == count).then_some(offsets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::{
        Clock, Rng,
        simulated::{Keep, SimulatedDisk},
    };

    const FOLDER: &str = "/data";

    fn disk() -> SimulatedDisk {
        let disk = SimulatedDisk::new(Clock::system(), Rng::seeded(1));
        disk.mount(FOLDER.as_ref()).unwrap();
        disk
    }

    fn open(disk: &SimulatedDisk) -> Checkpoints {
        let checkpoints = Checkpoints::new(Arc::new(disk.clone()), FOLDER.as_ref());
        checkpoints.load().unwrap();
        checkpoints
    }

    fn mark(offset: i64) -> Mark {
        let (recovery_point, high_watermark) = (Offset(offset), Offset(offset + 1));
        Mark { recovery_point, log_start: Offset(2), high_watermark }
    }

    fn marks(partition: i32, offset: i64) -> BTreeMap<Name, Mark> {
        [((Arc::from("orders"), partition), mark(offset))].into()
    }

    #[tokio::test]
    async fn marks_are_durable_in_kafkas_form_and_those_of_other_partitions_stay() {
        let disk = disk();
        let checkpoints = open(&disk);
        assert!(checkpoints.write(checkpoints.ticket(), &marks(0, 40)).unwrap());
        assert!(checkpoints.write(checkpoints.ticket(), &marks(1, 50)).unwrap());
        disk.crash(Keep::None);
        let found = open(&disk).find("orders", 0);
        assert_eq!(found.recovery_point, Some(Offset(40)));
        assert_eq!((found.log_start, found.high_watermark), (Some(Offset(2)), Some(Offset(41))));
        let text = read_file(&disk, &Path::new(FOLDER).join(RECOVERY_POINTS), 1000).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "0\n2\norders 0 40\norders 1 50\n");
    }

    #[tokio::test]
    async fn a_name_that_is_used_again_has_no_past() {
        let disk = disk();
        let checkpoints = open(&disk);
        let before = checkpoints.ticket();
        assert!(checkpoints.write(before, &marks(0, 40)).unwrap());
        checkpoints.forget("orders", 0);
        assert_eq!(checkpoints.find("orders", 0), Found::default());
        assert!(
            !checkpoints.write(before, &marks(0, 40)).unwrap(),
            "marks of the partition that had the name"
        );
        checkpoints.forget_durably("orders", 0).unwrap();
        disk.crash(Keep::None);
        assert_eq!(open(&disk).find("orders", 0), Found::default());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(text in "[0-9a-z \n-]{0,60}") {
            if let Some(offsets) = decode(&text) {
                prop_assert_eq!(decode(&encode(&offsets)), Some(offsets));
            }
        }
    }
}

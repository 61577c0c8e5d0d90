//! The library that is preloaded into a node (`shim/shim.c`): its control cells, and the power losses that it
//! prepares.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// The library, empty where none was built.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.so"));

/// The cells of the control file, in their order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cell {
    Loaded,
    FailSyncs,
    SyncDelayUs,
    Full,
    Shadow,
    LoseSyncs,
    WallAheadNs,
    Rate,
    RateFromNs,
}

const CELLS: usize = 9;
const CELL_BYTES: usize = 8;

/// One node's control over the library.
pub(super) struct Shim {
    library: PathBuf,
    control: File,
    control_path: PathBuf,
    /// What the node keeps, below which disk faults work.
    folder: PathBuf,
    shadow: PathBuf,
}

impl Shim {
    /// Whether this build has a library to preload.
    pub(super) fn is_there() -> bool {
        !LIBRARY.is_empty()
    }

    /// Lays out the library and its files in `place`, which must be on the file system of `folder`.
    pub(super) fn prepare(place: &Path, folder: &Path) -> io::Result<Self> {
        let (library, control_path) = (place.join("shim.so"), place.join("shim.control"));
        fs::write(&library, LIBRARY)?;
        fs::write(&control_path, [0; CELLS * CELL_BYTES])?;
        let control = File::options().read(true).write(true).open(&control_path)?;
        let shadow = place.join("durable");
        let shim = Self { library, control, control_path, folder: folder.to_owned(), shadow };
        shim.forget_copies()?;
        Ok(shim)
    }

    /// Makes a program that is started next a program with the library in it, whose connections come from `source`.
    pub(super) fn preload(&self, command: &mut Command, source: Ipv4Addr) {
        command.env("QUORATE_SHIM_SOURCE", source.to_string());
        command.env("LD_PRELOAD", &self.library);
        command.env("QUORATE_SHIM_CONTROL", &self.control_path);
        command.env("QUORATE_SHIM_FOLDER", &self.folder);
        command.env("QUORATE_SHIM_SHADOW", &self.shadow);
    }

    pub(super) fn set(&self, cell: Cell, value: i64) -> io::Result<()> {
        self.control.write_all_at(&value.to_ne_bytes(), (cell as usize * CELL_BYTES) as u64)
    }

    pub(super) fn get(&self, cell: Cell) -> io::Result<i64> {
        let mut value = [0; CELL_BYTES];
        self.control.read_exact_at(&mut value, (cell as usize * CELL_BYTES) as u64)?;
        Ok(i64::from_ne_bytes(value))
    }

    fn forget_copies(&self) -> io::Result<()> {
        if self.shadow.exists() {
            fs::remove_dir_all(&self.shadow)?;
        }
        ["d", "f", "k"].into_iter().try_for_each(|kind| fs::create_dir_all(self.shadow.join(kind)))
    }

    /// Takes everything in the folder for durable, and copies syncs from now on.
    pub(super) fn begin_copies(&self) -> io::Result<()> {
        self.forget_copies()?;
        if self.folder.is_dir() {
            self.seed(&self.folder)?;
        }
        self.set(Cell::Shadow, 1)
    }

    fn seed(&self, folder: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let inode = entry.metadata()?.ino().to_string();
            let is_folder = entry.file_type()?.is_dir();
            if is_folder {
                self.seed(&entry.path())?;
            } else {
                fs::copy(entry.path(), self.shadow.join("f").join(&inode))?;
                fs::hard_link(entry.path(), self.shadow.join("k").join(&inode))?;
            }
            entries.extend_from_slice(format!("{}{inode}/", if is_folder { 'd' } else { 'f' }).as_bytes());
            entries.extend_from_slice(entry.file_name().as_encoded_bytes());
            entries.push(0);
        }
        let inode = fs::metadata(folder)?.ino().to_string();
        fs::write(self.shadow.join("d").join(inode), entries)
    }

    /// Leaves of the folder what was synced. The process must be dead.
    pub(super) fn lose_power(&self) -> io::Result<()> {
        if !self.folder.is_dir() {
            return self.begin_copies();
        }
        let left = self.folder.with_extension("left");
        self.restore(fs::metadata(&self.folder)?.ino(), &left)?;
        fs::remove_dir_all(&self.folder)?;
        fs::rename(&left, &self.folder)?;
        self.begin_copies()
    }

    fn restore(&self, inode: u64, to: &Path) -> io::Result<()> {
        fs::create_dir(to)?;
        // A folder that was never synced has lost its entries.
        let listed = read_if_there(&self.shadow.join("d").join(inode.to_string()))?.unwrap_or_default();
        for entry in listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let text = std::str::from_utf8(entry).map_err(io::Error::other)?;
            let (kind, rest) = text.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
            let (inode, name) = rest.split_once('/').ok_or(io::ErrorKind::InvalidData)?;
            let inode: u64 = inode.parse().map_err(io::Error::other)?;
            if kind == "d" {
                self.restore(inode, &to.join(name))?;
            } else {
                // A file that was never synced is there, and empty.
                let bytes = self.shadow.join("f").join(inode.to_string());
                match bytes.exists() {
                    true => fs::copy(bytes, to.join(name)).map(drop)?,
                    false => File::create(to.join(name)).map(drop)?,
                }
            }
        }
        Ok(())
    }
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

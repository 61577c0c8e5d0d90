//! Files. Reads and writes are synchronous; a sync is a future, so that a simulator can delay or lose it.

use std::{
    fs, io,
    io::IoSlice,
    os::{fd::BorrowedFd, unix::fs::FileExt},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;

/// Replaces a small file as a whole and durably: after a crash it has the old content or the new one. Blocks.
///
/// # Errors
/// As the system says; the old content stands then, or the new one.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let file = disk.open(temporary, Open::Write)?;
    file.set_len(0)?;
    file.write_at(&mut [IoSlice::new(content)], 0)?;
    file.sync_now()?;
    disk.rename(temporary, path)?;
    path.parent().map_or(Ok(()), |folder| disk.sync_dir(folder))
}

/// Makes a folder whose name survives a power cut, and those above it.
///
/// # Errors
/// As the system says.
pub fn make_folder(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|above| !disk.exists(above)).collect();
    disk.create_dir_all(folder)?;
    for parent in missing.iter().rev().filter_map(|made| made.parent()) {
        // A relative path ends at the folder that the process is in.
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        disk.sync_dir(parent)?;
    }
    Ok(())
}

/// Reads a small file as a whole.
///
/// # Errors
/// As the system says; [`io::ErrorKind::FileTooLarge`] above `bytes_max`, so that a wrong file costs no memory.
pub fn read_file(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut content = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let read = file.read_at(&mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; made if it does not exist.
    Write,
    /// For reading and writing; it must not exist.
    CreateNew,
}

/// A file system. Paths are absolute or relative to the process.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a folder and those above it. A new name is durable only after [`Disk::sync_dir`] of its parent.
    ///
    /// # Errors
    /// As the system says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::NotFound`] if there is no such folder.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether the path exists.
    fn exists(&self, path: &Path) -> bool;
    /// Renames a file or folder over whatever file is there. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and what is in it.
    ///
    /// # Errors
    /// As the system says.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the system says; the names may be durable or not.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Names the boot of the machine: under another name, what was only in the page cache is lost.
    ///
    /// # Errors
    /// As the system says.
    fn boot_id(&self) -> io::Result<String>;
    /// Takes a lock that no other process can hold, on a file that is made if it does not exist. It is held until the
    /// result is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process holds it; else as the system says.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes that can still be written below `path`.
    ///
    /// # Errors
    /// As the system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file.
#[async_trait]
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to the length of `buffer`; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all slices one after the other, in as few calls as the system allows. Durable only after a sync. After
    /// an error any part may have been written.
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// The length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    ///
    /// # Errors
    /// As the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file.
    ///
    /// # Errors
    /// As the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes what was written before the call durable (`fdatasync`). On a real disk it blocks the polling thread: call
    /// it from a [`super::TaskScope::spawn_thread`]. After an error the contents are unknown: never try again.
    ///
    /// # Errors
    /// As the system says.
    async fn sync(&self) -> io::Result<()>;
    /// As [`DiskFile::sync`], before it returns: for the rare moment that must be durable before anything goes on, as
    /// the cut of a log or a small checkpoint. Never on the path of a record.
    ///
    /// # Errors
    /// As [`DiskFile::sync`].
    fn sync_now(&self) -> io::Result<()>;
    /// The descriptor, where there is one, for `sendfile` and `sync_file_range`.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

/// The machine's file system.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match open {
            Open::Read => {}
            Open::Write => {
                options.write(true).create(true);
            }
            Open::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn boot_id(&self) -> io::Result<String> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(id.trim().to_owned())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile(fs::File);

/// Slices that one system call takes (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

#[async_trait]
impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let fits = slices.len().min(SLICES_MAX);
            let written = match rustix::io::pwritev(&self.0, slices.get(..fits).unwrap_or_default(), offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    async fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_now(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        Some(self.0.as_fd())
    }
}

//! What a node remembers of its last life: in which boot of the machine it ran, whether it ended in order, whether a
//! disk failed. What must be told to the controller is remembered until the controller has taken it to the log, however
//! often the node starts in between.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::runtime::{Disk, read_file, replace_file};

const NAME: &str = "quorate.life";
/// No such file is longer.
const BYTES_MAX: u64 = 4096;

/// The present life, as its file says it.
#[derive(Debug)]
pub(super) struct Life {
    path: PathBuf,
    boot: String,
    /// It has ended in order: everything is synced.
    ended: bool,
    /// The machine went down since a life ended in order: logs may have torn tails, though perhaps not from the last
    /// life.
    pub(super) torn: bool,
    /// What was only in the page cache is lost, and the cluster does not know it yet.
    pub(super) page_cache_lost: bool,
    /// A sync has failed, and the cluster does not know it yet.
    pub(super) sync_failed: bool,
    /// A sync has failed in this boot: the system may take pages for written that are not. Another boot reads what the
    /// disk has.
    pub(super) cache_in_doubt: bool,
}

impl Life {
    /// A life begins, durably. `used` says whether the node's folders hold anything already.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn begin(disk: &dyn Disk, folder: &Path, used: bool) -> io::Result<Self> {
        let path = folder.join(NAME);
        let boot = disk.boot_id()?;
        let text = match read_file(disk, &path, BYTES_MAX) {
            Ok(bytes) => String::from_utf8(bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let value = |name: &str| {
            let mut lines = text.as_deref().unwrap_or_default().lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let is_set = |name: &str| value(name) == Some("true");
        let cut_off = match value("boot") {
            Some(before) => before != boot && !is_set("ended"),
            // Folders that are used and say nothing may come from anywhere.
            None => used,
        };
        let cache_in_doubt = value("sync.failed.in.boot") == Some(boot.as_str());
        let life = Self {
            path,
            boot,
            ended: false,
            torn: cut_off || (is_set("torn") && !is_set("ended")),
            page_cache_lost: cut_off || is_set("page.cache.lost"),
            sync_failed: is_set("sync.failed"),
            cache_in_doubt,
        };
        life.write(disk)?;
        Ok(life)
    }

    /// The cluster knows what was lost.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn told(&mut self, disk: &dyn Disk) -> io::Result<()> {
        (self.page_cache_lost, self.sync_failed) = (false, false);
        self.write(disk)
    }

    /// A sync has failed.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn sync_failed(&mut self, disk: &dyn Disk) -> io::Result<()> {
        (self.sync_failed, self.cache_in_doubt) = (true, true);
        self.write(disk)
    }

    /// The life ends in order: everything is synced.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn end(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.ended = true;
        self.write(disk)
    }

    fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let Self { boot, ended, torn, page_cache_lost, sync_failed, .. } = self;
        let failed_in = if self.cache_in_doubt { boot.as_str() } else { "" };
        let text = format!(
            "version=1\nboot={boot}\nended={ended}\ntorn={torn}\npage.cache.lost={page_cache_lost}\n\
             sync.failed={sync_failed}\nsync.failed.in.boot={failed_in}\n"
        );
        replace_file(disk, &self.path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{
        Clock, Rng,
        simulated::{Keep, SimulatedDisk},
    };

    fn disk() -> SimulatedDisk {
        let disk = SimulatedDisk::new(Clock::system(), Rng::seeded(1));
        disk.mount("/meta".as_ref()).unwrap();
        disk
    }

    fn begin(disk: &SimulatedDisk) -> Life {
        Life::begin(disk, "/meta".as_ref(), true).unwrap()
    }

    #[tokio::test]
    async fn the_end_of_a_process_loses_nothing_and_the_end_of_a_boot_loses_the_page_cache() {
        let disk = disk();
        assert!(!Life::begin(&disk, "/meta".as_ref(), false).unwrap().page_cache_lost);
        disk.crash(Keep::All);
        assert!(!begin(&disk).page_cache_lost, "the process ended, the machine did not");
        disk.crash(Keep::None);
        assert!(begin(&disk).page_cache_lost);
        assert!(begin(&disk).page_cache_lost, "until the cluster knows it");
        let mut life = begin(&disk);
        life.told(&disk).unwrap();
        assert!(!begin(&disk).page_cache_lost);
        assert!(begin(&disk).torn, "a log that was not opened since may still have a torn tail");
        begin(&disk).end(&disk).unwrap();
        disk.crash(Keep::None);
        let life = begin(&disk);
        assert!(!life.page_cache_lost && !life.torn, "it had ended in order");
    }

    #[tokio::test]
    async fn a_failed_sync_is_remembered_until_the_cluster_knows_it() {
        let disk = disk();
        begin(&disk).sync_failed(&disk).unwrap();
        assert!(begin(&disk).sync_failed);
        begin(&disk).told(&disk).unwrap();
        let life = begin(&disk);
        assert!(!life.sync_failed && life.cache_in_doubt, "the page cache is the same");
        disk.crash(Keep::None);
        assert!(!begin(&disk).cache_in_doubt, "the page cache is gone");
    }

    #[tokio::test]
    async fn used_folders_without_a_memory_may_have_lost_anything() {
        assert!(begin(&disk()).page_cache_lost);
    }
}

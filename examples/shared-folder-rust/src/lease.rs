//! Who leads, and until when nobody is to replace it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use quorate_core::consensus::{Epoch, NodeId};
use rustix::time::{ClockId, clock_gettime};

use crate::files::{Fields, replace, seal, unseal};

const MAGIC: &[u8; 8] = b"QSFLEAD1";
const LEADER: &str = "leader";
const LEASE: &str = "lease";

/// A leadership's random name.
pub(crate) type Token = [u8; 16];

/// The newest leadership: the file `leader`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) epoch: Epoch,
    pub(crate) node: NodeId,
    pub(crate) token: Token,
}

impl Leadership {
    /// The newest one; the default before the first.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let sealed = match fs::read(folder.join(LEADER)) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let fields = unseal(&sealed).and_then(|record| record.strip_prefix(MAGIC));
        fields.and_then(Self::parse).ok_or_else(|| io::Error::other("the file 'leader' is damaged"))
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let mut fields = Fields(record);
        let epoch = Epoch(fields.number()?);
        let node = NodeId(i32::try_from(fields.number()?).ok()?);
        Some(Self { epoch, node, token: fields.take()? })
    }

    /// Makes it the newest, durably: an epoch is never used twice.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut record = MAGIC.to_vec();
        record.extend(self.epoch.0.to_le_bytes());
        record.extend(u64::try_from(self.node.0).unwrap_or_default().to_le_bytes());
        record.extend(self.token);
        replace(folder, LEADER, &seal(record))
    }
}

/// The file `lease`. It is not synced: a machine that loses it has lost the leader too.
#[derive(Debug)]
pub(crate) struct Lease {
    file: File,
    boot: [u8; 16],
}

impl Lease {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(LEASE))?;
        // The clock begins anew with each boot, and so do leases.
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let boot = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        Ok(Self { file, boot: boot.to_be_bytes() })
    }

    /// Lets the leadership of `token` last until then; zero ends it.
    pub(crate) fn write(&self, token: Token, until: Duration) -> io::Result<()> {
        let mut record = token.to_vec();
        record.extend(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        record.extend(self.boot);
        self.file.write_all_at(&seal(record), 0)
    }

    /// Whether the leadership of `token` still lasts.
    pub(crate) fn lasts(&self, token: Token, now: Duration) -> io::Result<bool> {
        let mut sealed = [0; 48];
        let length = self.file.read_at(&mut sealed, 0)?;
        let until = sealed.get(..length).and_then(unseal).and_then(|record| {
            let mut fields = Fields(record);
            let (owner, until): (Token, u64) = (fields.take()?, fields.number()?);
            (owner == token && fields.take() == Some(self.boot)).then_some(Duration::from_nanos(until))
        });
        Ok(until.is_some_and(|until| now < until))
    }
}

/// The machine's clock that only goes forward: the same for all its processes.
pub(crate) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

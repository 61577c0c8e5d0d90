//! The file that remembers how far a node has come.
//!
//! ```text
//! file = magic "QRFD" version:u16 length:u32 body crc:u32          written aside, synced, renamed
//! ```

use std::{io, path::Path, sync::Arc};

use prost::Message;
use quorate_core::{
    consensus::LogId,
    runtime::{Disk, Open},
};

use super::{
    FoundingError,
    machine::{Charter, Phase},
};
use crate::{
    codec::{Put, Take, crc32c},
    disk::{create_whole, read_whole},
    membership::{Membership, WireMembership},
};

const MAGIC: [u8; 4] = *b"QRFD";
const VERSION: u16 = 1;
/// A charter names a few voters.
const CAP: u64 = 1 << 20;

/// What a node remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) phase: Phase,
    /// The log has been made: if it is missing, it is lost.
    pub(super) has_log: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct WirePhase {
    /// 0 fresh, 1 tentative, 2 final.
    #[prost(uint32, tag = "1")]
    phase: u32,
    #[prost(bytes = "vec", tag = "2")]
    log: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    founders: Option<WireMembership>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WireRecord {
    #[prost(message, optional, tag = "1")]
    phase: Option<WirePhase>,
    #[prost(bool, tag = "2")]
    has_log: bool,
}

impl WirePhase {
    pub(crate) fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Fresh => Self::default(),
            Phase::Tentative(charter) => Self::with(1, charter),
            Phase::Final(charter) => Self::with(2, charter),
        }
    }

    fn with(phase: u32, charter: &Charter) -> Self {
        let founders = Membership { voters: charter.founders.clone(), ..Membership::default() };
        Self { phase, log: charter.log.0.to_vec(), founders: Some(founders.to_wire()) }
    }

    pub(crate) fn read(self) -> Option<Phase> {
        if self.phase == 0 {
            return Some(Phase::Fresh);
        }
        let founders = Membership::from_wire(self.founders?)?.voters;
        let charter = Charter { log: LogId(self.log.try_into().ok()?), founders };
        match self.phase {
            1 => Some(Phase::Tentative(charter)),
            2 => Some(Phase::Final(charter)),
            _ => None,
        }
    }
}

pub(super) fn load(disk: &Arc<dyn Disk>, path: &Path) -> Result<Record, FoundingError> {
    let file = match disk.open(path, Open::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
        Err(error) => return Err(storage("open", path, &error)),
    };
    let bytes = read_whole(&*file, CAP).map_err(|error| storage("read", path, &error))?;
    decode(&bytes).ok_or_else(|| {
        FoundingError::Damaged(format!(
            "{} is damaged, so that it is unknown which cluster this voter belongs to; \
             replace the disk, empty the data directory, and remove and add this voter",
            path.display()
        ))
    })
}

pub(super) async fn save(disk: &Arc<dyn Disk>, path: &Path, record: &Record) -> Result<(), FoundingError> {
    create_whole(disk, path, &encode(record)).await.map_err(|error| storage("write", path, &error))?;
    Ok(())
}

fn encode(record: &Record) -> Vec<u8> {
    let wire = WireRecord { phase: Some(WirePhase::of(&record.phase)), has_log: record.has_log };
    let body = wire.encode_to_vec();
    let mut out = Vec::new();
    out.bytes(&MAGIC);
    out.u16(VERSION);
    out.u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.bytes(&body);
    let crc = crc32c(&[&out]);
    out.u32(crc);
    out
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let (covered, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    (Take(crc).u32()? == crc32c(&[covered])).then_some(())?;
    let mut take = Take(covered);
    (take.array() == Some(MAGIC) && take.u16() == Some(VERSION)).then_some(())?;
    let length = usize::try_from(take.u32()?).ok()?;
    let wire = WireRecord::decode(take.bytes(length)?).ok()?;
    Some(Record { phase: wire.phase.unwrap_or_default().read()?, has_log: wire.has_log })
}

fn storage(what: &str, path: &Path, error: &io::Error) -> FoundingError {
    FoundingError::Storage(format!("cannot {what} {}: {error}", path.display()))
}

//! How the files and folders of a partition are called, as Kafka calls them.

use std::path::{Path, PathBuf};

use crate::ids::Offset;

/// The files of one segment, by what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Record batches.
    Log,
    /// Offsets and the positions of their batches.
    Index,
    /// Timestamps and the offsets of their batches.
    TimeIndex,
    /// What was known of producers before the offset in the name.
    Snapshot,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Log => ".log",
            Self::Index => ".index",
            Self::TimeIndex => ".timeindex",
            Self::Snapshot => ".snapshot",
        }
    }
}

/// `00000000000000000042.log`
pub(super) fn file_name(base: Offset, kind: Kind) -> String {
    format!("{:020}{}", base.0, kind.suffix())
}

pub(super) fn file_path(dir: &Path, base: Offset, kind: Kind) -> PathBuf {
    dir.join(file_name(base, kind))
}

/// The offset and kind in a file's name; `None` for a file that is none of a segment's.
pub(super) fn parse_file_name(name: &str) -> Option<(Offset, Kind)> {
    let (digits, _) = name.split_once('.')?;
    let kinds = [Kind::Log, Kind::Index, Kind::TimeIndex, Kind::Snapshot];
    let kind = kinds.into_iter().find(|kind| name.get(digits.len()..) == Some(kind.suffix()))?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Offset(digits.parse().ok()?), kind))
}

/// The folder of a partition: `orders-7`.
#[must_use]
pub fn partition_folder(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// Topic and partition in the name of a partition's folder; `None` for any other folder, and for one that is being
/// deleted.
#[must_use]
pub fn parse_partition_folder(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let plain = !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit());
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if topic.is_empty() || !topic.bytes().all(legal) || !plain {
        return None;
    }
    Some((topic, partition.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments_are_read_back() {
        for kind in [Kind::Log, Kind::Index, Kind::TimeIndex, Kind::Snapshot] {
            for base in [0, 42, i64::MAX] {
                let name = file_name(Offset(base), kind);
                assert_eq!(parse_file_name(&name), Some((Offset(base), kind)));
            }
        }
        for other in
            ["leader-epoch-checkpoint", "1.log", "99999999999999999999.log", "0000000000000000000a.log", ""]
        {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn folders_of_partitions_are_read_back() {
        assert_eq!(parse_partition_folder("a-b-12"), Some(("a-b", 12)));
        assert_eq!(parse_partition_folder(&partition_folder("x.y_z", 0)), Some(("x.y_z", 0)));
        for other in ["a", "a-", "-1", "a--", "a-1.0f-delete", "a-99999999999", "../a-1"] {
            assert_eq!(parse_partition_folder(other), None, "{other}");
        }
    }
}

//! The history of a log, in 16 bytes: which log it is, and what it says up to an index.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids::{Epoch, base64_id};

/// Names one generation of one cluster's log. Backends compare it and know nothing more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub [u8; 16]);

impl LogId {
    /// The log of `generation` (1 or more) of the cluster. The first generation bears the cluster's own id, so that
    /// the id that founders agree on is the cluster id.
    #[must_use]
    pub fn of(cluster: Uuid, generation: u64) -> Self {
        if generation == 1 {
            return Self(*cluster.as_bytes());
        }
        let mut hash = Sha256::new();
        hash.update(cluster.as_bytes());
        hash.update(generation.to_be_bytes());
        Self(first_half(hash))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64_id(Uuid::from_bytes(self.0)))
    }
}

/// Everything that a log says up to an index: two logs with the same chain at an index are equal up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// The chain before the first entry.
    #[must_use]
    pub fn start(log: LogId) -> Self {
        Self(log.0)
    }

    /// The chain after one more entry: SHA-256 of chain, epoch (big-endian) and data, cut to 16 bytes.
    #[must_use]
    pub fn link(self, epoch: Epoch, data: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(epoch.0.to_be_bytes());
        hash.update(data);
        Self(first_half(hash))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

fn first_half(hash: Sha256) -> [u8; 16] {
    let mut half = [0; 16];
    half.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_histories_have_equal_chains_and_others_do_not() {
        let start = Chain::start(LogId([7; 16]));
        let one = start.link(Epoch(1), b"a").link(Epoch(1), b"b");
        assert_eq!(one, start.link(Epoch(1), b"a").link(Epoch(1), b"b"));
        assert_ne!(one, start.link(Epoch(1), b"a").link(Epoch(2), b"b"));
        assert_ne!(one, start.link(Epoch(1), b"b").link(Epoch(1), b"a"));
        assert_ne!(one, Chain::start(LogId([8; 16])).link(Epoch(1), b"a").link(Epoch(1), b"b"));
    }

    #[test]
    fn the_first_generation_bears_the_cluster_id() {
        let cluster = Uuid::from_bytes([3; 16]);
        assert_eq!(LogId::of(cluster, 1).0, [3; 16]);
        assert_ne!(LogId::of(cluster, 2), LogId::of(cluster, 3));
    }
}

//! Consensus by raft-rs.

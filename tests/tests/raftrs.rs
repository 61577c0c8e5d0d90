//! The conformance suite on the raft-rs backend.

use quorate_tests::conformance::raftrs::RaftrsBackend;

quorate_tests::conformance!(RaftrsBackend { seed: 1 });

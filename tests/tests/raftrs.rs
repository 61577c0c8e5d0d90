//! The conformance suite on the raft-rs backend.

use quorate_tests::labs::raftrs::RaftrsBackend;

quorate_conformance::conformance!(RaftrsBackend { seed: 1 });

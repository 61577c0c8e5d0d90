//! The conformance suite on the Raft backends.

use quorate_tests::labs::raft::RaftBackend;

mod raftrs {
    quorate_conformance::conformance!(super::RaftBackend::raftrs(1));
}

mod openraft {
    quorate_conformance::conformance!(super::RaftBackend::openraft(1));
}

//! The conformance suite on every backend.

mod memory {
    quorate_tests::conformance!(quorate_tests::conformance::memory::MemoryBackend::instant());
}

mod memory_with_delays {
    quorate_tests::conformance!(quorate_tests::conformance::memory::MemoryBackend::delayed());
}

mod etcd {
    use quorate_tests::{conformance::etcd::EtcdBackend, etcd::Release};

    quorate_tests::conformance!(EtcdBackend(Release::Current));
}

//! The conformance suite on every backend.

mod memory {
    quorate_tests::conformance!(quorate_tests::conformance::memory::MemoryBackend::instant());
}

mod memory_with_delays {
    quorate_tests::conformance!(quorate_tests::conformance::memory::MemoryBackend::delayed());
}

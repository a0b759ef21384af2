//! The in-memory backend keeps the contract.

lock_conformance::conformance! {
    #[tokio::test(start_paused = true)]
    lock_tests::memory_store::MemoryStore::default()
}

//! The Redlock backend keeps the contract, on five real servers.

lock_conformance::conformance! {
    #[tokio::test]
    lock_tests::redlock_store::RedlockStore::start()
}

//! The Consul backend keeps the contract, on a real server.

lock_conformance::conformance! {
    #[tokio::test]
    lock_tests::consul_store::ConsulStore::start()
}

//! The etcd backend keeps the contract, on a real server.

lock_conformance::conformance! {
    #[tokio::test]
    lock_tests::etcd_store::EtcdStore::start()
}

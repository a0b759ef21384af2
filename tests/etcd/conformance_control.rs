//! The control of the conformance suite on a real server: the suite finds backends that break it
//! there as well.
//!
//! Each test starts several servers and waits for what does not come, so this is a command of its
//! own: `cargo test -p lock-tests --test etcd -- --ignored conformance_control --test-threads 4`

lock_conformance::controls! {
    // One attribute is all that there is room for.
    #[cfg_attr(all(), tokio::test, ignore = "takes minutes; CONTRIBUTING.md says when")]
    lock_tests::etcd_store::EtcdStore::start()
}

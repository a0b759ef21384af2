//! The Redis backend keeps the contract, on a real server.

lock_conformance::conformance! {
    #[tokio::test]
    lock_tests::redis_store::RedisStore::start()
}

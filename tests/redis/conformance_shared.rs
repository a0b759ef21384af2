//! The Redis backend keeps the contract where calls share commands: here also those without
//! company.

lock_conformance::conformance! {
    #[tokio::test]
    lock_tests::redis_store::RedisStore::shared()
}

//! A renamed dependency is found if the attribute says so, and else one message says what to write.
#![allow(clippy::unwrap_used)]

use locks::{LockRuntime, key};

#[tokio::test]
async fn a_renamed_crate_is_found_by_its_path() {
    let runtime = LockRuntime::in_memory().build().await.unwrap();
    let doubled = LockRuntime::scope(runtime, lock_attribute_tests_renamed::double(4)).await;
    assert_eq!(doubled.unwrap(), 8);
    let id = 4;
    assert_eq!(key!("renamed:<id>", crate = locks), "renamed:4");
}

#[test]
fn a_renamed_crate_without_its_path_is_one_error() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}

//! Methods that a user gives to every type: generated code calls none of them.
#![allow(dead_code, clippy::wrong_self_convention, clippy::new_ret_no_self)]

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use lock_attribute_tests::{locked, note, record};
use lock_runtime::{LockError, LockHandle, LockRuntime, distributed_lock};

type Res<T> = Result<T, LockError>;

/// Of one receiver or another, whichever is found before the method that would be meant.
trait Grasping {
    fn text(&self, _: &str) {
        note("taken: text");
    }
    fn value(&self) {
        note("taken: value");
    }
    fn finish(&self) -> Res<String> {
        note("taken: finish");
        Ok("taken".to_owned())
    }
    fn key_text(&self) {
        note("taken: key_text");
    }
    fn slot(&self) -> u8 {
        note("taken: slot");
        0
    }
    fn ttl(&self, _: Duration) {
        note("taken: ttl");
    }
    fn wait(&self, _: Duration) {
        note("taken: wait");
    }
    fn renew(&self, _: Duration) {
        note("taken: renew");
    }
    fn renew_off(&self) {
        note("taken: renew_off");
    }
    fn max_hold(&self, _: Duration) {
        note("taken: max_hold");
    }
    fn continue_when_lost(&self) {
        note("taken: continue_when_lost");
    }
    fn runtime<T: ?Sized>(&self, _: &T) {
        note("taken: runtime");
    }
    fn unwrap(&self) {
        note("taken: unwrap");
    }
}
impl<T: ?Sized> Grasping for T {}

trait Consuming: Sized {
    fn handle(self) -> u8 {
        note("taken: handle");
        0
    }
    fn new(self) {
        note("taken: new");
    }
    fn into_future(self) {
        note("taken: into_future");
    }
    fn poll(self) {
        note("taken: poll");
    }
    fn from_lock_error(self) {
        note("taken: from_lock_error");
    }
    fn add(self) {
        note("taken: add");
    }
    fn as_ref(self) {
        note("taken: as_ref");
    }
}
impl<T> Consuming for T {}

#[distributed_lock(key = "one:<id>")]
async fn one(id: &str) -> Res<()> {
    let _ = id;
    Ok(())
}

#[distributed_lock(key = "two:<id>:{<other>}")]
async fn two(id: u8, other: u8) -> Res<u8> {
    Ok(id + other)
}

#[distributed_lock(key = "guarded", guard = lock)]
async fn guarded() -> Res<LockHandle> {
    Ok(lock)
}

#[distributed_lock(
    key = "settings",
    ttl = "5s",
    wait = Duration::from_secs(1),
    renew = "1s",
    max_hold = "1m",
    runtime = runtime
)]
async fn settings(runtime: &LockRuntime) -> Res<()> {
    Ok(())
}

#[distributed_lock(key = id, renew = false, on_lost = continue)]
async fn expression(id: String) -> Res<String> {
    Ok(id)
}

#[distributed_lock(key = "pinned:<id>")]
fn pinned(id: u8) -> Pin<Box<dyn Future<Output = Res<u8>> + Send>> {
    let id = id + 1;
    Box::pin(async move { Ok(id) })
}

#[async_trait]
trait Shop {
    async fn open(&self, (id, _): (u8, u8)) -> Res<u8>;
}

#[async_trait]
impl Shop for u8 {
    #[distributed_lock(key = "boxed:<id>", guard = lock)]
    async fn open(&self, (id, _): (u8, u8)) -> Res<u8> {
        drop(lock);
        Ok(*self + id)
    }
}

#[tokio::test]
async fn no_method_of_a_user_takes_a_call() {
    let ((), events) = record(async {
        one("a").await.unwrap_or_default();
        assert!(matches!(two(1, 2).await, Ok(3)));
        let handle = guarded().await.expect("free");
        note(handle.key().as_str());
        let runtime = LockRuntime::current().expect("in scope");
        settings(&runtime).await.expect("free");
        expression("whole".to_owned()).await.expect("free");
        pinned(1).await.expect("free");
        assert!(matches!(Shop::open(&1, (2, 3)).await, Ok(3)));
    })
    .await;
    let expected = [
        locked("one:a", []),
        locked("two:1:{2}", []),
        locked("guarded", []),
        vec!["guarded".to_owned()],
        locked("settings", []),
        locked("whole", []),
        locked("pinned:1", []),
        locked("boxed:2", []),
    ];
    assert_eq!(events, expected.concat());
}

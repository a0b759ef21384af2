//! Futures that say what they borrow.
#![allow(
    clippy::manual_async_fn,
    clippy::needless_lifetimes,
    clippy::unused_self
)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use lock_attribute_tests::{Noted, locked, note, record};
use lock_runtime::{LockError, distributed_lock};

type Res<T> = Result<T, LockError>;
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[distributed_lock(key = "use:<x>")]
fn used<'a>(x: &'a str, _y: &str) -> impl Future<Output = Res<usize>> + use<'a> {
    async move { Ok(x.len()) }
}

#[distributed_lock(key = "nothing:<x>")]
fn uses_nothing(x: u8, _y: &str) -> impl Future<Output = Res<u8>> + use<> {
    async move { Ok(x) }
}

#[distributed_lock(key = "outlives:<x>")]
fn outlives<'a>(x: &'a str, _y: &str) -> impl Future<Output = Res<usize>> + 'a {
    async move { Ok(x.len()) }
}

#[distributed_lock(key = "longer:<x>:<y>")]
fn longer<'a, 'b: 'a, 'c>(x: &'a str, y: &'c str, z: &'b str) -> BoxFuture<'a, Res<usize>>
where
    'c: 'b,
{
    let length = x.len() + z.len();
    Box::pin(async move { Ok(length + y.len()) })
}

#[distributed_lock(key = "static:<x>")]
fn boxed(x: u8, _y: &str) -> Pin<Box<dyn Future<Output = Res<u8>> + Send>> {
    Box::pin(async move { Ok(x) })
}

#[distributed_lock(key = "owned:<x>")]
fn owned(x: Arc<str>) -> BoxFuture<'static, Res<usize>> {
    let length = x.len();
    Box::pin(async move { Ok(length) })
}

#[distributed_lock(key = "name:<name>")]
fn of_a_static(name: &'static str) -> Pin<Box<dyn Future<Output = Res<usize>>>> {
    note("body");
    let length = name.len();
    Box::pin(async move { Ok(length) })
}

#[distributed_lock(key = "call")]
fn calls(by: impl Fn(&u8) -> u8 + Send + 'static) -> BoxFuture<'static, Res<u8>> {
    let two = by(&1);
    Box::pin(async move { Ok(by(&two)) })
}

#[distributed_lock(key = "owned argument")]
fn unused(_tx: Noted) -> BoxFuture<'static, Res<()>> {
    Box::pin(async move { Ok(()) })
}

struct Service;

impl Service {
    // As in `tower::Service`.
    #[distributed_lock(key = "service:<request>")]
    fn call(&mut self, request: u8) -> BoxFuture<'static, Res<u8>> {
        Box::pin(async move { Ok(request) })
    }

    #[distributed_lock(key = "elided:<request>")]
    fn elided(&self, request: u8, _y: &str) -> impl Future<Output = Res<u8>> + '_ {
        async move {
            let Service = self;
            Ok(request)
        }
    }

    #[distributed_lock(key = "arc:<request>")]
    fn by_arc(self: Arc<Self>, request: u8) -> BoxFuture<'static, Res<u8>> {
        let service = self.clone();
        Box::pin(async move {
            drop((self, service));
            Ok(request)
        })
    }
}

#[tokio::test]
async fn a_future_holds_no_more_than_it_says() {
    let ((), events) = record(async {
        let text = "abc".to_owned();
        let x = "x".to_owned();
        let future = used(&x, &text);
        let nothing = uses_nothing(1, &text);
        let outlived = outlives(&x, &text);
        let boxed = boxed(2, &text);
        let mut service = Service;
        let called = service.call(3);
        let elided = service.elided(4, &text);
        // None of these futures holds it.
        drop(text);
        assert_eq!(future.await.unwrap(), 1);
        assert_eq!(nothing.await.unwrap(), 1);
        assert_eq!(outlived.await.unwrap(), 1);
        assert_eq!(boxed.await.unwrap(), 2);
        assert_eq!(elided.await.unwrap(), 4);
        assert_eq!(called.await.unwrap(), 3);
        assert_eq!(longer("x", "yy", "z").await.unwrap(), 4);
        assert_eq!(owned("o".into()).await.unwrap(), 1);
        assert_eq!(calls(|n| n + 1).await.unwrap(), 3);
        unused(Noted("tx")).await.unwrap();
        assert_eq!(Arc::new(Service).by_arc(5).await.unwrap(), 5);
        // Nothing of the body runs before the first poll.
        let lazy = of_a_static("n");
        note("made");
        assert_eq!(lazy.await.unwrap(), 1);
    })
    .await;
    let keys = [
        "use:x",
        "nothing:1",
        "outlives:x",
        "static:2",
        "elided:4",
        "service:3",
        "longer:x:yy",
        "owned:o",
        "call",
    ];
    let mut expected = keys.map(|key| locked(key, [])).concat();
    expected.extend(locked("owned argument", ["drop tx"]));
    expected.extend(locked("arc:5", []));
    expected.push("made".to_owned());
    expected.extend(locked("name:n", ["body"]));
    assert_eq!(events, expected);
}

//! Trait methods, and functions that return a future of their own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use lock_attribute_tests::{Noted, locked, note, record};
use lock_runtime::{LockError, distributed_lock};

type Res<T> = Result<T, LockError>;

struct Seat {
    row: u8,
}

struct Path<T>(T);

trait Native {
    fn row(&self) -> u8;

    fn reserve(&self, id: u8) -> impl Future<Output = Res<u8>> + Send;

    #[distributed_lock(key = "default:<id>")]
    #[allow(async_fn_in_trait)]
    async fn by_default(&self, id: u8) -> Res<u8> {
        Ok(self.row() + id)
    }
}

impl Native for Seat {
    fn row(&self) -> u8 {
        self.row
    }

    #[distributed_lock(key = "impl:<self.row>:<id>")]
    async fn reserve(&self, id: u8) -> Res<u8> {
        Ok(self.row + id)
    }
}

// async-trait#45
#[async_trait]
trait Boxed: Send + Sync {
    async fn reserve(&self, path: Path<u8>, _: Noted) -> Res<u8>;

    async fn shared(self: Arc<Self>, text: &str) -> Res<u8>;

    async fn change(&mut self, id: u8) -> Res<()>;

    #[distributed_lock(key = "boxed default:<id>")]
    async fn by_default(&self, mut id: u8) -> Res<u8> {
        id += 1;
        Ok(id)
    }
}

#[async_trait]
impl Boxed for Seat {
    #[distributed_lock(key = "boxed:<self.row>:<id>", guard = lock)]
    async fn reserve(&self, Path(id): Path<u8>, _: Noted) -> Res<u8> {
        struct Inner(u8);
        impl Inner {
            fn get(&self) -> u8 {
                self.0
            }
        }
        note(lock.key().as_str());
        Ok(self.row + Inner(id).get())
    }

    #[distributed_lock(key = "shared:<self.row>:<text>")]
    async fn shared(self: Arc<Self>, text: &str) -> Res<u8> {
        note(text);
        Ok(self.row)
    }

    #[distributed_lock(key = format!("change:{}", self.row))]
    async fn change(&mut self, id: u8) -> Res<()> {
        self.row = id;
        Ok(())
    }
}

#[async_trait(?Send)]
trait Local {
    async fn local(&self) -> Res<()>;
}

#[async_trait(?Send)]
impl Local for Seat {
    #[distributed_lock(key = "local:<self.row>")]
    async fn local(&self) -> Res<()> {
        let here = std::rc::Rc::new(());
        tokio::task::yield_now().await;
        drop(here);
        Ok(())
    }
}

#[tokio::test]
async fn methods_of_traits_can_be_locked() {
    let ((), events) = record(async {
        let mut seat = Seat { row: 1 };
        assert_eq!(Native::reserve(&seat, 2).await.unwrap(), 3);
        assert_eq!(Native::by_default(&seat, 3).await.unwrap(), 4);
        let boxed: &dyn Boxed = &seat;
        assert_eq!(boxed.reserve(Path(5), Noted("_")).await.unwrap(), 6);
        assert_eq!(boxed.by_default(5).await.unwrap(), 6);
        Boxed::change(&mut seat, 2).await.unwrap();
        seat.local().await.unwrap();
        assert_eq!(Arc::new(seat).shared("s").await.unwrap(), 2);
    })
    .await;
    let expected = [
        locked("impl:1:2", []),
        locked("default:3", []),
        locked("boxed:1:5", ["boxed:1:5", "drop _"]),
        locked("boxed default:5", []),
        locked("change:1", []),
        locked("local:2", []),
        locked("shared:2:s", ["s"]),
    ];
    assert_eq!(events, expected.concat());
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[distributed_lock(key = "pin:<text>")]
fn pinned<'a>(text: &'a str) -> Pin<Box<dyn Future<Output = Res<usize>> + Send + 'a>> {
    Box::pin(async move { Ok(text.len()) })
}

#[distributed_lock(key = "alias:<text>")]
fn alias(text: &str) -> BoxFuture<'_, Res<usize>> {
    if text.is_empty() {
        return Box::pin(async { Ok(99) });
    }
    let text = text.to_owned();
    Box::pin(async move { Ok(text.len()) })
}

#[distributed_lock(key = "impl:<text>")]
fn opaque(text: &str) -> impl Future<Output = Res<usize>> + Send + '_ {
    note("body");
    let length = text.len();
    async move { Ok(length) }
}

#[tokio::test]
async fn functions_that_return_a_future_can_be_locked() {
    let ((), events) = record(async {
        assert_eq!(pinned("ab").await.unwrap(), 2);
        assert_eq!(alias("").await.unwrap(), 99);
        assert_eq!(alias("abc").await.unwrap(), 3);
        assert_eq!(opaque("a").await.unwrap(), 1);
        // Nothing happens before the first poll.
        drop(opaque("b"));
    })
    .await;
    let expected = [
        locked("pin:ab", []),
        locked("alias:", []),
        locked("alias:abc", []),
        locked("impl:a", ["body"]),
    ];
    assert_eq!(events, expected.concat());
}

//! Functions that return a future and begin with what `#[async_trait]` could have written: all of a
//! user's own runs under the lock.
#![allow(clippy::items_after_statements)]

use std::future::Future;
use std::pin::Pin;

use async_recursion::async_recursion;
use async_trait::async_trait;
use lock_attribute_tests::{locked, note, record};
use lock_runtime::{LockError, distributed_lock};

type Res<T> = Result<T, LockError>;
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether there is nothing to do, asked under the lock.
fn done(depth: u8) -> bool {
    note(format!("done {depth}?"));
    depth == 0
}

fn found(id: u8) -> Option<u8> {
    note("found?");
    (id == 0).then_some(9)
}

#[async_recursion]
#[distributed_lock(key = "tree:<depth>")]
async fn walk(depth: u8) -> Res<u8> {
    if done(depth) {
        return Ok(0);
    }
    let mut depth = depth;
    depth -= 1;
    Ok(walk(depth).await? + 1)
}

#[async_recursion]
#[distributed_lock(key = "pair:<a>:<b>")]
async fn destructured((a, b): (u8, u8), _: &str) -> Res<u8> {
    if done(a) {
        return Ok(b);
    }
    destructured((a - 1, b), "").await
}

#[tokio::test]
async fn a_recursive_function_that_begins_with_an_if_asks_it_under_the_lock() {
    let ((), events) = record(async {
        assert_eq!(walk(1).await.unwrap(), 1);
        assert_eq!(destructured((0, 3), "").await.unwrap(), 3);
    })
    .await;
    let inner = locked("tree:0", ["done 0?"]);
    let outer = [&["done 1?".to_owned()], &*inner].concat();
    let tree = locked("tree:1", outer.iter().map(String::as_str));
    assert_eq!(events, [tree, locked("pair:0:3", ["done 0?"])].concat());
}

struct Node {
    depth: u8,
}

impl Node {
    #[distributed_lock(key = "this:<self.depth>")]
    fn with_this(&self) -> BoxFuture<'_, Res<u8>> {
        Box::pin(async move {
            if done(self.depth) {
                return Ok(0);
            }
            let this = self;
            Ok(this.depth)
        })
    }

    #[distributed_lock(key = "this first:<self.depth>")]
    fn with_this_first(&self) -> BoxFuture<'_, Res<u8>> {
        Box::pin(async move {
            let this = self;
            if done(this.depth) {
                return Ok(0);
            }
            Ok(this.depth)
        })
    }
}

#[distributed_lock(key = "if let:<id>")]
fn begins_with_if_let(id: u8) -> BoxFuture<'static, Res<u8>> {
    Box::pin(async move {
        if let Some(__ret) = found(id) {
            return Ok(__ret);
        }
        Ok(id)
    })
}

#[distributed_lock(key = "else:<id>")]
#[allow(clippy::redundant_else, clippy::manual_async_fn)]
fn begins_with_if_and_else(id: u8) -> impl Future<Output = Res<u8>> {
    async move {
        if let Some(__ret) = None::<Res<u8>> {
            return __ret;
        } else {
            note("else");
        }
        let id = id;
        Ok(id)
    }
}

#[distributed_lock(key = "changed:<id>")]
#[allow(clippy::let_and_return)]
fn begins_with_a_changed_argument(id: u8) -> BoxFuture<'static, Res<u8>> {
    Box::pin(async move {
        let id = {
            let id = id + 1;
            id
        };
        Ok(id)
    })
}

#[distributed_lock(key = "noted:<id>")]
fn begins_with_a_noted_argument(id: u8) -> BoxFuture<'static, Res<u8>> {
    Box::pin(async move {
        let id = {
            note("block");
            id
        };
        Ok(id)
    })
}

#[distributed_lock(key = "diverging")]
fn begins_with_let_else(id: Option<u8>) -> BoxFuture<'static, Res<u8>> {
    Box::pin(async move {
        let Some(id) = id else {
            note("none");
            return Ok(0);
        };
        Ok(id)
    })
}

#[distributed_lock(key = "renamed:<id>")]
fn begins_with_a_renamed_argument(id: u8) -> BoxFuture<'static, Res<u8>> {
    Box::pin(async move {
        let mut id = id;
        if done(id) {
            return Ok(0);
        }
        id += 1;
        Ok(id)
    })
}

#[tokio::test]
async fn a_hand_written_future_runs_all_of_it_under_the_lock() {
    let ((), events) = record(async {
        assert_eq!(Node { depth: 1 }.with_this().await.unwrap(), 1);
        assert_eq!(Node { depth: 0 }.with_this().await.unwrap(), 0);
        assert_eq!(Node { depth: 2 }.with_this_first().await.unwrap(), 2);
        assert_eq!(begins_with_if_let(0).await.unwrap(), 9);
        assert_eq!(begins_with_if_and_else(2).await.unwrap(), 2);
        assert_eq!(begins_with_a_changed_argument(3).await.unwrap(), 4);
        assert_eq!(begins_with_a_noted_argument(4).await.unwrap(), 4);
        assert_eq!(begins_with_let_else(None).await.unwrap(), 0);
        assert_eq!(begins_with_a_renamed_argument(0).await.unwrap(), 0);
    })
    .await;
    let expected = [
        locked("this:1", ["done 1?"]),
        locked("this:0", ["done 0?"]),
        locked("this first:2", ["done 2?"]),
        locked("if let:0", ["found?"]),
        locked("else:2", ["else"]),
        locked("changed:3", []),
        locked("noted:4", ["block"]),
        locked("diverging", ["none"]),
        locked("renamed:0", ["done 0?"]),
    ];
    assert_eq!(events, expected.concat());
}

#[async_trait]
trait Visitor {
    async fn by_references(&self, id: &u8) -> Res<u8>;
    async fn by_values(&self, (a, b): (u8, u8), mut id: u8, _: u8) -> Res<u8>;
}

#[async_trait]
impl Visitor for Node {
    #[distributed_lock(key = "references:<self.depth>:<id>")]
    async fn by_references(&self, id: &u8) -> Res<u8> {
        if done(*id) {
            return Ok(self.depth);
        }
        Ok(*id)
    }

    #[distributed_lock(key = "values:<a>-<b>:<id>")]
    async fn by_values(&self, (a, b): (u8, u8), mut id: u8, _: u8) -> Res<u8> {
        if done(id) {
            return Ok(a + b);
        }
        id += self.depth;
        Ok(id)
    }
}

#[tokio::test]
async fn a_boxed_method_that_begins_with_an_if_asks_it_under_the_lock() {
    let ((), events) = record(async {
        let node = Node { depth: 3 };
        assert_eq!(node.by_references(&0).await.unwrap(), 3);
        assert_eq!(node.by_values((1, 2), 0, 0).await.unwrap(), 3);
        assert_eq!(node.by_values((1, 2), 1, 0).await.unwrap(), 4);
    })
    .await;
    let expected = [
        locked("references:3:0", ["done 0?"]),
        locked("values:1-2:0", ["done 0?"]),
        locked("values:1-2:1", ["done 1?"]),
    ];
    assert_eq!(events, expected.concat());
}

//! Receivers, patterns, generics.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use lock_attribute_tests::{locked, note, record};
use lock_runtime::{KeyPart, LockError, distributed_lock};

type Res<T> = Result<T, LockError>;

struct Shop {
    id: u64,
    size: (u32, u32),
    stock: Vec<u32>,
}

impl Shop {
    const NAME: &'static str = "shop";

    fn new() -> Shop {
        Shop {
            id: 7,
            size: (2, 3),
            stock: vec![1, 2],
        }
    }

    #[distributed_lock(key = "ref:<self.id>")]
    async fn by_reference(&self) -> Res<usize> {
        Ok(self.stock.len())
    }

    #[distributed_lock(key = "mut:<self.id>")]
    async fn returns_a_borrow(&mut self) -> Res<&mut u32> {
        self.stock.push(3);
        Ok(&mut self.stock[0])
    }

    #[distributed_lock(key = "value:<self.id>")]
    async fn by_value(self) -> Res<Vec<u32>> {
        Ok(self.stock)
    }

    #[distributed_lock(key = "mut value:<self.id>")]
    async fn by_mutable_value(mut self) -> Res<Vec<u32>> {
        self.stock.clear();
        Ok(self.stock)
    }

    #[distributed_lock(key = "arc:<self.id>")]
    async fn by_arc(self: Arc<Self>) -> Res<u64> {
        Ok(self.id)
    }

    #[distributed_lock(key = "box:<self.id>")]
    async fn by_box(self: Box<Self>) -> Res<u64> {
        Ok(self.id)
    }

    #[distributed_lock(key = "pin:<self.id>")]
    async fn by_pin(mut self: Pin<&mut Self>) -> Res<u64> {
        self.id += 1;
        Ok(self.id)
    }

    #[distributed_lock(key = Self::NAME)]
    async fn by_an_associated_constant(&self) -> Res<u64> {
        Ok(self.id)
    }

    #[distributed_lock(key = "area:<self.size.0>:<self.size.1>")]
    async fn by_numbered_fields(&self) -> Res<u32> {
        Ok(self.size.0 * self.size.1)
    }

    // async-trait#17, #68, #73, #92: `self` is never renamed in the body, nor in what is nested
    // there.
    #[distributed_lock(key = "nested:<self.id>")]
    async fn with_nested_selves(&self) -> Res<String> {
        struct Inner(u64);
        impl Inner {
            fn get(&self) -> u64 {
                self.0
            }
        }
        Ok(format!("{} {}", self.id, Inner(8).get()))
    }
}

#[tokio::test]
async fn every_receiver_can_be_in_the_key() {
    let ((), events) = record(async {
        let mut shop = Shop::new();
        assert_eq!(shop.by_reference().await.unwrap(), 2);
        *shop.returns_a_borrow().await.unwrap() = 9;
        assert_eq!(shop.by_an_associated_constant().await.unwrap(), 7);
        assert_eq!(shop.by_numbered_fields().await.unwrap(), 6);
        assert_eq!(shop.with_nested_selves().await.unwrap(), "7 8");
        assert_eq!(Pin::new(&mut shop).by_pin().await.unwrap(), 8);
        assert_eq!(shop.by_value().await.unwrap(), [9, 2, 3]);
        assert!(Shop::new().by_mutable_value().await.unwrap().is_empty());
        assert_eq!(Arc::new(Shop::new()).by_arc().await.unwrap(), 7);
        assert_eq!(Box::new(Shop::new()).by_box().await.unwrap(), 7);
    })
    .await;
    let keys = [
        "ref:7",
        "mut:7",
        "shop",
        "area:2:3",
        "nested:7",
        "pin:7",
        "value:8",
        "mut value:7",
        "arc:7",
        "box:7",
    ];
    assert_eq!(events, keys.map(|key| locked(key, [])).concat());
}

struct Path<T>(T);
struct Point {
    x: i32,
    y: i32,
}
struct Unit;

#[distributed_lock(key = "p:<id>")]
async fn newtype(Path(id): Path<u64>) -> Res<u64> {
    Ok(id)
}

#[distributed_lock(key = "p:<x>:<up>")]
async fn fields(Point { x, y: up }: Point) -> Res<i32> {
    Ok(x + up)
}

#[distributed_lock(key = "p:<a>:<b>")]
async fn tuple((a, mut b): (u8, u8)) -> Res<u8> {
    b += a;
    Ok(b)
}

// tracing#397: slices and `@`.
#[distributed_lock(key = "p:<first>:<last>")]
async fn slice([first, .., last]: [u8; 4]) -> Res<u8> {
    Ok(first + last)
}

#[distributed_lock(key = "p:<d>")]
async fn dereferenced(&d: &u8) -> Res<u8> {
    Ok(d)
}

#[distributed_lock(key = "p:<all>")]
#[allow(clippy::redundant_pattern)]
async fn bound(all @ _: u8, Unit: Unit, _: u8) -> Res<u8> {
    Ok(all)
}

#[distributed_lock(key = "p:<a>")]
async fn by_ref(#[allow(clippy::toplevel_ref_arg)] ref a: u8) -> Res<u8> {
    Ok(*a)
}

#[distributed_lock(key = "p:<r#type>:<r#type>")]
async fn raw(r#type: &str) -> Res<usize> {
    Ok(r#type.len())
}

#[distributed_lock(key = "p:<type>")]
async fn raw_without_mark(r#type: &str) -> Res<usize> {
    Ok(r#type.len())
}

#[distributed_lock(key = "p:<there>")]
async fn conditional(there: u8, #[cfg(any())] absent: u8, #[cfg(test)] present: u8) -> Res<u8> {
    Ok(there + present)
}

// A name that a macro binds is left to the compiler.
macro_rules! named {
    ($name:ident) => {
        Path($name)
    };
}

#[distributed_lock(key = "p:<id>")]
async fn macro_pattern(named!(id): Path<u8>) -> Res<u8> {
    Ok(id)
}

#[tokio::test]
async fn every_name_of_a_pattern_is_a_placeholder() {
    let ((), events) = record(async {
        newtype(Path(1)).await.unwrap();
        fields(Point { x: -1, y: 2 }).await.unwrap();
        assert_eq!(tuple((1, 2)).await.unwrap(), 3);
        slice([1, 2, 3, 4]).await.unwrap();
        dereferenced(&5).await.unwrap();
        bound(6, Unit, 0).await.unwrap();
        by_ref(7).await.unwrap();
        raw("r").await.unwrap();
        raw_without_mark("r").await.unwrap();
        conditional(8, 9).await.unwrap();
        macro_pattern(Path(10)).await.unwrap();
    })
    .await;
    let keys = [
        "p:1", "p:-1:2", "p:1:2", "p:1:4", "p:5", "p:6", "p:7", "p:r:r", "p:r", "p:8", "p:10",
    ];
    assert_eq!(events, keys.map(|key| locked(key, [])).concat());
}

// cached#96, minitrace#112: no `unused_mut`.
#[distributed_lock(key = "s:<s>")]
async fn mutable(mut s: String) -> Res<String> {
    s.push('!');
    Ok(s)
}

#[distributed_lock(key = &s)]
async fn moved_though_in_the_key(s: String) -> Res<String> {
    Ok(s)
}

// cached#48, axum#1253: generics stay as they are.
#[distributed_lock(key = "g:<part>")]
async fn generic<'a, T: KeyPart + ?Sized, const N: usize>(
    part: &'a T,
    n: [u8; N],
    f: impl Fn(&u8) -> u8,
) -> Res<(&'a T, u8)>
where
    [u8; N]: Sized,
{
    Ok((part, n.iter().map(f).sum()))
}

#[distributed_lock(key = "elided")]
async fn elided<'a>(one: &'a str, _two: &str) -> Res<&'a str> {
    Ok(one)
}

#[distributed_lock(key = "count:<n>")]
async fn recursive(n: u32) -> Res<u32> {
    if n == 0 {
        return Ok(0);
    }
    let below: Pin<Box<dyn Future<Output = Res<u32>>>> = Box::pin(recursive(n - 1));
    Ok(below.await? + 1)
}

#[distributed_lock(key = "rc")]
async fn not_send() -> Res<Rc<u8>> {
    let shared = Rc::new(1);
    tokio::task::yield_now().await;
    note("body");
    Ok(shared)
}

async fn shown(value: impl Display) -> String {
    tokio::task::yield_now().await;
    value.to_string()
}

#[distributed_lock(key = shown(id).await)]
async fn awaited_key(id: u64) -> Res<u64> {
    Ok(id)
}

#[distributed_lock(key = id.parse::<u8>().map(|id| format!("parsed:{id}")).map_err(|_| LockError::Config("no number".to_owned()))?)]
async fn fallible_key(id: &str) -> Res<()> {
    note("body");
    let _ = id;
    Ok(())
}

#[tokio::test]
async fn arguments_are_used_as_without_the_attribute() {
    let ((), events) = record(async {
        assert_eq!(mutable("a".to_owned()).await.unwrap(), "a!");
        assert_eq!(
            moved_though_in_the_key("whole".to_owned()).await.unwrap(),
            "whole"
        );
        assert_eq!(generic("t", [1, 2], |n| n * 2).await.unwrap(), ("t", 6));
        assert_eq!(elided("e", "").await.unwrap(), "e");
        assert_eq!(recursive(1).await.unwrap(), 1);
        not_send().await.unwrap();
        awaited_key(5).await.unwrap();
        fallible_key("7").await.unwrap();
        // It leaves before the lock is acquired.
        fallible_key("seven").await.unwrap_err();
    })
    .await;
    let expected = [
        locked("s:a", []),
        locked("whole", []),
        locked("g:t", []),
        locked("elided", []),
        locked("count:1", ["acquire count:0", "release count:0"]),
        locked("rc", ["body"]),
        locked("5", []),
        locked("parsed:7", ["body"]),
    ];
    assert_eq!(events, expected.concat());
}

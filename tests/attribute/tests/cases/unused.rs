//! Arguments that a body does not use, and that somebody else does: nothing is reported.
#![deny(unused)]

use std::time::Duration;

use async_trait::async_trait;
use lock_attribute_tests::{Noted, locked, record};
use lock_runtime::{LockError, LockRuntime, distributed_lock};

type Res<T> = Result<T, LockError>;

struct Seat {
    row: u8,
    number: u8,
}

#[distributed_lock(key = "key:<id>:<seat.number>")]
async fn by_the_key(id: u8, seat: Seat) -> Res<()> {
    Ok(())
}

#[distributed_lock(key = format!("text:{id}"))]
async fn by_a_text_in_the_key(id: u8) -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "fields:<row>:<number>")]
async fn by_fields(Seat { row, number }: Seat) -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "settings", ttl = ttl, wait = 2 * wait, renew = every, max_hold = most, runtime = locks)]
async fn by_settings(
    ttl: Duration,
    wait: Duration,
    every: Duration,
    most: Duration,
    locks: &LockRuntime,
) -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "body")]
async fn by_a_text_in_the_body(id: u8) -> Res<String> {
    Ok(format!("{id:>3}"))
}

#[distributed_lock(key = "allowed")]
async fn allowed(
    #[allow(unused_variables)] id: u8,
    _: Noted,
    #[cfg(any())] absent: u8,
    #[allow(unused)] Seat { row, .. }: Seat,
) -> Res<()> {
    Ok(())
}

#[allow(unused_variables)]
#[distributed_lock(key = "allowed for all")]
async fn allowed_for_all(id: u8, Seat { row, number }: Seat) -> Res<()> {
    Ok(())
}

macro_rules! function {
    ($name:ident, $id:ident, $body:block) => {
        #[distributed_lock(key = "macro")]
        async fn $name($id: u8) -> Res<u8> $body
    };
}
function!(by_a_macro, id, { Ok(id) });

#[async_trait]
trait Opens {
    async fn open(&self, id: u8, (a, _b): (u8, u8)) -> Res<()>;
}

#[async_trait]
impl Opens for Seat {
    #[distributed_lock(key = "boxed:<id>:<a>")]
    async fn open(&self, id: u8, (a, _b): (u8, u8)) -> Res<()> {
        Ok(())
    }
}

fn seat() -> Seat {
    Seat { row: 1, number: 2 }
}

#[tokio::test]
async fn what_is_used_elsewhere_is_not_reported_and_still_dropped_before_the_release() {
    let ((), events) = record(async {
        by_the_key(1, seat()).await.unwrap();
        by_a_text_in_the_key(1).await.unwrap();
        by_fields(seat()).await.unwrap();
        let locks = LockRuntime::current().unwrap();
        let second = Duration::from_secs(1);
        by_settings(10 * second, second, second, 60 * second, &locks)
            .await
            .unwrap();
        assert_eq!(by_a_text_in_the_body(7).await.unwrap(), "  7");
        allowed(1, Noted("_"), seat()).await.unwrap();
        allowed_for_all(1, seat()).await.unwrap();
        assert_eq!(by_a_macro(3).await.unwrap(), 3);
        seat().open(1, (2, 3)).await.unwrap();
    })
    .await;
    let expected = [
        locked("key:1:2", []),
        locked("text:1", []),
        locked("fields:1:2", []),
        locked("settings", []),
        locked("body", []),
        locked("allowed", ["drop _"]),
        locked("allowed for all", []),
        locked("macro", []),
        locked("boxed:1:2", []),
    ];
    assert_eq!(events, expected.concat());
}

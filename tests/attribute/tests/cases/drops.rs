//! The order in which things end: locals, arguments, lock; whatever ends the body.

use std::future::Future;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use lock_attribute_tests::{Noted, events, locked, note, record, recorded};
use lock_runtime::{LockError, LockRuntime, distributed_lock};

struct Two {
    named: Noted,
    _rest: Noted,
}

impl Two {
    fn new() -> Two {
        Two {
            named: Noted("named"),
            _rest: Noted("rest"),
        }
    }
}

// async-trait#199, rust#54716, #60236: also what the body never mentions lives as long as the lock,
// and no longer.
#[distributed_lock(key = "d")]
async fn ends(how: &str, first: Noted, _tx: Noted, _: Noted) -> Result<(), LockError> {
    let _local = Noted("local");
    note("body");
    match how {
        "early" => return Ok(()),
        "error" => Err(LockError::NotInstalled)?,
        "panic" => panic!("on purpose"),
        "never" => pending().await,
        "moves" => drop(first),
        _ => {}
    }
    Ok(())
}

fn call(how: &str) -> impl Future<Output = Result<(), LockError>> + '_ {
    ends(how, Noted("first"), Noted("_tx"), Noted("_"))
}

const ORDER: [&str; 5] = ["body", "drop local", "drop _", "drop _tx", "drop first"];

#[tokio::test]
async fn locals_then_arguments_then_lock() {
    for how in ["ends", "early", "error"] {
        let (_, events) = record(call(how)).await;
        assert_eq!(events, locked("d", ORDER), "{how}");
    }
    let (_, events) = record(call("moves")).await;
    assert_eq!(
        events,
        locked(
            "d",
            ["body", "drop first", "drop local", "drop _", "drop _tx"]
        )
    );
}

#[tokio::test]
async fn the_order_is_that_of_the_language() {
    async fn plain(_first: Noted, _tx: Noted, _: Noted) {
        let _local = Noted("local");
        note("body");
        tokio::task::yield_now().await;
    }
    let ((), events) = record(plain(Noted("first"), Noted("_tx"), Noted("_"))).await;
    assert_eq!(events, ORDER);
}

// In edition 2021 a temporary in the tail of a body outlives its locals, in edition 2024 it does
// not: the user's edition decides.
#[distributed_lock(key = "tail")]
async fn with_a_tail() -> Result<usize, LockError> {
    let _local = Noted("local");
    tokio::task::yield_now().await;
    Ok::<usize, LockError>(Noted("temporary").0.len())
}

#[tokio::test]
async fn temporaries_of_the_tail_are_dropped_as_the_edition_says() {
    async fn plain() -> Result<usize, LockError> {
        let _local = Noted("local");
        tokio::task::yield_now().await;
        Ok::<usize, LockError>(Noted("temporary").0.len())
    }
    let (_, expected) = record(plain()).await;
    let (_, events) = record(with_a_tail()).await;
    assert_eq!(events, locked("tail", expected.iter().map(String::as_str)));
    assert_eq!(expected.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_drops_the_body_before_it_releases() {
    let (elapsed, events) = record(tokio::time::timeout(
        Duration::from_millis(20),
        call("never"),
    ))
    .await;
    assert!(elapsed.is_err());
    assert_eq!(events, locked("d", ORDER));
}

#[tokio::test]
async fn a_panic_drops_the_body_before_it_releases() {
    let (panicked, events) = record(tokio::task::unconstrained(async {
        let mut call = Box::pin(call("panic"));
        std::future::poll_fn(|cx| {
            let polled = std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
            match polled {
                Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
                other => std::task::Poll::Ready(other.is_err()),
            }
        })
        .await
    }))
    .await;
    assert!(panicked);
    assert_eq!(events, locked("d", ORDER));
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_drops_the_body() {
    let (store, runtime) = recorded().await;
    let steal = async {
        while !store.is_held("d") {
            tokio::task::yield_now().await;
        }
        store.steal("d");
    };
    let calls = LockRuntime::scope(runtime, async { call("never").await });
    let both = async { tokio::join!(calls, steal) };
    let (result, ()) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap();
    assert!(result.unwrap_err().is_lost());
    assert_eq!(events()[1..=ORDER.len()], ORDER);
}

// What a pattern does not name stays behind in the function, and ends after the lock.
#[distributed_lock(key = "d")]
async fn destructured(Two { named, .. }: Two) -> Result<(), LockError> {
    drop(named);
    Ok(())
}

#[tokio::test]
async fn the_rest_of_a_pattern_outlives_the_lock() {
    let (_, events) = record(destructured(Two::new())).await;
    assert_eq!(
        events,
        ["acquire d", "drop named", "release d", "drop rest"]
    );
}

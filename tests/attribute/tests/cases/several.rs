//! Several keys at once: all of them or none, in one order.

use std::time::Duration;

use lock_attribute_tests::{events, note, record, recorded};
use lock_runtime::{LockError, LockHandle, LockRuntime, distributed_lock, key};
use tokio::time::{Instant, sleep};

type Res<T> = Result<T, LockError>;

#[distributed_lock(keys = ["account:<from>", "account:<to>"], guard = [source, target])]
async fn transfer(from: u64, to: u64) -> Res<(String, String, bool)> {
    note("transfer");
    let names = (source.key().to_string(), target.key().to_string());
    let is_one = source.fencing_token() == target.fencing_token();
    Ok((names.0, names.1, is_one))
}

#[tokio::test(start_paused = true)]
async fn keys_are_taken_in_one_order_and_named_in_the_users() {
    for (from, to) in [(1, 2), (2, 1)] {
        let (names, events) = record(transfer(from, to)).await;
        let expected = (
            format!("account:{}", from),
            format!("account:{}", to),
            false,
        );
        assert_eq!(names.unwrap(), expected);
        let acquired: Vec<_> = events.iter().take(3).map(String::as_str).collect();
        assert_eq!(
            acquired,
            ["acquire account:1", "acquire account:2", "transfer"]
        );
        assert_eq!(events.len(), 5, "{:?}", events);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transfer_to_oneself_takes_one_lock_that_has_both_names() {
    let (names, events) = record(transfer(7, 7)).await;
    let name = || "account:7".to_owned();
    assert_eq!(names.unwrap(), (name(), name(), true));
    assert_eq!(
        events,
        ["acquire account:7", "transfer", "release account:7"]
    );
}

#[distributed_lock(keys = items.iter().map(|item| key!("item:<item>")), wait = "1s", guard = locks)]
async fn reserve(items: Vec<u32>) -> Res<Vec<String>> {
    let locks: Vec<LockHandle> = locks;
    drop(items);
    Ok(locks.iter().map(|lock| lock.key().to_string()).collect())
}

#[tokio::test(start_paused = true)]
async fn keys_of_an_expression_are_as_many_as_it_gives() {
    let (names, events) = record(reserve(vec![3, 1, 2, 1])).await;
    assert_eq!(names.unwrap(), ["item:3", "item:1", "item:2", "item:1"]);
    assert_eq!(
        events[..3],
        ["acquire item:1", "acquire item:2", "acquire item:3"]
    );
    let (none, events) = record(reserve(vec![])).await;
    assert!(matches!(none, Err(LockError::Config(_))));
    assert!(events.is_empty());
}

#[distributed_lock(keys = ["b", "a", "c"], wait = "2s", max_hold = "1s", guard = [_b, a, _c])]
async fn limited() -> Res<Duration> {
    sleep(Duration::from_millis(900)).await;
    Ok(a.remaining())
}

#[tokio::test(start_paused = true)]
async fn all_wait_together_and_the_limit_counts_from_the_last() {
    let (store, locks) = recorded().await;
    LockRuntime::scope(locks.clone(), async {
        let b = locks.lock("b").acquire().await.unwrap();
        let c = locks.lock("c").acquire().await.unwrap();
        let frees = async {
            sleep(Duration::from_millis(1_500)).await;
            b.release().await.unwrap();
        };
        let started = Instant::now();
        let (outcome, ()) = tokio::join!(limited(), frees);
        assert!(outcome.unwrap_err().is_timeout());
        assert_eq!(started.elapsed().as_secs(), 2);
        assert!(!store.is_held("a") && !store.is_held("b"));

        // `a` waits for `b` and `c` for longer than the limit.
        let frees = async {
            sleep(Duration::from_millis(1_500)).await;
            c.release().await.unwrap();
        };
        let (outcome, ()) = tokio::join!(limited(), frees);
        assert!(outcome.unwrap() > Duration::ZERO);
        assert!(store.is_idle());
    })
    .await;
    let _ = events();
}

#[distributed_lock(keys = ["b", "a", "c"], max_hold = "1s")]
async fn too_long() -> Res<()> {
    sleep(Duration::from_secs(5)).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_limit_ends_a_body_that_holds_several() {
    let (outcome, events) = record(too_long()).await;
    assert!(outcome.unwrap_err().is_max_hold());
    assert_eq!(events.len(), 6, "{:?}", events);
}

#[distributed_lock(keys = ["b", "a"], on_taken = skip)]
async fn both_or_nothing() -> Res<Option<u32>> {
    Ok(Some(1))
}

#[tokio::test(start_paused = true)]
async fn a_call_that_skips_leaves_none_of_its_keys_taken() {
    let (store, locks) = recorded().await;
    LockRuntime::scope(locks.clone(), async {
        for key in ["a", "b"] {
            let other = locks.lock(key).acquire().await.unwrap();
            assert_eq!(both_or_nothing().await.unwrap(), None);
            other.release().await.unwrap();
            while !store.is_idle() {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(both_or_nothing().await.unwrap(), Some(1));
    })
    .await;
}

#[distributed_lock(keys = ["a", "b"], ttl = "1s", wait = "5s")]
async fn around() -> Res<()> {
    let (one, other) = tokio::join!(nested_one(), nested_all());
    assert_eq!(one?, "inner a");
    assert_eq!(other?, ["a", "b", "c"]);
    Ok(())
}

#[distributed_lock(key = "a")]
async fn nested_one() -> Res<&'static str> {
    tokio::task::yield_now().await;
    Ok("inner a")
}

#[distributed_lock(keys = [name, "b", "c"], guard = [a, b, c])]
async fn nested_all_of(name: &str) -> Res<Vec<String>> {
    let keys = [a.key(), b.key(), c.key()];
    Ok(keys.iter().map(ToString::to_string).collect())
}

async fn nested_all() -> Res<Vec<String>> {
    nested_all_of("a").await
}

#[tokio::test(start_paused = true)]
async fn nested_calls_run_under_the_keys_that_are_held_and_take_the_others() {
    let (outcome, events) = record(around()).await;
    outcome.unwrap();
    let acquired = events.iter().filter(|event| event.starts_with("acquire"));
    assert_eq!(acquired.count(), 3, "{:?}", events);
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_ends_a_body_that_holds_others() {
    let (store, locks) = recorded().await;
    LockRuntime::scope(locks.clone(), async {
        let body = locks
            .lock_all(["a", "b"])
            .run(async |_| std::future::pending::<()>().await);
        let loses = async {
            tokio::task::yield_now().await;
            assert!(store.is_held("a"));
            store.steal("b");
        };
        let (outcome, ()) = tokio::join!(body, loses);
        assert!(outcome.unwrap_err().is_lost());
        assert!(!store.is_held("a"));
        store.expire("b");
    })
    .await;
}

#[distributed_lock(keys = ["a", "b"], ttl = "1s", wait = "9s", on_lost = continue)]
async fn goes_on() -> Res<()> {
    note("the body of goes_on");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_body_that_goes_on_when_lost_does_not_begin_without_all_of_its_keys() {
    let (store, locks) = recorded().await;
    LockRuntime::scope(locks.clone(), async {
        for is_stolen in [false, true] {
            let b = locks.lock("b").acquire().await.unwrap();
            let meanwhile = async {
                sleep(Duration::from_millis(10)).await;
                assert!(store.is_held("a"));
                if is_stolen {
                    store.steal("a");
                }
                sleep(Duration::from_secs(3)).await;
                b.release().await.unwrap();
            };
            let (outcome, ()) = tokio::join!(goes_on(), meanwhile);
            let begun = events().iter().any(|event| event == "the body of goes_on");
            assert_eq!(begun, !is_stolen);
            assert_eq!(outcome.is_err_and(|error| error.is_lost()), is_stolen);
        }
        store.expire("a");
    })
    .await;
}

#[distributed_lock(key = "a")]
async fn around_limited() -> Res<Duration> {
    limited_within().await
}

#[distributed_lock(keys = ["a", "b"], wait = "9s", max_hold = "1s", guard = [a, _b])]
async fn limited_within() -> Res<Duration> {
    sleep(Duration::from_millis(900)).await;
    Ok(a.remaining())
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_nested_call_counts_from_the_last_of_its_keys() {
    let (_, locks) = recorded().await;
    LockRuntime::scope(locks.clone(), async {
        let b = locks.lock("b").acquire().await.unwrap();
        let frees = async {
            sleep(Duration::from_millis(1_500)).await;
            b.release().await.unwrap();
        };
        let (left, ()) = tokio::join!(around_limited(), frees);
        let left = left.unwrap();
        let all = Duration::from_millis(100);
        assert!(!left.is_zero() && left <= all, "{:?} are left", left);
    })
    .await;
    let _ = events();
}

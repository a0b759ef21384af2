//! Other attributes above and below, and where errors of the body are.
// An `on_error` function is given its error; `debug_handler` checks a copy of the function that
// awaits nothing.
#![allow(clippy::needless_pass_by_value, clippy::unused_async)]

use std::cell::RefCell;
use std::future::Future;
use std::panic;

use lock_attribute_tests::{locked, note, record};
use lock_runtime::{LockError, distributed_lock};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

type Res<T> = Result<T, LockError>;

/// Notes when spans begin, but for those that the lock makes by itself.
struct Spans;

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: Context<'_, S>,
    ) {
        let name = attributes.metadata().name();
        if !name.starts_with("lock.") {
            note(format!("span {name}"));
        }
    }
}

// The attribute above is expanded first, so what it does is inside of what the lower one does.
#[tracing::instrument(level = "error")]
#[distributed_lock(key = "i:<id>")]
async fn instrumented_above(id: u8) -> Res<u8> {
    Ok(id)
}

#[distributed_lock(key = "i:<id>")]
#[tracing::instrument(level = "error")]
async fn instrumented_below(id: u8) -> Res<u8> {
    Ok(id)
}

// Used by the span alone, which the lower attribute will make.
#[distributed_lock(key = "i:all")]
#[tracing::instrument(level = "error")]
async fn instrumented_with_an_argument_for_the_span(id: u8) -> Res<()> {
    Ok(())
}

#[tokio::test]
async fn a_span_includes_the_wait_if_the_lower_attribute_makes_it() {
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(Spans));
    let (_, events) = record(instrumented_above(1)).await;
    assert_eq!(events, locked("i:1", ["span instrumented_above"]));
    let (_, events) = record(instrumented_below(2)).await;
    assert_eq!(events[0], "span instrumented_below");
    assert_eq!(events[1..], locked("i:2", []));
    let (_, events) = record(instrumented_with_an_argument_for_the_span(3)).await;
    assert_eq!(events[1..], locked("i:all", []));
}

#[distributed_lock(key = "upper:<id>")]
#[distributed_lock(key = "lower:<id>")]
async fn locked_twice(id: u8) -> Res<u8> {
    Ok(id)
}

#[tokio::test]
async fn of_two_locks_the_lower_is_taken_first() {
    let (_, events) = record(locked_twice(1)).await;
    assert_eq!(
        events,
        locked("lower:1", ["acquire upper:1", "release upper:1"])
    );
}

#[axum::debug_handler]
#[distributed_lock(key = "h:<id>", on_error = busy)]
async fn handler_above(axum::extract::Path(id): axum::extract::Path<u64>) -> String {
    id.to_string()
}

#[distributed_lock(key = "h:<id>", on_error = busy)]
#[axum::debug_handler]
async fn handler_below(axum::extract::Path(id): axum::extract::Path<u64>) -> String {
    id.to_string()
}

fn busy(error: LockError) -> String {
    error.to_string()
}

fn give_up(error: LockError) {
    panic!("{:?}", error)
}

// serial_test#36, #155
#[distributed_lock(key = "test", on_error = give_up)]
#[tokio::test]
#[should_panic(expected = "NotInstalled")]
async fn a_test_can_be_locked_from_above() {
    unreachable!("the lock comes first")
}

#[tokio::test]
async fn handlers_can_be_locked() {
    let ((), events) = record(async {
        assert_eq!(handler_above(axum::extract::Path(1)).await, "1");
        assert_eq!(handler_below(axum::extract::Path(2)).await, "2");
    })
    .await;
    assert_eq!(events, [locked("h:1", []), locked("h:2", [])].concat());
}

// sqlx::test, tracing#2307
/// Documented, conditional, and with attributes within.
#[distributed_lock(key = "kept")]
#[cfg_attr(all(), must_use)]
#[inline]
pub(crate) async fn decorated() -> Res<u8> {
    #![allow(unused_variables, clippy::double_must_use)]
    let unused = 1;
    Ok(2)
}

#[tokio::test]
async fn attributes_are_kept() {
    let (result, events) = record(decorated()).await;
    assert_eq!(result.unwrap(), 2);
    assert_eq!(events, locked("kept", []));
}

thread_local! {
    static PANICKED_AT: RefCell<Option<(u32, u32)>> = const { RefCell::new(None) };
}

fn none() -> Option<u8> {
    None
}

// rust#78840, #110011: it does nothing to an async function, and is neither added nor lost.
#[distributed_lock(key = "tracked")]
#[track_caller]
#[allow(ungated_async_fn_track_caller)]
async fn tracked() -> Res<()> {
    Ok(())
}

#[tokio::test]
async fn a_tracked_caller_can_be_locked() {
    let (outcome, events) = record(tracked()).await;
    outcome.unwrap();
    assert_eq!(events, locked("tracked", []));
}

// async-stream#72
#[distributed_lock(key = "panic")]
async fn panics(line: &mut u32) -> Res<()> {
    *line = line!() + 1;
    none().unwrap();
    Ok(())
}

#[tokio::test]
async fn a_panic_is_at_the_users_line_and_column() {
    panic::set_hook(Box::new(|info| {
        PANICKED_AT.set(info.location().map(|at| (at.line(), at.column())));
    }));
    let mut line = 0;
    let (panicked, _) = record(catch(panics(&mut line))).await;
    let _ = panic::take_hook();
    assert!(panicked);
    assert_eq!(PANICKED_AT.take(), Some((line, 12)));
}

/// Whether the future panics when it is first polled.
async fn catch(future: impl Future) -> bool {
    let mut future = Box::pin(future);
    std::future::poll_fn(|cx| {
        let poll = panic::AssertUnwindSafe(|| future.as_mut().poll(cx));
        std::task::Poll::Ready(panic::catch_unwind(poll).is_err())
    })
    .await
}

//! What is small, and still has to work.
#![deny(clippy::absolute_paths)]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lock_attribute_tests::{locked, record};
use lock_runtime::{LockError, LockRuntime, distributed_lock};

type Res<T> = Result<T, LockError>;

const LONG: Duration = Duration::from_secs(9);

struct Unit;

// A name that looks like a constant, and a constant among the patterns.
#[distributed_lock(key = "capital:<ID>:<Tenant>")]
#[allow(non_snake_case)]
async fn capital(ID: u8, Tenant: &str, Unit: Unit) -> Res<usize> {
    Ok(usize::from(ID) + Tenant.len())
}

#[distributed_lock(key = "durations", ttl = Duration::from_secs(5), wait = LONG, max_hold = LONG)]
async fn durations() -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "returned")]
#[deny(clippy::implicit_return)]
#[allow(clippy::needless_return)]
async fn returned() -> Res<()> {
    return Ok(());
}

#[distributed_lock(key = "returned future:<id>")]
#[deny(clippy::implicit_return)]
#[allow(clippy::needless_return)]
fn returned_future(id: u8) -> Pin<Box<dyn Future<Output = Res<u8>>>> {
    Box::pin(async move { return Ok(id) })
}

#[distributed_lock(key = which, on_error = |error| Err(error.to_string().len()))]
async fn by_a_closure(which: &str) -> Result<u8, usize> {
    Ok(1)
}

#[distributed_lock(key = which, on_error = |_: LockError| None)]
async fn by_a_typed_closure(which: &str) -> Option<u8> {
    Some(1)
}

#[distributed_lock(key = "date:<year>-<month>/<day>.<hour> <minute>,<name>")]
async fn between_integers(
    year: i32,
    month: u8,
    day: &u8,
    hour: u64,
    mut minute: usize,
    name: &str,
) -> Res<usize> {
    minute += name.len();
    Ok(minute + usize::from(month + *day))
}

struct Seat {
    row: i8,
    number: Box<u8>,
}

impl Seat {
    const FLOOR: u8 = 2;

    #[distributed_lock(key = "seat:<Self::FLOOR>/<self.row>-<self.number>")]
    async fn reserve(&self) -> Res<i8> {
        Ok(self.row)
    }
}

#[distributed_lock(key = "parts:<x>-<y>.<z>/<text>")]
async fn between_parts((x, y): (u8, u16), [z]: [i8; 1], text: &str) -> Res<usize> {
    Ok(usize::from(x) + usize::from(y) + text.len() + usize::from(z == -3))
}

struct App {
    locks: LockRuntime,
}

impl AsRef<LockRuntime> for App {
    fn as_ref(&self) -> &LockRuntime {
        &self.locks
    }
}

static LOCKS: LazyLock<LockRuntime> = LazyLock::new(|| LockRuntime::current().unwrap());
static APP: LazyLock<App> = LazyLock::new(|| App {
    locks: LockRuntime::current().unwrap(),
});

#[distributed_lock(key = "lazy", runtime = LOCKS)]
async fn by_a_static() -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "lazy app", runtime = APP)]
async fn by_a_static_app() -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "reference to lazy", runtime = &LOCKS)]
async fn by_a_reference_to_a_static() -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "app", runtime = *app)]
async fn by_a_shared_app(app: Arc<App>) -> Res<usize> {
    Ok(Arc::strong_count(&app))
}

#[distributed_lock(key = "field", runtime = app.locks)]
async fn by_a_field(app: Arc<App>) -> Res<usize> {
    Ok(Arc::strong_count(&app))
}

#[distributed_lock(key = "reference", runtime = locks)]
async fn by_a_reference(locks: &LockRuntime) -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "shared", runtime = locks)]
async fn by_a_pointer(locks: Arc<LockRuntime>) -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "boxed:<id>")]
fn boxed(id: u8) -> Pin<Box<dyn Future<Output = Res<u8>>>> {
    let id = id * 2;
    Box::pin(async move { Ok(id) })
}

#[tokio::test]
async fn names_durations_and_closures_are_what_they_look_like() {
    let ((), events) = record(async {
        assert_eq!(capital(1, "ab", Unit).await.unwrap(), 3);
        durations().await.unwrap();
        returned().await.unwrap();
        assert_eq!(returned_future(1).await.unwrap(), 1);
        assert_eq!(by_a_closure("closure").await, Ok(1));
        assert_ne!(by_a_closure("").await.unwrap_err(), 0);
        assert_eq!(by_a_typed_closure("typed").await, Some(1));
        assert_eq!(by_a_typed_closure("").await, None);
        assert_eq!(boxed(2).await.unwrap(), 4);
    })
    .await;
    let keys = [
        "capital:1:ab",
        "durations",
        "returned",
        "returned future:1",
        "closure",
        "typed",
        "boxed:2",
    ];
    assert_eq!(events, keys.map(|key| locked(key, [])).concat());
}

#[tokio::test]
async fn other_text_separates_integers() {
    let ((), events) = record(async {
        let sum = between_integers(-2026, 11, &1, 12, 5, "a-b").await;
        assert_eq!(sum.unwrap(), 20);
        let seat = Seat {
            row: -1,
            number: Box::new(7),
        };
        assert_eq!(seat.reserve().await.unwrap(), -1);
        assert_eq!(between_parts((1, 2), [-3], "t").await.unwrap(), 5);
    })
    .await;
    let keys = ["date:-2026-11/1.12 5,a-b", "seat:2/-1-7", "parts:1-2.-3/t"];
    assert_eq!(events, keys.map(|key| locked(key, [])).concat());
}

#[tokio::test]
async fn a_runtime_is_found_where_services_keep_it() {
    let ((), events) = record(async {
        by_a_static().await.unwrap();
        by_a_static_app().await.unwrap();
        by_a_reference_to_a_static().await.unwrap();
        let locks = LockRuntime::current().unwrap();
        by_a_reference(&locks).await.unwrap();
        by_a_pointer(Arc::new(locks.clone())).await.unwrap();
        let app = Arc::new(App { locks });
        assert_eq!(by_a_shared_app(app.clone()).await.unwrap(), 2);
        assert_eq!(by_a_field(app).await.unwrap(), 1);
    })
    .await;
    let keys = [
        "lazy",
        "lazy app",
        "reference to lazy",
        "reference",
        "shared",
        "app",
        "field",
    ];
    assert_eq!(events, keys.map(|key| locked(key, [])).concat());
}

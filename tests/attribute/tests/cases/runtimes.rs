//! Which runtime a call uses that does not name one.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use tower::ServiceExt;

type Res<T> = Result<T, LockError>;

/// A runtime of its own, and its store.
async fn runtime() -> (MemoryBackend, LockRuntime) {
    let store = MemoryBackend::new();
    let runtime = LockRuntime::backend(store.clone()).build().await.unwrap();
    (store, runtime)
}

/// Whether the lock that this call takes is one of `store`.
#[distributed_lock(key = "inner")]
async fn is_in(store: &MemoryBackend) -> Res<bool> {
    Ok(store.is_held("inner"))
}

#[distributed_lock(key = "outer", runtime = locks)]
async fn calls_another(locks: &LockRuntime, store: &MemoryBackend) -> Res<bool> {
    is_in(store).await
}

#[distributed_lock(key = "outer", runtime = locks)]
async fn opens_a_scope(
    locks: &LockRuntime,
    other: &LockRuntime,
    store: &MemoryBackend,
) -> Res<bool> {
    LockRuntime::scope(other.clone(), is_in(store)).await
}

#[distributed_lock(key = "outermost", runtime = other)]
async fn holds_and_calls(
    other: &LockRuntime,
    locks: &LockRuntime,
    store: &MemoryBackend,
) -> Res<bool> {
    Ok(calls_another(locks, store).await? && !is_in(store).await?)
}

#[tokio::test]
async fn what_a_body_calls_uses_the_runtime_of_its_lock() {
    let (store, locks) = runtime().await;
    // Nothing is installed, and no scope is open.
    assert!(is_in(&store).await.unwrap_err().is_not_installed());
    assert!(calls_another(&locks, &store).await.unwrap());
    let by_hand = locks.lock("outer").run(async |_| is_in(&store).await);
    assert!(by_hand.await.unwrap().unwrap());
    assert!(is_in(&store).await.unwrap_err().is_not_installed());
}

#[tokio::test]
async fn the_innermost_of_scopes_and_bodies_counts() {
    let ((store, locks), (_, other)) = (runtime().await, runtime().await);
    // A body within a scope.
    let body = LockRuntime::scope(other.clone(), calls_another(&locks, &store));
    assert!(body.await.unwrap());
    // A scope within a body.
    assert!(opens_a_scope(&other, &locks, &store).await.unwrap());
    assert!(!opens_a_scope(&locks, &other, &store).await.unwrap());
    // A body within a body.
    assert!(holds_and_calls(&other, &locks, &store).await.unwrap());
    // A body within a scope within a body, all of one runtime but the last.
    let scoped = async {
        let body = calls_another(&locks, &store);
        let within = LockRuntime::scope(other.clone(), body);
        within.await.unwrap() && !is_in(&store).await.unwrap()
    };
    let outer = other
        .lock("outermost")
        .run(async |_| LockRuntime::scope(other.clone(), scoped).await);
    assert!(outer.await.unwrap());
}

#[derive(Clone)]
struct App {
    store: MemoryBackend,
    locks: LockRuntime,
}

impl App {
    #[distributed_lock(key = "inner")]
    async fn locked(&self) -> Res<bool> {
        Ok(self.store.is_held("inner"))
    }
}

#[distributed_lock(key = "handler", runtime = app.locks)]
async fn with_a_runtime(State(app): State<App>) -> Result<String, Refused> {
    Ok(app.locked().await?.to_string())
}

async fn without_a_runtime(State(app): State<App>) -> Result<String, Refused> {
    Ok(app.locked().await?.to_string())
}

struct Refused(LockError);

impl From<LockError> for Refused {
    fn from(error: LockError) -> Refused {
        Refused(error)
    }
}

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> axum::response::Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.0.to_string()).into_response()
    }
}

async fn get_status(app: &App, path: &str) -> (StatusCode, String) {
    let router = Router::new()
        .route("/with", get(with_a_runtime))
        .route("/without", get(without_a_runtime))
        .with_state(app.clone());
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1024).await;
    (status, String::from_utf8(body.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_handler_with_a_runtime_calls_methods_that_need_none() {
    let (store, locks) = runtime().await;
    let app = App { store, locks };
    let held = (StatusCode::OK, "true".to_owned());
    assert_eq!(get_status(&app, "/with").await, held);
    // The control: without a runtime, nor a scope.
    let (status, _) = get_status(&app, "/without").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    // A scope reaches a handler that a test calls by `oneshot`.
    let scoped = LockRuntime::scope(app.locks.clone(), get_status(&app, "/without"));
    assert_eq!(scoped.await, held);
}

/// Spawns what asks whether its lock is in `store`, once by the lock's own way and once by tokio's.
#[distributed_lock(key = "outer", runtime = locks)]
async fn spawns(locks: &LockRuntime, store: &MemoryBackend) -> Res<[Res<bool>; 2]> {
    let is_in = |store: MemoryBackend| async move { is_in(&store).await };
    let carried = LockRuntime::spawn(is_in(store.clone())).await.unwrap();
    let alone = tokio::spawn(is_in(store.clone())).await.unwrap();
    Ok([carried, alone])
}

#[tokio::test]
async fn a_spawned_task_uses_the_runtime_of_its_spawner_and_holds_none_of_its_locks() {
    let (store, locks) = runtime().await;
    let [carried, alone] = spawns(&locks, &store).await.unwrap();
    assert!(carried.unwrap());
    assert!(alone.unwrap_err().is_not_installed());

    let takes_it_again = async |locks: LockRuntime| {
        let again = async move { locks.lock("outer").try_acquire().await };
        LockRuntime::spawn(again).await.unwrap()
    };
    let body = locks
        .lock("outer")
        .run(async |_| takes_it_again(locks.clone()).await);
    assert!(
        body.await.unwrap().unwrap().is_none(),
        "the lock was carried"
    );
    // Where nothing is installed, and no scope is open.
    let alone = LockRuntime::spawn(async { LockRuntime::current() });
    assert!(alone.await.unwrap().unwrap_err().is_not_installed());
}

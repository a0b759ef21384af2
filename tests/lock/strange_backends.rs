//! Backends as users bring them: shared by several lock runtimes, late, or with a bug.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::{Decorated, Decorator};
use lock_runtime::LockRuntime;
use lock_runtime::backend::Backend;
use lock_runtime::memory::MemoryBackend;
use lock_tests::faults::{DEADLINE, eventually};
use lock_tests::ms;
use tokio::time::sleep;

/// A store in memory, behind something that may go wrong before it is asked.
struct Strange {
    store: Arc<MemoryBackend>,
    /// How long the way to the store is, for those who ask by this.
    way: Duration,
    /// How many verbs panic from now on.
    panics: Arc<AtomicUsize>,
}

impl Strange {
    fn new(store: &Arc<MemoryBackend>, way: Duration) -> Strange {
        Strange {
            store: store.clone(),
            way,
            panics: Arc::default(),
        }
    }
}

impl Decorator for Strange {
    type Inner = Arc<MemoryBackend>;

    fn inner(&self) -> &Arc<MemoryBackend> {
        &self.store
    }

    async fn before(&self) {
        let one_less = |left: usize| left.checked_sub(1);
        let panics = self
            .panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        assert!(panics.is_err(), "a bug of the backend");
        if !self.way.is_zero() {
            sleep(self.way).await;
        }
    }
}

async fn on(backend: impl Backend) -> LockRuntime {
    LockRuntime::backend(backend).build().await.unwrap()
}

/// One runtime made its question first, and asks it behind that of another.
#[tokio::test(start_paused = true)]
async fn runtimes_that_share_a_backend_are_no_failure_to_each_other() {
    let store = Arc::new(MemoryBackend::new());
    let late = on(Decorated(Strange::new(&store, ms(10)))).await;
    let other = on(store.clone()).await;
    let guard = {
        let acquiring = tokio::spawn(late.lock("k").try_acquire());
        sleep(ms(5)).await;
        let first = other.lock("k").try_acquire().await.unwrap();
        first.expect("it is free").release().await.unwrap();
        acquiring.await.unwrap().unwrap().expect("it is free")
    };
    let releasing = tokio::spawn(guard.release());
    sleep(ms(5)).await;
    assert!(other.lock("k").try_acquire().await.unwrap().is_none());
    releasing.await.unwrap().unwrap();
    assert!(store.is_idle());
}

#[tokio::test]
async fn a_verb_that_panics_is_asked_again() {
    let store = Arc::new(MemoryBackend::new());
    let backend = Strange::new(&store, Duration::ZERO);
    let panics = backend.panics.clone();
    let locks = on(Decorated(backend)).await;
    let acquire = async || {
        let lock = locks.lock("k").ttl(ms(4000)).wait(DEADLINE);
        lock.acquire().await.unwrap()
    };

    panics.store(2, Ordering::SeqCst);
    acquire().await.release().await.unwrap();

    let guard = acquire().await;
    panics.store(2, Ordering::SeqCst);
    guard.release().await.unwrap();

    let guard = acquire().await;
    panics.store(2, Ordering::SeqCst);
    eventually("it renews", || panics.load(Ordering::SeqCst) == 0).await;
    sleep(ms(4000)).await;
    assert!(guard.is_held());

    panics.store(2, Ordering::SeqCst);
    drop(guard);
    eventually("it is released", || store.is_idle()).await;
}

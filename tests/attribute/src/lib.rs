//! Runs annotated functions on an in-memory store and records what happened: each lock acquired and
//! released, with its key, and what the cases note in between.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::time::Duration;

use lock_conformance::{Decorated, Decorator};
use lock_runtime::LockRuntime;
use lock_runtime::backend::{Acquired, Backend, BackendError, Claim, Release, Released};
use lock_runtime::memory::MemoryBackend;

thread_local! {
    /// Each test, and all that it runs, has one thread.
    static EVENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Adds an event.
pub fn note(event: impl Into<String>) {
    EVENTS.with_borrow_mut(|events| events.push(event.into()));
}

/// Takes the events so far.
#[must_use]
pub fn events() -> Vec<String> {
    EVENTS.take()
}

/// A value that notes its end.
#[derive(Debug)]
pub struct Noted(pub &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        note(format!("drop {}", self.0));
    }
}

/// What `calls` returned, and the events meanwhile, in order.
///
/// Ends when every lock that was acquired has been released: the release after a dropped future
/// runs in the background.
pub async fn record<T>(calls: impl Future<Output = T>) -> (T, Vec<String>) {
    let (store, runtime) = recorded().await;
    let output = LockRuntime::scope(runtime, calls).await;
    let released = async {
        while !store.is_idle() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), released)
        .await
        .expect("every lock is released");
    (output, events())
}

/// A runtime whose locks are recorded, and the store behind it.
pub async fn recorded() -> (MemoryBackend, LockRuntime) {
    EVENTS.take();
    let store = MemoryBackend::new();
    let runtime = LockRuntime::backend(Decorated(Recording(store.clone())))
        .build()
        .await
        .unwrap();
    (store, runtime)
}

/// The events of a call that did `inner` under the lock `key`.
pub fn locked<'a>(key: &str, inner: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut events = vec![format!("acquire {key}")];
    events.extend(inner.into_iter().map(str::to_owned));
    events.push(format!("release {key}"));
    events
}

/// A store that notes each grant and each release.
struct Recording(MemoryBackend);

impl Decorator for Recording {
    type Inner = MemoryBackend;

    fn inner(&self) -> &MemoryBackend {
        &self.0
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let acquired = self.0.acquire(claim).await?;
        if let Acquired::Granted(_) = acquired {
            note(format!("acquire {}", claim.key));
        }
        Ok(acquired)
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        note(format!("release {}", release.key));
        self.0.release(release).await
    }
}

// A lint about the signature of a documented function reaches an annotated one: without an
// `# Errors` the expectation is fulfilled.
/// A function that could fail.
#[expect(clippy::missing_errors_doc, reason = "clippy sees the body's braces")]
#[lock_runtime::distributed_lock(key = "documented")]
pub async fn documented() -> Result<(), lock_runtime::LockError> {
    Ok(())
}

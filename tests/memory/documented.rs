//! The backend that the documentation of `Backend` shows keeps the contract.

include!("../../lock-protocol/doc/backend.rs");

/// The store of the example, and what is connected to it.
#[derive(Default)]
struct Example {
    store: Arc<Mutex<Store<Sinks>>>,
    connected: Mutex<Vec<Arc<Memory>>>,
}

impl lock_conformance::Store for Example {
    type Backend = Arc<Memory>;

    async fn connect(&self) -> Arc<Memory> {
        let memory = Arc::new(Memory {
            store: Arc::clone(&self.store),
            ..Memory::default()
        });
        self.connected.lock().unwrap().push(Arc::clone(&memory));
        memory
    }

    async fn expire(&self, key: &LockKey) {
        self.store.lock().unwrap().expire(key.as_str());
    }

    async fn seize(&self, key: &LockKey) {
        let somebody = OwnerToken::unique("somebody else");
        let mut store = self.store.lock().unwrap();
        store.steal(key.as_str(), somebody);
    }

    async fn go_dark(&self) {
        let connected = self.connected.lock().unwrap().clone();
        for memory in connected {
            memory.close().await;
        }
    }

    async fn leftovers(&self) -> Vec<String> {
        let is_idle = self.store.lock().unwrap().is_idle(now().now);
        let lock = (!is_idle).then(|| "a lease or a waiter".to_owned());
        lock.into_iter().collect()
    }
}

fn now() -> Moment {
    Moment {
        now: Instant::now().into(),
        micros: 0,
    }
}

lock_conformance::conformance! { #[tokio::test] Example::default() }

#[test]
fn the_example_has_at_most_80_lines() {
    let lines = include_str!("../../lock-protocol/doc/backend.rs").lines();
    assert!(lines.count() <= 80);
}

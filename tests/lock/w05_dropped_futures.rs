//! Futures dropped at every poll: row W5 of the fault catalogue.
//!
//! A future is polled k times and then dropped, for k from 0 until it completes. In between,
//! everything else goes one step further, so the drop falls between any two steps of the tasks in
//! the background as well. On the in-memory backend each verb takes several steps; on Redis a step
//! is a few microseconds. Whatever the point: nobody else may have to wait for a ttl, and nothing
//! stays behind.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lock_runtime::backend::{Backend, BackendError, Claim, Executor, Grant};
use lock_runtime::memory::MemoryBackend;
use lock_runtime::redis::deadpool_redis::Config;
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_runtime::{Lock, LockError, LockRuntime, distributed_lock};
use lock_tests::decorated::{Decorated, Decorator};
use lock_tests::faults::{eventually, nothing_left};
use lock_tests::server::Server;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// After so many steps a busy server gets more time.
const PATIENT: usize = 34;
/// Longer than any test: whoever waits for it has been forgotten.
const TTL: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(30);

#[distributed_lock(key = "k", ttl = "10m", wait = "10m", runtime = locks)]
async fn call(locks: &LockRuntime) -> Result<u32, LockError> {
    yield_now().await;
    yield_now().await;
    Ok(7)
}

/// The store in memory, several steps away.
struct Distant(MemoryBackend);

impl Distant {
    const STEPS: usize = 3;
}

impl Decorator for Distant {
    type Inner = MemoryBackend;

    fn inner(&self) -> &MemoryBackend {
        &self.0
    }

    async fn before(&self) {
        for _ in 0..Distant::STEPS {
            yield_now().await;
        }
    }

    async fn after(&self) {
        self.before().await;
    }

    /// All is done by the callers.
    fn executor(&self) -> Option<Arc<dyn Executor>> {
        None
    }

    async fn acquire_all(&self, claims: &[Claim]) -> Result<Option<Vec<Grant>>, BackendError> {
        self.0.acquire_all(claims).await
    }
}

/// A store, and two processes that use it.
struct World {
    one: LockRuntime,
    other: LockRuntime,
    store: Store,
}

enum Store {
    Memory(MemoryBackend),
    Redis(Box<Server>, [Arc<RedisBackend>; 2]),
}

impl World {
    async fn memory() -> World {
        let store = MemoryBackend::new();
        let process = || {
            LockRuntime::backend(Decorated(Distant(store.clone())))
                .default_ttl(TTL)
                .build()
        };
        World {
            one: process().await.unwrap(),
            other: process().await.unwrap(),
            store: Store::Memory(store),
        }
    }

    async fn redis() -> World {
        let server = Server::start();
        let connect = || async {
            let config = Config::from_url(server.url());
            let backend = RedisBackend::connect(config, RedisSettings::default()).await;
            Arc::new(backend.unwrap())
        };
        let backends = [connect().await, connect().await];
        let [one, other] = [0, 1].map(|index| {
            LockRuntime::backend(Arc::clone(&backends[index]))
                .default_ttl(TTL)
                .build()
        });
        World {
            one: one.await.unwrap(),
            other: other.await.unwrap(),
            store: Store::Redis(Box::new(server), backends),
        }
    }

    /// Who holds the lock, or waits for it.
    fn rival(&self, situation: Situation) -> Option<&LockRuntime> {
        match situation {
            Situation::Free => None,
            Situation::Contended | Situation::HandedOver(_) => Some(&self.other),
            Situation::Local | Situation::Beside => Some(&self.one),
        }
    }

    /// One step of everything else.
    async fn step(&self) {
        yield_now().await;
        if let Store::Redis(..) = self.store {
            // The backend goes on meanwhile, on a thread of its own.
            std::thread::sleep(Duration::from_micros(30));
        }
    }

    /// Polls `future` so many times, a step apart, and drops it; tells what it completed with.
    /// `waits` says that it does not, however often it is polled.
    async fn poll<F: Future>(&self, future: F, polls: usize, waits: bool) -> Option<F::Output> {
        let mut future = pin!(future);
        for done in 0..polls {
            let poll = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
            if let Poll::Ready(output) = poll {
                return Some(output);
            }
            self.step().await;
            if let Store::Redis(..) = self.store
                && done > PATIENT
                && !waits
            {
                // What is not done by now is done soon.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        None
    }

    /// The tasks and subscriptions of two runtimes that hold locks and do nothing: more than these
    /// stay never.
    async fn residents(&self) -> Vec<usize> {
        // Renewed so often that the watchdogs are awake: a task counts from when it is first woken.
        let every = Duration::from_millis(10);
        let one = self.one.lock("one").renew(every).acquire();
        let other = self.other.lock("other").renew(every).acquire();
        let (one, other) = (one.await.unwrap(), other.await.unwrap());
        let mut residents = self.present();
        for _ in 0..100 {
            sleep(Duration::from_millis(10)).await;
            for (most, now) in residents.iter_mut().zip(self.present()) {
                *most = now.max(*most);
            }
        }
        one.release().await.unwrap();
        other.release().await.unwrap();
        residents
    }

    /// The tasks and subscriptions there are now.
    fn present(&self) -> Vec<usize> {
        let tasks = |handle: &Handle| handle.metrics().num_alive_tasks();
        let mut present = vec![tasks(&Handle::current())];
        if let Store::Redis(server, backends) = &self.store {
            present.extend(backends.iter().map(|backend| tasks(backend.handle())));
            let channels: Vec<String> = server.run(&["PUBSUB", "CHANNELS"]);
            present.push(channels.len());
        }
        present
    }

    /// Asserts that no lock, queue entry, subscription or task was left behind.
    async fn assert_clean(&self, residents: &[usize]) {
        match &self.store {
            Store::Memory(store) => eventually("the store is idle", || store.is_idle()).await,
            Store::Redis(server, _) => nothing_left(server).await,
        }
        // Both can have the lock at once, which somebody forgotten would prevent.
        for locks in [&self.one, &self.other] {
            let guard = timeout(SOON, locks.lock("k").acquire())
                .await
                .expect("it is stuck");
            guard.unwrap().release().await.unwrap();
        }
        eventually("tasks and subscriptions are gone", || {
            self.present()
                .iter()
                .zip(residents)
                .all(|(now, before)| now <= before)
        })
        .await;
    }
}

/// What is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Acquire,
    Release,
    Call,
    Skip,
    MinHold,
    OncePer,
    Lead,
    Keys,
    Shared,
    Permit,
    Shard,
    Visit,
}

impl What {
    /// What goes together with its like.
    const PARTS: [What; 4] = [What::Shared, What::Permit, What::Shard, What::Visit];

    const SHAPES: [What; 5] = [
        What::Skip,
        What::MinHold,
        What::OncePer,
        What::Lead,
        What::Keys,
    ];

    /// Whether it waits for a lock that another holds.
    fn waits(self) -> bool {
        !matches!(self, What::Release | What::Skip | What::OncePer)
    }

    /// Whether it is dropped at fewer of the points at which a lock is handed to it.
    fn is_sampled(self) -> bool {
        What::SHAPES.contains(&self) || What::PARTS.contains(&self)
    }

    /// The lock of `k` as it is wanted.
    fn lock(self, locks: &LockRuntime) -> Lock {
        let lock = locks.lock("k").wait(TTL);
        match self {
            What::Shared => lock.shared(),
            What::Permit => lock.permits(2),
            What::Shard | What::Visit => lock.shards(2),
            _ => lock,
        }
    }
}

const PLAIN: [What; 3] = [What::Acquire, What::Release, What::Call];

/// For how long a key is kept after a hold.
const KEPT: Duration = Duration::from_millis(2);

/// What is done under a lock.
async fn work<T>(_: T) {
    yield_now().await;
    yield_now().await;
}

/// What else goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    /// Nothing.
    Free,
    /// The other process holds the lock, or waits for it.
    Contended,
    /// The other process hands the lock over after so many steps.
    HandedOver(usize),
    /// Another task of the same process holds the lock, or waits for it.
    Local,
    /// Another task of the same process holds a part of the key, as it is wanted.
    Beside,
}

impl Situation {
    /// Whether what is wanted does not come.
    fn withholds(self, what: What) -> bool {
        match self {
            Situation::Free | Situation::HandedOver(_) => false,
            Situation::Contended | Situation::Local => what.waits(),
            // The visit wants that part as well.
            Situation::Beside => what == What::Visit,
        }
    }
}

/// Drops `what` after `polls` polls; tells whether it was complete by then.
async fn drop_after(world: &World, what: What, situation: Situation, polls: usize) -> bool {
    let lock = what.lock(&world.one);
    let at = (what, situation, polls);
    match what {
        What::Release => drop_release(world, situation, polls).await,
        What::Acquire => {
            let acquiring = async { lock.acquire().await.map(drop) };
            drop_wait(world, acquiring, at).await
        }
        What::Call => drop_wait(world, call(&world.one), at).await,
        What::Skip => drop_wait(world, lock.try_run(work), at).await,
        What::MinHold => drop_wait(world, lock.min_hold(KEPT).run(work), at).await,
        What::OncePer => drop_wait(world, lock.run_once_per(KEPT, work), at).await,
        What::Lead => drop_wait(world, lock.lead(work), at).await,
        What::Keys => {
            let both = world.one.lock_all(["l", "k"]).wait(TTL);
            drop_wait(world, both.run(work), at).await
        }
        What::Shared | What::Permit | What::Shard => drop_wait(world, lock.run(work), at).await,
        What::Visit => {
            let visiting = lock.visit(async |_| ControlFlow::<()>::Continue(()));
            drop_wait(world, visiting, at).await
        }
    }
}

async fn drop_release(world: &World, situation: Situation, polls: usize) -> bool {
    let guard = world.one.lock("k").acquire().await.unwrap();
    let waiter = world
        .rival(situation)
        .map(|rival| tokio::spawn(rival.lock("k").wait(TTL).acquire()));
    for _ in 0..40 {
        world.step().await;
    }
    let done = world.poll(guard.release(), polls, false).await;
    if let Some(waiter) = waiter {
        let next = timeout(SOON, waiter)
            .await
            .expect("the next one is forgotten");
        next.unwrap().unwrap().release().await.unwrap();
    }
    done.inspect(|done| assert!(done.is_ok(), "{done:?}"))
        .is_some()
}

async fn drop_wait<T>(
    world: &World,
    waiting: impl Future<Output = Result<T, LockError>>,
    (what, situation, polls): (What, Situation, usize),
) -> bool {
    let rival = world.rival(situation).map(|rival| match situation {
        Situation::Beside => what.lock(rival),
        _ => rival.lock("k"),
    });
    let mut rival = match rival {
        Some(lock) => Some(lock.acquire().await.unwrap()),
        None => None,
    };
    let handing_over = match (situation, &mut rival) {
        (Situation::HandedOver(after), rival) => rival.take().map(|guard| {
            tokio::spawn(async move {
                for _ in 0..after {
                    yield_now().await;
                }
                guard.release().await
            })
        }),
        _ => None,
    };
    let waits = situation.withholds(what);
    let done = world.poll(waiting, polls, waits).await;
    if let Some(handing_over) = handing_over {
        handing_over.await.unwrap().unwrap();
    }
    drop(rival);
    done.inspect(|done| assert!(done.is_ok())).is_some()
}

/// Drops `what` after every number of polls at which it is not complete; tells how many these are.
async fn drop_everywhere(
    world: &World,
    residents: &[usize],
    what: What,
    situation: Situation,
    at_most: usize,
) -> usize {
    for polls in 0..at_most {
        let done = drop_after(world, what, situation, polls).await;
        world.assert_clean(residents).await;
        if done {
            return polls;
        }
    }
    at_most
}

async fn enumerate(world: World, whats: &[What], repeats: usize, at_most: usize) -> usize {
    let residents = world.residents().await;
    let mut points = 0;
    for &what in whats {
        let mut situations = vec![Situation::Free, Situation::Contended, Situation::Local];
        if What::PARTS.contains(&what) {
            situations.push(Situation::Beside);
        }
        if what.waits() {
            let every = if what.is_sampled() { 5 } else { 1 };
            let after = (0..at_most / 2).step_by(every);
            situations.extend(after.map(Situation::HandedOver));
        }
        for situation in situations {
            // One that only waits is not complete, however often it is polled.
            let waits = situation.withholds(what);
            for _ in 0..repeats {
                let found = drop_everywhere(&world, &residents, what, situation, at_most).await;
                assert_eq!(found == at_most, waits, "{what:?}, {situation:?}");
                points += found;
            }
        }
    }
    points
}

#[tokio::test]
async fn dropped_at_any_poll_nothing_is_left_behind_in_memory() {
    let points = enumerate(World::memory().await, &PLAIN, 1, 60).await;
    println!("{points} points");
    assert!(points > 1000, "{points}");
}

#[tokio::test]
async fn dropped_at_any_poll_nothing_is_left_behind_in_redis() {
    let points = enumerate(World::redis().await, &PLAIN, 2, 40).await;
    println!("{points} points");
    assert!(points > 200, "{points}");
}

#[tokio::test]
async fn a_shape_dropped_at_any_poll_leaves_nothing_behind_in_memory() {
    let points = enumerate(World::memory().await, &What::SHAPES, 1, 80).await;
    println!("{points} points");
    assert!(points > 500, "{points}");
}

#[tokio::test]
async fn a_shape_dropped_at_any_poll_leaves_nothing_behind_in_redis() {
    let points = enumerate(World::redis().await, &What::SHAPES, 1, 40).await;
    println!("{points} points");
    assert!(points > 100, "{points}");
}

#[tokio::test]
async fn a_part_of_a_key_dropped_at_any_poll_leaves_nothing_behind_in_memory() {
    let points = enumerate(World::memory().await, &What::PARTS, 1, 80).await;
    println!("{points} points");
    assert!(points > 500, "{points}");
}

#[tokio::test]
async fn a_part_of_a_key_dropped_at_any_poll_leaves_nothing_behind_in_redis() {
    // A visit has four questions to wait for.
    let points = enumerate(World::redis().await, &What::PARTS, 1, 46).await;
    println!("{points} points");
    assert!(points > 100, "{points}");
}

#[tokio::test]
async fn a_future_that_was_never_polled_asks_nothing() {
    let server = Server::start();
    let locks = lock_tests::faults::locks(server.url()).await;
    let monitor = server.monitor();
    drop(locks.lock("k").acquire());
    drop(call(&locks));
    sleep(Duration::from_millis(50)).await;
    assert_eq!(monitor.commands(&server).len(), 0);
}

#[tokio::test]
#[should_panic(expected = "left behind")]
#[allow(clippy::mem_forget)]
async fn a_lock_that_is_left_behind_is_found() {
    let world = World::redis().await;
    std::mem::forget(world.one.lock("k").acquire().await.unwrap());
    world.assert_clean(&[]).await;
}

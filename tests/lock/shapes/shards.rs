//! One of several parts of a key each.

use std::collections::BTreeSet;
use std::future::ready;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_runtime::backend::Mode;
use lock_runtime::{Lock, LockError, LockHandle, LockRuntime, distributed_lock};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::shapes::way::{TRIP, processes, settled, waiting};

#[tokio::test(start_paused = true)]
async fn each_shard_has_one_holder_and_any_free_one_will_do() {
    for (is_plain, at_once) in [(false, 4), (true, 1)] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let mut held = Vec::new();
        for locks in [&one, &other, &one, &other].into_iter().take(at_once) {
            held.push(locks.lock("k").shards(4).acquire().await.unwrap());
        }
        let shards: BTreeSet<u32> = held.iter().map(|guard| guard.shard()).collect();
        assert_eq!(shards.len(), at_once);
        assert!(shards.iter().all(|shard| *shard < 4), "{shards:?}");
        let beyond = one.lock("k").shards(4).try_acquire().await;
        assert!(beyond.unwrap().is_none());
        let free = held.remove(at_once / 2);
        let shard = free.shard();
        let waiter = waiting(other.lock("k").shards(4)).await;
        free.release().await.unwrap();
        let next = waiter.await.unwrap();
        assert!(next.shard() < 4);
        assert!(matches!(next.handle().mode(), Mode::Shard { of: 4, .. }));
        // Where the store grants each alone, no other has one.
        assert!(is_plain || next.shard() == shard, "{}", next.shard());
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_gets_the_shard_again_that_it_had_last() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let first = one.lock("k").shards(8).acquire().await.unwrap();
        let second = match is_plain {
            false => {
                let second = other.lock("k").shards(8).acquire().await.unwrap();
                first.release().await.unwrap();
                second
            }
            true => {
                first.release().await.unwrap();
                other.lock("k").shards(8).acquire().await.unwrap()
            }
        };
        let mine = second.shard();
        second.release().await.unwrap();
        settled().await;
        for _ in 0..3 {
            let again = other.lock("k").shards(8).acquire().await.unwrap();
            assert_eq!(again.shard(), mine);
            again.release().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_plain_lock_takes_all_shards() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let part = one.lock("k").shards(4).acquire().await.unwrap();
        assert!(other.lock("k").try_acquire().await.unwrap().is_none());
        let all = waiting(other.lock("k")).await;
        part.release().await.unwrap();
        let all = all.await.unwrap();
        assert!(
            one.lock("k")
                .shards(4)
                .try_acquire()
                .await
                .unwrap()
                .is_none()
        );
        all.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_fencing_tokens_of_a_shard_grow() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let tokens: [Mutex<Vec<u64>>; 3] = Default::default();
        let visit = async |locks: &LockRuntime| {
            let all = locks.lock("k").shards(3).visit(async |lock| {
                let token = lock.fencing_token().as_u64();
                tokens[lock.shard() as usize].lock().unwrap().push(token);
                sleep(TRIP).await;
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(all.await.unwrap(), None);
        };
        for _ in 0..5 {
            tokio::join!(visit(&one), visit(&other));
        }
        for tokens in tokens {
            let tokens = tokens.into_inner().unwrap();
            assert_eq!(tokens.len(), 10);
            assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
        }
    }
}

/// A stock in parts, of which each call takes one piece.
struct Stock(Mutex<Vec<u32>>);

impl Stock {
    async fn take(&self, lock: LockHandle) -> ControlFlow<u32> {
        let shard = lock.shard() as usize;
        let left = self.0.lock().unwrap()[shard];
        sleep(Duration::from_millis(3)).await;
        if left == 0 {
            return ControlFlow::Continue(());
        }
        self.0.lock().unwrap()[shard] = left - 1;
        ControlFlow::Break(lock.shard())
    }
}

#[tokio::test(start_paused = true)]
async fn a_visit_goes_from_shard_to_shard_until_it_finds_something() {
    for is_plain in [false, true] {
        let processes = processes::<3>(is_plain).await;
        // More of it in one part than in the others.
        let stock = Arc::new(Stock(Mutex::new(vec![3, 0, 20, 7])));
        let mut tasks = JoinSet::new();
        for (_, locks) in &processes {
            for _ in 0..15 {
                let (lock, stock) = (locks.lock("k").shards(4), Arc::clone(&stock));
                tasks.spawn(async move { lock.visit(|at| stock.take(at)).await });
            }
        }
        let got = tasks.join_all().await;
        let got: Vec<Option<u32>> = got.into_iter().map(Result::unwrap).collect();
        assert_eq!(got.iter().flatten().count(), 30);
        assert_eq!(got.iter().filter(|it| it.is_none()).count(), 15);
        assert_eq!(*stock.0.lock().unwrap(), [0, 0, 0, 0]);
    }
}

/// The shards that a visit is on, which finds nothing.
pub(crate) async fn visited(lock: Lock) -> Vec<u32> {
    let mut seen = Vec::new();
    let none = lock.visit(|lock| {
        seen.push(lock.shard());
        ready(ControlFlow::<()>::Continue(()))
    });
    assert_eq!(none.await.unwrap(), None);
    seen
}

#[tokio::test(start_paused = true)]
async fn a_visit_is_on_each_shard_once() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let mut seen = visited(locks.lock("k").shards(5)).await;
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_visit_waits_for_a_shard_that_another_has() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let held = one.lock("k").shards(2).acquire().await.unwrap();
        let visit = tokio::spawn(visited(other.lock("k").shards(2)));
        sleep(Duration::from_secs(5)).await;
        assert!(!visit.is_finished());
        let shard = held.shard();
        held.release().await.unwrap();
        let mut visited = visit.await.unwrap();
        if is_plain {
            // It waits for the first already, whichever that is.
            visited.sort_unstable();
            assert_eq!(visited, [0, 1]);
        } else {
            assert_eq!(visited, [1 - shard, shard]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_visit_without_shards_is_refused() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let visit = locks.lock("k").visit(async |_| ControlFlow::Break(()));
        let error = visit.await.unwrap_err();
        assert!(matches!(error, LockError::Config(_)), "{error}");
    }
}

#[distributed_lock(key = "k", shards = 4, guard = lock, runtime = locks)]
async fn annotated(locks: &LockRuntime) -> Result<u32, LockError> {
    sleep(Duration::from_secs(1)).await;
    Ok(lock.shard())
}

#[tokio::test(start_paused = true)]
async fn an_annotated_function_knows_its_shard() {
    for (is_plain, seconds) in [(false, 1), (true, 4)] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let at = Instant::now();
        let calls = [&one, &other, &one, &other].map(annotated);
        let [a, b, c, d] = calls;
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        let shards = [a, b, c, d].map(Result::unwrap);
        assert!(shards.iter().all(|shard| *shard < 4), "{shards:?}");
        let different = BTreeSet::from(shards).len();
        // At once, they are different ones.
        assert!(is_plain || different == 4, "{shards:?}");
        assert_eq!(at.elapsed().as_secs(), seconds);
    }
}

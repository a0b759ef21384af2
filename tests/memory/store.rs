//! What the in-memory backend promises beyond the contract: to those who test with it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lock_conformance::inbox::Inbox;
use lock_runtime::backend::{
    Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{LockRuntime, LostReason};
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(5);

fn claim(key: &str) -> Claim {
    let key = LockKey::new("lock:", key).unwrap();
    Claim::new(key, OwnerToken::unique("test"), TTL)
}

fn renewal(claim: &Claim) -> Renewal {
    Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl)
}

fn ending(claim: &Claim) -> Release {
    Release::new(claim.key.clone(), claim.owner.clone())
}

fn at_first_poll<T>(verb: impl Future<Output = T>) -> T {
    match pin!(verb).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the verb was not ready at its first poll"),
    }
}

fn is_granted(answer: &Acquired) -> bool {
    matches!(answer, Acquired::Granted(_))
}

#[test]
fn every_verb_is_ready_at_its_first_poll_and_needs_no_runtime() {
    let store = MemoryBackend::new();
    let inbox = Inbox::of(&store);
    let (holder, waiter) = (claim("k"), claim("k").queued());
    assert!(is_granted(&at_first_poll(store.acquire(&holder)).unwrap()));
    at_first_poll(store.acquire(&waiter)).unwrap();
    let answer = at_first_poll(store.renew(&[renewal(&holder)])).remove(0);
    assert_eq!(answer.unwrap(), Renewed::held());
    let answer = at_first_poll(store.release(&ending(&holder)));
    assert_eq!(answer.unwrap(), Released::Released(None));
    assert!(inbox.holds(&waiter));
    at_first_poll(store.abandon(&waiter)).unwrap();
    assert!(store.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_test_sees_who_holds_and_how_many_wait() {
    let store = MemoryBackend::new();
    let (holder, waiter) = (claim("k"), claim("k").queued());
    assert!(!store.is_held("k") && store.is_idle());
    store.acquire(&holder).await.unwrap();
    store.acquire(&waiter).await.unwrap();
    assert_eq!(store.owner("k"), Some(holder.owner.clone()));
    assert_eq!(store.queue_len("k"), 1);
    assert!(!store.is_held("other"));
    assert!(!store.is_idle());

    store.release(&ending(&holder)).await.unwrap();
    assert_eq!(store.owner("k"), Some(waiter.owner.clone()));
    assert_eq!(store.queue_len("k"), 0);
    // The paused clock decides when the lease ends.
    sleep(waiter.grace).await;
    assert!(!store.is_held("k") && store.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_nobody_expects_goes_on_to_the_next_within_the_release() {
    let store = MemoryBackend::new();
    let inbox = Inbox::of(&store);
    let (holder, gone, next) = (claim("k"), claim("k").queued(), claim("k").queued());
    inbox.refuse(&gone);
    store.acquire(&holder).await.unwrap();
    store.acquire(&gone).await.unwrap();
    store.acquire(&next).await.unwrap();
    at_first_poll(store.release(&ending(&holder))).unwrap();
    assert_eq!(store.owner("k"), Some(next.owner.clone()));
    assert!(inbox.holds(&next) && !inbox.holds(&gone));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_gone_is_asked_for_nothing() {
    let store = MemoryBackend::new();
    drop(Inbox::of(&store));
    let (holder, waiter) = (claim("k"), claim("k").queued());
    store.acquire(&holder).await.unwrap();
    store.acquire(&waiter).await.unwrap();
    store.release(&ending(&holder)).await.unwrap();
    // As that of a process that crashed: for its grace.
    assert_eq!(store.owner("k"), Some(waiter.owner.clone()));
    sleep(waiter.grace).await;
    assert!(store.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_asks_no_more_is_forgotten() {
    let store = MemoryBackend::new();
    let (mut holder, waiter) = (claim("k"), claim("k").queued());
    holder.ttl = Duration::from_secs(3600);
    store.acquire(&holder).await.unwrap();
    store.acquire(&waiter).await.unwrap();
    sleep(waiter.heartbeat * 2).await;
    assert_eq!(store.queue_len("k"), 1);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(store.queue_len("k"), 0);
    store.abandon(&holder).await.unwrap();
    assert!(store.is_idle());
}

#[tokio::test(start_paused = true)]
async fn the_prefix_of_the_runtime_is_no_part_of_a_key_in_a_test() {
    let store = MemoryBackend::new();
    for prefix in ["", "lock:", "shop:"] {
        let key = LockKey::new(prefix, "k").unwrap();
        let claim = Claim::new(key, OwnerToken::unique("test"), TTL);
        assert!(is_granted(&store.acquire(&claim).await.unwrap()));
        assert!(store.is_held("k"));
        store.steal("k");
        assert!(!is_granted(&store.acquire(&claim).await.unwrap()));
        store.expire("k");
        assert!(!store.is_held("k"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stolen_lock_ends_when_the_test_says_so() {
    let store = MemoryBackend::new();
    let holder = claim("k");
    store.acquire(&holder).await.unwrap();
    store.steal("k");
    assert_ne!(store.owner("k"), Some(holder.owner.clone()));
    let answer = store.renew(&[renewal(&holder)]).await.remove(0);
    assert_eq!(answer.unwrap(), Renewed::Lost(LostReason::TakenOver));
    sleep(Duration::from_secs(86_400)).await;
    assert!(store.is_held("k") && !store.is_idle());
    store.expire("k");
    assert!(store.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_fault_does_what_its_name_says() {
    let second = Duration::from_secs(1);
    for (fault, done, answered, denied, after) in [
        (Fault::Unavailable, false, false, false, Duration::ZERO),
        (Fault::Denied, false, false, true, Duration::ZERO),
        (Fault::AnswerLost, true, false, false, Duration::ZERO),
        (Fault::Slow(second), true, true, false, second),
        (Fault::Hang(second), false, false, false, second),
    ] {
        let store = MemoryBackend::new();
        store.fail_next(1, fault);
        let (claim, asked) = (claim("k"), Instant::now());
        let answer = store.acquire(&claim).await;
        assert_eq!(asked.elapsed(), after, "{fault:?}");
        assert_eq!(store.is_held("k"), done, "{fault:?}");
        assert_eq!(answer.is_ok(), answered, "{fault:?}");
        assert_eq!(
            answer.is_err_and(|error| error.is_denied()),
            denied,
            "{fault:?}"
        );
        assert!(
            store.acquire(&claim).await.is_ok(),
            "{fault:?} hit two verbs"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn faults_come_in_order_and_a_batch_is_one_verb() {
    let (store, claim) = (MemoryBackend::new(), claim("k"));
    store.fail_next(0, Fault::Hang(TTL));
    store.fail_next(1, Fault::Denied);
    store.fail_next(2, Fault::Unavailable);
    let answers = store.renew(&[renewal(&claim), renewal(&claim)]).await;
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert!(answer.unwrap_err().is_denied());
    }
    assert!(!store.acquire(&claim).await.unwrap_err().is_denied());
    assert!(!store.abandon(&claim).await.unwrap_err().is_denied());
    assert!(store.abandon(&claim).await.is_ok());

    store.fail_next(usize::MAX, Fault::Unavailable);
    for _ in 0..100 {
        assert!(store.acquire(&claim).await.is_err());
    }
    store.heal();
    assert!(store.acquire(&claim).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slow_verb_that_is_dropped_was_done() {
    let (store, claim) = (MemoryBackend::new(), claim("k"));
    store.fail_next(1, Fault::Slow(TTL));
    let answer = tokio::time::timeout(TTL / 2, store.acquire(&claim)).await;
    assert!(answer.is_err(), "the verb was not slow");
    assert!(store.is_held("k"));
}

#[tokio::test(start_paused = true)]
async fn closing_one_runtime_leaves_the_others_on_the_store_open() {
    let store = MemoryBackend::new();
    let one = LockRuntime::backend(store.clone()).build().await.unwrap();
    let other = LockRuntime::backend(store.clone()).build().await.unwrap();
    one.shutdown().await.unwrap();
    assert!(one.lock("k").acquire().await.unwrap_err().is_shut_down());
    let guard = other.lock("k").acquire().await.unwrap();
    assert!(store.is_held("k"));
    guard.release().await.unwrap();
    assert!(store.is_idle());
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_later_store_are_larger() {
    let first = MemoryBackend::new();
    let mut last = None;
    for _ in 0..1000 {
        let mut claim = claim("k");
        claim.tokens = 32;
        let Acquired::Granted(grant) = first.acquire(&claim).await.unwrap() else {
            panic!("the lock is free");
        };
        last = Some(grant.tokens.last);
        first.abandon(&claim).await.unwrap();
    }
    // Far shorter than the restart of a process; the wall clock, since the tokens have to follow
    // it.
    std::thread::sleep(Duration::from_millis(5));
    let Acquired::Granted(grant) = MemoryBackend::new().acquire(&claim("k")).await.unwrap() else {
        panic!("the lock is free");
    };
    assert!(last < Some(grant.tokens.first));
}

//! At any instant of the store's clock a key has at most one live lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lock_protocol::{Acquired, Backend, Released};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::process::*;
use crate::store::Store;

/// Neither another process nor another claim of the same one gets a lock that is held.
pub async fn a_key_has_one_owner<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = claim(&key);
    granted(&here, &holder).await;
    taken(&here, &claim(&key)).await;
    taken(&there, &claim(&key)).await;
    queued(&there, &waiter(&key)).await;
    assert_owner(&here, &holder).await;
}

/// Each key is a lock of its own.
pub async fn different_keys_do_not_exclude_each_other<S: Store>(store: &S) {
    let backend = connect(store).await;
    granted(&backend, &claim(&key())).await;
    granted(&backend, &claim(&key())).await;
}

/// Of claims that arrive at the same time, one is granted.
pub async fn of_claims_that_race_one_is_granted<S: Store>(store: &S) {
    let key = key();
    let mut racers = JoinSet::new();
    for _ in 0..4 {
        let backend = Arc::new(connect(store).await);
        for _ in 0..8 {
            let (backend, claim) = (Arc::clone(&backend), claim(&key));
            racers.spawn(async move { acquire(&*backend, &claim).await });
        }
    }
    let answers = racers.join_all().await;
    let grants = answers.iter().filter(|a| matches!(a, Acquired::Granted(_)));
    assert_eq!(grants.count(), 1, "{answers:?}");
}

/// However many contend, each gets its turn, no two at a time, and the fencing tokens follow the
/// order of the turns.
pub async fn contending_claims_are_all_served_one_at_a_time<S: Store>(store: &S) {
    const TURNS: u64 = 10;
    let key = key();
    let last_token = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let backend = Arc::new(connect(store).await);
        for _ in 0..4 {
            let (backend, key) = (Arc::clone(&backend), key.clone());
            let last_token = Arc::clone(&last_token);
            tasks.spawn(async move {
                for _ in 0..TURNS {
                    let claim = waiter(&key);
                    let token = owned(&*backend, &claim).await.first.as_u64();
                    let before = last_token.swap(token, Ordering::SeqCst);
                    assert!(before < token, "{token} was granted after {before}");
                    tokio::task::yield_now().await;
                    let now = last_token.load(Ordering::SeqCst);
                    assert_eq!(now, token, "another was granted meanwhile");
                    released(&*backend, &claim).await;
                }
            });
        }
    }
    tasks.join_all().await;
}

/// A holder that is silent costs the others its ttl, no more.
pub async fn a_lease_ends_with_its_ttl<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let ttl = here.short();
    let holder = with_ttl(claim(&key), ttl);
    let grant = granted(&here, &holder).await;
    assert!(
        grant.valid_for <= ttl,
        "the lease is longer than its ttl: {grant:?}"
    );
    granted_after(&there, ttl, &claim(&key)).await;
    assert_lost(renewed(&here, &holder).await);
}

/// Whoever is refused learns how long the lease may still last.
pub async fn a_refusal_tells_what_is_left_of_the_lease<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let asked = Instant::now();
    granted(&here, &claim(&key)).await;
    let answered = Instant::now();
    sleep(MOMENT).await;
    for holder in [
        taken(&there, &claim(&key)).await,
        queued(&there, &waiter(&key)).await,
    ] {
        assert!(!holder.foreign, "the owner is one of us");
        let remaining = holder.remaining.expect("the lease ends");
        // At the latest the lease began when it was answered, and it goes on running.
        assert_left_at_most(&there, remaining, LONG, answered);
        assert!(
            remaining + asked.elapsed() + MOMENT + there.rounding() >= LONG,
            "{remaining:?} is too little"
        );
    }
}

/// An owner that hands over to nobody is shown as such, also when it has no ttl; an owner of ours
/// never is.
pub async fn a_foreign_owner_is_told_from_our_own<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let holder = claim(&key);
    granted(&backend, &holder).await;
    assert!(!taken(&backend, &claim(&key)).await.foreign);
    released(&backend, &holder).await;
    if !backend.limits.foreign_holders {
        return;
    }
    store.seize(&key).await;
    let first = waiter(&key);
    for holder in [
        taken(&backend, &claim(&key)).await,
        queued(&backend, &first).await,
    ] {
        assert_eq!(holder.remaining, None);
        assert!(holder.foreign, "{holder:?}");
    }
    let waits = waiter(&key);
    if queued(&backend, &waits).await.silent {
        return;
    }
    // Its end is heard of, so whoever waits need not look.
    store.expire(&key).await;
    abandon(&backend, &first).await;
    woken(&backend, &waits).await;
}

/// A lease that another took is told to be lost, and nothing that its old owner does touches the
/// new one. Where no owner is foreign, the other is one of ours.
pub async fn a_lease_that_a_foreign_owner_took_is_lost<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let (holder, other) = (claim(&key), claim(&key));
    granted(&backend, &holder).await;
    let is_foreign = backend.limits.foreign_holders;
    if is_foreign {
        store.seize(&key).await;
    } else {
        store.expire(&key).await;
        granted(&backend, &other).await;
    }
    assert_lost(renewed(&backend, &holder).await);
    assert_eq!(release(&backend, &holder).await, Released::NotHeld);
    abandon(&backend, &holder).await;
    assert_eq!(taken(&backend, &claim(&key)).await.foreign, is_foreign);
    if !is_foreign {
        assert_owner(&backend, &other).await;
    }
}

/// Whoever asks for several keys at once gets all or none, and waits for none. A store that does
/// not do it says so, and has done nothing.
pub async fn all_keys_are_taken_together_or_none<S: Store>(store: &S) {
    let (here, there) = (connect(store).await, connect(store).await);
    let (one, other) = (key(), key());
    let all = [claim(&one), claim(&other)];
    let granted_all = here
        .answer(here.acquire_all(&all))
        .await
        .expect("it answers");
    if let Some(grants) = &granted_all {
        assert_eq!(grants.len(), 2);
        for claim in &all {
            assert_held(renewed(&here, claim).await);
            taken(&there, &self::claim(&claim.key)).await;
        }
        released(&here, &all[0]).await;
        abandon(&here, &all[1]).await;
    }
    let (free, held) = (claim(&one), claim(&other));
    granted(&there, &held).await;
    taken(&here, &claim(&other)).await;
    for mut all in [[claim(&one), claim(&other)], [claim(&other), claim(&one)]] {
        all.iter_mut().for_each(|claim| claim.queue = true);
        let none = here
            .answer(here.acquire_all(&all))
            .await
            .expect("it answers");
        assert!(none.is_none(), "one of them is held");
        for claim in &all {
            assert_lost(renewed(&here, claim).await);
        }
    }
    granted(&there, &free).await;
    // Nobody waits.
    released(&there, &free).await;
    released(&there, &held).await;
    granted(&there, &claim(&one)).await;
    granted(&there, &claim(&other)).await;
}

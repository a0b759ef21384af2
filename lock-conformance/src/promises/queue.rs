//! Claims that wait are served in the order in which the store first heard of them.

use lock_protocol::{Acquired, Claim, GraceBy, Released};
use tokio::time::{Instant, sleep};

use crate::process::*;
use crate::store::Store;

/// First come, first served, whichever process they are of. Where the store keeps no order, all are
/// served.
pub async fn waiters_are_served_in_the_order_of_their_first_asking<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = claim(&key);
    granted(&here, &holder).await;
    let claims: Vec<Claim> = (0..6).map(|_| waiter(&key)).collect();
    let mut waiters = Vec::new();
    for (place, claim) in claims.iter().enumerate() {
        let process = if place % 3 == 0 { &here } else { &there };
        queued(process, claim).await;
        waiters.push((process, claim));
    }
    released(&here, &holder).await;
    all_served(&waiters).await;
    granted(&here, &claim(&key)).await;
}

/// Who waits for news hears of a hand-over without asking.
pub async fn a_hand_over_wakes_the_head_of_the_queue<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next_waiter) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &next_waiter).await;
    let release = async {
        sleep(MOMENT).await;
        released(&here, &holder).await;
    };
    tokio::join!(woken(&there, &next_waiter), release);
    assert_owner(&there, &next_waiter).await;
}

/// Between a release and the waiter that it serves, nobody gets in. Where nobody hands locks over,
/// nobody gets in once the waiter has been served.
pub async fn a_hand_over_leaves_no_gap<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next_waiter) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &next_waiter).await;
    released(&here, &holder).await;
    if !here.limits.hand_over {
        owned(&there, &next_waiter).await;
    }
    let seen = taken(&here, &claim(&key)).await;
    assert!(!seen.foreign && seen.remaining.is_some(), "{seen:?}");
    assert_owner(&there, &next_waiter).await;
}

/// A lease that was handed over is short until its owner is heard of. Where nobody hands locks
/// over, the waiter has asked, and so has the full ttl.
pub async fn a_handed_over_lease_lives_for_the_grace<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut next_waiter) = (claim(&key), waiter(&key));
    let is_told = here.tells_graces();
    next_waiter.grace = if is_told { LONG / 2 } else { here.medium() };
    let is_handed_over = here.limits.hand_over;
    if !is_handed_over {
        next_waiter = with_ttl(next_waiter, here.visible());
    }
    granted(&here, &holder).await;
    queued(&there, &next_waiter).await;
    let asked = Instant::now();
    released(&here, &holder).await;
    let released = Instant::now();
    if !is_handed_over {
        owned(&there, &next_waiter).await;
    } else if is_told {
        let remaining = remaining(&here, &key).await;
        assert_left_at_most(&here, remaining, next_waiter.grace, released);
    }
    assert_left_at_least(&here, &key, next_waiter.grace, asked).await;
    if is_handed_over && !is_told {
        granted_after(&here, next_waiter.grace, &claim(&key)).await;
    }
}

/// The first renewal after a hand-over makes the lease a full one.
pub async fn a_renewal_turns_the_grace_into_the_full_ttl<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut next_waiter) = (claim(&key), with_ttl(waiter(&key), here.visible()));
    next_waiter.grace = next_waiter.ttl / 2;
    granted(&here, &holder).await;
    queued(&there, &next_waiter).await;
    released(&here, &holder).await;
    served(&there, &next_waiter).await;
    if !here.limits.hand_over {
        // There is no grace, so it is a renewal as any other.
        sleep(here.while_it_runs(next_waiter.ttl)).await;
    }
    let asked = Instant::now();
    assert_held(renewed(&there, &next_waiter).await);
    assert_left_at_least(&here, &key, next_waiter.ttl, asked).await;
}

/// A waiter that asks after a hand-over has the full ttl from then on.
pub async fn a_poll_turns_the_grace_into_the_full_ttl<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut next_waiter) = (claim(&key), with_ttl(waiter(&key), here.visible()));
    next_waiter.grace = next_waiter.ttl / 2;
    granted(&here, &holder).await;
    queued(&there, &next_waiter).await;
    released(&here, &holder).await;
    let asked = Instant::now();
    granted(&there, &next_waiter).await;
    assert_left_at_least(&here, &key, next_waiter.ttl, asked).await;
}

/// A waiter that died without a word delays those behind it by its grace, not by its ttl. Where its
/// process ends the grace, that process has to live.
pub async fn a_waiter_that_is_gone_costs_the_grace<S: Store>(store: &S) {
    let (here, there, lost) = (
        connect(store).await,
        connect(store).await,
        connect(store).await,
    );
    let key = key();
    let (holder, next) = (claim(&key), waiter(&key));
    let (mut gone, mut dead) = (waiter(&key), waiter(&key));
    gone.grace = here.short();
    dead.grace = here.short();
    let is_by_store = here.limits.grace == GraceBy::Store;
    if !is_by_store {
        dead.ttl = here.short();
    }
    granted(&here, &holder).await;
    queued(&here, &gone).await;
    queued(&lost, &dead).await;
    // Where the store keeps no order, the other comes when one of them has the lock.
    if here.is_fifo() || !here.limits.hand_over {
        queued(&there, &next).await;
    }
    drop(lost);
    released(&here, &holder).await;
    granted_after(&there, 2 * here.at_most(here.short()), &next).await;
}

/// A lease that ended without a release goes to the head of the queue, not to whoever comes first.
/// Where the store keeps no order, it goes to one of them.
pub async fn nobody_barges_in_after_an_expiry<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, second) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    store.expire(&key).await;
    if here.is_fifo() {
        taken(&here, &claim(&key)).await;
        queued(&here, &second).await;
        owned(&there, &first).await;
    } else {
        all_served(&[(&there, &first), (&here, &second)]).await;
    }
}

/// Nor does the owner of the lease that ended get in front of the others.
pub async fn an_owner_that_expired_stands_behind_the_waiters<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (late, first) = (waiter(&key), waiter(&key));
    granted(&here, &late).await;
    queued(&there, &first).await;
    store.expire(&key).await;
    if here.is_fifo() {
        queued(&here, &late).await;
    }
    all_served(&[(&there, &first), (&here, &late)]).await;
}

/// Also a waiter further back that notices the expiry serves the head first.
pub async fn after_an_expiry_any_waiter_that_asks_serves_the_head<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, second) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&here, &first).await;
    queued(&there, &second).await;
    store.expire(&key).await;
    if here.is_fifo() {
        queued(&there, &second).await;
    }
    if here.is_fifo() && here.limits.hand_over {
        woken(&here, &first).await;
        released(&here, &first).await;
        woken(&there, &second).await;
        assert_owner(&there, &second).await;
    } else {
        all_served(&[(&here, &first), (&there, &second)]).await;
    }
}

/// A release with a further claim of the same process gives it the lock that nobody else wants.
pub async fn a_release_grants_the_next_claim_if_nobody_waits<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next) = (claim(&key), with_ttl(waiter(&key), here.visible()));
    let tokens = granted(&here, &holder).await.tokens;
    let asked = Instant::now();
    let Released::Released(Some(Acquired::Granted(grant))) =
        release_to(&here, &holder, &next).await
    else {
        panic!("the lock was free for the next claim");
    };
    assert_later(grant.tokens, tokens);
    assert_left_at_least(&there, &key, grant.valid_for, asked).await;
    assert_owner(&here, &next).await;
}

/// A release with a further claim of the same process serves the others first. Where the store
/// keeps no order, all are served.
pub async fn a_release_queues_the_next_claim_behind_those_who_wait<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, next) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    let answer = release_to(&here, &holder, &next).await;
    if !here.is_fifo() {
        assert!(matches!(answer, Released::Released(Some(_))), "{answer:?}");
        return all_served(&[(&there, &first), (&here, &next)]).await;
    }
    assert!(
        matches!(&answer, Released::Released(Some(Acquired::Queued(holder))) if !holder.foreign),
        "{answer:?}"
    );
    served(&there, &first).await;
    released(&there, &first).await;
    woken(&here, &next).await;
    assert_owner(&here, &next).await;
}

/// A release that finds nothing to end does nothing else either.
pub async fn a_release_of_nothing_ignores_the_next_claim<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, stranger, next) = (claim(&key), claim(&key), waiter(&key));
    assert_eq!(release_to(&here, &stranger, &next).await, Released::NotHeld);
    granted(&there, &holder).await;
    assert_eq!(release_to(&here, &stranger, &next).await, Released::NotHeld);
    released(&there, &holder).await;
    granted(&there, &claim(&key)).await;
}

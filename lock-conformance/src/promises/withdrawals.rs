//! `abandon` undoes an `acquire` whether or not that was answered, and may come twice or first.

use lock_protocol::{Acquired, Backend, Released};
use tokio::time::sleep;

use crate::process::*;
use crate::store::Store;

/// A waiter that gave up gets nothing, and costs the next no time.
pub async fn an_abandoned_waiter_is_skipped<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, gone, next) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&here, &gone).await;
    queued(&there, &next).await;
    abandon(&here, &gone).await;
    released(&here, &holder).await;
    served(&there, &next).await;
    granted(&there, &next).await;
    released(&there, &next).await;
    granted(&there, &claim(&key)).await;
}

/// A claim that was granted and withdrawn leaves the lock free.
pub async fn an_abandoned_grant_is_free<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let gone = claim(&key);
    granted(&here, &gone).await;
    abandon(&here, &gone).await;
    assert_lost(renewed(&here, &gone).await);
    granted(&there, &claim(&key)).await;
}

/// Withdrawing a granted claim serves those who wait, as a release does.
pub async fn an_abandoned_grant_is_handed_on<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (gone, next) = (claim(&key), waiter(&key));
    granted(&here, &gone).await;
    queued(&there, &next).await;
    abandon(&here, &gone).await;
    woken(&there, &next).await;
    assert_owner(&there, &next).await;
}

/// A waiter that gives up just as it is handed the lock passes it on.
pub async fn an_abandoned_hand_over_is_handed_on<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, gone, next) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&here, &gone).await;
    // Where the store keeps no order, the other comes when the first has the lock.
    let is_first = here.is_fifo() || !here.limits.hand_over;
    if is_first {
        queued(&there, &next).await;
    }
    released(&here, &holder).await;
    if !is_first {
        queued(&there, &next).await;
    }
    abandon(&here, &gone).await;
    woken(&there, &next).await;
    assert_owner(&there, &next).await;
}

/// There is no wrong moment to abandon a claim.
pub async fn an_abandon_may_come_twice_or_first<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let never_sent = claim(&key);
    abandon(&backend, &never_sent).await;
    let holder = claim(&key);
    granted(&backend, &holder).await;
    abandon(&backend, &holder).await;
    abandon(&backend, &holder).await;
    granted(&backend, &claim(&key)).await;
}

/// Withdrawing one claim leaves the holder and the other waiters where they are.
pub async fn an_abandon_touches_no_other_claim<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, gone) = (claim(&key), waiter(&key));
    let (first, second) = (waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    for claim in [&first, &gone, &second] {
        queued(&there, claim).await;
    }
    abandon(&there, &gone).await;
    abandon(&there, &claim(&key)).await;
    assert_owner(&here, &holder).await;
    released(&here, &holder).await;
    all_served(&[(&there, &first), (&there, &second)]).await;
}

/// A caller that is cancelled in the middle of an acquire leaves neither a lease nor a place in the
/// queue.
pub async fn an_abandon_undoes_an_acquire_that_was_dropped<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let cancelled = claim(&key);
    drop_after_one_poll(here.acquire(&cancelled));
    abandon(&here, &cancelled).await;
    sleep(MOMENT).await;
    let holder = claim(&key);
    granted(&there, &holder).await;

    let cancelled = waiter(&key);
    drop_after_one_poll(here.acquire(&cancelled));
    abandon(&here, &cancelled).await;
    sleep(MOMENT).await;
    released(&there, &holder).await;
    granted(&there, &claim(&key)).await;
}

/// Where the withdrawal is faster than the question, on another connection, the question finds that
/// it is too late.
pub async fn an_abandon_that_comes_first_leaves_nothing_to_a_late_acquire<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let gone = claim(&key);
    abandon(&here, &gone).await;
    let late = acquire(&here, &gone).await;
    assert!(matches!(late, Acquired::Taken(_)), "{late:?}");
    let holder = claim(&key);
    granted(&there, &holder).await;

    // The same for one who would wait, and for one who comes with a release.
    let (gone, next) = (waiter(&key), waiter(&key));
    for late in [&gone, &next] {
        abandon(&here, late).await;
    }
    let late = acquire(&here, &gone).await;
    assert!(matches!(late, Acquired::Taken(_)), "{late:?}");
    let late = release_to(&there, &holder, &next).await;
    assert!(
        matches!(late, Released::Released(Some(Acquired::Taken(_)))),
        "{late:?}"
    );
    granted(&there, &claim(&key)).await;
}

/// A claim is asked for twice, and the first question arrives when the claim has ended already.
pub async fn an_abandon_in_doubt_leaves_nothing_to_a_late_acquire<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    for is_released in [false, true] {
        let mut holder = claim(&key);
        granted(&here, &holder).await;
        if is_released {
            assert_eq!(release(&here, &holder).await, Released::Released(None));
        }
        holder.in_doubt = true;
        abandon(&here, &holder).await;
        let late = acquire(&there, &holder).await;
        assert!(matches!(late, Acquired::Taken(_)), "{late:?}");
    }
    let next = claim(&key);
    granted(&there, &next).await;
    let mut waits = waiter(&key);
    queued(&here, &waits).await;
    waits.in_doubt = true;
    abandon(&here, &waits).await;
    let late = acquire(&there, &waits).await;
    assert!(matches!(late, Acquired::Taken(_)), "{late:?}");
    assert_eq!(release(&there, &next).await, Released::Released(None));
    granted(&here, &claim(&key)).await;
}

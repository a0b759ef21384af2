//! Every verb may be repeated, and a call that had no answer may take effect late.

use lock_protocol::Released;
use tokio::time::{Instant, sleep, sleep_until};

use crate::process::*;
use crate::store::Store;

/// A claim that did not hear the answer asks again, and hears that it owns the lock.
pub async fn a_repeated_acquire_is_granted_again<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = claim(&key);
    let first = granted(&here, &holder).await.tokens;
    let second = granted(&here, &holder).await.tokens;
    assert!(
        second.first >= first.first,
        "{second:?} is older than {first:?}"
    );
    taken(&there, &claim(&key)).await;
    released(&here, &holder).await;
    assert_later(granted(&there, &claim(&key)).await.tokens, second);
}

/// What a repeated acquire says of the lease is true: it has begun anew.
pub async fn a_repeated_acquire_gives_the_full_ttl<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let ttl = backend.visible();
    let holder = with_ttl(claim(&key), ttl);
    granted(&backend, &holder).await;
    sleep(backend.while_it_runs(ttl)).await;
    let asked = Instant::now();
    let grant = granted(&backend, &holder).await;
    assert!(grant.valid_for <= ttl);
    assert_left_at_least(&backend, &key, ttl, asked).await;
}

/// One release is enough for a claim that asked several times while it waited.
pub async fn a_repeated_acquire_never_queues_twice<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, asker) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    for _ in 0..3 {
        queued(&there, &asker).await;
    }
    released(&here, &holder).await;
    served(&there, &asker).await;
    granted(&there, &asker).await;
    released(&there, &asker).await;
    granted(&here, &claim(&key)).await;
}

/// Asking again costs no waiter its place.
pub async fn a_waiter_that_asks_keeps_its_place<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, second) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&here, &first).await;
    queued(&there, &second).await;
    queued(&here, &first).await;
    released(&here, &holder).await;
    all_served(&[(&here, &first), (&there, &second)]).await;
}

/// A waiter that asks once a heartbeat keeps its place for as long as it likes.
pub async fn a_waiter_that_asks_in_time_is_not_forgotten<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut first, second) = (claim(&key), waiter(&key), waiter(&key));
    // Longer than a busy machine stands still.
    first.heartbeat = 15 * MOMENT;
    granted(&here, &holder).await;
    queued(&here, &first).await;
    queued(&there, &second).await;
    for _ in 0..6 {
        sleep(first.heartbeat / 2).await;
        queued(&here, &first).await;
    }
    released(&here, &holder).await;
    all_served(&[(&here, &first), (&there, &second)]).await;
}

/// A poll asks "owner, queued, or neither?", and neither means: to the end of the queue.
pub async fn a_claim_that_the_store_forgot_is_queued_again<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let (holder, forgotten) = (claim(&key), waiter(&key));
    granted(&backend, &holder).await;
    queued(&backend, &forgotten).await;
    abandon(&backend, &forgotten).await;
    queued(&backend, &forgotten).await;
    released(&backend, &holder).await;
    served(&backend, &forgotten).await;
}

/// The second of two equal releases finds nothing, and leaves the new owner alone.
pub async fn a_repeated_release_does_nothing<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next_waiter) = (claim(&key), claim(&key));
    granted(&here, &holder).await;
    released(&here, &holder).await;
    assert_eq!(release(&here, &holder).await, Released::NotHeld);
    granted(&there, &next_waiter).await;
    assert_eq!(release(&here, &holder).await, Released::NotHeld);
    assert_owner(&there, &next_waiter).await;
}

/// Only the owner ends a lease.
pub async fn a_release_by_another_does_nothing<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, waiting) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &waiting).await;
    assert_eq!(release(&there, &waiting).await, Released::NotHeld);
    assert_eq!(release(&there, &claim(&key)).await, Released::NotHeld);
    assert_owner(&here, &holder).await;
    released(&here, &holder).await;
    served(&there, &waiting).await;
}

/// A claim is asked for with one ttl and then with another, and the first question arrives last.
pub async fn a_late_acquire_shortens_no_lease<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let ttl = here.visible();
    let holder = with_ttl(claim(&key), ttl);
    let asked = Instant::now();
    granted(&here, &holder).await;
    let late = with_ttl(holder.clone(), here.short());
    let grant = granted(&there, &late).await;
    assert!(grant.valid_for <= ttl, "{grant:?}");
    assert_left_at_least(&there, &key, ttl, asked).await;
    sleep_until(asked + 2 * here.short()).await;
    assert_owner(&here, &holder).await;
}

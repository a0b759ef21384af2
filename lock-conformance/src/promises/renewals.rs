//! `renew` extends each lease that its owner still holds to its full ttl, and never creates one.

use lock_protocol::{Backend, Renewed};
use tokio::time::{Instant, sleep};

use crate::process::*;
use crate::store::Store;

/// A renewed lease lives for its ttl from then on, and for another one if the store can change it.
pub async fn a_renewal_extends_the_lease<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let ttl = here.visible();
    let holder = if here.ttl_changes {
        with_ttl(claim(&key), ttl / 2)
    } else {
        with_ttl(claim(&key), ttl)
    };
    granted(&here, &holder).await;
    sleep(here.while_it_runs(holder.ttl)).await;
    let asked = Instant::now();
    let mut renewal = renewal(&holder);
    renewal.ttl = ttl;
    assert_held(renew_one(&here, &renewal).await);
    assert_left_at_least(&there, &key, ttl, asked).await;
}

/// A lease that ended stays ended, and the lock free for others.
pub async fn a_renewal_never_creates_a_lease<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (never, expired, done) = (claim(&key), claim(&key), claim(&key));
    assert_lost(renewed(&here, &never).await);
    granted(&here, &expired).await;
    store.expire(&key).await;
    assert_lost(renewed(&here, &expired).await);
    granted(&here, &done).await;
    released(&here, &done).await;
    assert_lost(renewed(&here, &done).await);
    granted(&there, &claim(&key)).await;
}

/// Only the owner extends a lease; others learn that they do not hold it.
pub async fn a_renewal_by_another_does_nothing<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, waiting) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &waiting).await;
    for other in [&waiting, &claim(&key)] {
        let mut renewal = renewal(other);
        renewal.ttl = 2 * LONG;
        assert_lost(renew_one(&there, &renewal).await);
    }
    let remaining = remaining(&there, &key).await;
    assert!(remaining <= there.at_most(LONG) + there.rounding());
    assert_owner(&here, &holder).await;
}

/// Each lease of a batch gets its own answer, in its place.
pub async fn a_batch_of_renewals_is_answered_in_order<S: Store>(store: &S) {
    // Not a multiple of 3, so that the answers read backwards are others.
    const LEASES: usize = 101;
    let backend = connect(store).await;
    let mut renewals = Vec::new();
    for place in 0..LEASES {
        let claim = claim(&key());
        if place % 3 == 0 {
            granted(&backend, &claim).await;
        }
        renewals.push(renewal(&claim));
    }
    let answers = backend.answer(backend.renew(&renewals)).await;
    assert_eq!(answers.len(), LEASES);
    for (place, answer) in answers.into_iter().enumerate() {
        let held = matches!(answer.expect(HEALTHY), Renewed::Held(_));
        assert_eq!(held, place % 3 == 0, "lease {place}");
    }
    assert!(backend.answer(backend.renew(&[])).await.is_empty());
}

//! What happens to claims is told to the sinks of their backend.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::inbox::Inbox;
use crate::process::*;
use crate::store::Store;

/// A waiter that is busy elsewhere while it is served has been told all the same.
pub async fn a_hand_over_is_told_to_a_sink_attached_before<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next_waiter) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &next_waiter).await;
    released(&here, &holder).await;
    sleep(MOMENT).await;
    woken(&there, &next_waiter).await;
    assert_owner(&there, &next_waiter).await;
}

/// A sink hears of the claims of its backend, whenever they were made.
pub async fn a_sink_attached_late_hears_of_earlier_claims<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next_waiter) = (claim(&key), waiter(&key));
    there.inbox.refuse(&next_waiter);
    granted(&here, &holder).await;
    queued(&there, &next_waiter).await;
    let late = Inbox::of(&there.backend);
    released(&here, &holder).await;
    news(&there, &late, &next_waiter).await;
    assert_owner(&there, &next_waiter).await;
}

/// Every claim is told of its own hand-over, whether or not somebody waits for the news, and those
/// of others are no news of its.
pub async fn a_sink_hears_of_every_hand_over<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, second) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    // Where the store keeps no order, the other comes when it is its turn.
    if here.is_fifo() {
        queued(&there, &second).await;
    }
    drop_after_one_poll(there.inbox.changed(&first));
    released(&here, &holder).await;
    woken(&there, &first).await;
    queued(&there, &second).await;
    if here.limits.hand_over {
        let mut listening = pin!(there.inbox.changed(&second));
        assert!(poll_once(listening.as_mut()).is_pending());
        released(&there, &first).await;
        sleep(MOMENT).await;
    } else {
        released(&there, &first).await;
    }
    woken(&there, &second).await;
    assert_owner(&there, &second).await;
}

/// Of the runtimes of a process that share a backend, each hears of what it asked for.
pub async fn several_sinks_each_hear_of_their_own_claims<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, second) = (claim(&key), waiter(&key), waiter(&key));
    for waiter in [&first, &second] {
        there.inbox.refuse(waiter);
    }
    let inboxes = [&first, &second].map(|waiter| Inbox::of_claims(&there.backend, [waiter]));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    if here.is_fifo() {
        queued(&there, &second).await;
    }
    released(&here, &holder).await;
    news(&there, &inboxes[0], &first).await;
    // What is given back by mistake is by now.
    sleep(MOMENT).await;
    assert_owner(&there, &first).await;
    queued(&there, &second).await;
    released(&there, &first).await;
    news(&there, &inboxes[1], &second).await;
    sleep(MOMENT).await;
    assert_owner(&there, &second).await;
}

/// A claim that no sink knows any more costs those behind it nothing.
pub async fn a_claim_that_nobody_expects_is_given_back<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, gone, next, last) = (claim(&key), waiter(&key), waiter(&key), waiter(&key));
    there.inbox.refuse(&gone);
    there.inbox.refuse(&last);
    granted(&here, &holder).await;
    queued(&there, &gone).await;
    queued(&here, &next).await;
    queued(&there, &last).await;
    released(&here, &holder).await;
    woken(&here, &next).await;
    assert_owner(&here, &next).await;
    released(&here, &next).await;
    granted_after(&here, Duration::ZERO, &claim(&key)).await;
}

/// A wake-up that names a lease names the one that there is: its tokens, its grace, an instant
/// before it began.
pub async fn a_wake_up_tells_the_lease_as_it_is<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut next_waiter) = (claim(&key), waiter(&key));
    next_waiter.grace = LONG / 2;
    let tokens = granted(&here, &holder).await.tokens;
    queued(&there, &next_waiter).await;
    assert!(
        !there.inbox.holds(&next_waiter),
        "nothing was handed over yet"
    );
    released(&here, &holder).await;
    let handed_over = Instant::now();
    sleep(MOMENT).await;
    let told = woken(&there, &next_waiter).await;
    let asked_again = granted(&there, &next_waiter).await.tokens;
    assert_later(asked_again, tokens);
    let Some((grant, since)) = told else {
        return;
    };
    assert_later(grant.tokens, tokens);
    assert!(grant.valid_for <= next_waiter.grace, "{grant:?}");
    assert!(
        since <= handed_over,
        "the lease is counted from after the hand-over"
    );
    assert!(asked_again.first >= grant.tokens.first);
}

//! The contract of [`Backend`] as tests that can be mounted on any store.
//!
//! One function is one promise. They are generic over a [`Store`], which says how to reach the store and how to play the rest of the
//! world; [`conformance!`](macro@crate::conformance) makes a test of each. Beyond the letter of the contract they want that a healthy store
//! delivers its wake-ups, since waiting would be slow without.

use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lock_runtime::backend::{
    Acquired, AskNumber, Backend, BackendError, Claim, FenceBlock, Grant, Holder, LockKey,
    OwnerToken, Release, Released, Renewal, Renewed,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::inbox::{Inbox, Told};

/// A store under test, for one promise alone.
pub trait Store: Send + Sync + 'static {
    /// What reaches it.
    type Backend: Backend;

    /// A backend as a further process would have it.
    fn connect(&self) -> impl Future<Output = Self::Backend> + Send;

    /// Ends the lease of `key` as if its ttl had run out: no verb takes part.
    fn expire(&self, key: &LockKey) -> impl Future<Output = ()> + Send;

    /// Makes a foreign owner hold `key` without a ttl, as another language's library would, whoever holds it now.
    fn seize(&self, key: &LockKey) -> impl Future<Output = ()> + Send;

    /// Stops answering for good.
    fn go_dark(&self) -> impl Future<Output = ()> + Send;

    /// What is stored at the moment, fencing counters and withdrawals apart; for the message of a
    /// failed test.
    fn leftovers(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// A backend, and where its news go.
struct Process<B> {
    backend: B,
    inbox: Arc<Inbox>,
}

impl<B> Deref for Process<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.backend
    }
}

async fn connect<S: Store>(store: &S) -> Process<S::Backend> {
    let backend = store.connect().await;
    let inbox = Inbox::of(&backend);
    Process { backend, inbox }
}

/// Calls the macro `$callback` with `$context` and the names of all promises.
#[macro_export]
macro_rules! for_each_promise {
    ($callback:path, $context:tt) => {
        $callback! {
            $context
            a_key_has_one_owner
            different_keys_do_not_exclude_each_other
            of_claims_that_race_one_is_granted
            contending_claims_are_all_served_one_at_a_time
            a_lease_ends_with_its_ttl
            a_refusal_tells_what_is_left_of_the_lease
            a_foreign_owner_is_told_from_our_own
            a_lease_that_a_foreign_owner_took_is_lost
            fences_grow_with_every_grant
            fences_grow_over_an_expiry
            fences_grow_over_a_hand_over
            fences_grow_over_a_whole_block
            a_renewal_reserves_fences
            fences_survive_json
            a_repeated_acquire_is_granted_again
            a_repeated_acquire_gives_the_full_ttl
            a_repeated_acquire_never_queues_twice
            a_waiter_that_asks_keeps_its_place
            a_waiter_that_asks_in_time_is_not_forgotten
            a_claim_that_the_store_forgot_is_queued_again
            a_repeated_release_does_nothing
            a_release_by_another_does_nothing
            an_abandoned_waiter_is_skipped
            an_abandoned_grant_is_free
            an_abandoned_grant_is_handed_on
            an_abandoned_hand_over_is_handed_on
            an_abandon_may_come_twice_or_first
            an_abandon_touches_no_other_claim
            an_abandon_undoes_an_acquire_that_was_dropped
            an_abandon_that_comes_first_leaves_nothing_to_a_late_acquire
            an_abandon_in_doubt_leaves_nothing_to_a_late_acquire
            a_dark_store_is_an_error_and_never_a_refusal
            a_closed_backend_answers_with_errors
            waiters_are_served_in_the_order_of_their_first_asking
            a_hand_over_wakes_the_head_of_the_queue
            a_hand_over_leaves_no_gap
            a_handed_over_lease_lives_for_the_grace
            a_renewal_turns_the_grace_into_the_full_ttl
            a_poll_turns_the_grace_into_the_full_ttl
            a_waiter_that_is_gone_costs_the_grace
            nobody_barges_in_after_an_expiry
            an_owner_that_expired_stands_behind_the_waiters
            after_an_expiry_any_waiter_that_asks_serves_the_head
            a_release_grants_the_next_claim_if_nobody_waits
            a_release_queues_the_next_claim_behind_those_who_wait
            a_release_of_nothing_ignores_the_next_claim
            a_hand_over_is_told_to_a_sink_attached_before
            a_sink_attached_late_hears_of_earlier_claims
            a_sink_hears_of_every_hand_over
            several_sinks_each_hear_of_their_own_claims
            a_claim_that_nobody_expects_is_given_back
            a_wake_up_tells_the_lease_as_it_is
            verbs_take_effect_in_the_order_of_their_first_polls
            a_verb_behind_a_larger_number_takes_no_effect
            numbers_order_the_verbs_of_one_key_and_one_process
            a_dropped_verb_breaks_nothing
            a_late_acquire_shortens_no_lease
            a_renewal_extends_the_lease
            a_renewal_never_creates_a_lease
            a_renewal_by_another_does_nothing
            a_batch_of_renewals_is_answered_in_order
            nothing_is_left_behind
        }
    };
}

/// Makes a test of each promise, with the given attributes, on a store of its own.
///
/// ```ignore
/// lock_tests::conformance! { #[tokio::test] RedisStore::start().await }
/// ```
#[macro_export]
macro_rules! conformance {
    ($($attributes_and_store:tt)+) => {
        $crate::for_each_promise! { $crate::mount_promises, { $($attributes_and_store)+ } }
    };
}

/// The second half of [`conformance!`](macro@crate::conformance).
#[doc(hidden)]
#[macro_export]
macro_rules! mount_promises {
    (@one { $(#[$attribute:meta])+ $store:expr } $promise:ident) => {
        $(#[$attribute])+
        async fn $promise() {
            $crate::conformance::$promise(&$store).await;
        }
    };
    ($context:tt $($promise:ident)+) => {
        $( $crate::mount_promises! { @one $context $promise } )+
    };
}

/// A ttl that never runs out during a test.
const LONG: Duration = Duration::from_secs(60);
/// A ttl that runs out during a test.
const SHORT: Duration = Duration::from_millis(100);
/// By when what must happen has happened; well below `LONG`.
const DEADLINE: Duration = Duration::from_secs(10);
/// What clocks that count in milliseconds may differ by.
const ROUNDING: Duration = Duration::from_millis(20);

// At any instant of the store's clock a key has at most one live lease.

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

/// However many contend, each gets its turn, no two at a time, and the fencing tokens follow the order of the turns.
pub async fn contending_claims_are_all_served_one_at_a_time<S: Store>(store: &S) {
    const TURNS: u64 = 10;
    let key = key();
    let last_token = Arc::new(std::sync::Mutex::new(0));
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
                    let before = std::mem::replace(&mut *last_token.lock().unwrap(), token);
                    assert!(before < token, "{token} was granted after {before}");
                    tokio::task::yield_now().await;
                    let now = *last_token.lock().unwrap();
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
    let holder = with_ttl(claim(&key), SHORT);
    let grant = granted(&here, &holder).await;
    assert!(
        grant.valid_for <= SHORT,
        "the lease is longer than its ttl: {grant:?}"
    );
    eventually_granted(&there, &claim(&key)).await;
    assert_lost(renewed(&here, &holder).await);
}

/// Whoever is refused learns how long the lease may still last.
pub async fn a_refusal_tells_what_is_left_of_the_lease<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    granted(&here, &claim(&key)).await;
    let answered = Instant::now();
    sleep(SHORT).await;
    for holder in [
        taken(&there, &claim(&key)).await,
        queued(&there, &waiter(&key)).await,
    ] {
        assert!(!holder.foreign, "the owner is one of us");
        let remaining = holder.remaining.expect("the lease ends");
        // At the latest the lease began when it was answered, and it goes on running.
        assert!(
            remaining <= LONG - SHORT + ROUNDING,
            "{remaining:?} is too much"
        );
        assert!(
            remaining + answered.elapsed() + SHORT >= LONG,
            "{remaining:?} is too little"
        );
    }
}

/// An owner that hands over to nobody is shown as such, also when it has no ttl.
pub async fn a_foreign_owner_is_told_from_our_own<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    store.seize(&key).await;
    for holder in [
        taken(&backend, &claim(&key)).await,
        queued(&backend, &waiter(&key)).await,
    ] {
        assert_eq!(holder.remaining, None);
        assert!(holder.foreign && holder.silent, "{holder:?}");
    }
}

/// A lease that another took is told to be lost, and nothing that its old owner does touches the new one.
pub async fn a_lease_that_a_foreign_owner_took_is_lost<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let holder = claim(&key);
    granted(&backend, &holder).await;
    store.seize(&key).await;
    assert_lost(renewed(&backend, &holder).await);
    assert_eq!(release(&backend, &holder).await, Released::NotHeld);
    abandon(&backend, &holder).await;
    assert!(taken(&backend, &claim(&key)).await.foreign);
}

// Every grant of a key carries larger fencing tokens than every earlier grant of it.

/// Each lease has larger tokens than the one before, whichever process they go to.
pub async fn fences_grow_with_every_grant<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let mut last = None;
    for turn in 0..20 {
        let backend = if turn % 2 == 0 { &here } else { &there };
        let holder = claim(&key);
        let tokens = granted(backend, &holder).await.tokens;
        assert!(tokens.first <= tokens.last);
        assert!(
            last < Some(tokens.first),
            "{tokens:?} was granted after {last:?}"
        );
        last = Some(tokens.last);
        released(backend, &holder).await;
    }
}

/// Tokens grow although the store kept nothing of the lease.
pub async fn fences_grow_over_an_expiry<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let first = granted(&backend, &claim(&key)).await.tokens;
    store.expire(&key).await;
    let second = granted(&backend, &claim(&key)).await.tokens;
    assert_later(second, first);
}

/// A hand-over is a grant: its tokens grow too.
pub async fn fences_grow_over_a_hand_over<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, heir, last) = (claim(&key), waiter(&key), claim(&key));
    let first = granted(&here, &holder).await.tokens;
    queued(&there, &heir).await;
    released(&here, &holder).await;
    let second = owned(&there, &heir).await;
    assert_later(second, first);
    released(&there, &heir).await;
    assert_later(granted(&here, &last).await.tokens, second);
}

/// Tokens that were reserved and not used are used by nobody else.
pub async fn fences_grow_over_a_whole_block<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let holder = with_tokens(claim(&key), MANY);
    let block = granted(&backend, &holder).await.tokens;
    assert_block(block, MANY);
    released(&backend, &holder).await;

    let heir = with_tokens(waiter(&key), MANY);
    let middle = claim(&key);
    assert_later(granted(&backend, &middle).await.tokens, block);
    queued(&backend, &heir).await;
    released(&backend, &middle).await;
    let block = owned(&backend, &heir).await;
    assert_block(block, MANY);
    released(&backend, &heir).await;
    assert_later(granted(&backend, &claim(&key)).await.tokens, block);
}

/// A renewal gives as many further tokens as it asks for, or fewer, and none unasked.
pub async fn a_renewal_reserves_fences<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let holder = claim(&key);
    let first = granted(&backend, &holder).await.tokens;
    assert_held(renewed(&backend, &holder).await);

    let mut renewal = renewal(&holder);
    renewal.tokens = MANY;
    let Renewed::Held(extension) = renew_one(&backend, &renewal).await else {
        panic!("the lease should have been held");
    };
    let block = extension.tokens.expect("further tokens");
    assert_block(block, MANY);
    assert_later(block, first);
    let again = granted(&backend, &holder).await.tokens;
    assert!(
        again.first >= block.first,
        "{again:?} is older than the renewal's {block:?}"
    );
    released(&backend, &holder).await;
    assert_later(granted(&backend, &claim(&key)).await.tokens, block);
}

/// Tokens are whole numbers that JSON and a `BIGINT` hold.
pub async fn fences_survive_json<S: Store>(store: &S) {
    let backend = connect(store).await;
    let tokens = granted(&backend, &claim(&key())).await.tokens;
    assert!(tokens.first.as_u64() > 0);
    assert!(tokens.last.as_u64() < 1 << 53, "{tokens:?}");
}

// Every verb may be repeated.

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
    let holder = claim(&key);
    granted(&backend, &holder).await;
    sleep(3 * SHORT).await;
    let asked = Instant::now();
    let grant = granted(&backend, &holder).await;
    assert!(grant.valid_for <= LONG);
    assert_left_at_least(&backend, &key, LONG, asked).await;
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
    assert_owner(&there, &asker).await;
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
    assert_owner(&here, &first).await;
}

/// A waiter that asks once a heartbeat keeps its place for as long as it likes.
pub async fn a_waiter_that_asks_in_time_is_not_forgotten<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut first, second) = (claim(&key), waiter(&key), waiter(&key));
    first.heartbeat = 3 * SHORT;
    granted(&here, &holder).await;
    queued(&here, &first).await;
    queued(&there, &second).await;
    for _ in 0..8 {
        sleep(first.heartbeat / 2).await;
        queued(&here, &first).await;
    }
    released(&here, &holder).await;
    assert_owner(&here, &first).await;
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
    assert_owner(&backend, &forgotten).await;
}

/// The second of two equal releases finds nothing, and leaves the new owner alone.
pub async fn a_repeated_release_does_nothing<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, heir) = (claim(&key), claim(&key));
    granted(&here, &holder).await;
    released(&here, &holder).await;
    assert_eq!(release(&here, &holder).await, Released::NotHeld);
    granted(&there, &heir).await;
    assert_eq!(release(&here, &holder).await, Released::NotHeld);
    assert_owner(&there, &heir).await;
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
    assert_owner(&there, &waiting).await;
}

// `abandon` undoes an `acquire` whether or not that was answered, and may come twice or first.

/// A waiter that gave up gets nothing, and costs the next no time.
pub async fn an_abandoned_waiter_is_skipped<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, gone, next) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&here, &gone).await;
    queued(&there, &next).await;
    abandon(&here, &gone).await;
    released(&here, &holder).await;
    assert_owner(&there, &next).await;
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
    queued(&there, &next).await;
    released(&here, &holder).await;
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
    assert_owner(&there, &first).await;
    released(&there, &first).await;
    assert_owner(&there, &second).await;
}

/// A caller that is cancelled in the middle of an acquire leaves neither a lease nor a place in the queue.
pub async fn an_abandon_undoes_an_acquire_that_was_dropped<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let cancelled = claim(&key);
    drop_after_one_poll(here.acquire(&cancelled));
    abandon(&here, &cancelled).await;
    sleep(SHORT).await;
    let holder = claim(&key);
    granted(&there, &holder).await;

    let cancelled = waiter(&key);
    drop_after_one_poll(here.acquire(&cancelled));
    abandon(&here, &cancelled).await;
    sleep(SHORT).await;
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

// `Err` means "not known".

/// A store that does not answer makes nobody believe that a lock is taken, lost or free.
pub async fn a_dark_store_is_an_error_and_never_a_refusal<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let (holder, other) = (claim(&key), waiter(&key));
    granted(&backend, &holder).await;
    store.go_dark().await;
    assert_all_errors(&backend, &holder, &other).await;
}

/// Whoever uses a backend after closing it is told so.
pub async fn a_closed_backend_answers_with_errors<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    answer(backend.close()).await;
    assert_all_errors(&backend, &claim(&key), &waiter(&key)).await;
}

// Claims that wait are served in the order in which the store first heard of them.

/// First come, first served, whichever process they are of.
pub async fn waiters_are_served_in_the_order_of_their_first_asking<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = claim(&key);
    granted(&here, &holder).await;
    let mut waiters = Vec::new();
    for place in 0..6 {
        let backend = if place % 3 == 0 { &here } else { &there };
        let waiter = waiter(&key);
        queued(backend, &waiter).await;
        waiters.push((backend, waiter));
    }
    released(&here, &holder).await;
    for (place, (backend, head)) in waiters.iter().enumerate() {
        assert_owner(*backend, head).await;
        for (backend, behind) in &waiters[place + 1..] {
            queued(*backend, behind).await;
        }
        released(*backend, head).await;
    }
    granted(&here, &claim(&key)).await;
}

/// Who waits for news hears of a hand-over without asking.
pub async fn a_hand_over_wakes_the_head_of_the_queue<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, heir) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &heir).await;
    let release = async {
        sleep(SHORT).await;
        released(&here, &holder).await;
    };
    tokio::join!(woken(&there, &heir), release);
    assert_owner(&there, &heir).await;
}

/// Between a release and the waiter that it serves, nobody gets in.
pub async fn a_hand_over_leaves_no_gap<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, heir) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &heir).await;
    released(&here, &holder).await;
    let seen = taken(&here, &claim(&key)).await;
    assert!(!seen.foreign && seen.remaining.is_some(), "{seen:?}");
    assert_owner(&there, &heir).await;
}

/// A lease that was handed over is short until its owner is heard of.
pub async fn a_handed_over_lease_lives_for_the_grace<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut heir) = (claim(&key), waiter(&key));
    heir.grace = LONG / 2;
    granted(&here, &holder).await;
    queued(&there, &heir).await;
    let asked = Instant::now();
    released(&here, &holder).await;
    let remaining = remaining(&here, &key).await;
    assert!(remaining <= heir.grace + ROUNDING, "{remaining:?}");
    assert!(
        remaining + asked.elapsed() + ROUNDING >= heir.grace,
        "{remaining:?}"
    );
}

/// The first renewal after a hand-over makes the lease a full one.
pub async fn a_renewal_turns_the_grace_into_the_full_ttl<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut heir) = (claim(&key), waiter(&key));
    heir.grace = LONG / 2;
    granted(&here, &holder).await;
    queued(&there, &heir).await;
    released(&here, &holder).await;
    let asked = Instant::now();
    assert_owner(&there, &heir).await;
    assert_left_at_least(&here, &key, LONG, asked).await;
}

/// A waiter that asks after a hand-over has the full ttl from then on.
pub async fn a_poll_turns_the_grace_into_the_full_ttl<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut heir) = (claim(&key), waiter(&key));
    heir.grace = LONG / 2;
    granted(&here, &holder).await;
    queued(&there, &heir).await;
    released(&here, &holder).await;
    let asked = Instant::now();
    granted(&there, &heir).await;
    assert_left_at_least(&here, &key, LONG, asked).await;
}

/// A waiter that died without a word delays those behind it by its grace, not by its ttl.
pub async fn a_waiter_that_is_gone_costs_the_grace<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut gone, next) = (claim(&key), waiter(&key), waiter(&key));
    gone.grace = SHORT;
    granted(&here, &holder).await;
    queued(&here, &gone).await;
    queued(&there, &next).await;
    released(&here, &holder).await;
    eventually_granted(&there, &next).await;
}

/// A lease that ended without a release goes to the head of the queue, not to whoever comes first.
pub async fn nobody_barges_in_after_an_expiry<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    store.expire(&key).await;
    taken(&here, &claim(&key)).await;
    queued(&here, &waiter(&key)).await;
    owned(&there, &first).await;
}

/// Nor does the owner of the lease that ended get in front of the others.
pub async fn an_owner_that_expired_stands_behind_the_waiters<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (late, first) = (waiter(&key), waiter(&key));
    granted(&here, &late).await;
    queued(&there, &first).await;
    store.expire(&key).await;
    queued(&here, &late).await;
    assert_owner(&there, &first).await;
    released(&there, &first).await;
    assert_owner(&here, &late).await;
}

/// Also a waiter further back that notices the expiry serves the head first.
pub async fn after_an_expiry_any_waiter_that_asks_serves_the_head<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, second) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&here, &first).await;
    queued(&there, &second).await;
    store.expire(&key).await;
    queued(&there, &second).await;
    woken(&here, &first).await;
    released(&here, &first).await;
    woken(&there, &second).await;
    assert_owner(&there, &second).await;
}

/// A release with a further claim of the same process gives it the lock that nobody else wants.
pub async fn a_release_grants_the_next_claim_if_nobody_waits<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next) = (claim(&key), waiter(&key));
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

/// A release with a further claim of the same process serves the others first.
pub async fn a_release_queues_the_next_claim_behind_those_who_wait<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, next) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    let answer = release_to(&here, &holder, &next).await;
    assert!(
        matches!(&answer, Released::Released(Some(Acquired::Queued(holder))) if !holder.foreign),
        "{answer:?}"
    );
    assert_owner(&there, &first).await;
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

// What happens to claims is told to the sinks of their backend.

/// A waiter that is busy elsewhere while it is served has been told all the same.
pub async fn a_hand_over_is_told_to_a_sink_attached_before<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, heir) = (claim(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &heir).await;
    released(&here, &holder).await;
    sleep(SHORT).await;
    woken(&there, &heir).await;
    assert_owner(&there, &heir).await;
}

/// A sink hears of the claims of its backend, whenever they were made.
pub async fn a_sink_attached_late_hears_of_earlier_claims<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, heir) = (claim(&key), waiter(&key));
    there.inbox.refuse(&heir);
    granted(&here, &holder).await;
    queued(&there, &heir).await;
    let late = Inbox::of(&there.backend);
    released(&here, &holder).await;
    answer(news(&there, &late, &heir)).await;
    assert_owner(&there, &heir).await;
}

/// Every claim is told of its own hand-over, whether or not somebody waits for the news, and those of
/// others are no news of its.
pub async fn a_sink_hears_of_every_hand_over<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, first, second) = (claim(&key), waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    queued(&there, &second).await;
    drop_after_one_poll(there.inbox.changed(&first));
    released(&here, &holder).await;
    woken(&there, &first).await;
    {
        let mut listening = pin!(there.inbox.changed(&second));
        assert!(poll_once(listening.as_mut()).is_pending());
        released(&there, &first).await;
        sleep(SHORT).await;
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
    queued(&there, &second).await;
    released(&here, &holder).await;
    answer(news(&there, &inboxes[0], &first)).await;
    // What is given back by mistake is by now.
    sleep(SHORT).await;
    assert_owner(&there, &first).await;
    released(&there, &first).await;
    answer(news(&there, &inboxes[1], &second)).await;
    sleep(SHORT).await;
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
    eventually_granted(&here, &claim(&key)).await;
}

/// A wake-up that names a lease names the one that there is: its tokens, its grace, an instant before it began.
pub async fn a_wake_up_tells_the_lease_as_it_is<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, mut heir) = (claim(&key), waiter(&key));
    heir.grace = LONG / 2;
    let tokens = granted(&here, &holder).await.tokens;
    queued(&there, &heir).await;
    released(&here, &holder).await;
    let handed_over = Instant::now();
    sleep(SHORT).await;
    let Some((grant, since)) = woken(&there, &heir).await else {
        return;
    };
    assert_later(grant.tokens, tokens);
    assert!(grant.valid_for <= heir.grace, "{grant:?}");
    assert!(
        since <= handed_over,
        "the lease is counted from after the hand-over"
    );
    let asked_again = granted(&there, &heir).await.tokens;
    assert!(asked_again.first >= grant.tokens.first);
}

// Verbs for one key take effect in the order in which their futures were first polled.

/// Not the order in which answers are awaited decides, but that of the first polls.
pub async fn verbs_take_effect_in_the_order_of_their_first_polls<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let claims: Vec<Claim> = (0..5).map(|_| waiter(&key)).collect();
    let mut verbs: Vec<_> = claims
        .iter()
        .map(|claim| Box::pin(backend.acquire(claim)))
        .collect();
    let mut answers: Vec<_> = verbs
        .iter_mut()
        .map(|verb| poll_once(verb.as_mut()))
        .collect();
    for (verb, answer) in verbs.into_iter().zip(&mut answers).rev() {
        if answer.is_pending() {
            *answer = Poll::Ready(self::answer(verb).await);
        }
    }
    for claim in &claims {
        assert_owner(&backend, claim).await;
        released(&backend, claim).await;
    }
}

/// A question that was overtaken by a later one of its process is not asked, and its caller is told
/// that nothing is known.
pub async fn a_verb_behind_a_larger_number_takes_no_effect<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, late) = (claim(&key), waiter(&key));
    granted(&here, &numbered(&holder, 7)).await;
    overtaken(answer(here.acquire(&numbered(&late, 6))).await);
    overtaken(answer(here.abandon(&numbered(&holder, 6))).await);
    let mut release = ending(&holder);
    release.number = 6;
    overtaken(answer(here.release(&release)).await);
    assert_owner(&here, &holder).await;
    // The same question once more, and one without a number, are not behind it.
    granted(&here, &numbered(&holder, 7)).await;
    granted(&here, &holder).await;
    release.number = 8;
    let outcome = answer(here.release(&release)).await.expect(HEALTHY);
    assert_eq!(outcome, Released::Released(None));
    // Nothing of the late one stands in the way.
    granted(&there, &claim(&key)).await;

    // The first poll decides, whether or not anybody waits for the answer.
    let early = numbered(&late, 10);
    drop_after_one_poll(here.acquire(&early));
    overtaken(answer(here.acquire(&numbered(&claim(&key), 9))).await);
    overtaken(answer(here.abandon(&numbered(&late, 9))).await);
    queued(&here, &early).await;
    answer(here.abandon(&numbered(&late, 11)))
        .await
        .expect(HEALTHY);
}

/// What is asked of other keys, or by other processes, overtakes nothing.
pub async fn numbers_order_the_verbs_of_one_key_and_one_process<S: Store>(store: &S) {
    let (here, there) = (connect(store).await, connect(store).await);
    let (one, other) = (key(), key());
    let holder = claim(&one);
    granted(&here, &numbered(&holder, 9)).await;
    granted(&here, &numbered(&claim(&other), 5)).await;
    taken(&there, &numbered(&claim(&one), 3)).await;
    granted(&here, &numbered(&holder, 10)).await;
}

// Dropping the future of a verb leaves its outcome unknown, and nothing else broken.

/// After any verb was dropped halfway, the same verb may be asked again, and all goes on.
pub async fn a_dropped_verb_breaks_nothing<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, heir) = (claim(&key), waiter(&key));
    drop_after_one_poll(here.acquire(&holder));
    granted(&here, &holder).await;
    drop_after_one_poll(there.acquire(&heir));
    queued(&there, &heir).await;

    let batch = [renewal(&holder)];
    drop_after_one_poll(here.renew(&batch));
    assert_owner(&here, &holder).await;

    drop_after_one_poll(here.release(&ending(&holder)));
    // Either may be the answer, since the first release may have been done.
    release(&here, &holder).await;
    woken(&there, &heir).await;
    drop_after_one_poll(there.abandon(&heir));
    abandon(&there, &heir).await;
    granted(&here, &claim(&key)).await;
}

// A call that had no answer may take effect late, and then undoes nothing of what later calls of
// the same owner did.

/// A claim is asked for with one ttl and then with another, and the first question arrives last.
pub async fn a_late_acquire_shortens_no_lease<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = claim(&key);
    let asked = Instant::now();
    granted(&here, &holder).await;
    let late = with_ttl(holder.clone(), SHORT);
    let grant = granted(&there, &late).await;
    assert!(grant.valid_for <= LONG, "{grant:?}");
    assert_left_at_least(&there, &key, LONG, asked).await;
    sleep(2 * SHORT).await;
    assert_owner(&here, &holder).await;
}

// `renew` extends each lease that its owner still holds to its full ttl, and never creates one.

/// A renewed lease lives for its ttl from then on.
pub async fn a_renewal_extends_the_lease<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = with_ttl(claim(&key), LONG / 2);
    granted(&here, &holder).await;
    let asked = Instant::now();
    let mut renewal = renewal(&holder);
    renewal.ttl = LONG;
    assert_held(renew_one(&here, &renewal).await);
    assert_left_at_least(&there, &key, LONG, asked).await;
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
    assert!(remaining(&there, &key).await <= LONG + ROUNDING);
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
    let answers = answer(backend.renew(&renewals)).await;
    assert_eq!(answers.len(), LEASES);
    for (place, answer) in answers.into_iter().enumerate() {
        let held = matches!(answer.expect(HEALTHY), Renewed::Held(_));
        assert_eq!(held, place % 3 == 0, "lease {place}");
    }
    assert!(answer(backend.renew(&[])).await.is_empty());
}

/// When all is over, the store holds no lock and no queue.
pub async fn nothing_is_left_behind<S: Store>(store: &S) {
    let (here, there) = (connect(store).await, connect(store).await);
    for _ in 0..3 {
        let key = key();
        let (holder, heir, gone, next) = (claim(&key), waiter(&key), waiter(&key), waiter(&key));
        granted(&here, &holder).await;
        queued(&there, &heir).await;
        queued(&there, &gone).await;
        drop_after_one_poll(there.inbox.changed(&gone));
        release_to(&here, &holder, &next).await;
        woken(&there, &heir).await;
        abandon(&there, &gone).await;
        released(&there, &heir).await;
        released(&here, &next).await;
        taken_then_abandoned(&here, &key).await;
    }
    let leftovers = store.leftovers().await;
    assert!(leftovers.is_empty(), "left behind: {leftovers:?}");
}

/// A refused claim and a withdrawn one leave no more than one that was served.
async fn taken_then_abandoned(backend: &Process<impl Backend>, key: &LockKey) {
    let (holder, refused, gone) = (claim(key), claim(key), waiter(key));
    granted(backend, &holder).await;
    taken(backend, &refused).await;
    queued(backend, &gone).await;
    abandon(backend, &gone).await;
    abandon(backend, &holder).await;
}

const HEALTHY: &str = "a healthy store answers";

/// More fencing tokens than the clock can step over between two verbs.
const MANY: u32 = 10_000_000;

/// A key that no other promise uses.
fn key() -> LockKey {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    LockKey::new("lock:", &format!("conformance:{number}")).expect("a valid key")
}

fn claim(key: &LockKey) -> Claim {
    Claim::new(key.clone(), OwnerToken::unique("conformance"), LONG)
}

fn waiter(key: &LockKey) -> Claim {
    claim(key).queued()
}

fn with_ttl(mut claim: Claim, ttl: Duration) -> Claim {
    claim.ttl = ttl;
    claim.grace = ttl;
    claim
}

fn numbered(claim: &Claim, number: AskNumber) -> Claim {
    let mut claim = claim.clone();
    claim.number = number;
    claim
}

fn with_tokens(mut claim: Claim, tokens: u32) -> Claim {
    claim.tokens = tokens;
    claim
}

fn renewal(claim: &Claim) -> Renewal {
    Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl)
}

/// No verb and no news may keep a test for ever.
async fn answer<T>(verb: impl Future<Output = T>) -> T {
    timeout(DEADLINE, verb)
        .await
        .expect("an answer before the deadline")
}

async fn acquire(backend: &Process<impl Backend>, claim: &Claim) -> Acquired {
    answer(backend.acquire(claim)).await.expect(HEALTHY)
}

async fn granted(backend: &Process<impl Backend>, claim: &Claim) -> Grant {
    match acquire(backend, claim).await {
        Acquired::Granted(grant) => grant,
        other => panic!("the lock should have been granted, but: {other:?}"),
    }
}

async fn queued(backend: &Process<impl Backend>, claim: &Claim) -> Holder {
    match acquire(backend, claim).await {
        Acquired::Queued(holder) => holder,
        other => panic!("the claim should have been queued, but: {other:?}"),
    }
}

async fn taken(backend: &Process<impl Backend>, claim: &Claim) -> Holder {
    match acquire(backend, claim).await {
        Acquired::Taken(holder) => holder,
        other => panic!("the lock should have been taken, but: {other:?}"),
    }
}

async fn eventually_granted(backend: &Process<impl Backend>, claim: &Claim) {
    let ask = async {
        while !matches!(acquire(backend, claim).await, Acquired::Granted(_)) {
            sleep(SHORT / 10).await;
        }
    };
    answer(ask).await;
}

/// Waits as a caller does until the claim owns the lock: by news, and by asking once a heartbeat.
async fn owned(backend: &Process<impl Backend>, claim: &Claim) -> FenceBlock {
    let wait = async {
        loop {
            if let Acquired::Granted(grant) = acquire(backend, claim).await {
                return grant.tokens;
            }
            // A missing wake-up is no fault, so ask again without one; nor is a spurious one, but too many would stop a paused clock.
            if let Ok(Told::Ask) = timeout(SHORT, backend.inbox.changed(claim)).await {
                sleep(SHORT / 100).await;
            }
        }
    };
    answer(wait).await
}

/// Waits until news come that make the claim the owner; tells the lease if the news did.
async fn woken(backend: &Process<impl Backend>, claim: &Claim) -> Option<(Grant, Instant)> {
    answer(news(backend, &backend.inbox, claim)).await
}

/// The same, by the news in `inbox`.
async fn news(
    backend: &Process<impl Backend>,
    inbox: &Inbox,
    claim: &Claim,
) -> Option<(Grant, Instant)> {
    loop {
        match inbox.changed(claim).await {
            Told::Granted { grant, since } => return Some((grant, since)),
            Told::Ask if is_held(renewed(backend, claim).await) => return None,
            // Spurious; let others run, lest a store that is full of them stops the clock.
            Told::Ask => sleep(SHORT / 10).await,
        }
    }
}

/// The release of `claim`.
fn ending(claim: &Claim) -> Release {
    Release::new(claim.key.clone(), claim.owner.clone())
}

async fn release(backend: &Process<impl Backend>, claim: &Claim) -> Released {
    answer(backend.release(&ending(claim)))
        .await
        .expect(HEALTHY)
}

async fn released(backend: &Process<impl Backend>, claim: &Claim) {
    assert_eq!(release(backend, claim).await, Released::Released(None));
}

async fn release_to(backend: &Process<impl Backend>, claim: &Claim, next: &Claim) -> Released {
    answer(backend.release(&ending(claim).then(Some(next.clone()))))
        .await
        .expect(HEALTHY)
}

async fn abandon(backend: &Process<impl Backend>, claim: &Claim) {
    answer(backend.abandon(claim)).await.expect(HEALTHY);
}

async fn renew_one(backend: &Process<impl Backend>, renewal: &Renewal) -> Renewed {
    let mut answers = answer(backend.renew(std::slice::from_ref(renewal))).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).expect(HEALTHY)
}

async fn renewed(backend: &Process<impl Backend>, claim: &Claim) -> Renewed {
    renew_one(backend, &renewal(claim)).await
}

/// By a renewal, since an `acquire` would serve the queue where a release forgot to.
async fn assert_owner(backend: &Process<impl Backend>, claim: &Claim) {
    let answer = renewed(backend, claim).await;
    assert!(is_held(answer), "the claim should own the lock");
}

fn is_held(answer: Renewed) -> bool {
    matches!(answer, Renewed::Held(_))
}

/// That a renewal for the full ttl held, and gave no tokens.
fn assert_held(answer: Renewed) {
    let Renewed::Held(extension) = answer else {
        panic!("the lease should have been held, but: {answer:?}");
    };
    assert_eq!(extension.tokens, None);
}

fn assert_lost(answer: Renewed) {
    assert!(matches!(answer, Renewed::Lost(_)), "{answer:?}");
}

/// That a question which came behind a later one was not asked.
fn overtaken<T: std::fmt::Debug>(answer: Result<T, BackendError>) {
    let error = answer.expect_err("a question that was overtaken");
    assert!(
        !error.is_denied(),
        "asking again with a larger number helps"
    );
}

/// What is left of a lease, as a stranger sees it.
async fn remaining(backend: &Process<impl Backend>, key: &LockKey) -> Duration {
    let holder = taken(backend, &claim(key)).await;
    holder.remaining.expect("the lease ends")
}

/// That a lease began to live for `ttl` no earlier than `asked`.
async fn assert_left_at_least(
    backend: &Process<impl Backend>,
    key: &LockKey,
    ttl: Duration,
    asked: Instant,
) {
    let remaining = remaining(backend, key).await;
    assert!(
        remaining + asked.elapsed() + ROUNDING >= ttl,
        "{remaining:?} is left of {ttl:?}"
    );
}

fn assert_later(later: FenceBlock, earlier: FenceBlock) {
    assert!(
        later.first > earlier.last,
        "{later:?} does not follow {earlier:?}"
    );
}

fn assert_block(block: FenceBlock, wanted: u32) {
    assert!(block.first <= block.last, "{block:?}");
    assert!(
        block.last.as_u64() - block.first.as_u64() < u64::from(wanted),
        "{block:?} is more than {wanted}"
    );
}

async fn assert_all_errors(backend: &Process<impl Backend>, holder: &Claim, other: &Claim) {
    fn unknown<T: std::fmt::Debug>(answer: Result<T, BackendError>) {
        assert!(answer.is_err(), "nobody can know that: {answer:?}");
    }
    unknown(answer(backend.acquire(other)).await);
    unknown(answer(backend.acquire(&claim(&holder.key))).await);
    let answers = answer(backend.renew(&[renewal(holder), renewal(other)])).await;
    assert_eq!(answers.len(), 2);
    answers.into_iter().for_each(unknown);
    unknown(answer(backend.release(&ending(holder).then(Some(other.clone())))).await);
    unknown(answer(backend.abandon(holder)).await);
}

/// Polls a verb once, without a word of when to poll it again.
pub fn poll_once<T>(verb: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    verb.poll(&mut Context::from_waker(Waker::noop()))
}

fn drop_after_one_poll<T>(verb: impl Future<Output = T>) {
    let _ = poll_once(pin!(verb));
}

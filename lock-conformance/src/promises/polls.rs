//! Verbs take effect in the order of their numbers and first polls, and may be dropped.

use std::task::Poll;

use lock_protocol::{Backend, Claim, Released};

use crate::process::*;
use crate::store::Store;

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
            *answer = Poll::Ready(backend.answer(verb).await);
        }
    }
    assert_owner(&backend, &claims[0]).await;
    released(&backend, &claims[0]).await;
    let waiters: Vec<_> = claims[1..].iter().map(|claim| (&backend, claim)).collect();
    all_served(&waiters).await;
}

/// A question that was overtaken by a later one of its process is not asked, and its caller is told
/// that nothing is known.
pub async fn a_verb_behind_a_larger_number_takes_no_effect<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, late) = (claim(&key), waiter(&key));
    granted(&here, &numbered(&holder, 7)).await;
    overtaken(here.answer(here.acquire(&numbered(&late, 6))).await);
    overtaken(here.answer(here.abandon(&numbered(&holder, 6))).await);
    let mut release = ending(&holder);
    release.number = 6;
    overtaken(here.answer(here.release(&release)).await);
    assert_owner(&here, &holder).await;
    // The same question once more, and one without a number, are not behind it.
    granted(&here, &numbered(&holder, 7)).await;
    granted(&here, &holder).await;
    release.number = 8;
    let outcome = here.answer(here.release(&release)).await.expect(HEALTHY);
    assert_eq!(outcome, Released::Released(None));
    // Nothing of the late one stands in the way.
    granted(&there, &claim(&key)).await;

    // The first poll decides, whether or not anybody waits for the answer.
    let early = numbered(&late, 10);
    drop_after_one_poll(here.acquire(&early));
    overtaken(here.answer(here.acquire(&numbered(&claim(&key), 9))).await);
    overtaken(here.answer(here.abandon(&numbered(&late, 9))).await);
    queued(&here, &early).await;
    here.answer(here.abandon(&numbered(&late, 11)))
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

/// After any verb was dropped halfway, the same verb may be asked again, and all goes on.
pub async fn a_dropped_verb_breaks_nothing<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (holder, next_waiter) = (claim(&key), waiter(&key));
    drop_after_one_poll(here.acquire(&holder));
    granted(&here, &holder).await;
    drop_after_one_poll(there.acquire(&next_waiter));
    queued(&there, &next_waiter).await;

    let batch = [renewal(&holder)];
    drop_after_one_poll(here.renew(&batch));
    assert_owner(&here, &holder).await;

    drop_after_one_poll(here.release(&ending(&holder)));
    // Either may be the answer, since the first release may have been done.
    release(&here, &holder).await;
    woken(&there, &next_waiter).await;
    drop_after_one_poll(there.abandon(&next_waiter));
    abandon(&there, &next_waiter).await;
    granted(&here, &claim(&key)).await;
}

//! "Not known" is an error, and nothing stays behind.

use std::fmt::Debug;

use lock_protocol::{Backend, BackendError, Claim, LockKey};

use crate::process::*;
use crate::store::Store;

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
    backend.answer(backend.close()).await;
    assert_all_errors(&backend, &claim(&key), &waiter(&key)).await;
}

/// When all is over, the store holds no lock and no queue.
pub async fn nothing_is_left_behind<S: Store>(store: &S) {
    let (here, there) = (connect(store).await, connect(store).await);
    for _ in 0..3 {
        let key = key();
        let (holder, next_waiter, gone, next) =
            (claim(&key), waiter(&key), waiter(&key), waiter(&key));
        granted(&here, &holder).await;
        queued(&there, &next_waiter).await;
        queued(&there, &gone).await;
        drop_after_one_poll(there.inbox.changed(&gone));
        release_to(&here, &holder, &next).await;
        if here.is_fifo() {
            woken(&there, &next_waiter).await;
        }
        abandon(&there, &gone).await;
        all_served(&[(&there, &next_waiter), (&here, &next)]).await;
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

async fn assert_all_errors(process: &Process<impl Backend>, holder: &Claim, other: &Claim) {
    fn unknown<T: Debug>(answer: Result<T, BackendError>) {
        assert!(answer.is_err(), "nobody can know that: {answer:?}");
    }
    unknown(process.answer(process.acquire(other)).await);
    unknown(process.answer(process.acquire(&claim(&holder.key))).await);
    let renewals = [renewal(holder), renewal(other)];
    let answers = process.answer(process.renew(&renewals)).await;
    assert_eq!(answers.len(), 2);
    answers.into_iter().for_each(unknown);
    let release = ending(holder).then(Some(other.clone()));
    unknown(process.answer(process.release(&release)).await);
    unknown(process.answer(process.abandon(holder)).await);
}

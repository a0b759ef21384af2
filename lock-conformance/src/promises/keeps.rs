//! A key that is kept after its lease is taken for as long, by nobody.
//!
//! A store that keeps none says so; there, what is left is that the lease itself keeps others out.

use lock_protocol::{Backend, Released};

use crate::process::*;
use crate::store::Store;

/// Nobody has the key while it is kept, whoever waits or comes; then those who wait are served in
/// their order.
pub async fn a_kept_key_is_nobodys_and_is_served_afterwards<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = claim(&key);
    let (first, second) = (waiter(&key), waiter(&key));
    granted(&here, &holder).await;
    queued(&there, &first).await;
    taken(&here, &claim(&key)).await;
    if !here.limits.keep {
        return;
    }
    let keep = here.medium();
    kept(&here, &holder, keep).await;
    assert_lost(renewed(&here, &holder).await);
    assert_lost(renewed(&there, &first).await);
    let holder = taken(&here, &claim(&key)).await;
    let rest = holder.remaining.expect("it ends");
    assert!(rest <= here.at_most(keep), "{rest:?} of {keep:?} are left");
    assert!(!holder.foreign, "it is kept by one of ours");
    queued(&there, &second).await;
    granted_after(&there, keep, &first).await;
    taken(&here, &claim(&key)).await;
    released(&there, &first).await;
    served(&there, &second).await;
}

/// Neither the questions of its last owner, nor a second release, change anything about a key that
/// is kept.
pub async fn what_comes_late_finds_a_kept_key_as_it_is<S: Store>(store: &S) {
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let holder = claim(&key);
    granted(&here, &holder).await;
    taken(&there, &claim(&key)).await;
    if !here.limits.keep {
        return;
    }
    let keep = here.visible() / 2;
    kept(&here, &holder, keep).await;
    let again = keeping(&holder, here.visible());
    let answer = here.answer(here.release(&again)).await;
    assert_eq!(answer.expect("it answers"), Released::NotHeld);
    assert_eq!(release(&here, &holder).await, Released::NotHeld);
    assert_lost(renewed(&here, &holder).await);
    let mut late = holder.clone();
    late.in_doubt = true;
    abandon(&here, &late).await;
    taken(&here, &late).await;
    let rest = taken(&there, &claim(&key)).await.remaining;
    assert!(
        rest.is_some_and(|rest| rest <= here.at_most(keep)),
        "{rest:?}"
    );
}

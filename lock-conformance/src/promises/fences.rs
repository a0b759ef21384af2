//! Every grant of a key carries larger fencing tokens than every earlier grant of it.

use lock_protocol::Renewed;

use crate::process::*;
use crate::store::Store;

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
    let (holder, next_waiter, last) = (claim(&key), waiter(&key), claim(&key));
    let first = granted(&here, &holder).await.tokens;
    queued(&there, &next_waiter).await;
    released(&here, &holder).await;
    let second = owned(&there, &next_waiter).await;
    assert_later(second, first);
    released(&there, &next_waiter).await;
    assert_later(granted(&here, &last).await.tokens, second);
}

/// Tokens that were reserved and not used are used by nobody else.
pub async fn fences_grow_over_a_whole_block<S: Store>(store: &S) {
    let (backend, key) = (connect(store).await, key());
    let holder = with_tokens(claim(&key), MANY);
    let block = granted(&backend, &holder).await.tokens;
    assert_block(block, MANY);
    released(&backend, &holder).await;

    let next_waiter = with_tokens(waiter(&key), MANY);
    let middle = claim(&key);
    assert_later(granted(&backend, &middle).await.tokens, block);
    queued(&backend, &next_waiter).await;
    released(&backend, &middle).await;
    let block = owned(&backend, &next_waiter).await;
    assert_block(block, MANY);
    released(&backend, &next_waiter).await;
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

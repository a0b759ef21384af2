//! Leases of one kind go together, up to the limit that each claim brings; different kinds exclude
//! each other.
//!
//! A store that knows the exclusive mode alone says so; there, what is left is that each claim is
//! granted alone.

use std::collections::BTreeSet;

use lock_protocol::{Acquired, Backend, Claim, Grant, LockKey, Mode, Released};
use tokio::time::sleep;

use crate::inbox::Told;
use crate::process::*;
use crate::store::Store;

pub(super) fn of_mode(mut claim: Claim, mode: Mode) -> Claim {
    claim.mode = mode;
    claim
}

pub(super) fn shared(key: &LockKey) -> Claim {
    of_mode(waiter(key), Mode::Shared)
}

pub(super) fn permits(key: &LockKey, take: u8, of: u32) -> Claim {
    of_mode(waiter(key), Mode::Permits { take, of })
}

pub(super) fn shard(key: &LockKey, of: u8, prefer: u8, except: u64) -> Claim {
    of_mode(waiter(key), Mode::Shard { of, prefer, except })
}

/// The same claim, which does not wait.
pub(super) fn trying(mut claim: Claim) -> Claim {
    claim.queue = false;
    claim
}

/// Whether the store knows other modes; if not, that of two claims of this mode one is granted.
pub(super) async fn knows<S: Store>(store: &S, mode: Mode) -> bool {
    let (here, key) = (connect(store).await, key());
    if here.limits.modes {
        return true;
    }
    let (one, other) = (of_mode(claim(&key), mode), of_mode(claim(&key), mode));
    granted(&here, &one).await;
    taken(&here, &other).await;
    assert_lost(renewed(&here, &other).await);
    abandon(&here, &one).await;
    granted(&here, &other).await;
    if here.limits.keep {
        kept(&here, &other, here.visible()).await;
        taken(&here, &of_mode(claim(&key), mode)).await;
    }
    false
}

/// The release of a lease of a shard.
pub(super) async fn released_shard(process: &Process<impl Backend>, claim: &Claim, grant: &Grant) {
    let mut release = ending(claim);
    release.shard = grant.shard;
    let answer = process.answer(process.release(&release)).await;
    assert_eq!(answer.expect(HEALTHY), Released::Released(None));
}

/// However many share a key, each has it, and nobody else does.
pub async fn those_who_share_a_key_hold_it_together<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (one, other) = (shared(&key), shared(&key));
    granted(&here, &one).await;
    granted(&there, &other).await;
    taken(&there, &claim(&key)).await;
    assert!(is_held(renewed(&here, &one).await) && is_held(renewed(&there, &other).await));
    released(&here, &one).await;
    taken(&here, &claim(&key)).await;
    released(&there, &other).await;
    granted(&here, &claim(&key)).await;
}

/// What is held in one mode keeps the claims of every other away, until it is released.
pub async fn kinds_of_claims_exclude_each_other<S: Store>(store: &S) {
    let (here, there) = (connect(store).await, connect(store).await);
    let kinds = [
        |key: &LockKey| claim(key),
        |key: &LockKey| trying(shared(key)),
        |key: &LockKey| trying(permits(key, 1, 5)),
        |key: &LockKey| trying(shard(key, 5, 0, 0)),
    ];
    for (index, holds) in kinds.iter().enumerate() {
        for (other, wants) in kinds.iter().enumerate() {
            if index == other {
                continue;
            }
            let key = key();
            let (holder, comer) = (holds(&key), wants(&key));
            let grant = granted(&here, &holder).await;
            let seen = taken(&there, &comer).await;
            assert!(!seen.foreign, "it is held by one of ours");
            assert!(
                seen.remaining
                    .is_some_and(|left| left <= here.at_most(holder.ttl))
            );
            released_shard(&here, &holder, &grant).await;
            granted(&there, &comer).await;
        }
    }
}

/// Whoever wants the key alone is not passed by those who come later, and if it leaves they go on.
pub async fn those_who_share_do_not_pass_one_who_waits<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (reader, writer, late) = (shared(&key), waiter(&key), shared(&key));
    granted(&here, &reader).await;
    queued(&there, &writer).await;
    queued(&here, &late).await;
    taken(&there, &trying(shared(&key))).await;
    released(&here, &reader).await;
    served(&there, &writer).await;
    queued(&here, &late).await;
    released(&there, &writer).await;
    served(&here, &late).await;
    let (writer, late) = (waiter(&key), shared(&key));
    queued(&there, &writer).await;
    queued(&there, &late).await;
    abandon(&there, &writer).await;
    served(&there, &late).await;
}

/// When all who stand first want to share, all of them have the key; whoever stands behind them
/// does not.
pub async fn all_who_share_are_served_together<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (writer, readers) = readers_behind_a_writer(&here, &there, &key).await;
    let (last, behind) = (waiter(&key), shared(&key));
    queued(&here, &last).await;
    queued(&here, &behind).await;
    released(&here, &writer).await;
    served(&there, &readers[0]).await;
    for reader in &readers {
        comes_in(&there, reader).await;
    }
    queued(&here, &last).await;
    queued(&here, &behind).await;
    for reader in &readers {
        assert!(is_held(renewed(&there, reader).await));
        released(&there, reader).await;
    }
    served(&here, &last).await;
    queued(&here, &behind).await;
}

/// A lock that is held here, and more readers in the queue there than a store may want to serve at
/// once.
async fn readers_behind_a_writer<B: Backend>(
    here: &Process<B>,
    there: &Process<B>,
    key: &LockKey,
) -> (Claim, Vec<Claim>) {
    let writer = claim(key);
    granted(here, &writer).await;
    let readers: Vec<Claim> = (0..40).map(|_| shared(key)).collect();
    for reader in &readers {
        queued(there, reader).await;
    }
    (writer, readers)
}

/// That the claim, which waited, has its lease; it may have to ask.
async fn comes_in<B: Backend>(process: &Process<B>, claim: &Claim) -> Grant {
    match acquire(process, claim).await {
        Acquired::Granted(grant) => grant,
        other => panic!("there is room for the claim, but: {other:?}"),
    }
}

/// Whoever is told to ask asks then, and not before: that is enough for all who can share a key,
/// however many they are.
pub async fn all_who_share_come_in_though_each_asks_only_when_told<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (writer, readers) = readers_behind_a_writer(&here, &there, &key).await;
    released(&here, &writer).await;
    for reader in &readers {
        comes_in_when_told(&there, reader).await;
    }
    for reader in &readers {
        assert!(is_held(renewed(&there, reader).await));
    }
}

/// That the claim, which waits, gets its lease by news, or by asking when they say so.
async fn comes_in_when_told<B: Backend>(process: &Process<B>, claim: &Claim) {
    let wait = async {
        loop {
            match process.inbox.changed(claim).await {
                Told::Granted { .. } => return,
                Told::Ask if matches!(acquire(process, claim).await, Acquired::Granted(_)) => {
                    return;
                }
                Told::Ask => {}
            }
        }
    };
    process.answer(wait).await;
}

/// Of those who share, only the end of the last is the end for all.
pub async fn the_last_who_shares_hands_over<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let readers = [shared(&key), shared(&key), shared(&key)];
    for reader in &readers {
        granted(&here, reader).await;
    }
    let writer = waiter(&key);
    queued(&there, &writer).await;
    for reader in &readers {
        assert_lost(renewed(&there, &writer).await);
        released(&here, reader).await;
    }
    served(&there, &writer).await;
}

/// A lease that nobody renews ends with its own ttl, whoever renews others of the key.
pub async fn each_of_several_leases_ends_by_itself<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let ttl = here.medium();
    let (dead, alive) = (with_ttl(shared(&key), ttl), with_ttl(shared(&key), 2 * ttl));
    granted(&here, &dead).await;
    granted(&there, &alive).await;
    let writer = with_ttl(waiter(&key), LONG);
    queued(&here, &writer).await;
    let steps = 8;
    for _ in 0..=steps {
        sleep(here.at_most(ttl) / steps).await;
        assert!(is_held(renewed(&there, &alive).await));
    }
    assert_lost(renewed(&here, &dead).await);
    assert_eq!(release(&here, &dead).await, Released::NotHeld);
    assert!(is_held(renewed(&there, &alive).await));
    assert_lost(renewed(&here, &writer).await);
    released(&there, &alive).await;
    served(&here, &writer).await;
}

/// All who share a key at a time have the same fencing token: above those of all who had it alone
/// before, and below those of all who have it after them.
pub async fn those_who_share_have_one_fence<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let writer = claim(&key);
    let mut before = granted(&here, &writer).await.tokens;
    let waiting = [shared(&key), shared(&key)];
    for reader in &waiting {
        queued(&there, reader).await;
    }
    released(&here, &writer).await;
    for _ in 0..2 {
        let first = comes_in(&there, &waiting[0]).await.tokens;
        assert_later(first, before);
        assert_eq!(first.first, first.last);
        assert_eq!(comes_in(&there, &waiting[1]).await.tokens, first);
        let late = shared(&key);
        assert_eq!(granted(&here, &late).await.tokens, first);
        // The first may go; the others share it still.
        released(&there, &waiting[0]).await;
        let later = shared(&key);
        assert_eq!(granted(&here, &later).await.tokens, first);
        for reader in [&waiting[1], &late, &later] {
            released(&here, reader).await;
        }
        let writer = claim(&key);
        before = granted(&here, &writer).await.tokens;
        assert_later(before, first);
        for reader in &waiting {
            queued(&there, reader).await;
        }
        released(&here, &writer).await;
    }
}

/// As many permits are held as there are, by the number that each claim brings.
pub async fn no_more_permits_are_held_than_there_are<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (one, two) = (permits(&key, 1, 3), permits(&key, 2, 3));
    granted(&here, &one).await;
    let first = granted(&there, &two).await.tokens;
    taken(&here, &trying(permits(&key, 1, 3))).await;
    // Somebody else's limit is not the same.
    let more = permits(&key, 2, 5);
    assert_later(granted(&here, &more).await.tokens, first);
    taken(&there, &trying(permits(&key, 1, 5))).await;
    released(&there, &two).await;
    taken(&here, &trying(permits(&key, 1, 3))).await;
    let last = trying(permits(&key, 2, 5));
    granted(&here, &last).await;
    for claim in [&one, &more, &last] {
        released(&here, claim).await;
    }
    granted(&there, &claim(&key)).await;
}

/// A permit that has run out is free for others at once, and stays lost for who had it.
pub async fn a_permit_that_ran_out_stays_lost<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let ttl = here.short();
    let (dead, alive) = (with_ttl(permits(&key, 1, 2), ttl), permits(&key, 1, 2));
    granted(&here, &dead).await;
    granted(&there, &alive).await;
    let next = permits(&key, 1, 2);
    queued(&there, &next).await;
    granted_after(&there, ttl, &next).await;
    assert_lost(renewed(&here, &dead).await);
    assert_eq!(release(&here, &dead).await, Released::NotHeld);
    assert!(is_held(renewed(&there, &alive).await) && is_held(renewed(&there, &next).await));
    taken(&here, &trying(permits(&key, 1, 2))).await;
}

/// Whoever waits for more permits than are free is not passed by one who wants fewer.
pub async fn nobody_passes_a_claim_for_more_permits<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (one, two) = (permits(&key, 2, 4), permits(&key, 1, 4));
    granted(&here, &one).await;
    granted(&here, &two).await;
    let (heavy, light) = (permits(&key, 3, 4), permits(&key, 1, 4));
    queued(&there, &heavy).await;
    queued(&here, &light).await;
    taken(&here, &trying(permits(&key, 1, 4))).await;
    released(&here, &one).await;
    served(&there, &heavy).await;
    queued(&here, &light).await;
    released(&here, &two).await;
    served(&here, &light).await;
    taken(&here, &trying(permits(&key, 1, 4))).await;
}

/// Neither a second release nor that of another gives a permit back, nor does a repeated claim take
/// a second one.
pub async fn a_permit_is_given_back_once<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (one, two) = (permits(&key, 1, 2), permits(&key, 1, 2));
    let first = granted(&here, &one).await.tokens;
    assert!(granted(&here, &one).await.tokens.first >= first.first);
    granted(&there, &two).await;
    assert_eq!(
        release(&here, &permits(&key, 1, 2)).await,
        Released::NotHeld
    );
    taken(&here, &trying(permits(&key, 1, 2))).await;
    released(&here, &one).await;
    assert_eq!(release(&here, &one).await, Released::NotHeld);
    let three = permits(&key, 1, 2);
    granted(&here, &three).await;
    assert_eq!(release(&here, &one).await, Released::NotHeld);
    assert_lost(renewed(&here, &one).await);
    taken(&here, &trying(permits(&key, 1, 2))).await;
}

/// A permit that is kept stays taken for so long, and is free then without a word.
pub async fn a_kept_permit_is_nobodys<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    if !here.limits.keep {
        return;
    }
    let keep = here.medium();
    let (one, two) = (permits(&key, 1, 2), permits(&key, 1, 2));
    granted(&here, &one).await;
    granted(&here, &two).await;
    let next = permits(&key, 1, 2);
    queued(&there, &next).await;
    kept(&here, &one, keep).await;
    assert_lost(renewed(&here, &one).await);
    assert_lost(renewed(&there, &next).await);
    assert_eq!(release(&here, &one).await, Released::NotHeld);
    let left = taken(&here, &trying(permits(&key, 1, 2))).await.remaining;
    assert!(left.is_some());
    granted_after(&there, keep, &next).await;
    assert!(is_held(renewed(&here, &two).await));
    taken(&here, &trying(permits(&key, 1, 2))).await;
}

/// Each part of a key has one holder; a claim gets the part it likes best, or any other that is
/// free and not excepted.
pub async fn a_shard_has_one_holder<S: Store>(store: &S) {
    let any = Mode::Shard {
        of: 3,
        prefer: 0,
        except: 0,
    };
    if !knows(store, any).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (one, two, three) = (
        shard(&key, 3, 1, 0),
        shard(&key, 3, 1, 0b001),
        shard(&key, 3, 0, 0),
    );
    let first = granted(&here, &one).await;
    assert_eq!(first.shard, 1);
    let second = granted(&there, &two).await;
    assert_eq!(second.shard, 2);
    let third = granted(&there, &three).await;
    assert_eq!(third.shard, 0);
    taken(&here, &trying(shard(&key, 3, 1, 0))).await;
    // There are more parts for some than for others.
    let (more, waits) = (shard(&key, 64, 63, 0), shard(&key, 3, 0, 0b010));
    let far = granted(&here, &more).await;
    assert_eq!(far.shard, 63);
    queued(&there, &waits).await;
    released_shard(&here, &one, &first).await;
    queued(&there, &waits).await;
    released_shard(&there, &two, &second).await;
    let again = comes_in(&there, &waits).await;
    assert_eq!(again.shard, 2);
    assert_later(again.tokens, second.tokens);
    let shards: BTreeSet<u8> = [third.shard, far.shard, again.shard].into();
    assert_eq!(shards.len(), 3);
}

/// A claim that is granted again has the part that it had.
pub async fn a_repeated_claim_has_the_same_shard<S: Store>(store: &S) {
    let any = Mode::Shard {
        of: 3,
        prefer: 0,
        except: 0,
    };
    if !knows(store, any).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let (one, two) = (shard(&key, 2, 0, 0), shard(&key, 2, 0, 0));
    granted(&here, &one).await;
    let grant = granted(&there, &two).await;
    assert_eq!(grant.shard, 1);
    taken(&here, &trying(shard(&key, 2, 0, 0))).await;
    released(&here, &one).await;
    assert_eq!(granted(&there, &two).await.shard, 1);
    let mut late = renewal(&two);
    late.shard = 1;
    assert!(is_held(renew_one(&there, &late).await));
    released_shard(&there, &two, &grant).await;
    assert_lost(renew_one(&there, &late).await);
    granted(&here, &claim(&key)).await;
}

/// A withdrawal frees what was granted, and nothing else.
pub async fn an_abandoned_lease_of_several_is_free<S: Store>(store: &S) {
    if !knows(store, Mode::Shared).await {
        return;
    }
    let (here, there) = (connect(store).await, connect(store).await);
    let kinds = [
        |key: &LockKey| shared(key),
        |key: &LockKey| permits(key, 2, 4),
        |key: &LockKey| shard(key, 2, 1, 0),
    ];
    for claims in kinds {
        let key = key();
        let (one, two, writer) = (claims(&key), claims(&key), waiter(&key));
        let first = granted(&here, &one).await;
        let second = granted(&there, &two).await;
        queued(&here, &writer).await;
        abandon(&here, &one).await;
        let mut late = renewal(&one);
        late.shard = first.shard;
        assert_lost(renew_one(&here, &late).await);
        let mut other = renewal(&two);
        other.shard = second.shard;
        assert!(is_held(renew_one(&there, &other).await));
        assert_lost(renewed(&here, &writer).await);
        abandon(&there, &two).await;
        served(&here, &writer).await;
        released(&here, &writer).await;
        // What comes late finds that it was withdrawn.
        let (mut gone, stays) = (claims(&key), claims(&key));
        granted(&there, &stays).await;
        gone.in_doubt = true;
        abandon(&here, &gone).await;
        taken(&here, &gone).await;
    }
}

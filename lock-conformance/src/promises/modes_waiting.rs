//! Who waits beside leases that go together, and what becomes of leases that ended by themselves.

use std::time::Duration;

use lock_protocol::{Backend, Claim, Grant, LockKey, Mode, Released};
use tokio::time::sleep;

use super::modes::{knows, of_mode, permits, released_shard, shard, shared, trying};
use crate::process::*;
use crate::store::Store;

/// Claims that go together, and for which there is room for two.
const PAIRS: [fn(&LockKey) -> Claim; 3] = [
    |key| shared(key),
    |key| permits(key, 1, 2),
    |key| shard(key, 2, 0, 0),
];

/// Nobody passes one who waits for the whole key, though there is room beside those who have it;
/// the end of the last lease is its turn.
pub async fn nobody_passes_one_who_waits_for_all<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there) = (connect(store).await, connect(store).await);
    for claims in PAIRS {
        let key = key();
        let (one, two, alone, late) = (claims(&key), claims(&key), waiter(&key), claims(&key));
        let first = granted(&here, &one).await;
        let second = granted(&there, &two).await;
        queued(&there, &alone).await;
        released_shard(&here, &one, &first).await;
        queued(&here, &late).await;
        taken(&here, &trying(claims(&key))).await;
        assert_lost(renewed(&there, &alone).await);
        released_shard(&there, &two, &second).await;
        served(&there, &alone).await;
        queued(&here, &late).await;
        released(&there, &alone).await;
        served(&here, &late).await;
    }
}

/// A lease that is kept keeps the whole key from others for as long as that, whether they waited
/// already or come later, and no longer.
pub async fn one_who_waits_for_all_comes_after_a_kept_lease<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there) = (connect(store).await, connect(store).await);
    if !here.limits.keep {
        return;
    }
    let keep = 2 * here.medium();
    for claims in PAIRS {
        let (waited, passed) = (key(), key());
        for key in [&waited, &passed] {
            let one = claims(key);
            granted(&here, &one).await;
            let alone = waiter(key);
            if *key == waited {
                queued(&there, &alone).await;
            }
            kept(&here, &one, keep).await;
            if *key == waited {
                assert_lost(renewed(&there, &alone).await);
                taken(&here, &trying(claims(key))).await;
            }
            taken(&there, &trying(waiter(key))).await;
            granted_after(&there, keep, &alone).await;
        }
    }
}

/// A key is free for all once the last of its leases has ended, however long one would have lived
/// that was released.
pub async fn a_key_is_free_when_its_last_lease_has_ended<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there) = (connect(store).await, connect(store).await);
    let ttl = 3 * here.medium();
    for claims in PAIRS {
        let key = key();
        let short = with_ttl(claims(&key), ttl);
        let (long, next) = (claims(&key), with_ttl(claims(&key), ttl));
        let grant = granted(&here, &long).await;
        granted(&here, &short).await;
        if long.mode == Mode::Shared {
            granted(&there, &next).await;
        } else {
            queued(&there, &next).await;
        }
        released_shard(&here, &long, &grant).await;
        taken(&here, &claim(&key)).await;
        granted_after(&here, ttl, &claim(&key)).await;
        assert_lost(renewed(&there, &next).await);
    }
}

/// What was handed over to a claim that no sink knows any more is given back, and nothing else is:
/// who has a lease beside it keeps that, and whoever comes next is served.
pub async fn a_lease_of_several_that_nobody_expects_is_given_back<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there) = (connect(store).await, connect(store).await);
    for claims in PAIRS {
        let key = key();
        let (holder, alone) = (claim(&key), waiter(&key));
        let (gone, stays, next) = (claims(&key), claims(&key), claims(&key));
        there.inbox.refuse(&gone);
        granted(&here, &holder).await;
        queued(&there, &gone).await;
        queued(&here, &stays).await;
        queued(&here, &next).await;
        queued(&here, &alone).await;
        released(&here, &holder).await;
        granted_after(&here, Duration::ZERO, &next).await;
        let mut left = Vec::new();
        for claim in [&stays, &next] {
            left.push((claim, granted(&here, claim).await));
        }
        for (claim, grant) in &left {
            assert!(holds(&here, claim, grant).await);
        }
        assert_lost(renewed(&here, &alone).await);
        for (claim, grant) in &left {
            released_shard(&here, claim, grant).await;
        }
        granted_after(&here, Duration::ZERO, &alone).await;
    }
}

/// The renewal of a claim which was granted like this holds.
async fn holds(process: &Process<impl Backend>, claim: &Claim, grant: &Grant) -> bool {
    let mut renewal = renewal(claim);
    renewal.shard = grant.shard;
    is_held(renew_one(process, &renewal).await)
}

/// A renewal is for all permits that a claim has.
pub async fn a_renewal_extends_all_permits_of_a_claim<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there, key) = (connect(store).await, connect(store).await, key());
    let ttl = here.medium();
    let two = with_ttl(permits(&key, 2, 3), ttl);
    granted(&here, &two).await;
    let steps = 8;
    for _ in 0..=steps {
        sleep(here.at_most(ttl) / steps).await;
        assert!(is_held(renewed(&here, &two).await));
    }
    taken(&there, &trying(permits(&key, 2, 3))).await;
    granted(&there, &permits(&key, 1, 3)).await;
    taken(&there, &trying(permits(&key, 1, 3))).await;
    assert!(is_held(renewed(&here, &two).await));
}

/// A lease that ran out is lost though nobody has come for it: it may be promised to others.
pub async fn a_late_renewal_brings_no_lease_back<S: Store>(store: &S) {
    if !knows(store, Mode::Permits { take: 1, of: 2 }).await {
        return;
    }
    let (here, there) = (connect(store).await, connect(store).await);
    let ttl = here.short();
    for claims in PAIRS {
        let key = key();
        let (dead, alive, next) = (with_ttl(claims(&key), ttl), claims(&key), claims(&key));
        let ended = granted(&here, &dead).await;
        let other = granted(&there, &alive).await;
        sleep(here.at_most(ttl) + MOMENT).await;
        assert!(!holds(&here, &dead, &ended).await);
        let mut late = ending(&dead);
        late.shard = ended.shard;
        let answer = here.answer(here.release(&late)).await;
        assert_eq!(answer.expect(HEALTHY), Released::NotHeld);
        assert!(holds(&there, &alive, &other).await);
        granted(&here, &next).await;
        if dead.mode != Mode::Shared {
            taken(&here, &trying(of_mode(waiter(&key), dead.mode))).await;
        }
    }
}

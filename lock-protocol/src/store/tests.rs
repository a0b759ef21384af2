//! What the store does, with a time that is moved by hand.

use alloc::format;
use alloc::vec::Vec;

use super::*;
use crate::LostReason;

const TTL: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(1);
const MICROS: u64 = 1_000_000_000;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The moment `after` the start.
fn at(after: Duration) -> Moment {
    Moment {
        now: Instant::from_nanos(1_000_000_000) + after,
        micros: MICROS + after.as_micros() as u64,
    }
}

fn key() -> LockKey {
    LockKey::new("p:", "k").expect("a valid key")
}

fn claim(owner: &str) -> Claim {
    let mut claim = Claim::new(key(), OwnerToken::new(owner), TTL);
    claim.grace = GRACE;
    claim.tokens = 3;
    claim.queued()
}

fn release(owner: &str) -> Release {
    Release::new(key(), OwnerToken::new(owner))
}

fn granted(answer: (Acquired, Messages<u8>)) -> Grant {
    match answer.0 {
        Acquired::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

fn tokens(grant: Grant) -> (u64, u64) {
    (grant.tokens.first.as_u64(), grant.tokens.last.as_u64())
}

fn remaining(answer: (Acquired, Messages<u8>)) -> Option<Duration> {
    match answer.0 {
        Acquired::Queued(holder) | Acquired::Taken(holder) => holder.remaining,
        Acquired::Granted(grant) => panic!("{grant:?}"),
    }
}

/// Who is told what.
fn told(messages: &Messages<u8>) -> Vec<(&str, u8, &'static str)> {
    let words = |message| {
        let Message {
            owner, way, word, ..
        }: &Message<u8> = message;
        let word = match word {
            Word::Granted(..) => "granted",
            Word::AskAt(_) => "ask",
        };
        (owner.as_str(), *way, word)
    };
    messages.iter().map(words).collect()
}

/// A store in which `a` holds the lock, and `b` and `c` wait by the ways 2 and 3.
fn busy() -> Store<u8> {
    let mut store = Store::new();
    for (way, owner) in (1..).zip(["a", "b", "c"]) {
        store.acquire(&claim(owner), &way, at(ms(0)));
    }
    store
}

fn owner(store: &Store<u8>, after: Duration) -> Option<&str> {
    store.owner("k", at(after).now).map(OwnerToken::as_str)
}

fn queue(store: &Store<u8>, after: Duration) -> Vec<&str> {
    let queue = store.queue("k", at(after).now);
    queue.map(OwnerToken::as_str).collect()
}

#[test]
fn a_free_lock_is_granted_and_a_held_one_queued_for() {
    let mut store = Store::new();
    let grant = granted(store.acquire(&claim("a"), &1, at(ms(5))));
    assert_eq!(grant.valid_for, TTL);
    let answer = store.acquire(&claim("b"), &2, at(ms(1_005)));
    assert_eq!(remaining(answer), Some(ms(9_000)));
    let mut trying = claim("c");
    trying.queue = false;
    let answer = store.acquire(&trying, &3, at(ms(1_005)));
    assert!(matches!(answer.0, Acquired::Taken(_)));
    assert_eq!(queue(&store, ms(1_005)), ["b"]);
}

#[test]
fn a_repeated_acquire_queues_once_and_is_granted_again() {
    let mut store = busy();
    store.acquire(&claim("b"), &2, at(ms(10)));
    assert_eq!(queue(&store, ms(10)), ["b", "c"]);
    let grant = granted(store.acquire(&claim("a"), &1, at(ms(10))));
    assert_eq!(tokens(grant), (MICROS + 9_998, MICROS + 10_000));
    assert_eq!(store.remaining("k", at(ms(10)).now), Some(TTL));
}

#[test]
fn a_late_acquire_shortens_no_lease() {
    let mut store = busy();
    let mut short = claim("a");
    short.ttl = ms(50);
    granted(store.acquire(&short, &1, at(ms(10))));
    assert_eq!(store.remaining("k", at(ms(10)).now), Some(TTL - ms(10)));
}

#[test]
fn a_renewal_sets_the_ttl() {
    let mut store = busy();
    let renewal = Renewal::new(key(), claim("a").owner, ms(50));
    store.renew(&renewal, at(ms(10)));
    assert_eq!(store.remaining("k", at(ms(10)).now), Some(ms(50)));
}

#[test]
fn a_release_hands_the_lock_over_and_tells_it() {
    let mut store = busy();
    let (answer, messages) = store.release(&release("a"), &1, at(ms(7)));
    assert_eq!(answer, Released::Released(None));
    // The next is told when to look after the new owner.
    assert_eq!(told(&messages), [("b", 2, "granted"), ("c", 3, "ask")]);
    let Word::Granted(grant, since) = messages[0].word else {
        panic!("{messages:?}");
    };
    assert_eq!((grant.valid_for, since), (GRACE, at(ms(7)).now));
    assert_eq!(messages[1].word, Word::AskAt(at(ms(7) + GRACE).now));
    assert_eq!(owner(&store, ms(7)), Some("b"));
}

#[test]
fn a_release_may_bring_the_next_claim() {
    let mut store = busy();
    let next = release("a").then(Some(claim("d")));
    let (answer, messages) = store.release(&next, &1, at(ms(7)));
    assert!(matches!(
        answer,
        Released::Released(Some(Acquired::Queued(_)))
    ));
    // The next claim looks after the owner.
    assert_eq!(told(&messages), [("b", 2, "granted")]);
    assert_eq!(queue(&store, ms(7)), ["c", "d"]);

    let mut store = Store::new();
    store.acquire(&claim("a"), &1, at(ms(0)));
    let (answer, _) = store.release(&next, &1, at(ms(7)));
    let Released::Released(Some(Acquired::Granted(grant))) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(grant.valid_for, TTL);
}

#[test]
fn a_release_by_another_does_nothing() {
    let mut store = busy();
    let next = release("b").then(Some(claim("d")));
    assert_eq!(store.release(&next, &1, at(ms(7))).0, Released::NotHeld);
    assert_eq!(queue(&store, ms(7)), ["b", "c"]);
    assert_eq!(owner(&store, ms(7)), Some("a"));
}

#[test]
fn a_renewal_extends_and_never_creates_a_lease() {
    let mut store = busy();
    let mut renewal = Renewal::new(key(), OwnerToken::new("a"), TTL);
    renewal.tokens = 2;
    let (answer, _) = store.renew(&renewal, at(ms(500)));
    let Renewed::Held(extension) = answer else {
        panic!("{answer:?}");
    };
    let tokens = extension.tokens.expect("they were asked for");
    assert_eq!(tokens.last.as_u64(), MICROS + 500_000);
    assert_eq!(store.remaining("k", at(ms(500)).now), Some(TTL));
    // A repeated acquire does not fall back behind these.
    let again = granted(store.acquire(&claim("a"), &1, at(ms(600))));
    assert!(again.tokens.first > tokens.last);

    let lost = Renewal::new(key(), OwnerToken::new("x"), TTL);
    let lost = store.renew(&lost, at(ms(600))).0;
    assert_eq!(lost, Renewed::Lost(LostReason::TakenOver));
    assert_eq!(owner(&store, ms(600)), Some("a"));
}

#[test]
fn an_abandon_undoes_what_there_is_and_hands_on() {
    let mut store = busy();
    let b = claim("b");
    // Whoever is the first now is told when to look.
    let messages = store.abandon(&b.key, &b.owner, false, at(ms(7)));
    assert_eq!(told(&messages), [("c", 3, "ask")]);
    assert_eq!(queue(&store, ms(7)), ["c"]);
    let a = claim("a");
    let messages = store.abandon(&a.key, &a.owner, false, at(ms(7)));
    assert_eq!(told(&messages), [("c", 3, "granted")]);
    assert_eq!(owner(&store, ms(7)), Some("c"));
}

#[test]
fn an_abandon_that_comes_first_leaves_nothing_to_a_late_acquire() {
    let mut store = busy();
    let (d, now) = (claim("d"), at(ms(7)));
    assert!(store.abandon(&d.key, &d.owner, false, now).is_empty());
    let (answer, _) = store.acquire(&d, &4, now);
    assert_eq!(answer, Acquired::Taken(Holder::of_ours(ms(0))));
    let next = release("a").then(Some(d.clone()));
    let (answer, messages) = store.release(&next, &1, now);
    assert!(matches!(
        answer,
        Released::Released(Some(Acquired::Taken(_)))
    ));
    assert_eq!(told(&messages), [("b", 2, "granted"), ("c", 3, "ask")]);
    // Half a minute later it is forgotten.
    let answer = store.acquire(&d, &4, at(ms(30_007)));
    assert!(matches!(answer.0, Acquired::Granted(_)));
}

#[test]
fn an_abandon_in_doubt_is_remembered_though_the_claim_was_known() {
    for (in_doubt, comes_back) in [(true, false), (false, true)] {
        let mut store = busy();
        let a = claim("a");
        store.abandon(&a.key, &a.owner, in_doubt, at(ms(7)));
        store.acquire(&a, &1, at(ms(8)));
        assert_eq!(queue(&store, ms(8)).contains(&"a"), comes_back);
    }
}

#[test]
fn a_lease_that_ran_out_goes_to_the_first_who_waits() {
    let mut store = busy();
    // Before its own claim is looked at: nobody barges in.
    let (answer, messages) = store.acquire(&claim("d"), &4, at(TTL));
    assert!(matches!(answer, Acquired::Queued(_)));
    assert_eq!(told(&messages), [("b", 2, "granted")]);
    assert_eq!(queue(&store, TTL), ["c", "d"]);
}

#[test]
fn the_first_who_waits_may_find_it_itself() {
    let mut store = busy();
    let (answer, messages) = store.acquire(&claim("b"), &2, at(TTL));
    let Acquired::Granted(grant) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(grant.valid_for, TTL);
    assert!(messages.is_empty(), "{messages:?}");
    assert_eq!(store.remaining("k", at(TTL).now), Some(TTL));
}

#[test]
fn one_who_does_not_wait_lets_the_first_know_when_to_look() {
    let mut store = busy();
    let mut trying = claim("d");
    trying.queue = false;
    let (answer, messages) = store.acquire(&trying, &4, at(TTL));
    assert!(matches!(answer, Acquired::Taken(_)));
    assert_eq!(told(&messages), [("b", 2, "granted"), ("c", 3, "ask")]);
}

#[test]
fn a_claim_that_does_not_ask_is_forgotten() {
    let mut store = busy();
    let heartbeat = claim("b").heartbeat;
    let renewal = Renewal::new(key(), OwnerToken::new("a"), ms(100_000));
    store.renew(&renewal, at(ms(0)));
    store.acquire(&claim("c"), &3, at(heartbeat));
    let later = 2 * heartbeat + ms(1);
    assert_eq!(queue(&store, later), ["c"]);
    let (_, messages) = store.release(&release("a"), &1, at(later));
    assert_eq!(told(&messages), [("c", 3, "granted")]);
}

#[test]
fn a_thief_is_foreign_and_holds_until_it_is_ended() {
    let mut store = busy();
    store.steal("k", OwnerToken::new("thief"));
    let (answer, _) = store.acquire(&claim("b"), &2, at(ms(60_000)));
    assert_eq!(answer, Acquired::Queued(Holder::foreign(None)));
    assert_eq!(owner(&store, ms(60_000)), Some("thief"));
    assert!(!store.is_idle(at(ms(60_000)).now));
    store.expire("k");
    granted(store.acquire(&claim("b"), &2, at(ms(60_001))));
}

/// The first and the last token of three that were wanted at this time.
fn take(store: &mut Store<u8>, after: Duration) -> (u64, u64) {
    let grant = granted(store.acquire(&claim("a"), &1, at(after)));
    store.release(&release("a"), &1, at(after));
    assert!(store.is_idle(at(after).now) && store.is_empty());
    tokens(grant)
}

#[test]
fn tokens_are_the_newest_up_to_the_time() {
    let mut store = Store::new();
    // Those before may have been given by the store that was here before.
    assert_eq!(take(&mut store, ms(5)), (MICROS + 5_000, MICROS + 5_000));
    assert_eq!(take(&mut store, ms(7)), (MICROS + 6_998, MICROS + 7_000));
    let soon = ms(7) + Duration::from_micros(2);
    assert_eq!(take(&mut store, soon), (MICROS + 7_001, MICROS + 7_002));
}

#[test]
fn tokens_that_run_ahead_of_the_time_are_given_one_by_one() {
    let mut store = Store::new();
    take(&mut store, ms(5));
    for ahead in 1..10 {
        let token = MICROS + 5_000 + ahead;
        // The clock was set back.
        assert_eq!(take(&mut store, ms(2)), (token, token));
    }
    let soon = ms(5) + Duration::from_micros(10);
    assert_eq!(take(&mut store, soon), (MICROS + 5_010, MICROS + 5_010));
}

#[test]
fn locks_and_withdrawals_that_ran_out_unnoticed_do_not_pile_up() {
    let mut store: Store<u8> = Store::new();
    let (mut most, mut most_gone) = (0, 0);
    for number in 0..10_000 {
        let key = LockKey::new("", &format!("k{number}")).expect("a valid key");
        let claim = Claim::new(key, OwnerToken::new(format!("o{number}")), ms(1_000));
        store.acquire(&claim, &1, at(ms(number * 10)));
        let unknown = OwnerToken::new(format!("x{number}"));
        store.abandon(&claim.key, &unknown, false, at(ms(number * 10)));
        most = most.max(store.len());
        most_gone = most_gone.max(store.gone.len());
    }
    // 100 and 3,000 are alive at a time.
    assert!(most <= 400, "{most} locks in memory");
    assert!(most_gone <= 12_000, "{most_gone} withdrawals in memory");
}

//! What each script promises at its top, row by row, on a real server.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lock_conformance::inbox::Inbox;
use lock_runtime::LostReason;
use lock_runtime::backend::{
    Acquired, Backend, Claim, FenceBlock, Holder, LockKey, OwnerToken, Release, Released, Renewal,
    Renewed,
};
use lock_runtime::redis::RedisBackend;
use lock_tests::causes;
use lock_tests::faults::eventually_in;
use lock_tests::redis_store::connect;
use lock_tests::server::Server;

const TTL: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(100);

/// A server, a process that uses it, and the keys of one lock.
struct Fixture {
    server: Server,
    backend: RedisBackend,
    key: LockKey,
}

const LOCK: &str = "lock:k";
const QUEUE: &str = "{lock:k}:waiters";
const COUNTER: &str = "{lock:}:26:counter";

impl Fixture {
    async fn start() -> Fixture {
        let server = Server::start();
        let backend = connect(&server).await;
        let key = LockKey::new("lock:", "k").unwrap();
        Fixture {
            server,
            backend,
            key,
        }
    }

    fn claim(&self) -> Claim {
        Claim::new(self.key.clone(), OwnerToken::unique("test"), TTL)
    }

    fn waiter(&self) -> Claim {
        let mut claim = self.claim().queued();
        claim.grace = Duration::from_secs(5);
        claim.heartbeat = HEARTBEAT;
        claim
    }

    async fn granted(&self, claim: &Claim) -> FenceBlock {
        match self.backend.acquire(claim).await.unwrap() {
            Acquired::Granted(grant) => {
                assert_eq!(grant.valid_for, claim.ttl);
                grant.tokens
            }
            other => panic!("{other:?}"),
        }
    }

    async fn queued(&self, claim: &Claim) -> Holder {
        match self.backend.acquire(claim).await.unwrap() {
            Acquired::Queued(holder) => holder,
            other => panic!("{other:?}"),
        }
    }

    async fn taken(&self) -> Holder {
        match self.backend.acquire(&self.claim()).await.unwrap() {
            Acquired::Taken(holder) => holder,
            other => panic!("{other:?}"),
        }
    }

    async fn release(&self, claim: &Claim, next: Option<&Claim>) -> Released {
        let release = ending(claim).then(next.cloned());
        self.backend.release(&release).await.unwrap()
    }

    fn owner(&self) -> Option<String> {
        self.server.run(&["GET", LOCK])
    }

    fn waiters(&self) -> Vec<String> {
        self.server.run(&["ZRANGE", QUEUE, "0", "-1"])
    }

    fn ttl(&self, key: &str) -> Duration {
        let millis: i64 = self.server.run(&["PTTL", key]);
        Duration::from_millis(u64::try_from(millis).unwrap())
    }

    /// Queues a waiter before all others.
    fn plant(&self, member: &str, ticket: usize) {
        self.server
            .run::<()>(&["ZADD", QUEUE, &ticket.to_string(), member]);
        self.server.run::<()>(&["EXPIRE", QUEUE, "100"]);
    }

    /// Queues waiters whose process is gone.
    fn plant_dead(&self, count: usize) {
        for number in 0..count {
            self.plant(&member(&format!("dead-{number}"), "gone", 5000), number);
        }
    }

    fn counter(&self) -> u64 {
        self.server.run(&["GET", COUNTER])
    }

    /// The server's time in microseconds.
    fn micros(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.server.run(&["TIME"]);
        seconds * 1_000_000 + micros
    }

    /// The channel through which the backend is told of hand-overs, as its waiters name it.
    async fn channel(&self) -> String {
        let waiter = self.waiter();
        self.queued(&waiter).await;
        let member = self.waiters().pop().unwrap();
        self.backend.abandon(&waiter).await.unwrap();
        let channel = member.rsplit('/').nth(4);
        channel.unwrap().to_owned()
    }
}

/// A waiter as it stands in the queue.
fn member(owner: &str, channel: &str, grace_ms: u64) -> String {
    let (width, digits) = (channel.len(), grace_ms.to_string().len());
    format!("{owner}/0000000001/0005/0006/{channel}/{grace_ms}/{width:04}/{digits:02}/x")
}

fn ending(claim: &Claim) -> Release {
    Release::new(claim.key.clone(), claim.owner.clone())
}

fn single(block: FenceBlock) -> u64 {
    assert_eq!(block.first, block.last);
    block.first.as_u64()
}

#[tokio::test]
async fn a_grant_is_the_bare_owner_token_with_a_ttl() {
    let it = Fixture::start().await;
    let claim = it.claim();
    let token = single(it.granted(&claim).await);
    assert_eq!(it.owner().as_deref(), Some(claim.owner.as_str()));
    assert!(it.ttl(LOCK) <= TTL && it.ttl(LOCK) > TTL / 2);
    assert_eq!(it.server.run::<u64>(&["GET", COUNTER]), token);
    assert!(it.ttl(COUNTER) > Duration::from_secs(24 * 60 * 60));
    assert_eq!(it.server.run::<Vec<String>>(&["KEYS", "*"]).len(), 2);
    it.server.finish();
}

#[tokio::test]
async fn tokens_are_the_newest_up_to_the_time() {
    let it = Fixture::start().await;
    // A grant, the tokens of which are between the server's time before and after.
    let grant = async |wanted: u32| {
        let mut claim = it.claim();
        claim.tokens = wanted;
        let before = it.micros();
        let block = it.granted(&claim).await;
        let last = block.last.as_u64();
        assert!(before <= last && last <= it.micros());
        assert_eq!(it.counter(), last);
        it.release(&claim, None).await;
        (block.first.as_u64(), last)
    };
    // Those before may have been given by a counter that was lost.
    let before = it.micros();
    let (first, last) = grant(9).await;
    assert!(first > before, "{before} {first}");
    let (first, next) = grant(9).await;
    assert_eq!(first, next - 8);
    // No more than there are.
    let (first, end) = grant(u32::MAX).await;
    assert_eq!(first, next + 1);
    assert!(end > first);
    // However old it is; but not one that was lost, and has been made by `INCRBY`.
    for (lower, count) in [(0, 1), (5, 1), (1_000_000_000_000_000, 9), (last, 9)] {
        it.server
            .run::<()>(&["SET", COUNTER, &lower.to_string(), "EX", "100"]);
        let (first, last) = grant(9).await;
        assert_eq!(last - first + 1, count, "{lower}");
        // The first of a second sees to it.
        let is_older = lower < last - 1_000_000;
        assert!(!is_older || it.ttl(COUNTER) > Duration::from_secs(24 * 60 * 60));
    }
}

#[tokio::test]
async fn a_counter_that_is_ahead_of_the_time_gives_one_token_after_the_other() {
    let it = Fixture::start().await;
    let ahead = it.micros() + 1_000_000_000;
    it.server
        .run::<()>(&["SET", COUNTER, &ahead.to_string(), "EX", "100"]);
    let mut claim = it.claim();
    claim.tokens = 9;
    assert_eq!(single(it.granted(&claim).await), ahead + 1);
    assert_eq!(it.counter(), ahead + 1);
    assert!(it.ttl(COUNTER) > Duration::from_secs(24 * 60 * 60));

    // The same for a hand-over, with and without a next claim, and for who is queued.
    let (mut first, mut second) = (it.waiter(), it.waiter());
    (first.tokens, second.tokens) = (9, 9);
    it.queued(&first).await;
    assert_eq!(it.counter(), ahead + 2);
    it.release(&claim, Some(&second)).await;
    assert_eq!(single(it.granted(&first).await), it.counter());
    let handed = it.counter();
    it.release(&first, None).await;
    assert_eq!(it.owner().as_deref(), Some(second.owner.as_str()));
    assert_eq!(it.counter(), handed + 1);
}

#[tokio::test]
async fn tokens_grow_where_the_counter_is_lost_before_a_large_block() {
    let it = Fixture::start().await;
    let mut large = it.claim();
    large.tokens = 10_001;
    let mut last = it.granted(&large).await.last;
    it.release(&large, None).await;
    for by_incrby in [false, true, false, true] {
        it.server.run::<()>(&["DEL", COUNTER]);
        if by_incrby {
            it.server.run::<()>(&["INCRBY", COUNTER, "1"]);
        }
        let mut next = it.claim();
        next.tokens = 10_001;
        let block = it.granted(&next).await;
        assert!(block.first > last, "{block:?} after {last}");
        // The same where it takes more than the usual question.
        it.server.run::<()>(&["DEL", COUNTER]);
        let again = it.granted(&next).await;
        assert!(again.first > block.last, "{again:?} after {block:?}");
        it.server.run::<()>(&["DEL", COUNTER]);
        let mut renewal = Renewal::new(next.key.clone(), next.owner.clone(), TTL);
        renewal.tokens = 10_001;
        let renewed = it.backend.renew(&[renewal]).await.pop();
        let Renewed::Held(extension) = renewed.unwrap().unwrap() else {
            panic!("lost");
        };
        assert!(extension.tokens.unwrap().first > again.last);
        last = extension.tokens.unwrap().last;
        it.release(&next, None).await;
    }
}

#[tokio::test]
async fn an_owner_that_asks_again_gets_new_tokens() {
    let it = Fixture::start().await;
    let mut claim = it.claim();
    claim.tokens = 8;
    let block = it.granted(&claim).await;
    it.server.run::<()>(&["PEXPIRE", LOCK, "5000"]);
    let again = it.granted(&claim).await;
    assert!(again.first > block.last);
    assert!(it.ttl(LOCK) > TTL / 2);

    // What the counter says proves nothing of what the claim had: others draw from it, and it may
    // have been set back.
    it.server
        .run::<()>(&["SET", COUNTER, "1700000000000000", "EX", "100"]);
    assert!(it.granted(&claim).await.first > again.last);
    assert!(it.ttl(COUNTER) > Duration::from_secs(24 * 60 * 60));
}

#[tokio::test]
async fn an_owner_that_asks_again_waits_no_longer() {
    let it = Fixture::start().await;
    let (holder, waiter) = (it.claim(), it.waiter());
    it.granted(&holder).await;
    it.queued(&waiter).await;
    // As if it had been handed the lock and put back into the queue by a late question.
    it.server
        .run::<()>(&["SET", LOCK, waiter.owner.as_str(), "PX", "5000"]);
    it.granted(&waiter).await;
    assert_eq!(it.waiters(), Vec::<String>::new());
}

#[tokio::test]
async fn holders_are_ours_or_foreign_by_their_suffix() {
    let it = Fixture::start().await;
    it.granted(&it.claim()).await;
    assert!(!it.taken().await.foreign);
    for foreign in [
        "8f3a",
        "a/lr-",
        "a/lr-0123456789abcdef-1",
        "a/lr-0123-1-1",
        "a/lr-0123456789abcdef-1-1/more",
        "a/lr-0123456789abcdeg-1-1",
    ] {
        it.server.run::<()>(&["SET", LOCK, foreign, "PX", "20000"]);
        let holder = it.taken().await;
        assert!(holder.foreign, "{foreign}");
        assert!(holder.remaining.unwrap() > Duration::from_secs(10));
    }
    it.server.run::<()>(&["SET", LOCK, "without a ttl"]);
    it.server.forgive(LOCK);
    assert_eq!(it.taken().await.remaining, None);
}

#[tokio::test]
async fn a_queue_keeps_the_order_and_outlives_the_lease() {
    let it = Fixture::start().await;
    it.granted(&it.claim()).await;
    let (one, two) = (it.waiter(), it.waiter());
    for waiter in [&one, &two, &one] {
        it.queued(waiter).await;
    }
    let members: Vec<String> = it.waiters();
    let is_of = |(member, waiter): (&String, &Claim)| member.starts_with(waiter.owner.as_str());
    assert_eq!(members.len(), 2, "{members:?}");
    assert!(members.iter().zip([&one, &two]).all(is_of), "{members:?}");
    let tickets: Vec<(String, u64)> = it.server.run(&["ZRANGE", QUEUE, "0", "-1", "WITHSCORES"]);
    assert!(tickets[0].1 < tickets[1].1 && tickets[1].1 <= it.counter());

    // The queue is looked at first: what passes in between is off the lease.
    let queue = it.ttl(QUEUE);
    let least = it.ttl(LOCK) + 2 * HEARTBEAT - Duration::from_millis(100);
    assert!(queue >= least, "{queue:?}");
    it.server.run::<()>(&["EXPIRE", QUEUE, "9000"]);
    it.queued(&two).await;
    assert!(
        it.ttl(QUEUE) > Duration::from_secs(8000),
        "it was shortened"
    );
    it.server.run::<()>(&["EXPIRE", QUEUE, "9"]);
    it.queued(&two).await;
    assert!(
        it.ttl(QUEUE) > Duration::from_secs(9),
        "it was not refreshed"
    );
}

#[tokio::test]
async fn a_newcomer_serves_the_head_before_itself() {
    let it = Fixture::start().await;
    let (holder, head) = (it.claim(), it.waiter());
    it.granted(&holder).await;
    it.queued(&head).await;
    it.server.run::<()>(&["DEL", LOCK]);
    let holder = it.taken().await;
    assert!(!holder.foreign && holder.remaining.unwrap() <= head.grace);
    assert_eq!(it.owner().as_deref(), Some(head.owner.as_str()));
    assert!(it.ttl(LOCK) <= head.grace);
    assert_eq!(it.waiters(), Vec::<String>::new());
}

#[tokio::test]
async fn a_head_that_asks_takes_the_free_lock_itself() {
    let it = Fixture::start().await;
    let (holder, head, second) = (it.claim(), it.waiter(), it.waiter());
    it.granted(&holder).await;
    it.queued(&head).await;
    it.queued(&second).await;
    it.server.run::<()>(&["DEL", LOCK]);
    it.granted(&head).await;
    assert_eq!(it.waiters().len(), 1);
}

#[tokio::test]
async fn however_many_waiters_are_dead_one_question_is_enough() {
    let it = Fixture::start().await;
    it.plant_dead(40);
    it.granted(&it.claim()).await;
    assert_eq!(it.waiters(), Vec::<String>::new());
    it.server.run::<()>(&["DEL", LOCK]);

    let holder = it.claim();
    it.granted(&holder).await;
    it.plant_dead(40);
    assert_eq!(it.release(&holder, None).await, Released::Released(None));
    assert_eq!((it.owner(), it.waiters().len()), (None, 0));

    let holder = it.claim();
    it.granted(&holder).await;
    it.plant_dead(40);
    it.backend.abandon(&holder).await.unwrap();
    assert_eq!((it.owner(), it.waiters().len()), (None, 0));
}

#[tokio::test]
async fn no_call_looks_at_more_than_sixteen_dead_waiters() {
    let it = Fixture::start().await;
    let holder = it.claim();
    it.granted(&holder).await;
    it.plant_dead(40);
    let monitor = it.server.monitor();
    it.release(&holder, None).await;
    // 16, 16, and 8 with the end.
    assert_eq!(monitor.commands(&it.server).len(), 3);
}

#[tokio::test]
async fn a_release_hands_over_to_the_first_that_lives() {
    let it = Fixture::start().await;
    let (holder, next_waiter, last) = (it.claim(), it.waiter(), it.waiter());
    let before = it.granted(&holder).await;
    it.plant_dead(3);
    it.queued(&next_waiter).await;
    it.queued(&last).await;
    assert_eq!(it.release(&holder, None).await, Released::Released(None));
    assert_eq!(it.owner().as_deref(), Some(next_waiter.owner.as_str()));
    assert!(it.ttl(LOCK) <= next_waiter.grace);
    assert!(it.server.run::<u64>(&["GET", COUNTER]) > before.last.as_u64());
    assert_eq!(it.waiters().len(), 1);
    assert_eq!(it.release(&holder, None).await, Released::NotHeld);
}

#[tokio::test]
async fn a_release_says_what_became_of_the_next_claim() {
    let it = Fixture::start().await;
    let (holder, next, refused) = (it.claim(), it.waiter(), it.claim());
    let first = it.granted(&holder).await;
    let Released::Released(Some(Acquired::Granted(grant))) = it.release(&holder, Some(&next)).await
    else {
        panic!("nobody else waits");
    };
    assert!(grant.tokens.first > first.last);
    assert_eq!(grant.valid_for, TTL);
    assert!(it.ttl(LOCK) > next.grace);

    let (head, behind) = (it.waiter(), it.waiter());
    it.queued(&head).await;
    let released = it.release(&next, Some(&behind)).await;
    let Released::Released(Some(Acquired::Queued(holder))) = released else {
        panic!("{released:?}");
    };
    assert!(!holder.foreign && holder.remaining == Some(head.grace));
    assert_eq!(it.owner().as_deref(), Some(head.owner.as_str()));
    assert_eq!(it.waiters().len(), 1);

    let released = it.release(&head, Some(&refused)).await;
    assert!(matches!(
        released,
        Released::Released(Some(Acquired::Taken(_)))
    ));
    assert_eq!(it.release(&head, Some(&refused)).await, Released::NotHeld);
    assert_eq!(it.waiters(), Vec::<String>::new());
}

#[tokio::test]
async fn a_renewal_extends_reserves_or_finds_the_lease_lost() {
    let it = Fixture::start().await;
    let claim = it.claim();
    let block = it.granted(&claim).await;
    let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), 2 * TTL);
    let renew = async |renewal: &Renewal| {
        let mut answers = it.backend.renew(std::slice::from_ref(renewal)).await;
        answers.pop().unwrap().unwrap()
    };
    assert_eq!(renew(&renewal).await, Renewed::held());
    assert!(it.ttl(LOCK) > TTL);
    renewal.tokens = 4;
    let Renewed::Held(extension) = renew(&renewal).await else {
        panic!("lost");
    };
    let further = extension.tokens.expect("tokens");
    assert!(further.first > block.last);
    assert_eq!(further.last.as_u64(), further.first.as_u64() + 3);
    assert_eq!(
        it.server.run::<u64>(&["GET", COUNTER]),
        further.last.as_u64()
    );

    it.server.run::<()>(&["DEL", LOCK]);
    assert_eq!(renew(&renewal).await, Renewed::Lost(LostReason::Deleted));
    it.server.run::<()>(&["SET", LOCK, "another", "PX", "9000"]);
    assert_eq!(renew(&renewal).await, Renewed::Lost(LostReason::TakenOver));
    assert!(it.ttl(LOCK) <= Duration::from_secs(9));
}

#[tokio::test]
async fn many_renewals_are_answered_in_order() {
    let it = Fixture::start().await;
    let key = |number: usize| LockKey::new("lock:", &format!("k{number}")).unwrap();
    let claims: Vec<_> = (0..300)
        .map(|number| Claim::new(key(number), OwnerToken::unique("test"), TTL))
        .collect();
    for claim in &claims[..200] {
        it.granted(claim).await;
    }
    let renewals: Vec<_> = claims
        .iter()
        .map(|claim| Renewal::new(claim.key.clone(), claim.owner.clone(), TTL))
        .collect();
    let answers = it.backend.renew(&renewals).await;
    assert_eq!(answers.len(), 300);
    for (number, answer) in answers.into_iter().enumerate() {
        let held = answer.unwrap() == Renewed::held();
        assert_eq!(held, number < 200, "{number}");
    }
    assert!(it.backend.renew(&[]).await.is_empty());
}

#[tokio::test]
async fn an_abandon_leaves_the_queue_and_passes_a_grant_on() {
    let it = Fixture::start().await;
    let (holder, one, two) = (it.claim(), it.waiter(), it.waiter());
    it.granted(&holder).await;
    it.queued(&one).await;
    it.queued(&two).await;
    it.backend.abandon(&one).await.unwrap();
    assert_eq!(it.waiters().len(), 1);
    it.backend.abandon(&holder).await.unwrap();
    assert_eq!(it.owner().as_deref(), Some(two.owner.as_str()));
    it.backend.abandon(&two).await.unwrap();
    it.backend.abandon(&two).await.unwrap();
    assert_eq!(it.owner(), None);
}

#[tokio::test]
async fn what_is_handed_to_nobody_is_given_back_at_once() {
    let it = Fixture::start().await;
    let _inbox = Inbox::of_claims(&it.backend, []);
    let holder = it.claim();
    it.granted(&holder).await;
    let channel = it.channel().await;
    // A claim whose withdrawal got lost; it would hold the lock for a minute.
    let forgotten = "forgotten/lr-0123456789abcdef-1-1";
    it.plant(&member(forgotten, &channel, 60_000), 1);
    it.release(&holder, None).await;
    let free = async {
        while it.owner().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), free)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_full_memory_refuses_new_locks_and_lets_the_old_ones_go_on() {
    let it = Fixture::start().await;
    let (holder, next_waiter) = (it.claim(), it.waiter());
    it.granted(&holder).await;
    it.queued(&next_waiter).await;
    it.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);

    let key = LockKey::new("lock:", "another").unwrap();
    let newcomer = Claim::new(key, OwnerToken::unique("test"), TTL);
    let error = it.backend.acquire(&newcomer).await.unwrap_err();
    assert!(!error.is_denied(), "{error:?}");
    assert!(causes(&error).contains("OOM"), "{}", causes(&error));

    let mut renewal = Renewal::new(holder.key.clone(), holder.owner.clone(), TTL);
    renewal.tokens = 4;
    let renewed = it.backend.renew(&[renewal]).await.pop().unwrap().unwrap();
    assert!(matches!(renewed, Renewed::Held(extension) if extension.tokens.is_some()));
    assert_eq!(it.release(&holder, None).await, Released::Released(None));
    assert_eq!(it.owner().as_deref(), Some(next_waiter.owner.as_str()));
    let next = it.waiter();
    let released = it.release(&next_waiter, Some(&next)).await;
    assert!(matches!(
        released,
        Released::Released(Some(Acquired::Granted(_)))
    ));
    // The same with one who waits: it is popped before anything else is written.
    it.server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    let (next_waiter, behind) = (it.waiter(), it.waiter());
    it.queued(&next_waiter).await;
    it.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let released = it.release(&next, Some(&behind)).await;
    assert!(matches!(
        released,
        Released::Released(Some(Acquired::Queued(_)))
    ));
    assert_eq!(it.owner().as_deref(), Some(next_waiter.owner.as_str()));
    assert_eq!(it.waiters().len(), 1);
    it.backend.abandon(&next_waiter).await.unwrap();
    it.backend.abandon(&behind).await.unwrap();
    assert_eq!(it.owner(), None);
}

/// How often scripts called each command during `work`.
async fn calls_of(it: &Fixture, work: impl Future) -> BTreeMap<String, u64> {
    it.server.run::<()>(&["CONFIG", "RESETSTAT"]);
    work.await;
    let statistics: String = it.server.run(&["INFO", "commandstats"]);
    let calls = |line: &str| -> Option<(String, u64)> {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        // A connection that opens meanwhile is prepared, too.
        let outside = [
            "evalsha",
            "eval",
            "info",
            "hello",
            "config",
            "client",
            "script",
            "ping",
            "subscribe",
        ];
        let outside = outside.contains(&name.split('|').next().unwrap_or(name));
        let calls = figures.split(',').next()?.parse().ok()?;
        (!outside).then(|| (name.to_owned(), calls))
    };
    statistics.lines().filter_map(calls).collect()
}

/// A lock that is held, and two claims that wait for it.
async fn busy(it: &Fixture) -> VecDeque<Claim> {
    let line = VecDeque::from([it.waiter(), it.waiter(), it.waiter()]);
    it.granted(&line[0]).await;
    it.queued(&line[1]).await;
    it.queued(&line[2]).await;
    line
}

/// Hands the lock over to the second in `line`, with a next claim.
async fn turn(it: &Fixture, line: &mut VecDeque<Claim>) {
    let (holder, next) = (line.pop_front().unwrap(), it.waiter());
    let released = it.release(&holder, Some(&next)).await;
    assert!(matches!(
        released,
        Released::Released(Some(Acquired::Queued(_)))
    ));
    line.push_back(next);
    assert_eq!(it.owner().as_deref(), Some(line[0].owner.as_str()));
}

#[tokio::test]
async fn a_hand_over_with_a_next_claim_is_seven_calls() {
    let it = Fixture::start().await;
    let mut line = busy(&it).await;
    let mut seen = Vec::new();
    for _ in 0..9 {
        seen.push(calls_of(&it, turn(&it, &mut line)).await);
    }
    // `GET` is the question of this test. The first of a second also looks after the queue.
    let expected = [("get", 1), ("mget", 1), ("publish", 1), ("set", 2)];
    let expected = expected
        .into_iter()
        .chain(["time", "zadd", "zpopmin"].map(|name| (name, 1)));
    let expected: BTreeMap<_, _> = expected.map(|(name, n)| (name.to_owned(), n)).collect();
    let short = seen.iter().filter(|calls| **calls == expected).count();
    assert!(short >= 5, "{seen:?}");
}

#[tokio::test]
async fn a_hand_over_to_the_only_waiter_is_seven_calls() {
    let it = Fixture::start().await;
    let (holder, next_waiter) = (it.claim(), it.waiter());
    // The counter has been used in this second, or the next.
    let mut seen = Vec::new();
    for _ in 0..3 {
        it.granted(&holder).await;
        it.queued(&next_waiter).await;
        seen.push(calls_of(&it, it.release(&holder, None)).await);
        assert_eq!(it.owner().as_deref(), Some(next_waiter.owner.as_str()));
        it.release(&next_waiter, None).await;
    }
    let expected = ["exists", "get", "publish", "time", "zpopmin"].map(|name| (name, 1));
    let expected = expected.into_iter().chain([("set", 2)]);
    let expected: BTreeMap<_, _> = expected.map(|(name, n)| (name.to_owned(), n)).collect();
    assert!(seen.contains(&expected), "{seen:?}");
}

#[tokio::test]
async fn a_plain_renewal_is_two_calls_and_looks_at_nothing_but_the_lock() {
    let it = Fixture::start().await;
    let claim = it.claim();
    it.granted(&claim).await;
    it.server.run::<()>(&["LPUSH", QUEUE, "something"]);
    it.server.run::<()>(&["SET", COUNTER, "something"]);
    it.server.forgive(QUEUE);
    it.server.forgive(COUNTER);
    let renewal = [Renewal::new(claim.key.clone(), claim.owner.clone(), TTL)];
    let calls = calls_of(&it, async {
        let renewed = it.backend.renew(&renewal).await.pop().unwrap();
        assert_eq!(renewed.unwrap(), Renewed::held());
    });
    let expected = ["get", "pexpire"].map(|name| (name.to_owned(), 1));
    assert_eq!(calls.await, BTreeMap::from(expected));

    it.server.run::<()>(&["DEL", LOCK]);
    it.server.run::<()>(&["LPUSH", LOCK, "something"]);
    it.server.forgive(LOCK);
    let error = it.backend.renew(&renewal).await.pop().unwrap().unwrap_err();
    assert!(error.is_denied(), "{}", causes(&error));
    assert!(causes(&error).contains("`lock:k`"), "{}", causes(&error));
}

#[tokio::test]
async fn hand_overs_keep_the_queue_alive() {
    let it = Fixture::start().await;
    let mut line = busy(&it).await;
    let wanted = line[1].grace + 2 * HEARTBEAT;
    // As long as those wait who came in an earlier second, one of them looks after it.
    tokio::time::sleep(Duration::from_millis(1001)).await;
    it.server.run::<()>(&["PEXPIRE", QUEUE, "5000"]);
    turn(&it, &mut line).await;
    assert!(it.ttl(QUEUE) > wanted, "{:?}", it.ttl(QUEUE));
    it.server.run::<()>(&["PERSIST", QUEUE]);
    turn(&it, &mut line).await;
    assert!(it.ttl(QUEUE) > wanted, "{:?}", it.ttl(QUEUE));
    // It does not shorten it.
    it.server.run::<()>(&["EXPIRE", QUEUE, "9000"]);
    for _ in 0..9 {
        turn(&it, &mut line).await;
    }
    assert!(it.ttl(QUEUE) > Duration::from_secs(8000));
    it.server.finish();
}

#[tokio::test]
async fn a_next_claim_waits_behind_all_others_and_the_dead_are_skipped() {
    let it = Fixture::start().await;
    let mut line = busy(&it).await;
    it.plant_dead(1);
    turn(&it, &mut line).await;
    assert_eq!(it.waiters().len(), 2);
    it.plant_dead(40);
    turn(&it, &mut line).await;
    assert_eq!(it.waiters().len(), 2);
    for garbage in [
        "",
        "a",
        "/",
        "////////",
        "a/0000000001/0005/0006/c/x/000x/01/x",
        "a/0000000001/0005/0006/c/x/0001/0y/x",
    ] {
        it.plant(garbage, 1);
        turn(&it, &mut line).await;
        assert_eq!(it.waiters().len(), 2);
    }
    // All others are dead.
    let holder = line.pop_front().unwrap();
    for gone in line {
        it.backend.abandon(&gone).await.unwrap();
    }
    it.plant_dead(40);
    let next = it.waiter();
    let released = it.release(&holder, Some(&next)).await;
    assert!(matches!(
        released,
        Released::Released(Some(Acquired::Granted(_)))
    ));
    assert_eq!(it.waiters(), Vec::<String>::new());
}

/// Every verb is refused for good with a message that names `bad`, and nothing is written; only a
/// counter may grow.
async fn assert_refused(it: &Fixture, holder: &Claim, bad: &str) {
    let dump = || -> Vec<Option<Vec<u8>>> {
        let keys = [LOCK, QUEUE, COUNTER].into_iter();
        keys.filter(|key| *key != COUNTER || bad == COUNTER)
            .map(|key| it.server.run(&["DUMP", key]))
            .collect()
    };
    let before = dump();
    let mut answers = Vec::new();
    if bad != LOCK {
        answers.push(
            it.backend
                .release(&ending(holder).then(Some(it.waiter())))
                .await
                .err(),
        );
    } else {
        answers.push(it.backend.release(&ending(holder)).await.err());
        answers.push(it.backend.abandon(&it.waiter()).await.err());
    }
    for answer in answers {
        let error = answer.expect(bad);
        assert!(error.is_denied(), "{bad}: {}", causes(&error));
        assert!(
            causes(&error).contains(&format!("`{bad}`")),
            "{}",
            causes(&error)
        );
    }
    assert_eq!(dump(), before, "something was written");
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_for_good_and_left_alone() {
    for bad in [LOCK, QUEUE, COUNTER] {
        let it = Fixture::start().await;
        let holder = it.claim();
        it.granted(&holder).await;
        it.server.run::<()>(&["DEL", bad]);
        it.server.run::<()>(&["LPUSH", bad, "something"]);
        it.server.forgive(bad);
        assert_refused(&it, &holder, bad).await;

        if bad != LOCK {
            it.server.run::<()>(&["DEL", LOCK]);
        }
        let error = it.backend.acquire(&it.waiter()).await.unwrap_err();
        assert!(
            error.is_denied() && causes(&error).contains(bad),
            "{}",
            causes(&error)
        );
        assert_eq!(it.server.run::<String>(&["TYPE", bad]), "list");
    }
}

#[tokio::test]
async fn a_counter_that_is_no_fencing_token_is_refused_for_good() {
    let it = Fixture::start().await;
    let holder = it.claim();
    it.granted(&holder).await;
    let next_waiter = it.waiter();
    it.queued(&next_waiter).await;
    for garbage in [
        "abc",
        "",
        " 5",
        "-1",
        "1.5",
        "9e99",
        "0x10",
        "9007199254740993",
        "9223372036854775807",
        "99999999999999999999999999",
        // As long as a token.
        "1e15            ",
        "1234567890.12345",
    ] {
        it.server.run::<()>(&["SET", COUNTER, garbage, "EX", "100"]);
        assert_refused(&it, &holder, COUNTER).await;
        assert_eq!(it.server.run::<String>(&["GET", COUNTER]), garbage);
    }
    // The error says which command mends it.
    let error = it.backend.acquire(&it.waiter()).await.unwrap_err();
    let remedy = ["DEL", COUNTER];
    assert!(
        causes(&error).contains(&remedy.join(" ")),
        "{}",
        causes(&error)
    );
    it.server.run::<()>(&remedy);
    assert_eq!(it.release(&holder, None).await, Released::Released(None));
    assert_eq!(it.owner().as_deref(), Some(next_waiter.owner.as_str()));
}

#[tokio::test]
async fn a_hand_over_that_is_refused_halfway_costs_no_waiter_its_place() {
    let it = Fixture::start().await;
    let (holder, first, second) = (it.claim(), it.waiter(), it.waiter());
    it.granted(&holder).await;
    it.queued(&first).await;
    it.queued(&second).await;
    let waiters = it.waiters();
    it.server
        .run::<()>(&["ACL", "SETUSER", "default", "-publish"]);
    for next in [None, None, Some(it.waiter())] {
        let refused = it.backend.release(&ending(&holder).then(next)).await;
        let error = refused.unwrap_err();
        assert!(error.is_denied(), "{}", causes(&error));
        assert_eq!(it.waiters(), waiters);
        assert!(it.ttl(QUEUE) > Duration::ZERO);
        assert_eq!(it.owner().as_deref(), Some(holder.owner.as_str()));
    }
    // The same for one who waits alone, with whom the queue is gone and comes back.
    it.backend.abandon(&second).await.unwrap_err();
    let waiters = it.waiters();
    assert_eq!(waiters.len(), 1);
    it.backend.release(&ending(&holder)).await.unwrap_err();
    assert_eq!(it.waiters(), waiters);
    assert!(it.ttl(QUEUE) > Duration::ZERO);

    it.server
        .run::<()>(&["ACL", "SETUSER", "default", "+publish"]);
    assert_eq!(it.release(&holder, None).await, Released::Released(None));
    assert_eq!(it.owner().as_deref(), Some(first.owner.as_str()));
    it.server.finish();
}

#[tokio::test]
async fn a_withdrawal_that_came_first_is_remembered_for_a_while() {
    let it = Fixture::start().await;
    let gone = |claim: &Claim| format!("{QUEUE}:gone:{}", claim.owner);
    for full in [false, true] {
        let mut late = it.waiter();
        if full {
            // One who does not wait, so that nothing else is written before.
            late = it.claim();
            it.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        }
        it.backend.abandon(&late).await.unwrap();
        it.server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        let left = it.ttl(&gone(&late));
        assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(30));
        let answer = it.backend.acquire(&late).await.unwrap();
        assert!(matches!(answer, Acquired::Taken(_)), "{answer:?}");
        assert_eq!(it.owner(), None);
        // As if the time were over.
        it.server.run::<()>(&["DEL", &gone(&late)]);
        it.granted(&late).await;
        // A claim that is known, and of which every question was answered, needs no such thing.
        it.backend.abandon(&late).await.unwrap();
        assert_eq!(it.server.run::<u64>(&["EXISTS", &gone(&late)]), 0);
    }
    it.server.finish();
}

#[tokio::test]
async fn a_hand_over_to_nobody_is_given_back_without_a_trace() {
    let it = Fixture::start().await;
    let (holder, forgotten) = (it.claim(), it.waiter());
    it.granted(&holder).await;
    let channel = it.channel().await;
    it.plant(&member(forgotten.owner.as_str(), &channel, 5000), 1);
    it.release(&holder, None).await;
    eventually_in(TTL, "it is given back", || it.owner().is_none()).await;
    let keys: Vec<String> = it.server.run(&["KEYS", "*:gone:*"]);
    assert_eq!(keys, Vec::<String>::new());
    it.server.finish();
}

//! Faults of etcd: what is expected of the lock where members die, stand still and are cut off, and
//! where an operator intervenes. Each test first makes sure that its fault took effect.

use std::time::{Duration, Instant};

use lock_etcd::{EtcdBackend, EtcdSettings};
use lock_protocol::{
    Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::alone;
use lock_tests::etcd::{Cluster, Options};
use lock_tests::faults::eventually;
use lock_tests::faults::pipe::Pipe;
use lock_tests::faults::process::{Process, token};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A runtime that goes from member to member after a second.
async fn runtime(endpoints: Vec<String>) -> LockRuntime {
    let locks = LockRuntime::etcd(endpoints).command_timeout(secs(2));
    locks.heartbeat(secs(2)).build().await.unwrap()
}

async fn held(locks: &LockRuntime, key: &str, ttl: Duration) -> LockGuard {
    locks
        .lock(key)
        .ttl(ttl)
        .wait(DEADLINE)
        .acquire()
        .await
        .unwrap()
}

/// Another that waits for `key`.
fn waits(locks: &LockRuntime, key: &str) -> tokio::task::JoinHandle<LockGuard> {
    let lock = locks.lock(key).ttl(secs(4)).wait(2 * DEADLINE);
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

async fn waiters(cluster: &Cluster, key: &str, count: usize) {
    let start = format!("lock:{key}/");
    eventually("they wait", || {
        let claims = cluster.claims();
        claims
            .iter()
            .filter(|claim| claim.starts_with(&start))
            .count()
            == count + 1
    })
    .await;
}

fn settings(endpoints: &[String]) -> EtcdSettings {
    let mut settings = EtcdSettings::new(endpoints.to_vec());
    settings.command_timeout = secs(2);
    settings
}

async fn backend(endpoints: &[String]) -> EtcdBackend {
    EtcdBackend::connect(settings(endpoints)).await.unwrap()
}

fn key(name: &str) -> LockKey {
    LockKey::new("lock:", name).unwrap()
}

fn claim(name: &str) -> Claim {
    Claim::new(key(name), OwnerToken::unique("fault"), secs(20))
}

async fn granted(backend: &EtcdBackend, claim: &Claim) -> u64 {
    match backend.acquire(claim).await.unwrap() {
        Acquired::Granted(grant) => grant.tokens.first.as_u64(),
        other => panic!("the lock should have been granted, but: {other:?}"),
    }
}

async fn released(backend: &EtcdBackend, claim: &Claim) {
    let release = Release::new(claim.key.clone(), claim.owner.clone());
    let answer = backend.release(&release).await.unwrap();
    assert_eq!(answer, Released::Released(None));
}

/// Whether the lock is granted to nobody else while `fault` is there, and goes to the one who waits
/// when it is released.
async fn keeps_its_lock(mut cluster: Cluster, fault: impl AsyncFnOnce(&mut Cluster, usize)) {
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(8);
    let guard = held(&locks, "k", ttl).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let leader = cluster.leader();
    fault(&mut cluster, leader).await;
    // Longer than the lease that was held when it happened.
    let end = Instant::now() + ttl + secs(2);
    while Instant::now() < end {
        assert!(guard.is_held(), "the holder has lost its lock");
        assert!(!waiting.is_finished(), "two hold the lock");
        sleep(ms(10)).await;
    }
    let first = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(u64::from(next.fencing_token()) > first);
}

#[tokio::test(flavor = "multi_thread")]
async fn e01_a_holder_keeps_its_lock_when_the_leader_is_killed() {
    let cluster = Options::default().start(3);
    keeps_its_lock(cluster, async |cluster, leader| {
        cluster.kill(leader);
        assert_ne!(cluster.leader(), leader, "another leads");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e02_a_holder_keeps_its_lock_when_the_leader_stands_still() {
    let cluster = Options::default().start(3);
    keeps_its_lock(cluster, async |cluster, leader| {
        cluster.pause(leader);
        assert_ne!(cluster.leader(), leader, "another leads");
        // It comes back, and thinks for a moment that it still leads.
        cluster.resume(leader);
    })
    .await;
}

/// The only member that is known stands still: nothing is known, and the holder's own clock decides.
#[tokio::test(flavor = "multi_thread")]
async fn e03_without_a_majority_nothing_is_known_and_the_local_deadline_decides() {
    let cluster = Options::default().start(3);
    let locks = runtime(cluster.endpoints()).await;
    let ttl = secs(5);
    let guard = held(&locks, "k", ttl).await;
    let leader = cluster.leader();
    for member in (0..3).filter(|member| *member != leader) {
        cluster.pause(member);
    }
    let cut_at = Instant::now();
    // It was renewed at most a tenth of its ttl before, and a renewal may have been under way.
    while cut_at.elapsed() < ttl * 3 / 10 {
        assert!(guard.is_held(), "the lock was given up too early");
        sleep(ms(5)).await;
    }
    let written = cluster.try_ctl(&["--command-timeout=1s", "put", "x", "x"]);
    assert!(written.is_err(), "there is no majority");
    let other = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(other.is_unavailable(), "{other:?}");
    timeout(DEADLINE, guard.lost()).await.unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    for member in (0..3).filter(|member| *member != leader) {
        cluster.resume(member);
    }
    let again = held(&locks, "k", ttl).await;
    assert!(again.is_held());
}

/// A claim that was asked for when there was no majority is granted once, when there is one again.
#[tokio::test(flavor = "multi_thread")]
async fn e04_an_acquire_that_is_done_late_is_granted_once_to_who_asks_again() {
    let cluster = Options::default().start(3);
    let backend = backend(&cluster.endpoints()).await;
    // A lease that is used again, so that the claim itself is what is under way.
    let before = claim("k");
    granted(&backend, &before).await;
    released(&backend, &before).await;
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    others.iter().for_each(|member| cluster.pause(*member));
    let wanted = claim("k");
    assert!(backend.acquire(&wanted).await.is_err());
    others.iter().for_each(|member| cluster.resume(*member));
    cluster.leader();
    let asking = async {
        loop {
            if let Ok(Acquired::Granted(_)) = backend.acquire(&wanted).await {
                return;
            }
            sleep(ms(50)).await;
        }
    };
    timeout(DEADLINE, asking).await.unwrap();
    assert_eq!(cluster.claims().len(), 1);
    released(&backend, &wanted).await;
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// A claim that lies in the network, though whoever asked for it has been told that there is no
/// answer: it arrives when the pipe is opened.
async fn claim_on_its_way() -> (Cluster, Pipe, EtcdBackend, Claim) {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let backend = backend(&[pipe.endpoint()]).await;
    let before = claim("k");
    granted(&backend, &before).await;
    released(&backend, &before).await;
    pipe.hold();
    let gone = claim("k");
    {
        let mut asking = Box::pin(backend.acquire(&gone));
        assert!(timeout(ms(1), &mut asking).await.is_err());
        eventually("the claim is on its way", || pipe.held() > 200).await;
        sleep(ms(200)).await;
        pipe.seal();
        assert!(asking.await.is_err());
    }
    (cluster, pipe, backend, gone)
}

/// A claim lies in the network when it is withdrawn by another way; what arrives then does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn e04_an_acquire_that_comes_after_its_withdrawal_takes_no_lock() {
    let (cluster, pipe, _backend, gone) = claim_on_its_way().await;
    let lease = cluster.leases();
    assert_eq!(lease.len(), 1, "the lease of the claim");
    // By another process, since all ways of this one lead through the pipe.
    let elsewhere = self::backend(&cluster.endpoints()).await;
    let mut withdrawn = gone.clone();
    withdrawn.in_doubt = true;
    elsewhere.abandon(&withdrawn).await.unwrap();
    let before = cluster.answered(0, "Txn");
    pipe.open();
    eventually("the claim arrives", || cluster.answered(0, "Txn") > before).await;
    assert_eq!(cluster.claims(), Vec::<String>::new());
    granted(&elsewhere, &claim("k")).await;
}

/// The control of the test before: a key that is only deleted appears when the write arrives.
#[tokio::test(flavor = "multi_thread")]
async fn e04_control_a_deletion_is_overtaken_by_a_write_that_comes_late() {
    let (cluster, pipe, _backend, _) = claim_on_its_way().await;
    cluster.ctl(&["del", "--prefix", "lock:k/"]);
    pipe.open();
    eventually("the claim appears", || cluster.claims().len() == 1).await;
}

fn revision(cluster: &Cluster) -> u64 {
    let fields = cluster.ctl(&["get", "x", "-w=fields"]);
    let line = fields
        .lines()
        .find(|line| line.starts_with("\"Revision\""))
        .unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Every lease has its whole ttl again when the leader changes, and no more than that.
#[tokio::test(flavor = "multi_thread")]
async fn e05_a_dead_holder_is_followed_although_the_leader_changes() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let ttl = secs(5);
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    let first = token(&process.ask("acquire k 5000 20000").await);
    let locks = runtime(cluster.endpoints()).await;
    let waiting = waits(&locks, "k");
    waiters(&cluster, "k", 1).await;
    process.kill();
    let died = Instant::now();
    sleep(ttl * 6 / 10).await;
    let leader = cluster.leader();
    cluster.kill(leader);
    let changed = died.elapsed();
    assert_ne!(cluster.leader(), leader, "another leads");
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(
        died.elapsed() > changed + ttl * 6 / 10,
        "the lease began anew"
    );
    assert!(u64::from(next.fencing_token()) > first);
}

/// What a waiter should have heard has been compacted when it can listen again.
#[tokio::test(flavor = "multi_thread")]
async fn e06_a_waiter_is_served_although_its_event_was_compacted() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let locks = runtime(cluster.endpoints()).await;
    let behind = runtime(vec![pipe.endpoint()]).await;
    let guard = held(&locks, "k", secs(20)).await;
    let waiting = waits(&behind, "k");
    waiters(&cluster, "k", 1).await;
    pipe.cut();
    guard.release().await.unwrap();
    cluster.ctl(&["put", "x", "x"]);
    cluster.ctl(&["compact", &revision(&cluster).to_string()]);
    assert!(!waiting.is_finished());
    pipe.open();
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(next.is_held());
}

/// An operator deletes the key of the holder, or revokes its lease.
#[tokio::test(flavor = "multi_thread")]
async fn e07_what_an_operator_ends_is_lost_and_the_next_is_served() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    for by_lease in [false, true] {
        let guard = held(&locks, "k", secs(4)).await;
        let first = u64::from(guard.fencing_token());
        let waiting = waits(&other, "k");
        waiters(&cluster, "k", 1).await;
        let (owner, lease) = cluster.owner("lock:k").unwrap();
        let lease = format!("{lease:x}");
        if by_lease {
            cluster.ctl(&["lease", "revoke", &lease]);
        } else {
            assert_eq!(cluster.ctl(&["del", &owner]).trim(), "1");
            // To keep the lease alive proves nothing: it lives.
            let alive = cluster.ctl(&["lease", "keep-alive", "--once", &lease]);
            assert!(alive.contains("keepalived with TTL"), "{alive}");
        }
        timeout(DEADLINE, guard.lost()).await.unwrap();
        let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(u64::from(next.fencing_token()) > first);
        next.release().await.unwrap();
    }
}

/// An operator deletes the key of one who waits: it waits again, behind the others.
#[tokio::test(flavor = "multi_thread")]
async fn e07_a_waiter_whose_key_is_deleted_is_queued_anew() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let (one, two) = (
        runtime(cluster.endpoints()).await,
        runtime(cluster.endpoints()).await,
    );
    let guard = held(&locks, "k", secs(10)).await;
    let first = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    let (owner, _) = cluster.owner("lock:k").unwrap();
    let waiter = cluster
        .claims()
        .into_iter()
        .find(|claim| *claim != owner)
        .unwrap();
    let second = waits(&two, "k");
    waiters(&cluster, "k", 2).await;
    assert_eq!(cluster.ctl(&["del", &waiter]).trim(), "1");
    // Whoever asks hears of it: at the latest at its heartbeat.
    waiters(&cluster, "k", 2).await;
    guard.release().await.unwrap();
    let second = timeout(DEADLINE, second).await.unwrap().unwrap();
    assert!(!first.is_finished(), "it was behind the other");
    second.release().await.unwrap();
    assert!(timeout(DEADLINE, first).await.unwrap().unwrap().is_held());
}

/// All connections break, those of the streams as well.
#[tokio::test(flavor = "multi_thread")]
async fn e08_streams_that_break_are_opened_again_and_nothing_is_lost() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let locks = runtime(vec![pipe.endpoint()]).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(5)).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    for _ in 0..3 {
        let connections = pipe.connections();
        pipe.cut();
        sleep(ms(100)).await;
        pipe.open();
        eventually("it connects again", || pipe.connections() > connections).await;
        sleep(secs(2)).await;
        assert!(guard.is_held() && !waiting.is_finished());
    }
    guard.release().await.unwrap();
    assert!(timeout(DEADLINE, waiting).await.unwrap().unwrap().is_held());
}

/// The server has no room: it refuses what is new, and what is held goes on.
#[tokio::test(flavor = "multi_thread")]
async fn e10_holders_renew_and_hand_over_while_there_is_no_space() {
    let cluster = Options::default()
        .with(["--quota-backend-bytes", "2000000"])
        .start(1);
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(4);
    let guard = held(&locks, "k", ttl).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let cluster = spawn_blocking(move || {
        let big = "x".repeat(100_000);
        while cluster.try_ctl(&["put", "big", &big]).is_ok() {}
        cluster
    })
    .await
    .unwrap();
    assert!(cluster.ctl(&["alarm", "list"]).contains("NOSPACE"));
    let refused = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    sleep(ttl + secs(2)).await;
    assert!(guard.is_held(), "renewals pass");
    guard.release().await.unwrap();
    let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(next.is_held());
}

/// Thousands of leases of a process that asks a member which does not lead.
#[tokio::test(flavor = "multi_thread")]
async fn e13_ten_thousand_locks_are_renewed_by_a_member_that_does_not_lead() {
    let _alone = alone().await;
    const LOCKS: usize = 10_000;
    let cluster = Options::default().start(3);
    let leader = cluster.leader();
    let follower = cluster.endpoints()[(leader + 1) % 3].clone();
    let mut settings = settings(&[follower]);
    settings.command_timeout = secs(20);
    let backend = std::sync::Arc::new(EtcdBackend::connect(settings).await.unwrap());
    let mut tasks = JoinSet::new();
    for task in 0..100 {
        let backend = backend.clone();
        tasks.spawn(async move {
            let mut renewals = Vec::new();
            for lock in 0..LOCKS / 100 {
                let mut claim = claim(&format!("many:{task}:{lock}"));
                claim.ttl = secs(120);
                granted(&backend, &claim).await;
                renewals.push(Renewal::new(claim.key, claim.owner, claim.ttl));
            }
            renewals
        });
    }
    let renewals: Vec<Renewal> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(renewals.len(), LOCKS);
    assert_ne!(cluster.leader(), (leader + 1) % 3, "it does not lead");
    let began = Instant::now();
    let answers = timeout(DEADLINE, backend.renew(&renewals)).await.unwrap();
    println!("{LOCKS} renewals took {:?}", began.elapsed());
    assert!(
        began.elapsed() < secs(120) / 10,
        "they took {:?}",
        began.elapsed()
    );
    for answer in answers {
        assert!(matches!(answer.unwrap(), Renewed::Held(_)));
    }
}

/// Members are killed, started again, stopped and let go on, while tasks of several runtimes take a
/// lock, wait for it, and give up.
#[tokio::test(flavor = "multi_thread")]
async fn under_faults_no_two_hold_a_lock_and_nothing_stays_behind() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    #[derive(Default)]
    struct Seen {
        inside: AtomicBool,
        token: AtomicU64,
        turns: AtomicU64,
        given_up: AtomicU64,
        is_over: AtomicBool,
    }

    async fn turn(locks: &LockRuntime, seen: &Seen) {
        let wait = if fastrand::u8(..4) == 0 {
            ms(5)
        } else {
            secs(20)
        };
        let lock = locks.lock("k").ttl(secs(6)).wait(wait);
        let Ok(guard) = lock.acquire().await else {
            seen.given_up.fetch_add(1, SeqCst);
            return;
        };
        assert!(!seen.inside.swap(true, SeqCst), "two hold the lock");
        let token = u64::from(guard.fencing_token());
        let before = seen.token.swap(token, SeqCst);
        assert!(before < token, "{token} was granted after {before}");
        sleep(ms(fastrand::u64(..4))).await;
        assert!(
            guard.is_held(),
            "a section of some milliseconds lost its lock"
        );
        seen.inside.store(false, SeqCst);
        // Its outcome may not be known; then the lock goes on after its ttl.
        let _ = guard.release().await;
        seen.turns.fetch_add(1, SeqCst);
    }

    let mut cluster = Options::default().start(3);
    let seen = Arc::<Seen>::default();
    let mut runtimes = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let locks = LockRuntime::etcd(cluster.endpoints()).command_timeout(secs(1));
        let locks = locks
            .local_passes(0)
            .heartbeat(secs(2))
            .build()
            .await
            .unwrap();
        for _ in 0..4 {
            let (locks, seen) = (locks.clone(), Arc::clone(&seen));
            tasks.spawn(async move {
                while !seen.is_over.load(SeqCst) {
                    turn(&locks, &seen).await;
                }
            });
        }
        runtimes.push(locks);
    }
    for round in 0..6 {
        let turns = seen.turns.load(SeqCst);
        let (leader, other) = (cluster.leader(), round % 3);
        match round % 3 {
            0 => cluster.kill(leader),
            1 => cluster.pause(leader),
            _ => cluster.kill(other),
        }
        let (before, since) = (seen.turns.load(SeqCst), Instant::now());
        assert!(before >= turns);
        eventually_in(secs(40), "locks are taken again", || {
            seen.turns.load(SeqCst) > before + 20
        })
        .await;
        println!("20 turns after a fault took {:?}", since.elapsed());
        match round % 3 {
            0 => cluster.revive(leader),
            1 => cluster.resume(leader),
            _ => cluster.revive(other),
        }
        eventually_in(secs(40), "all members answer", || {
            cluster.try_ctl(&["endpoint", "health"]).is_ok()
        })
        .await;
    }
    seen.is_over.store(true, SeqCst);
    tasks.join_all().await;
    println!("{:?} turns, {:?} given up", seen.turns, seen.given_up);
    assert!(seen.given_up.load(SeqCst) > 0, "some gave up");
    for locks in runtimes {
        locks.shutdown().await.unwrap();
    }
    // What a release without an answer has left ends with its lease.
    eventually_in(secs(40), "nothing stays", || cluster.claims().is_empty()).await;
}

async fn eventually_in(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        sleep(ms(20)).await;
    }
}

/// A process that waits stands still for longer than its lease, and then it would have been its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_on_etcd_that_stood_still_takes_no_lock_of_another() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(5)).await;
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    process.tell("acquire k 2000 40000").await;
    waiters(&cluster, "k", 1).await;
    process.pause().await;
    // Its lease ends.
    waiters(&cluster, "k", 0).await;
    guard.release().await.unwrap();
    let other = held(&locks, "k", secs(5)).await;
    process.resume();
    // It asks, and waits behind the other.
    waiters(&cluster, "k", 1).await;
    assert!(other.is_held());
    let token_of_other = u64::from(other.fencing_token());
    other.release().await.unwrap();
    let heard = process.hear_within(DEADLINE).await;
    assert!(token(&heard) > token_of_other);
}

//! Faults of Consul: what is expected of the lock where agents die, stand still, leave and are cut
//! off, and where an operator intervenes. Each test first makes sure that its fault took effect.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use lock_consul::{ConsulBackend, ConsulSettings};
use lock_protocol::{
    Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::alone;
use lock_tests::consul::{Cluster, Options};
use lock_tests::faults::eventually;
use lock_tests::faults::pipe::Pipe;
use lock_tests::faults::process::{Process, token};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(90);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A runtime that goes from agent to agent after a second.
async fn runtime(endpoints: Vec<String>) -> LockRuntime {
    let locks = LockRuntime::consul(endpoints).command_timeout(secs(2));
    locks.heartbeat(secs(2)).build().await.unwrap()
}

/// The same, of which the locks keep others out for this share of their ttl after their session
/// ended.
async fn with_delay_share(endpoints: Vec<String>, share: f64) -> LockRuntime {
    let mut settings = ConsulSettings::new(endpoints);
    settings.command_timeout = secs(2);
    settings.lock_delay_share = share;
    let backend = ConsulBackend::connect(settings).await.unwrap();
    let locks = LockRuntime::backend(backend).command_timeout(secs(2));
    locks.heartbeat(secs(2)).build().await.unwrap()
}

async fn held(locks: &LockRuntime, key: &str, ttl: Duration) -> LockGuard {
    let lock = locks.lock(key).ttl(ttl).wait(DEADLINE);
    lock.acquire().await.unwrap()
}

/// Another that waits for `key`, and when it got it.
fn waits(locks: &LockRuntime, key: &str) -> JoinHandle<(LockGuard, Instant)> {
    let lock = locks.lock(key).ttl(secs(4)).wait(2 * DEADLINE);
    tokio::spawn(async move {
        let guard = lock.acquire().await.unwrap();
        (guard, Instant::now())
    })
}

async fn waiters(cluster: &Cluster, key: &str, count: usize) {
    let lock = format!("lock:{key}");
    eventually("they wait", || cluster.waiters(&lock) == count).await;
}

/// The sessions that were made since there were those `before`.
fn since(cluster: &Cluster, before: &[String]) -> Vec<String> {
    let mut sessions = cluster.sessions();
    sessions.retain(|session| !before.contains(session));
    assert!(!sessions.is_empty());
    sessions
}

/// Waits until none of these sessions is there any more.
async fn ended(cluster: &Cluster, sessions: &[String]) {
    eventually("the sessions end", || {
        let there = cluster.sessions();
        !sessions.iter().any(|session| there.contains(session))
    })
    .await;
}

async fn backend(endpoints: &[String]) -> ConsulBackend {
    let mut settings = ConsulSettings::new(endpoints.to_vec());
    settings.command_timeout = secs(2);
    ConsulBackend::connect(settings).await.unwrap()
}

fn claim(name: &str) -> Claim {
    let key = LockKey::new("lock:", name).unwrap();
    Claim::new(key, OwnerToken::unique("fault"), secs(20))
}

async fn granted(backend: &ConsulBackend, claim: &Claim) -> u64 {
    match backend.acquire(claim).await.unwrap() {
        Acquired::Granted(grant) => grant.tokens.first.as_u64(),
        other => panic!("the lock should have been granted, but: {other:?}"),
    }
}

async fn released(backend: &ConsulBackend, claim: &Claim) {
    let release = Release::new(claim.key.clone(), claim.owner.clone());
    let answer = backend.release(&release).await.unwrap();
    assert_eq!(answer, Released::Released(None));
}

/// When the holder has heard that its lock is lost.
fn loss(guard: LockGuard) -> JoinHandle<Instant> {
    tokio::spawn(async move {
        guard.lost().await;
        Instant::now()
    })
}

/// That the holder had ended before the next one began, which has a larger token.
async fn follows(
    first: u64,
    lost: JoinHandle<Instant>,
    next: JoinHandle<(LockGuard, Instant)>,
) -> (Instant, Instant) {
    let (next, began) = timeout(DEADLINE, next).await.unwrap().unwrap();
    assert!(lost.is_finished(), "two believe that they hold the lock");
    let ended = lost.await.unwrap();
    assert!(ended < began, "two believed that they hold the lock");
    assert!(u64::from(next.fencing_token()) > first);
    next.release().await.unwrap();
    (ended, began)
}

/// The leader dies. The holder keeps its lock, and nobody else gets it.
#[tokio::test(flavor = "multi_thread")]
async fn c01_a_holder_keeps_its_lock_when_the_leader_is_killed() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    // The session must not hang on the node that dies.
    let ttl = secs(20);
    let leader = cluster.leader();
    let elsewhere = cluster.endpoint((leader + 1) % 3);
    let first = runtime(vec![elsewhere, cluster.endpoint((leader + 2) % 3)]).await;
    let guard = held(&first, "k", ttl).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    cluster.kill(leader);
    assert_ne!(cluster.leader(), leader, "another leads");
    // Longer than what was believed when it happened.
    let end = Instant::now() + ttl + secs(2);
    while Instant::now() < end {
        assert!(guard.is_held(), "the holder has lost its lock");
        assert!(!waiting.is_finished(), "two hold the lock");
        sleep(ms(10)).await;
    }
    let token = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    // The other's session may have been of the node that died, so it is queued anew.
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(u64::from(next.fencing_token()) > token);
    next.release().await.unwrap();
    drop(locks);
}

/// After the leader died, locks are to be had about as soon as anything else can be written.
#[tokio::test(flavor = "multi_thread")]
async fn c01_locks_are_to_be_had_when_a_bare_client_can_write_again() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let leader = cluster.leader();
    let others = [1, 2].map(|step| (leader + step) % 3);
    let locks = runtime(others.map(|place| cluster.endpoint(place)).to_vec()).await;
    held(&locks, "before", secs(4))
        .await
        .release()
        .await
        .unwrap();
    cluster.kill(leader);
    let killed = Instant::now();
    let cluster = Arc::new(cluster);
    let bare = tokio::task::spawn_blocking({
        let cluster = Arc::clone(&cluster);
        move || {
            let written = |place| cluster.ask_of(place, "PUT", "/v1/kv/x", "x");
            while !others
                .iter()
                .any(|place| matches!(written(*place), Ok((200, _))))
            {
                std::thread::sleep(ms(20));
            }
            killed.elapsed()
        }
    });
    held(&locks, "k", secs(4)).await.release().await.unwrap();
    let ours = killed.elapsed();
    let bare = timeout(DEADLINE, bare).await.unwrap().unwrap();
    println!("a bare client writes after {bare:?}, a lock is had and released after {ours:?}");
    // A question that waits for a leader is given up after a second, and asked again after another.
    assert!(
        ours <= bare * 3 / 2 + secs(2),
        "{ours:?}, where {bare:?} would do"
    );
}

/// The leader dies within the life of a dead holder's session: that begins anew, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn c01_a_dead_holder_is_followed_although_the_leader_changes() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let leader = cluster.leader();
    let urls = [1, 2].map(|step| cluster.endpoint((leader + step) % 3));
    let url = urls[0].replace("http://", "consul://");
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &url).await;
    let ttl = secs(4);
    let first = token(&process.ask("acquire k 4000 20000").await);
    let locks = runtime(urls.to_vec()).await;
    let waiting = waits(&locks, "k");
    waiters(&cluster, "k", 1).await;
    process.kill();
    let died = Instant::now();
    cluster.kill(leader);
    assert_ne!(cluster.leader(), leader, "another leads");
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(died.elapsed() >= 2 * ttl, "its session and its delay");
    assert!(u64::from(next.fencing_token()) > first);
    next.release().await.unwrap();
}

/// An operator destroys the session of the holder: that hears of it before anybody else has the
/// lock.
#[tokio::test(flavor = "multi_thread")]
async fn c02_a_session_that_an_operator_destroys_is_lost_before_the_next_is_served() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(4);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    let lost = loss(guard);
    let destroyed = Instant::now();
    cluster.destroy(&session);
    assert!(cluster.owner("lock:k").is_none(), "nobody holds it");
    // Whoever comes is told that it is taken, not that it is free.
    let comes = locks.lock("k").ttl(ttl).try_acquire().await.unwrap();
    assert!(comes.is_none());
    let (ended, began) = follows(first, lost, waiting).await;
    assert!(
        ended < destroyed + ttl,
        "it was told before the delay was over"
    );
    assert!(
        began >= destroyed + ttl,
        "nobody has it before the delay is over"
    );
}

/// The control of the tests before and after: without a delay two believe that they hold the lock.
#[tokio::test(flavor = "multi_thread")]
async fn c02_control_without_a_delay_two_believe_that_they_hold_the_lock() {
    let cluster = Cluster::start();
    let locks = with_delay_share(cluster.endpoints(), 0.0).await;
    let other = runtime(cluster.endpoints()).await;
    let lock = locks.lock("k").ttl(secs(60)).renew(secs(30));
    let guard = lock.acquire().await.unwrap();
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.destroy(&session);
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(next.is_held() && guard.is_held(), "both believe in it");
}

/// The agent of the holder dies, and an operator destroys its session, of which it cannot hear: it
/// ends by its own clock before the delay does.
#[tokio::test(flavor = "multi_thread")]
async fn c03_a_holder_whose_agent_is_killed_ends_before_the_delay_does() {
    let mut cluster = Cluster::start();
    let agent = cluster.add_client();
    let locks = runtime(vec![cluster.endpoint(agent)]).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(6);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.kill(agent);
    let asked = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(asked.is_unavailable(), "{asked:?}");
    let (lost, destroyed) = (loss(guard), Instant::now());
    cluster.destroy(&session);
    let (_, began) = follows(first, lost, waiting).await;
    assert!(
        began >= destroyed + ttl,
        "nobody has it before the delay is over"
    );
}

/// The control: a belief that is longer than the delay is one too many.
#[tokio::test(flavor = "multi_thread")]
async fn c03_control_a_belief_longer_than_the_delay_is_one_too_many() {
    let mut cluster = Cluster::start();
    let agent = cluster.add_client();
    let locks = with_delay_share(vec![cluster.endpoint(agent)], 0.05).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(60)).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.kill(agent);
    let destroyed = Instant::now();
    cluster.destroy(&session);
    let (next, began) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(began >= destroyed + secs(3), "there was a delay");
    assert!(next.is_held() && guard.is_held(), "both believe in it");
}

/// The server by which the lock was taken dies, and its node is removed: the session ends long
/// before its ttl.
#[tokio::test(flavor = "multi_thread")]
async fn c03_a_session_that_ends_with_its_server_is_lost_before_the_next_is_served() {
    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let server = (cluster.leader() + 1) % 3;
    let locks = runtime(vec![cluster.endpoint(server)]).await;
    let others = (0..3).filter(|place| *place != server);
    let other = runtime(others.map(|place| cluster.endpoint(place)).collect()).await;
    let ttl = secs(50);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    cluster.kill(server);
    let (killed, lost) = (Instant::now(), loss(guard));
    // Its ttl would be over after 50 s.
    eventually("the session ends", || {
        !cluster.sessions().contains(&session)
    })
    .await;
    assert!(killed.elapsed() < ttl, "its node was removed");
    let (ended, began) = follows(first, lost, waiting).await;
    println!(
        "the session ended early; the holder after {:?}, the next began after {:?}",
        ended - killed,
        began - killed
    );
}

/// An agent leaves, and the sessions of its node end at once.
#[tokio::test(flavor = "multi_thread")]
async fn c04_an_agent_that_leaves_ends_its_sessions_and_the_delay_holds() {
    let mut cluster = Cluster::start();
    let agent = cluster.add_client();
    let locks = runtime(vec![cluster.endpoint(agent)]).await;
    let other = runtime(cluster.endpoints()).await;
    let ttl = secs(6);
    let guard = held(&locks, "k", ttl).await;
    let (first, waiting) = (u64::from(guard.fencing_token()), waits(&other, "k"));
    waiters(&cluster, "k", 1).await;
    let lost = loss(guard);
    let left = Instant::now();
    cluster.leave(agent);
    eventually("the session ends", || cluster.owner("lock:k").is_none()).await;
    let (_, began) = follows(first, lost, waiting).await;
    assert!(
        began >= left + ttl,
        "nobody has it before the delay is over"
    );
}

/// A process that waits dies; when its session has ended it is passed over, in no time.
#[tokio::test(flavor = "multi_thread")]
async fn c05_a_waiter_that_died_is_passed_over_at_the_hand_over() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(20)).await;
    let before = cluster.sessions();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    process.tell("acquire k 2000 60000").await;
    waiters(&cluster, "k", 1).await;
    let its = since(&cluster, &before);
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 2).await;
    process.kill();
    ended(&cluster, &its).await;
    let first = u64::from(guard.fencing_token());
    guard.release().await.unwrap();
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(u64::from(next.fencing_token()) > first);
    next.release().await.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// A process is handed the lock just after it died: it costs the others its session and its delay,
/// as one that died holding does, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn c05_a_waiter_that_dies_as_it_is_served_costs_what_a_holder_does() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(20)).await;
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    process.tell("acquire k 2000 60000").await;
    waiters(&cluster, "k", 1).await;
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 2).await;
    process.kill();
    guard.release().await.unwrap();
    let handed_over = Instant::now();
    let (next, began) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(began >= handed_over + secs(2), "its delay was kept");
    next.release().await.unwrap();
}

/// Whoever asks within the delay is told that the lock is taken; whoever waits has it soon after.
#[tokio::test(flavor = "multi_thread")]
async fn c06_a_lock_in_its_delay_is_taken_and_had_soon_afterwards() {
    let cluster = Cluster::start();
    let (here, there) = (
        backend(&cluster.endpoints()).await,
        backend(&cluster.endpoints()).await,
    );
    let mut holder = claim("k");
    holder.ttl = secs(3);
    granted(&here, &holder).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    let destroyed = Instant::now();
    cluster.destroy(&session);
    let answer = there.acquire(&claim("k")).await.unwrap();
    assert!(matches!(answer, Acquired::Taken(_)), "{answer:?}");
    let waiter = claim("k").queued();
    let answer = there.acquire(&waiter).await.unwrap();
    assert!(matches!(answer, Acquired::Queued(_)), "{answer:?}");
    let lost = here
        .renew(&[Renewal::new(holder.key, holder.owner, holder.ttl)])
        .await;
    assert!(matches!(lost[0], Ok(Renewed::Lost(_))), "{lost:?}");

    // The same by news alone, as a runtime waits.
    let locks = LockRuntime::backend(there).heartbeat(10 * DEADLINE);
    let locks = locks.command_timeout(secs(2)).build().await.unwrap();
    here.abandon(&waiter).await.unwrap();
    let waiting = waits(&locks, "k");
    let (next, began) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(
        began >= destroyed + secs(3),
        "nobody has it before the delay is over"
    );
    assert!(next.is_held());
}

/// The others stand still: what is answered without them is not believed, and the local deadline
/// decides.
#[tokio::test(flavor = "multi_thread")]
async fn c07_without_a_majority_nothing_is_believed_and_the_local_deadline_decides() {
    let _alone = alone().await;
    let cluster = Options::default().start(3);
    let leader = cluster.leader();
    let locks = runtime(vec![cluster.endpoint(leader)]).await;
    let ttl = secs(8);
    let guard = held(&locks, "k", ttl).await;
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    others.iter().for_each(|place| cluster.pause(*place));
    let cut_at = Instant::now();
    let stale = cluster
        .ask_of(leader, "GET", "/v1/kv/lock:k/.lock", "")
        .unwrap();
    assert_eq!(stale.0, 200, "a plain read is answered all the same");
    // It was renewed at most a tenth of its ttl before, and a renewal may have been under way.
    while cut_at.elapsed() < ttl * 3 / 10 {
        assert!(guard.is_held(), "the lock was given up too early");
        sleep(ms(5)).await;
    }
    let other = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(other.is_unavailable(), "{other:?}");
    timeout(DEADLINE, guard.lost()).await.unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    others.iter().for_each(|place| cluster.resume(*place));
    let again = held(&locks, "k", ttl).await;
    assert!(again.is_held());
}

/// An agent has no room for another connection: that is no answer, and those that wait make room.
#[tokio::test(flavor = "multi_thread")]
async fn c08_an_agent_without_room_is_no_answer_and_waiters_make_room() {
    let limits = json!({"http_max_conns_per_client": 12});
    let cluster = Options::default().with("limits", limits).start(1);
    let locks = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(20)).await;
    let waiting: Vec<_> = (0..4).map(|_| waits(&locks, "k")).collect();
    // All the room that is left.
    let mut others = Vec::new();
    let refused = loop {
        let Ok((status, _)) = cluster.ask_of(0, "GET", "/v1/status/leader", "") else {
            break true;
        };
        if status == 429 {
            break true;
        }
        let mut other = TcpStream::connect(("127.0.0.1", cluster.port(0))).unwrap();
        let request = b"GET /v1/kv/none?index=1 HTTP/1.1\r\n";
        if other.write_all(request).is_err() {
            // It was closed at once.
            break true;
        }
        others.push(other);
        assert!(others.len() < 20, "there is always room");
    };
    assert!(refused);
    let fresh = LockRuntime::consul(cluster.endpoints()).command_timeout(secs(2));
    let error = fresh.build().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(guard.is_held());
    drop(others);
    guard.release().await.unwrap();
    for next in waiting {
        let (next, _) = timeout(DEADLINE, next).await.unwrap().unwrap();
        next.release().await.unwrap();
    }
}

/// The locks are advisory: whoever may write the key ends the lock, which its holder is told.
#[tokio::test(flavor = "multi_thread")]
async fn c09_a_key_that_is_deleted_or_overwritten_is_lost_and_tokens_grow() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let other = runtime(cluster.endpoints()).await;
    for is_deleted in [true, false] {
        let guard = held(&locks, "k", secs(4)).await;
        let first = u64::from(guard.fencing_token());
        let waiting = waits(&other, "k");
        waiters(&cluster, "k", 1).await;
        if is_deleted {
            cluster.ask("DELETE", "/v1/kv/lock:k/.lock", "");
        } else {
            // The session still has it locked, for nobody.
            cluster.ask("PUT", "/v1/kv/lock:k/.lock", "mine");
            assert!(cluster.owner("lock:k").is_some());
        }
        timeout(DEADLINE, guard.lost()).await.unwrap();
        drop(guard);
        let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(u64::from(next.fencing_token()) > first);
        next.release().await.unwrap();
    }
}

/// A program that knows nothing of us holds the lock, frees it and deletes its key: our queue keeps
/// its order.
#[tokio::test(flavor = "multi_thread")]
async fn c10_a_foreign_holder_is_followed_by_our_queue_in_its_order() {
    let cluster = Cluster::start();
    let session = cluster.new_session();
    let path = "/v1/kv/lock:k/.lock?flags=3304740253564472344";
    let taken = cluster.ask("PUT", &format!("{path}&acquire={session}"), "foreign");
    assert_eq!(taken.trim(), "true");
    let (one, two) = (
        runtime(cluster.endpoints()).await,
        runtime(cluster.endpoints()).await,
    );
    let first = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    let second = waits(&two, "k");
    waiters(&cluster, "k", 2).await;
    assert!(!first.is_finished() && !second.is_finished());
    let freed = cluster.ask("PUT", &format!("{path}&release={session}"), "");
    assert_eq!(freed.trim(), "true");
    let (guard, _) = timeout(DEADLINE, first).await.unwrap().unwrap();
    assert!(!second.is_finished());
    guard.release().await.unwrap();
    let (guard, _) = timeout(DEADLINE, second).await.unwrap().unwrap();
    guard.release().await.unwrap();
    cluster.destroy(&session);

    // Now it deletes the key as well, as `consul lock` does.
    let session = cluster.new_session();
    let taken = cluster.ask("PUT", &format!("{path}&acquire={session}"), "foreign");
    assert_eq!(taken.trim(), "true");
    let waiting = waits(&one, "k");
    waiters(&cluster, "k", 1).await;
    cluster.ask("DELETE", "/v1/kv/lock:k/.lock", "");
    let (guard, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(guard.is_held());
}

/// A release has no answer, and then its process ends: the session is not ended before the lock is
/// free, so the next one has it without the delay.
#[tokio::test(flavor = "multi_thread")]
async fn c11_a_release_without_an_answer_costs_no_delay() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let locks = runtime(vec![pipe.endpoint()]).await;
    let other = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(60)).await;
    let (session, _) = cluster.owner("lock:k").unwrap();
    let waiting = waits(&other, "k");
    waiters(&cluster, "k", 1).await;
    pipe.hold();
    let releasing = tokio::spawn(guard.release());
    eventually("the release is on its way", || pipe.held() > 100).await;
    // Longer than anybody waits for the answer.
    sleep(secs(2)).await;
    assert!(!waiting.is_finished());
    assert!(cluster.sessions().contains(&session), "it was not ended");
    let opened = Instant::now();
    pipe.open();
    let (next, _) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert!(opened.elapsed() < secs(60), "there was no delay");
    let _ = releasing.await.unwrap();
    next.release().await.unwrap();
}

/// A claim lies in the network when it is withdrawn by another way; what arrives then does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_comes_after_its_withdrawal_takes_no_lock_on_consul() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let behind = backend(&[pipe.endpoint()]).await;
    let before = claim("k");
    granted(&behind, &before).await;
    released(&behind, &before).await;
    pipe.hold();
    let gone = claim("k");
    {
        let mut asking = Box::pin(behind.acquire(&gone));
        assert!(timeout(ms(1), &mut asking).await.is_err());
        eventually("the claim is on its way", || pipe.held() > 200).await;
        sleep(ms(200)).await;
        pipe.seal();
        assert!(asking.await.is_err());
    }
    // By another process, since all ways of this one lead through the pipe.
    let elsewhere = backend(&cluster.endpoints()).await;
    let mut withdrawn = gone.clone();
    withdrawn.in_doubt = true;
    elsewhere.abandon(&withdrawn).await.unwrap();
    pipe.open();
    // The session of the claim is renewed beside it, so what comes late has arrived by now.
    sleep(secs(1)).await;
    assert_eq!(cluster.claims(), Vec::<String>::new());
    granted(&elsewhere, &claim("k")).await;
}

/// A process that waits stands still for longer than its session lives, and then it would have been
/// its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_on_consul_that_stood_still_takes_no_lock_of_another() {
    let cluster = Cluster::start();
    let locks = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(5)).await;
    let before = cluster.sessions();
    let mut process = Process::start(env!("CARGO_BIN_EXE_holder"), &cluster.url()).await;
    process.tell("acquire k 2000 60000").await;
    waiters(&cluster, "k", 1).await;
    let its = since(&cluster, &before);
    process.pause().await;
    ended(&cluster, &its).await;
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

/// Servers are killed and started again, and sessions destroyed, while tasks of several runtimes
/// take a lock, wait for it, and give up.
#[tokio::test(flavor = "multi_thread")]
async fn under_faults_of_consul_no_two_hold_a_lock_and_nothing_stays_behind() {
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
            secs(30)
        };
        let lock = locks.lock("k").ttl(secs(4)).wait(wait);
        let Ok(guard) = lock.acquire().await else {
            seen.given_up.fetch_add(1, SeqCst);
            return;
        };
        assert!(!seen.inside.swap(true, SeqCst), "two hold the lock");
        let token = u64::from(guard.fencing_token());
        let before = seen.token.swap(token, SeqCst);
        assert!(before < token, "{token} was granted after {before}");
        sleep(ms(fastrand::u64(..4))).await;
        seen.inside.store(false, SeqCst);
        // Its outcome may not be known; then the lock goes on after its delay.
        let _ = guard.release().await;
        seen.turns.fetch_add(1, SeqCst);
    }

    let _alone = alone().await;
    let mut cluster = Options::default().start(3);
    let seen = Arc::<Seen>::default();
    let mut runtimes = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let locks = LockRuntime::consul(cluster.endpoints()).command_timeout(secs(1));
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
    for round in 0..4 {
        let leader = cluster.leader();
        if round % 2 == 0 {
            cluster.kill(leader);
        } else {
            let sessions = cluster.sessions();
            assert!(!sessions.is_empty());
            sessions.iter().for_each(|session| cluster.destroy(session));
        }
        let (before, since) = (seen.turns.load(SeqCst), Instant::now());
        eventually_in(secs(60), "locks are taken again", || {
            seen.turns.load(SeqCst) > before + 20
        })
        .await;
        println!("20 turns after a fault took {:?}", since.elapsed());
        if round % 2 == 0 {
            cluster.revive(leader);
            eventually_in(secs(60), "it is back", || cluster.is_ready(leader)).await;
        }
    }
    seen.is_over.store(true, SeqCst);
    tasks.join_all().await;
    println!("{:?} turns, {:?} given up", seen.turns, seen.given_up);
    assert!(seen.given_up.load(SeqCst) > 0, "some gave up");
    for locks in runtimes {
        locks.shutdown().await.unwrap();
    }
    // What a release without an answer has left ends with its session.
    eventually_in(secs(60), "no session stays", || {
        cluster.sessions().is_empty()
    })
    .await;
}

async fn eventually_in(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        sleep(ms(20)).await;
    }
}

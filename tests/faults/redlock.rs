//! Locks held by a majority of five servers, while servers fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_conformance::poll_once;
use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released, Renewal};
use lock_runtime::redlock::RedlockBackend;
use lock_runtime::{LockError, LockRuntime};
use lock_tests::faults::is_withdrawal;
use lock_tests::faults::proxy::{Fault as Reply, Proxy};
use lock_tests::redlock_store::{connect, five, urls};
use lock_tests::server::Server;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(20);
/// A ttl that never runs out during a test.
const LONG: Duration = Duration::from_secs(60);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn key() -> LockKey {
    LockKey::new("lock:", "k").unwrap()
}

fn claim(ttl: Duration) -> Claim {
    Claim::new(key(), OwnerToken::unique("test"), ttl)
}

async fn runtime(servers: &[Server]) -> LockRuntime {
    runtime_at(urls(servers)).await
}

async fn runtime_at(urls: Vec<String>) -> LockRuntime {
    let builder = LockRuntime::redlock(urls).restart_delay(Duration::ZERO);
    builder.command_timeout(ms(400)).build().await.unwrap()
}

fn holders(servers: &[&Server]) -> Vec<Option<String>> {
    servers
        .iter()
        .map(|server| server.run(&["GET", "lock:k"]))
        .collect()
}

/// Makes a server one that has been known for long, as far as the rule of restarts goes.
fn was_there_before(server: &Server) {
    server.run::<()>(&["SET", "{lock:}:votes:counter", "1000000", "PX", "60000"]);
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            sleep(ms(5)).await;
        }
    };
    assert!(
        timeout(DEADLINE, wait).await.is_ok(),
        "{what} did not happen"
    );
}

async fn granted(backend: &RedlockBackend, claim: &Claim) -> u64 {
    match backend.acquire(claim).await.unwrap() {
        Acquired::Granted(grant) => grant.tokens.first.as_u64(),
        other => panic!("it should have been granted, but: {other:?}"),
    }
}

/// What a server does that is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refuses,
    Hangs,
    /// What it is asked takes effect, and its answers get lost.
    LosesReplies,
    IsReplica,
    WrongType,
    Full,
    Foreign,
}

impl Fault {
    fn begin(self, server: &mut Server, proxy: &Proxy) {
        match self {
            Fault::Refuses => server.kill(),
            Fault::Hangs => server.pause(),
            Fault::LosesReplies => proxy.fault_all("voting", Reply::LoseAnswer),
            Fault::IsReplica => {
                server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
                let role: Vec<redis::Value> = server.run(&["ROLE"]);
                assert_eq!(role[0], redis::Value::BulkString(b"slave".to_vec()));
            }
            Fault::WrongType => {
                server.run::<()>(&["RPUSH", "lock:k", "no lock"]);
                server.forgive("lock:k");
            }
            Fault::Full => server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]),
            Fault::Foreign => {
                server.run::<()>(&["SET", "lock:k", "another library's token"]);
                server.forgive("lock:k");
            }
        }
    }

    fn end(self, server: &mut Server, proxy: &Proxy) {
        match self {
            Fault::Refuses => server.restart(),
            Fault::Hangs => server.resume(),
            Fault::LosesReplies => proxy.heal(),
            Fault::IsReplica => server.run::<()>(&["REPLICAOF", "NO", "ONE"]),
            Fault::WrongType | Fault::Foreign => server.run::<()>(&["DEL", "lock:k"]),
            Fault::Full => server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]),
        }
    }
}

/// All masks of good and bad servers, one fault at a time: a lock is granted exactly if three are
/// good, else it is not, and no vote stays behind in either case.
async fn masks(fault: Fault) {
    let mut servers = five();
    for mask in 0_u32..32 {
        let is_bad = |node: usize| mask & (1 << node) != 0;
        let proxies: Vec<_> = servers
            .iter()
            .map(|server| Proxy::start(server.port()))
            .collect();
        let locks = match fault {
            Fault::LosesReplies => runtime_at(proxies.iter().map(Proxy::url).collect()).await,
            _ => runtime(&servers).await,
        };
        for (node, (server, proxy)) in servers.iter_mut().zip(&proxies).enumerate() {
            if is_bad(node) {
                fault.begin(server, proxy);
            }
        }
        let is_enough = mask.count_ones() <= 2;
        let started = Instant::now();
        let lock = locks.lock("k").ttl(ms(2000)).try_acquire().await;
        match (&lock, fault) {
            (Ok(Some(_)), _) => assert!(is_enough, "{fault:?} {mask:05b}: granted"),
            (Ok(None), Fault::Foreign) => assert!(!is_enough, "{fault:?} {mask:05b}: taken"),
            (Ok(None), _) => panic!("{fault:?} {mask:05b}: taken by nobody"),
            (Err(error), Fault::Foreign) => panic!("{mask:05b}: {error:?}"),
            (Err(_), _) => assert!(!is_enough, "{fault:?} {mask:05b}: {lock:?}"),
        }
        assert!(started.elapsed() < DEADLINE);
        drop(lock);
        if fault == Fault::LosesReplies {
            // Where three answer, nobody waits for the rest.
            eventually("the loss of answers", async || {
                (0..5).all(|node| (proxies[node].faults() > 0) == is_bad(node))
            })
            .await;
        }
        for (node, (server, proxy)) in servers.iter_mut().zip(&proxies).enumerate() {
            if is_bad(node) {
                fault.end(server, proxy);
            }
        }
        // Neither a vote nor a place in a queue.
        eventually("the end of all votes", async || {
            servers.iter().all(|server| left(server).is_empty())
        })
        .await;
        locks.shutdown().await.unwrap();
    }
}

/// The keys of locks that a server has.
fn left(server: &Server) -> Vec<String> {
    let mut keys: Vec<String> = server.run(&["KEYS", "*lock:k*"]);
    keys.retain(|key| !key.ends_with(":fence") && !is_withdrawal(key));
    keys
}

#[tokio::test]
async fn a_majority_of_servers_that_do_not_refuse_connections_decides() {
    masks(Fault::Refuses).await;
}

#[tokio::test]
async fn a_majority_of_servers_that_do_not_hang_decides() {
    masks(Fault::Hangs).await;
}

#[tokio::test]
async fn a_majority_of_servers_whose_answers_arrive_decides() {
    masks(Fault::LosesReplies).await;
}

#[tokio::test]
async fn a_majority_of_servers_that_are_no_replicas_decides() {
    masks(Fault::IsReplica).await;
}

#[tokio::test]
async fn a_majority_of_servers_whose_key_is_a_lock_decides() {
    masks(Fault::WrongType).await;
}

#[tokio::test]
async fn a_majority_of_servers_that_have_memory_decides() {
    masks(Fault::Full).await;
}

#[tokio::test]
async fn a_majority_of_servers_without_a_foreign_owner_decides() {
    masks(Fault::Foreign).await;
}

/// Votes that are split before anybody asks are resolved by those who ask, without a ttl running
/// out: each of three claims holds a minority, as the keys of the servers show.
#[tokio::test]
async fn split_votes_are_resolved_long_before_a_ttl() {
    let servers = five();
    for round in 0..20_usize {
        let mut backends = Vec::new();
        for _ in 0..3 {
            backends.push(Arc::new(connect(&servers).await));
        }
        let claims: Vec<_> = (0..3).map(|_| claim(LONG).queued()).collect();
        // 2/2/1, in turns.
        for (node, server) in servers.iter().enumerate() {
            let owner = claims[(node / 2 + round) % 3].owner.to_string();
            server.run::<()>(&["SET", "lock:k", &owner, "PX", "60000"]);
        }
        let started = Instant::now();
        let mut turns = JoinSet::new();
        let all: Vec<_> = servers.iter().collect();
        let mut split = holders(&all);
        split.sort_unstable();
        split.dedup();
        assert_eq!(split.len(), 3, "the votes are not split");
        for (backend, claim) in backends.into_iter().zip(claims) {
            turns.spawn(async move {
                loop {
                    match backend.acquire(&claim).await.unwrap() {
                        Acquired::Granted(grant) => {
                            let release = Release::new(claim.key.clone(), claim.owner.clone());
                            let released = backend.release(&release).await.unwrap();
                            assert_eq!(released, Released::Released(None));
                            return grant.tokens;
                        }
                        Acquired::Queued(holder) => {
                            sleep(holder.remaining.unwrap().min(ms(20))).await;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        let mut tokens = turns.join_all().await;
        assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
        tokens.sort_unstable_by_key(|block| block.first);
        assert!(tokens.windows(2).all(|pair| pair[0].last < pair[1].first));
        eventually("the end of all votes", async || {
            holders(&all).iter().all(Option::is_none)
        })
        .await;
    }
}

/// The oracle of exclusion: claims of three processes contend, by `try` and by waiting, while one
/// server after the other is stopped and goes on; the resource knows who is in.
#[tokio::test]
async fn nobody_is_alone_with_another_while_servers_hang_in_turn() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    let mut servers = five();
    let inside = Arc::new(AtomicBool::new(false));
    let last = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    let mut runtimes = Vec::new();
    for _ in 0..3 {
        let locks = runtime(&servers).await;
        runtimes.push(locks.clone());
        for _ in 0..3 {
            let (inside, last) = (Arc::clone(&inside), Arc::clone(&last));
            let (stop, turns, locks) = (Arc::clone(&stop), Arc::clone(&turns), locks.clone());
            workers.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let lock = locks.lock("k").ttl(ms(5000)).wait(ms(3000));
                    let Ok(guard) = lock.acquire().await else {
                        continue;
                    };
                    let token = guard.fencing_token().as_u64();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two are in");
                    assert!(last.swap(token, Ordering::SeqCst) < token, "tokens fall");
                    tokio::task::yield_now().await;
                    turns.fetch_add(1, Ordering::SeqCst);
                    let is_valid = !guard.remaining().is_zero();
                    inside.store(false, Ordering::SeqCst);
                    assert!(is_valid, "a lease of five seconds ran out");
                    let _ = guard.release().await;
                }
            });
        }
    }
    for round in 0..6 {
        let (one, other) = (round % 5, (round + 2) % 5);
        servers[one].pause();
        servers[other].pause();
        let before = turns.load(Ordering::SeqCst);
        eventually("a turn with two servers that hang", async || {
            turns.load(Ordering::SeqCst) > before + 2
        })
        .await;
        servers[one].resume();
        servers[other].resume();
        sleep(ms(50)).await;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    for locks in &runtimes {
        locks.shutdown().await.unwrap();
    }
}

/// Each server in turn loses everything, so that it votes for nobody for a while; the lease is joined
/// again by its renewals.
#[tokio::test]
async fn a_rolling_restart_of_all_servers_loses_no_lock() {
    let mut servers = five();
    let builder = LockRuntime::redlock(urls(&servers)).restart_delay(LONG);
    let builder = builder.default_ttl(ms(4000)).command_timeout(ms(400));
    let locks = builder.build().await.unwrap();
    servers.iter().for_each(was_there_before);
    let guard = locks.lock("k").acquire().await.unwrap();
    let owner = guard.owner_token().as_str().to_owned();
    for server in &mut servers {
        server.kill();
        server.restart();
        assert_eq!(holders(&[server]), [None], "it should have lost its data");
        eventually("the vote of the restarted server", async || {
            // Where the claim was not granted at first, the number of its try stands before it.
            let holder = holders(&[server]).remove(0);
            holder.is_some_and(|holder| holder.ends_with(&owner))
        })
        .await;
    }
    assert!(!guard.remaining().is_zero());
    guard.release().await.unwrap();
    locks.shutdown().await.unwrap();
}

/// Held on three of five, of which one restarts empty: a second claim has a majority unless the
/// rule keeps that server from voting.
#[tokio::test]
async fn a_server_that_lost_its_data_votes_for_nobody_for_the_restart_delay() {
    for is_on in [true, false] {
        let mut servers = five();
        let backend = async |delay| {
            let mut settings = lock_runtime::redlock::RedlockSettings::default();
            settings.restart_delay = delay;
            settings.redis.command_timeout = ms(200);
            let configs = urls(&servers).into_iter();
            let configs = configs.map(lock_runtime::redis::deadpool_redis::Config::from_url);
            let configs: Vec<_> = configs.collect();
            RedlockBackend::connect(&configs, settings).await.unwrap()
        };
        let delay = if is_on { ms(6000) } else { Duration::ZERO };
        let (here, there) = (backend(delay).await, backend(delay).await);
        // New servers vote after the delay as well, and say so.
        if is_on {
            let error = here.acquire(&claim(ms(2000))).await.unwrap_err();
            let text = error.into_source().to_string();
            assert!(text.contains("restart_delay"), "{text}");
        }
        let holder = claim(ms(6000));
        // Two hang while it is granted, so it is on three.
        let all: Vec<_> = servers.iter().collect();
        let probe = claim(ms(1000));
        eventually("the votes of all new servers", async || {
            let is_granted = matches!(here.acquire(&probe).await, Ok(Acquired::Granted(_)));
            is_granted && holders(&all).iter().flatten().count() == 5
        })
        .await;
        here.abandon(&probe).await.unwrap();
        eventually("the end of all votes", async || {
            holders(&all).iter().all(Option::is_none)
        })
        .await;
        servers[3].kill();
        servers[4].kill();
        let first = granted(&here, &holder).await;
        // What was asked of the two has been given up by then.
        sleep(ms(400)).await;
        servers[3].restart();
        servers[4].restart();
        servers[3..].iter().for_each(was_there_before);
        servers[0].kill();
        servers[0].restart();
        assert_eq!(
            holders(&[&servers[0]]),
            [None],
            "it should have lost its data"
        );
        let other = claim(ms(6000));
        let ask = async {
            loop {
                match there.acquire(&other).await {
                    Ok(Acquired::Granted(grant)) => return grant.tokens.first.as_u64(),
                    Ok(_) | Err(_) => sleep(ms(20)).await,
                }
            }
        };
        let second = timeout(ms(3500), ask).await.ok();
        let lost = [&servers[3], &servers[4]];
        assert!(!holders(&lost).contains(&Some(holder.owner.to_string())));
        assert_eq!(second.is_none(), is_on, "{second:?}");
        if let Some(second) = second {
            assert!(
                second > first,
                "the fence has to hold where the lock does not"
            );
        }
    }
}

/// A clock an hour ahead on one server costs its vote, and moves no token.
/// A machine often starts with a clock that is behind, and is set forward: what its server takes
/// for the restart delay has not passed then.
#[tokio::test]
async fn a_clock_that_is_set_forward_after_a_restart_does_not_shorten_the_restart_delay() {
    let servers = five();
    let mut settings = lock_runtime::redlock::RedlockSettings::default();
    settings.restart_delay = LONG;
    let configs = urls(&servers).into_iter();
    let configs = configs.map(lock_runtime::redis::deadpool_redis::Config::from_url);
    let configs: Vec<_> = configs.collect();
    let backend = RedlockBackend::connect(&configs, settings).await.unwrap();
    const MARKER: &str = "{lock:}:votes:counter";
    let is_known = |server: &Server| server.run::<bool>(&["EXISTS", MARKER]);
    eventually("the first sight", async || servers.iter().all(is_known)).await;
    // As the clock sees it that is set forward since.
    let set_back = |by_own: u64, by_most: u64| {
        for server in &servers {
            let since: String = server.run(&["GET", MARKER]);
            let (own, most) = since.split_once(' ').unwrap();
            let (own, most): (u64, u64) = (own.parse().unwrap(), most.parse().unwrap());
            let since = format!("{} {}", own - by_own, most - by_most);
            server.run::<()>(&["SET", MARKER, &since, "PX", "60000"]);
        }
    };
    let step = 1_000_000 * 2 * LONG.as_secs();
    set_back(step, 0);
    let error = backend.acquire(&claim(LONG)).await.unwrap_err();
    let cause = error.into_source().to_string();
    assert!(cause.contains("restart_delay"), "{cause}");
    set_back(0, step);
    granted(&backend, &claim(LONG)).await;
}

#[tokio::test]
async fn the_tokens_of_a_server_with_a_wrong_clock_move_nothing() {
    let servers = five();
    let backend = connect(&servers).await;
    let first = granted(&backend, &claim(LONG)).await;
    for server in &servers {
        server.run::<()>(&["DEL", "lock:k"]);
    }
    // What a server would have stored that once was ahead.
    let ahead = first + 3_600_000_000;
    servers[0].run::<()>(&["SET", "{lock:k}:fence", &ahead.to_string(), "PX", "60000"]);
    let second = granted(&backend, &claim(LONG)).await;
    assert!(second > first && second < ahead, "{first} {second} {ahead}");
}

/// Who waits for a lease on three servers keeps the votes of the other two from nobody, so that the
/// lease can grow to them.
#[tokio::test]
async fn a_claim_that_waits_for_a_majority_leaves_the_other_servers_to_it() {
    let servers = five();
    let all: Vec<_> = servers.iter().collect();
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    for server in &servers[3..] {
        server.run::<()>(&["SET", "lock:k", "foreign", "PX", "60000"]);
    }
    let (holder, waiter) = (claim(LONG), claim(LONG).queued());
    granted(&here, &holder).await;
    for server in &servers[3..] {
        server.run::<()>(&["DEL", "lock:k"]);
    }
    let owner = Some(holder.owner.to_string());
    for _ in 0..5 {
        match there.acquire(&waiter).await.unwrap() {
            // Not soon again, as after a split.
            Acquired::Queued(held) => assert!(held.remaining.unwrap() > LONG / 2, "{held:?}"),
            other => panic!("{other:?}"),
        }
        eventually("the end of the waiter's votes", async || {
            holders(&all)[3..].iter().all(Option::is_none)
        })
        .await;
        assert!(holders(&all)[..3].iter().all(|vote| *vote == owner));
    }
    let renewal = [Renewal::new(key(), holder.owner.clone(), LONG)];
    here.renew(&renewal).await.remove(0).unwrap();
    eventually("the growth of the lease", async || {
        holders(&all).iter().all(|vote| *vote == owner)
    })
    .await;
    let release = Release::new(key(), holder.owner.clone());
    assert_eq!(
        here.release(&release).await.unwrap(),
        Released::Released(None)
    );
    eventually("the turn of the waiter", async || {
        matches!(there.acquire(&waiter).await.unwrap(), Acquired::Granted(_))
    })
    .await;
}

/// However an acquire is cut off, its withdrawal leaves nothing.
#[tokio::test]
async fn an_acquire_that_is_dropped_at_any_poll_leaves_nothing() {
    let servers = five();
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    for polls in 0..12 {
        for waits in [false, true] {
            let mut gone = claim(LONG);
            gone.queue = waits;
            {
                let mut asked = Box::pin(here.acquire(&gone));
                for _ in 0..polls {
                    if poll_once(asked.as_mut()).is_ready() {
                        break;
                    }
                    sleep(Duration::from_micros(100)).await;
                }
            }
            gone.in_doubt = true;
            here.abandon(&gone).await.unwrap();
            let other = claim(LONG);
            eventually("the lock", async || {
                matches!(there.acquire(&other).await.unwrap(), Acquired::Granted(_))
            })
            .await;
            let release = Release::new(other.key.clone(), other.owner.clone());
            there.release(&release).await.unwrap();
        }
    }
    let all: Vec<_> = servers.iter().collect();
    eventually("the end of all votes", async || {
        holders(&all).iter().all(Option::is_none)
    })
    .await;
}

/// An acquire whose answers were lost, and which arrives after its withdrawal, brings nothing back.
#[tokio::test]
async fn votes_of_servers_that_wake_up_late_are_given_back() {
    let mut servers = five();
    let backend = connect(&servers).await;
    servers[0].pause();
    servers[1].pause();
    let holder = claim(LONG);
    granted(&backend, &holder).await;
    let release = Release::new(holder.key.clone(), holder.owner.clone());
    assert_eq!(
        backend.release(&release).await.unwrap(),
        Released::Released(None)
    );
    servers[0].resume();
    servers[1].resume();
    let all: Vec<_> = servers.iter().collect();
    eventually("the end of late votes", async || {
        holders(&all).iter().all(Option::is_none)
    })
    .await;
    granted(&backend, &claim(LONG)).await;
    eventually("all votes", async || {
        holders(&all).iter().flatten().count() == 5
    })
    .await;
}

/// Cut off from three servers, a holder keeps its lock until its own deadline, not less, and a claim
/// leaves no vote on the others.
#[tokio::test]
async fn without_a_majority_holders_are_lost_at_their_deadline_and_claims_hold_no_votes() {
    let mut servers = five();
    let locks = runtime(&servers).await;
    let guard = locks.lock("held").ttl(ms(2000)).acquire().await.unwrap();
    for server in &mut servers[..3] {
        server.kill();
    }
    let cut = Instant::now();
    let started = Instant::now();
    let error = locks.lock("k").try_acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(started.elapsed() < DEADLINE);
    let rest: Vec<_> = servers[3..].iter().collect();
    eventually("the end of the votes", async || {
        holders(&rest).iter().all(Option::is_none)
    })
    .await;
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.lock("k").wait(DEADLINE).acquire().await.map(drop) }
    });
    guard.lost().await;
    // The last renewal before the cut may be up to a tenth of the ttl old, and a quarter more.
    assert!(cut.elapsed() >= ms(1500), "lost after {:?}", cut.elapsed());
    assert!(!waiter.is_finished());
    servers[0].restart();
    waiter.await.unwrap().unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
    let _ = locks.shutdown().await;
}

/// With half of the servers hung, the end of a process takes no longer than it may.
#[tokio::test]
async fn shutdown_ends_in_its_time_while_servers_hang() {
    for hung in [2, 3] {
        let mut servers = five();
        let builder = LockRuntime::redlock(urls(&servers)).restart_delay(Duration::ZERO);
        let builder = builder.command_timeout(ms(300)).shutdown_timeout(ms(1500));
        let locks = builder.build().await.unwrap();
        let guard = locks.lock("k").acquire().await.unwrap();
        for server in &mut servers[..hung] {
            server.pause();
        }
        drop(guard);
        let ended = timeout(DEADLINE, locks.shutdown()).await;
        assert!(
            matches!(ended, Ok(Ok(()))),
            "{hung} of five hang: {ended:?}"
        );
    }
}

#[tokio::test]
async fn a_majority_builds_and_what_is_wrong_is_told_with_the_server() {
    let mut servers = five();
    let build = async |urls: Vec<String>| LockRuntime::redlock(urls).build().await;
    servers[1].kill();
    servers[2].pause();
    build(urls(&servers))
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    servers[3].kill();
    let error = build(urls(&servers)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let LockError::Unavailable(source) = error else {
        unreachable!()
    };
    assert!(source.to_string().contains("127.0.0.1"), "{source}");
    servers[1].restart();
    servers[2].resume();
    servers[3].restart();

    for count in [0, 1, 2, 4] {
        let error = build(urls(&servers)[..count].to_vec()).await.unwrap_err();
        assert!(matches!(error, LockError::Config(_)), "{error:?}");
    }
    let mut twice = urls(&servers);
    twice[4] = twice[0].replace("127.0.0.1", "localhost");
    let error = build(twice).await.unwrap_err();
    let LockError::Config(text) = error else {
        panic!("{error:?}")
    };
    assert!(text.contains("the same server"), "{text}");

    let long = LockRuntime::redlock(urls(&servers)).default_ttl(Duration::from_secs(31));
    let error = long.build().await.unwrap_err();
    assert!(error.to_string().contains("restart_delay"), "{error}");
}

#[tokio::test]
async fn a_renewal_that_a_majority_confirms_is_one() {
    let mut servers = five();
    let backend = connect(&servers).await;
    let holder = claim(LONG);
    granted(&backend, &holder).await;
    let renewal = [Renewal::new(holder.key.clone(), holder.owner.clone(), LONG)];
    for down in 0..4_usize {
        if down > 0 {
            servers[down - 1].kill();
        }
        let answer = backend.renew(&renewal).await.remove(0);
        assert_eq!(answer.is_ok(), down <= 2, "{down} are down: {answer:?}");
    }
}

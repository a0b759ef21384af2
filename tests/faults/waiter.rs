//! Promises to those who wait: rows W1 to W14 and W16 to W19 of the fault catalogue.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lock_conformance::inbox::{Inbox, Told};
use lock_conformance::poll_once;
use lock_runtime::backend::{Acquired, Backend, Claim, LockKey, OwnerToken, Release, Released};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::alone;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::proxy::{Fault, Proxy, Way};
use lock_tests::faults::{
    COMMAND, DEADLINE, GRACE, SLACK, builder, by_the_short_way, can_be_had, channels, eventually,
    free, listeners, locks, ms, nothing_left, owner, queued, remaining, start, start_patient,
    statistic, waiters,
};
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const HOLDER: &str = env!("CARGO_BIN_EXE_holder");

#[tokio::test]
async fn w01_a_lost_answer_does_not_leave_an_orphan() {
    let (server, proxy, locks) = start_patient().await;
    proxy.fault("acquire", Fault::CutAnswer);
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    assert_eq!((proxy.faults(), proxy.seen("acquire")), (1, 2));

    let stored = server.run::<String>(&["GET", "{lock:}:26:counter"]);
    assert!(guard.fencing_token().as_u64() <= stored.parse().unwrap());
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w01_a_lost_answer_to_a_caller_who_left_does_not_leave_an_orphan() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::LoseAnswer);
    let acquiring = tokio::spawn(locks.lock("k").ttl(ms(60_000)).acquire());
    eventually("the server grants it", || owner(&server, "k").is_some()).await;
    acquiring.abort();
    assert_eq!(proxy.faults(), 1);
    nothing_left(&server).await;
}

#[tokio::test]
async fn w01_a_lost_answer_to_a_release_is_no_failure() {
    let (server, proxy, locks) = start_patient().await;
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    proxy.fault("release", Fault::CutAnswer);
    guard.release().await.unwrap();
    assert_eq!((proxy.faults(), proxy.seen("release")), (1, 2));
    nothing_left(&server).await;
}

#[tokio::test]
async fn w01_a_lost_answer_to_a_queued_claim_does_not_queue_it_twice() {
    let (server, proxy, waiting) = start().await;
    let holder = locks(server.url()).await.lock("k").acquire().await.unwrap();
    proxy.fault("acquire", Fault::CutAnswer);
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    eventually("it asks again", || proxy.seen("acquire") >= 2).await;
    assert_eq!((proxy.faults(), waiters(&server, "k")), (1, 1));
    holder.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w02_a_claim_that_its_withdrawal_overtook_is_given_back_when_it_is_served() {
    let (server, proxy, waiting) = start().await;
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    // On a connection of its own the request crawls, while the withdrawal takes the next one.
    proxy.fault("acquire", Fault::Hold);
    proxy.fault_all("acquire", Fault::LoseRequest);
    let waiter = tokio::spawn(waiting.lock("k").wait(ms(1200)).acquire());
    let error = waiter.await.unwrap().unwrap_err();
    assert!(error.is_unavailable() || error.is_timeout(), "{error}");
    eventually("a request was held", || {
        let log = proxy.log();
        log.iter().any(|seen| seen.fault == Some(Fault::Hold))
    })
    .await;
    eventually("the withdrawal comes first", || proxy.seen("abandon") > 0).await;
    // As if the request were later than the server remembers.
    eventually("the server remembers it", || {
        forget_withdrawals(&server) > 0
    })
    .await;
    proxy.let_go(1).await;
    queued(&server, "k", 1).await;

    let released = Instant::now();
    holder.release().await.unwrap();
    free(&server, "k").await;
    assert!(released.elapsed() < GRACE + SLACK);
    nothing_left(&server).await;
}

/// Removes what tells the server which claims are withdrawn, and says how many there were.
fn forget_withdrawals(server: &Server) -> usize {
    let names: Vec<String> = server.run(&["KEYS", "*:waiters:gone:*"]);
    let forget = |name: &String| server.run::<usize>(&["DEL", name]);
    names.iter().map(forget).sum()
}

/// Lets the request arrive that was held, and waits until the server has read it.
async fn let_arrive(server: &Server, proxy: &Proxy) {
    proxy.let_go(1).await;
    // What the server is asked after it on other connections, one after the other.
    for _ in 0..5 {
        server.run::<()>(&["PING"]);
        sleep(ms(20)).await;
    }
}

/// Lets the request arrive that was held, and says who holds the lock then.
async fn after_the_late_request(server: &Server, proxy: &Proxy) -> Option<String> {
    let_arrive(server, proxy).await;
    owner(server, "k")
}

#[tokio::test]
async fn w02_a_claim_that_its_withdrawal_overtook_gets_no_lock() {
    let (server, proxy, locks) = start().await;
    // The first request crawls and others are lost, so that the withdrawal is the first to arrive.
    proxy.fault("acquire", Fault::Hold);
    proxy.fault_all("acquire", Fault::LoseRequest);
    let caller = tokio::spawn(locks.lock("k").ttl(ms(60_000)).wait(ms(1200)).acquire());
    let error = caller.await.unwrap().unwrap_err();
    assert!(error.is_unavailable() || error.is_timeout(), "{error}");
    eventually("a withdrawal", || proxy.seen("abandon") > 0).await;
    // It may be on its way still.
    eventually("the server knows of it", || {
        let withdrawn: Vec<String> = server.run(&["KEYS", "*:waiters:gone:*"]);
        !withdrawn.is_empty()
    })
    .await;

    let holder = after_the_late_request(&server, &proxy).await;
    assert_eq!(holder, None, "nobody holds the lock, and it is not free");
    proxy.heal();
    can_be_had(&locks, "k").await;
    nothing_left(&server).await;
}

#[tokio::test]
async fn w02_a_question_that_comes_after_the_release_takes_no_lock() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::Hold);
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    assert!(proxy.faults() == 1 && proxy.seen("acquire") > 1);
    guard.release().await.unwrap();

    let holder = after_the_late_request(&server, &proxy).await;
    assert_eq!(holder, None, "nobody holds the lock, and it is not free");
    nothing_left(&server).await;
}

#[tokio::test]
async fn w02_a_question_of_a_parked_caller_that_comes_after_the_release_takes_no_lock() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::Hold);
    // Its question is neither answered nor given up, since nobody polls it.
    let parked = locks.lock("k").ttl(ms(60_000)).wait(ms(300)).acquire();
    let mut parked = std::pin::pin!(parked);
    assert!(poll_once(parked.as_mut()).is_pending());
    eventually("the request is under way", || proxy.faults() == 1).await;
    let guard = locks.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    guard.release().await.unwrap();

    let holder = after_the_late_request(&server, &proxy).await;
    assert_eq!(holder, None, "nobody holds the lock, and it is not free");
    let error = parked.await.unwrap_err();
    assert!(error.is_timeout() || error.is_unavailable(), "{error}");
    nothing_left(&server).await;
}

#[tokio::test]
async fn w02_a_question_that_comes_after_its_waiter_left_queues_nobody() {
    let (server, proxy, waiting) = start().await;
    let other = locks(server.url()).await;
    let holder = other.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    proxy.fault("acquire", Fault::Hold);
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    // By a younger question, which is answered.
    queued(&server, "k", 1).await;
    waiter.abort();
    queued(&server, "k", 0).await;

    let_arrive(&server, &proxy).await;
    assert_eq!((proxy.faults(), waiters(&server, "k")), (1, 0));
    holder.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w03_a_question_that_comes_late_shortens_no_lease() {
    let (server, proxy, locks) = start().await;
    proxy.fault("acquire", Fault::Hold);
    // The claim is first asked for with a short ttl. Who wanted that leaves, and the next wants a
    // long one.
    let short = tokio::spawn(locks.lock("k").ttl(ms(500)).wait(ms(300)).acquire());
    eventually("the request is under way", || proxy.faults() == 1).await;
    let long = tokio::spawn(locks.lock("k").ttl(ms(60_000)).acquire());
    assert!(short.await.unwrap().is_err());
    let guard = long.await.unwrap().unwrap();

    let_arrive(&server, &proxy).await;
    let left = remaining(&server, "k").unwrap();
    assert!(
        left + ms(100) > guard.remaining(),
        "{left:?} is left in the store of {:?}",
        guard.remaining()
    );
    assert!(guard.remaining() > ms(20_000));
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

/// A claim is withdrawn by a connection that is stuck and given up; what lies in it arrives all the same, when the lock has a holder.
async fn a_late_withdrawal(server: &Server, proxy: &Proxy, locks: &LockRuntime) {
    proxy.fault("acquire", Fault::LoseAnswer);
    proxy.fault("abandon", Fault::Hold);
    let gone = tokio::spawn(locks.lock("k").acquire());
    eventually("the claim is granted", || owner(server, "k").is_some()).await;
    gone.abort();
    eventually("its withdrawal is under way", || proxy.faults() == 2).await;

    let guard = locks.lock("k").acquire().await.unwrap();
    let next = self::locks(server.url()).await.lock("k").acquire();
    let next = tokio::spawn(next);
    queued(server, "k", 1).await;
    let_arrive(server, proxy).await;
    for _ in 0..20 {
        let holder = owner(server, "k");
        assert_eq!(holder.as_deref(), Some(guard.owner_token().as_str()));
        sleep(ms(10)).await;
    }
    guard.release().await.unwrap();
    next.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(server).await;
}

#[tokio::test]
async fn w02_a_withdrawal_that_is_late_frees_no_lock_that_was_granted_meanwhile() {
    let (server, proxy, locks) = start().await;
    a_late_withdrawal(&server, &proxy, &locks).await;
}

#[tokio::test]
async fn w02_a_withdrawal_that_is_late_by_the_short_way_frees_no_lock_that_was_granted_meanwhile() {
    let (server, proxy, locks) = start().await;
    by_the_short_way(&proxy, &locks).await;
    a_late_withdrawal(&server, &proxy, &locks).await;
}

#[tokio::test]
async fn w03_a_request_that_arrives_twice_is_one_grant() {
    let (server, proxy, locks) = start_patient().await;
    proxy.fault("acquire", Fault::Duplicate);
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(proxy.faults(), 1);
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(guard.owner_token().as_str())
    );
    proxy.fault("release", Fault::Duplicate);
    guard.release().await.unwrap();
    nothing_left(&server).await;
    proxy.heal();

    let holder = self::locks(server.url())
        .await
        .lock("k")
        .acquire()
        .await
        .unwrap();
    proxy.fault("acquire", Fault::Duplicate);
    let waiter = tokio::spawn(locks.lock("k").acquire());
    queued(&server, "k", 1).await;
    sleep(ms(50)).await;
    assert_eq!((proxy.faults(), waiters(&server, "k")), (3, 1));
    holder.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w04_a_thread_that_is_blocked_as_it_releases_keeps_nobody_waiting() {
    let server = Server::start();
    let builder = builder(server.url()).command_timeout(COMMAND);
    let locks = builder.local_passes(0).build().await.unwrap();
    let (unblock, blocked) = std::sync::mpsc::channel();
    let (tell, holds) = oneshot::channel();
    let (go, gone) = oneshot::channel();
    let other = locks.clone();
    let releaser = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            for _ in 0..20 {
                can_be_had(&other, "warm").await;
                sleep(ms(2)).await;
            }
            tell.send(other.lock("k").acquire().await.unwrap()).unwrap();
            let guard: LockGuard = gone.await.unwrap();
            let mut releasing = pin!(guard.release());
            let first = poll_fn(|context| Poll::Ready(releasing.as_mut().poll(context))).await;
            assert!(first.is_pending());
            // The release leaves, and its answer is not read.
            tokio::task::yield_now().await;
            let unblocked = blocked.recv_timeout(DEADLINE);
            // It may have been blocked for longer than a command takes.
            if let Err(error) = releasing.await {
                assert!(error.is_unavailable(), "{error}");
            }
            unblocked.unwrap();
        });
    });

    let guard = holds.await.unwrap();
    let mut last = pin!(locks.lock("k").acquire());
    assert!(poll_once(last.as_mut()).is_pending());
    assert!(go.send(guard).is_ok());
    let guard = timeout(DEADLINE / 3, last).await.expect("it waits");
    unblock.send(()).unwrap();
    guard.unwrap().release().await.unwrap();
    releaser.join().unwrap();
    nothing_left(&server).await;
}

/// A hand-over is told to the tokio runtime that queued the claim, where a thread that is blocked
/// hears of nothing. The next claims of that runtime are told by the thread of the backend.
#[tokio::test]
async fn w04_a_runtime_that_is_blocked_costs_those_behind_it_one_grace() {
    let server = Server::start();
    // Nor does a heartbeat find the lock.
    let locks = builder(server.url()).heartbeat(2 * DEADLINE);
    let locks = locks.build().await.unwrap();
    let (go, mut gone) = tokio::sync::mpsc::unbounded_channel();
    let (unblock, blocked) = std::sync::mpsc::channel();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let waiting = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            can_be_had(&locks, "warm").await;
            // For when the short way is there.
            gone.recv().await.unwrap();
            for _ in 0..20 {
                can_be_had(&locks, "warm").await;
                sleep(ms(2)).await;
            }
            for round in 0..2 {
                let acquiring = tokio::spawn(locks.lock("k").acquire());
                gone.recv().await.unwrap();
                tell.send(()).unwrap();
                if round == 0 {
                    blocked.recv_timeout(DEADLINE).unwrap();
                }
                acquiring.await.unwrap().unwrap().release().await.unwrap();
                tell.send(()).unwrap();
                gone.recv().await.unwrap();
            }
        });
    });
    eventually("a short way", || {
        server.run::<Vec<String>>(&["PUBSUB", "CHANNELS"]).len() == 2
    })
    .await;

    let (one, two) = (
        self::locks(server.url()).await,
        self::locks(server.url()).await,
    );
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    go.send(()).unwrap();
    queued(&server, "k", 1).await;
    let by_the_lane = |channel: &str| channel.ends_with(":0");
    let channel = channels(&server, "k").remove(0);
    assert!(!by_the_lane(&channel), "{channel}");
    let waiter = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    go.send(()).unwrap();
    told.recv().await.unwrap();
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(
        released.elapsed() >= GRACE / 2,
        "it was not handed the lock"
    );
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    unblock.send(()).unwrap();
    queued(&server, "k", 1).await;
    guard.release().await.unwrap();
    told.recv().await.unwrap();

    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    go.send(()).unwrap();
    queued(&server, "k", 1).await;
    let channel = channels(&server, "k").remove(0);
    assert!(by_the_lane(&channel), "{channel}");
    go.send(()).unwrap();
    holder.release().await.unwrap();
    for _ in 0..2 {
        told.recv().await.unwrap();
    }
    go.send(()).unwrap();
    waiting.join().unwrap();
    nothing_left(&server).await;
}

/// The task that would send what waits is the next one of a thread that is blocked, from which no other thread takes it.
#[test]
fn w04_a_pipeline_that_nobody_sends_keeps_nobody_waiting() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let (server, proxy, locks) = runtime.block_on(start());
    runtime.block_on(by_the_short_way(&proxy, &locks));
    let (unblock, blocked) = std::sync::mpsc::channel();
    let (tell, told) = oneshot::channel();
    let many = locks.clone();
    let blocking = runtime.spawn(async move {
        let mut sent: Vec<_> = (0..5)
            .map(|number| Box::pin(many.lock(format!("many:{number}")).acquire()))
            .collect();
        for acquiring in &mut sent {
            assert!(poll_once(acquiring.as_mut()).is_pending());
        }
        tell.send(()).unwrap();
        blocked.recv_timeout(DEADLINE).unwrap();
        for acquiring in sent {
            acquiring.await.unwrap().release().await.unwrap();
        }
    });

    told.blocking_recv().unwrap();
    let acquiring =
        runtime.spawn(async move { timeout(DEADLINE / 3, locks.lock("k").acquire()).await });
    let guard = runtime.block_on(acquiring).unwrap().expect("it waits");
    let is_sent = |number| owner(&server, &format!("many:{number}")).is_some();
    assert!(is_sent(0) && !is_sent(4));
    unblock.send(()).unwrap();
    runtime.block_on(async {
        guard.unwrap().release().await.unwrap();
        blocking.await.unwrap();
        nothing_left(&server).await;
    });
}

/// An answer that is late is as one that lies in the socket of a blocked thread.
#[tokio::test]
async fn w04_a_late_answer_to_a_release_keeps_nobody_waiting() {
    let (server, proxy, _) = start().await;
    let locks = builder(proxy.url())
        .local_passes(0)
        .command_timeout(DEADLINE);
    let locks = locks.build().await.unwrap();
    by_the_short_way(&proxy, &locks).await;
    let other = self::locks(server.url()).await;

    // Its renewals show how old a hand-over is, at most.
    let busy = locks.lock("busy").renew(ms(20)).acquire().await.unwrap();
    let held = locks.lock("k").acquire().await.unwrap();
    let next = tokio::spawn(other.lock("k").acquire());
    queued(&server, "k", 1).await;
    let mut last = pin!(locks.lock("k").acquire());
    assert!(poll_once(last.as_mut()).is_pending());
    proxy.fault("hand_over", Fault::DelayAnswer(DEADLINE / 2));
    let releasing = tokio::spawn(held.release());
    let next = next.await.unwrap().unwrap();
    // Late enough for somebody else to go on, whom the hand-over must find.
    sleep(GRACE).await;
    next.release().await.unwrap();
    let guard = timeout(SLACK, last).await;
    // The release may have been told by the answer to the second question.
    assert_eq!(proxy.faults(), 1);
    guard.expect("it waits").unwrap().release().await.unwrap();
    releasing.await.unwrap().unwrap();
    busy.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w04_a_late_answer_is_not_taken_for_that_to_a_later_question() {
    let (server, proxy, locks) = start().await;
    let other = self::locks(server.url()).await;
    let _taken = other.lock("taken").acquire().await.unwrap();
    // Much later than the client waits.
    const LATE: Duration = ms(4000);
    proxy.fault("acquire", Fault::DelayAnswer(LATE));
    let asked = Instant::now();
    let error = locks
        .lock("free")
        .wait(Duration::ZERO)
        .acquire()
        .await
        .unwrap_err();
    assert!(error.is_unavailable() && proxy.faults() == 1, "{error}");
    // The answer that is still to come says "granted".
    while asked.elapsed() < LATE + COMMAND {
        let outcome = locks.lock("taken").try_acquire().await;
        assert!(!matches!(outcome, Ok(Some(_))), "{outcome:?}");
        sleep(ms(100)).await;
    }
    free(&server, "free").await;
}

/// Asks for a free lock and for a taken one at the same time, where the answer to one question comes to the other as well; tells by which
/// connection.
async fn with_answers_shifted(server: &Server, proxy: &Proxy, locks: &LockRuntime) -> usize {
    let other = self::locks(server.url()).await;
    let holder = other.lock("taken").ttl(ms(60_000)).acquire();
    let holder = holder.await.unwrap();
    let before = proxy.seen("acquire");
    proxy.fault("acquire", Fault::RepeatAnswer);
    // Where only one question is open, there is none that could get the answer to another.
    proxy.partition(Way::Down);
    let both_asked = async {
        eventually("two questions", || proxy.seen("acquire") >= before + 2).await;
        proxy.heal();
    };
    let (free, taken, ()) = tokio::join!(
        locks.lock("free").acquire(),
        locks.lock("taken").wait(ms(300)).acquire(),
        both_asked
    );
    assert_eq!(proxy.faults(), 1);
    let log = proxy.log();
    let asked = |key: &str| log.iter().find(|seen| seen.key == key).unwrap().connection;
    assert_eq!(asked("lock:free"), asked("lock:taken"));

    let error = taken.map(|_| "it is taken").unwrap_err();
    assert!(error.is_timeout() || error.is_unavailable(), "{error}");
    let free = free.unwrap();
    for (key, guard) in [("free", &free), ("taken", &holder)] {
        let owner = owner(server, key);
        assert_eq!(owner.as_deref(), Some(guard.owner_token().as_str()));
    }
    free.release().await.unwrap();
    holder.release().await.unwrap();
    nothing_left(server).await;
    asked("lock:free")
}

#[tokio::test]
async fn w04_answers_that_are_shifted_give_nobody_a_lock_of_another() {
    let (server, proxy, locks) = start_patient().await;
    let lanes = || -> Vec<usize> {
        let log = proxy.log().into_iter();
        let subscribed = log.filter(|seen| seen.name == "SUBSCRIBE" && seen.key.ends_with(":0"));
        subscribed.map(|seen| seen.connection).collect()
    };
    let shifted = with_answers_shifted(&server, &proxy, &locks).await;
    assert_eq!(lanes()[0], shifted);
    eventually("another lane", || lanes().len() >= 2).await;
}

#[tokio::test]
async fn w04_answers_that_are_shifted_by_the_short_way_give_nobody_a_lock_of_another() {
    let (server, proxy, locks) = start_patient().await;
    by_the_short_way(&proxy, &locks).await;
    let short_way = || proxy.log().last().unwrap().connection;
    let before = short_way();
    let shifted = with_answers_shifted(&server, &proxy, &locks).await;
    assert_eq!(shifted, before);
    by_the_short_way(&proxy, &locks).await;
    assert!(short_way() > shifted, "it was not replaced");
}

#[tokio::test]
async fn w06_a_queued_process_that_crashed_costs_nothing() {
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut doomed = Vec::new();
    for place in 1..=3 {
        let mut process = Process::start(HOLDER, &server.url()).await;
        process.tell("acquire k 60000 60000").await;
        queued(&server, "k", place).await;
        doomed.push(process);
    }
    let waiter = tokio::spawn(locks(server.url()).await.lock("k").acquire());
    queued(&server, "k", 4).await;
    for process in &mut doomed {
        process.kill();
    }
    eventually("the server notices", || {
        listeners(&server, "k") == [0, 0, 0, 1]
    })
    .await;

    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(released.elapsed() < GRACE, "{:?}", released.elapsed());
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w07_a_process_that_crashes_as_it_is_handed_the_lock_costs_the_grace() {
    let _alone = alone().await;
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut doomed = Process::start(HOLDER, &server.url()).await;
    doomed.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let waiter = tokio::spawn(locks(server.url()).await.lock("k").acquire());
    queued(&server, "k", 2).await;

    doomed.pause().await;
    let first = owner(&server, "k");
    let released = Instant::now();
    holder.release().await.unwrap();
    assert!(
        owner(&server, "k").is_some() && owner(&server, "k") != first,
        "not handed over"
    );
    assert!(remaining(&server, "k").unwrap() <= GRACE);
    doomed.kill();
    let guard = waiter.await.unwrap().unwrap();
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w07_several_that_die_with_the_lock_in_hand_cost_a_grace_each() {
    let _alone = alone().await;
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut doomed = Vec::new();
    for place in 1..=3 {
        let mut process = Process::start(HOLDER, &server.url()).await;
        process.tell("acquire k 60000 60000").await;
        queued(&server, "k", place).await;
        doomed.push(process);
    }
    let waiter = tokio::spawn(locks(server.url()).await.lock("k").acquire());
    queued(&server, "k", 4).await;
    for process in &doomed {
        process.pause().await;
    }
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(
        released.elapsed() >= GRACE,
        "the stopped ones were not served"
    );
    assert!(
        released.elapsed() < 3 * GRACE + 2 * SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
}

#[tokio::test]
async fn w08_a_message_that_gets_lost_costs_a_heartbeat() {
    let (server, proxy, waiting) = start().await;
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    proxy.fault("push", Fault::LosePush);
    let waiter = tokio::spawn(waiting.lock("k").acquire());
    queued(&server, "k", 1).await;
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(proxy.faults(), 1);
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w08_a_wake_up_connection_that_is_killed_is_replaced() {
    let server = Server::start();
    let holding = locks(server.url()).await;
    let holder = holding.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    // Nor does a heartbeat help.
    let waiting = builder(server.url()).heartbeat(2 * DEADLINE).build().await;
    let waiter = tokio::spawn(waiting.unwrap().lock("k").acquire());
    queued(&server, "k", 1).await;
    let killed: usize = server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(killed >= 2, "{killed}");
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(released.elapsed() < Duration::from_secs(1) + SLACK);
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w08_a_client_that_the_server_drops_for_its_full_buffer_comes_back() {
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let mut process = Process::start(HOLDER, &server.url()).await;
    process.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let channel = |name: &str| name.starts_with("lock:");
    let channels: Vec<String> = server.run(&["PUBSUB", "CHANNELS"]);
    assert!(channels.len() >= 2, "{channels:?}");
    process.pause().await;
    let noise = "x".repeat(1 << 20);
    let full = || listeners(&server, "k") == [0];
    for _ in 0..200 {
        for name in channels.iter().filter(|name| channel(name)) {
            // The holder here takes no harm from nonsense on its channel.
            server.run::<()>(&["PUBLISH", name, &noise]);
        }
        if full() {
            break;
        }
    }
    assert!(full(), "the server drops nobody");
    process.resume();
    holder.release().await.unwrap();
    token(&process.hear().await);
    assert_eq!(process.ask("release").await, "released");
    nothing_left(&server).await;
}

#[tokio::test]
async fn w09_a_stopped_waiter_does_not_believe_in_a_grace_that_has_passed() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let mut process = Process::start(HOLDER, &server.url()).await;
    process.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    process.pause().await;
    holder.release().await.unwrap();
    assert!(owner(&server, "k").is_some(), "not handed over");
    // The grace passes, and another takes the lock.
    let other = two.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    process.resume();
    queued(&server, "k", 1).await;
    assert_eq!(
        owner(&server, "k").as_deref(),
        Some(other.owner_token().as_str())
    );
    let token_of_other = other.fencing_token().as_u64();
    other.release().await.unwrap();
    assert!(token(&process.hear().await) > token_of_other);
    assert_eq!(process.ask("release").await, "released");
    nothing_left(&server).await;
}

#[tokio::test]
async fn w10_a_wait_that_ends_as_the_lock_comes_gives_it_or_hands_it_on() {
    let server = Server::start();
    let (one, two, three) = (
        locks(server.url()).await,
        locks(server.url()).await,
        locks(server.url()).await,
    );
    let (mut got, mut missed) = (0, 0);
    // How long before the end of the wait it is released: later after each that got it, and earlier
    // after each that missed it, however slow the machine is.
    let (mut wait, mut ahead) = (ms(20), Duration::from_micros(1000));
    const STEP: Duration = Duration::from_micros(250);
    for round in 0..600 {
        if round >= 60 && got > 0 && missed > 0 {
            break;
        }
        let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        let started = Instant::now();
        let racing = tokio::spawn(two.lock("k").ttl(ms(60_000)).wait(wait).acquire());
        // On a busy machine its wait may be over before anybody has seen it wait.
        eventually("it waits", || {
            racing.is_finished() || waiters(&server, "k") == 1
        })
        .await;
        let successor = tokio::spawn(three.lock("k").ttl(ms(60_000)).acquire());
        sleep_until(started + wait.saturating_sub(ahead)).await;
        holder.release().await.unwrap();
        let racing = racing.await.unwrap();
        let is_missed = racing.is_err();
        match racing {
            Ok(guard) => {
                got += 1;
                guard.release().await.unwrap();
            }
            Err(error) if error.is_timeout() => missed += 1,
            // The answer was not read within the wait either.
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        match is_missed {
            false => ahead = ahead.saturating_sub(STEP),
            true if ahead < wait / 2 => ahead += STEP,
            true => wait *= 2,
        }
        let guard = timeout(GRACE + SLACK, successor)
            .await
            .expect("the lock is stuck");
        guard.unwrap().unwrap().release().await.unwrap();
    }
    nothing_left(&server).await;
    assert!(
        got > 0 && missed > 0,
        "no race: {got} got it, {missed} missed it"
    );
}

#[tokio::test]
async fn w11_ten_thousand_waiters_are_served_in_order_and_no_script_takes_long() {
    let _alone = alone().await;
    const CLAIMS: usize = 10_000;
    let server = Server::start();
    let backend = Arc::new(connect(&server).await);
    let inbox = Inbox::of(&backend);
    let key = LockKey::new("lock:", "k").unwrap();
    let mut claims = Vec::new();
    for _ in 0..CLAIMS {
        let mut claim = Claim::new(key.clone(), OwnerToken::unique("w"), ms(600_000)).queued();
        claim.heartbeat = ms(600_000);
        claim.grace = ms(600_000);
        claims.push(claim);
    }
    // The verbs take effect in the order of their first polls.
    for batch in claims.chunks(500) {
        let mut asking = tokio::task::JoinSet::new();
        for claim in batch {
            let (backend, claim) = (Arc::clone(&backend), claim.clone());
            asking.spawn(async move { backend.acquire(&claim).await.unwrap() });
        }
        asking.join_all().await;
    }
    assert_eq!(waiters(&server, "k"), CLAIMS - 1);

    let mut last = None;
    let mut least = f64::INFINITY;
    for (place, pair) in claims[..501].windows(2).enumerate() {
        // A server that stands still in the middle of a script has worked in most of the others.
        if place % 50 == 0 {
            server.run::<()>(&["CONFIG", "RESETSTAT"]);
        }
        let release = Release::new(key.clone(), pair[0].owner.clone());
        let released = backend.release(&release).await.unwrap();
        assert_eq!(released, Released::Released(None));
        let Told::Granted { grant, .. } = timeout(DEADLINE, inbox.changed(&pair[1]))
            .await
            .expect("out of order")
        else {
            panic!("no grant");
        };
        assert!(last < Some(grant.tokens.first));
        last = Some(grant.tokens.last);
        if place % 50 == 49 {
            let micros = statistic(&server, "evalsha", "usec_per_call").unwrap();
            least = micros.min(least);
        }
    }
    assert!(least < 1000.0, "a script takes {least} µs");
}

#[tokio::test]
async fn w11_many_keys_are_held_at_once() {
    let _alone = alone().await;
    let keys: usize = std::env::var("FAULT_KEYS").map_or(5_000, |text| text.parse().unwrap());
    let server = Server::start();
    let locks = builder(server.url())
        .command_timeout(DEADLINE)
        .default_ttl(ms(600_000))
        .build()
        .await
        .unwrap();
    let mut acquiring = tokio::task::JoinSet::new();
    for number in 0..keys {
        acquiring.spawn(locks.lock(format!("k{number}")).wait(ms(60_000)).acquire());
    }
    let guards: Vec<_> = acquiring
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let owners: HashSet<_> = guards
        .iter()
        .map(|guard| guard.owner_token().clone())
        .collect();
    assert_eq!(owners.len(), keys);
    drop(guards);
    eventually("all are free", || {
        server.run::<Vec<String>>(&["KEYS", "lock:*"]).is_empty()
    })
    .await;
}

#[tokio::test]
async fn w12_a_queue_that_is_evicted_or_flushed_is_joined_again() {
    let server = Server::start();
    let holder = locks(server.url())
        .await
        .lock("k")
        .ttl(ms(60_000))
        .acquire()
        .await
        .unwrap();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let one = tokio::spawn(one.lock("k").acquire());
    let two = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    assert_eq!(server.run::<usize>(&["DEL", "{lock:k}:waiters"]), 1);
    queued(&server, "k", 2).await;
    holder.release().await.unwrap();
    let first = async { one.await.unwrap().unwrap().release().await.unwrap() };
    let second = async { two.await.unwrap().unwrap().release().await.unwrap() };
    tokio::join!(first, second);
    nothing_left(&server).await;
}

#[tokio::test]
async fn w13_no_wait_is_too_short_or_too_long() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    for wait in [Duration::ZERO, Duration::from_nanos(1), ms(3)] {
        let held = one.lock("k").acquire().await.unwrap();
        let started = Instant::now();
        let error = two.lock("k").wait(wait).acquire().await.unwrap_err();
        assert!(error.is_retryable(), "{wait:?}: {error}");
        assert!(error.is_taken() == wait.is_zero(), "{wait:?}: {error}");
        assert!(started.elapsed() < ms(100) + SLACK, "{wait:?}");
        held.release().await.unwrap();
    }
    let endless = [
        Duration::MAX,
        Duration::from_millis(u64::MAX),
        Duration::from_secs(1 << 62),
    ];
    for wait in endless {
        let held = one.lock("k").acquire().await.unwrap();
        let waiter = tokio::spawn(two.lock("k").wait(wait).acquire());
        queued(&server, "k", 1).await;
        held.release().await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
    nothing_left(&server).await;
}

#[tokio::test]
async fn w14_taking_a_lock_twice_in_one_task_times_out() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let held = locks.lock("k").acquire().await.unwrap();
    let error = locks.lock("k").wait(ms(100)).acquire().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains('k'));
    held.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w14_two_that_want_what_the_other_has_time_out() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let a = one.lock("a").acquire().await.unwrap();
    let b = two.lock("b").acquire().await.unwrap();
    let (b_too, a_too) = tokio::join!(
        one.lock("b").wait(ms(200)).acquire(),
        two.lock("a").wait(ms(300)).acquire()
    );
    assert!(b_too.unwrap_err().is_timeout() && a_too.unwrap_err().is_timeout());
    a.release().await.unwrap();
    b.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w16_a_stopped_subscriber_that_still_counts_costs_the_grace() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let mut stopped = Process::start(HOLDER, &server.url()).await;
    stopped.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let waiter = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    stopped.pause().await;
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(
        released.elapsed() >= GRACE / 2,
        "the stopped one was not handed the lock"
    );
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    stopped.resume();
    token(&stopped.hear().await);
    assert_eq!(stopped.ask("release").await, "released");
    nothing_left(&server).await;
}

#[tokio::test]
async fn w16_a_dead_waiter_under_the_eyes_of_a_monitor_costs_the_grace() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let mut dead = Process::start(HOLDER, &server.url()).await;
    dead.tell("acquire k 60000 60000").await;
    queued(&server, "k", 1).await;
    let waiter = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    // Whoever listens to everything is counted as a receiver of everything.
    let mut client = server.client();
    let mut monitor = client.as_pubsub();
    monitor.psubscribe("*").unwrap();
    dead.kill();
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(released.elapsed() >= GRACE / 2, "nobody was counted");
    assert!(
        released.elapsed() < GRACE + SLACK,
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w17_a_waiter_between_two_connections_is_skipped_and_comes_back() {
    let (server, proxy, waiting) = start().await;
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let away = tokio::spawn(waiting.lock("k").acquire());
    queued(&server, "k", 1).await;
    let next = tokio::spawn(two.lock("k").acquire());
    queued(&server, "k", 2).await;
    proxy.refuse();
    eventually("it is away", || listeners(&server, "k") == [0, 1]).await;
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert!(released.elapsed() < GRACE, "it was not skipped");
    proxy.heal();
    queued(&server, "k", 1).await;
    guard.release().await.unwrap();
    away.await.unwrap().unwrap().release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn w18_nobody_barges_in_where_a_lease_ended_without_a_release() {
    let server = Server::start();
    let backend = connect(&server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    let claim = |name: &str| Claim::new(key.clone(), OwnerToken::unique(name), ms(60_000));
    assert!(matches!(
        backend.acquire(&claim("first")).await.unwrap(),
        Acquired::Granted(_)
    ));
    let waiting = claim("waiting").queued();
    assert!(matches!(
        backend.acquire(&waiting).await.unwrap(),
        Acquired::Queued(_)
    ));
    assert_eq!(server.run::<usize>(&["DEL", "lock:k"]), 1);

    let newcomer = backend.acquire(&claim("newcomer")).await.unwrap();
    assert!(matches!(newcomer, Acquired::Taken(_)), "{newcomer:?}");
    assert_eq!(owner(&server, "k").as_deref(), Some(waiting.owner.as_str()));
}

#[tokio::test]
async fn w19_every_local_holder_has_a_larger_token_and_a_lease_that_lasts() {
    let server = Server::start();
    let grace = 2 * DEADLINE;
    let builder = builder(server.url()).local_passes(5).grace(grace);
    let locks = builder.build().await.unwrap();
    let monitor = server.monitor();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let lock = locks.lock("k").ttl(2 * grace);
        tasks.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            let seen = (
                guard.fencing_token(),
                guard.remaining(),
                guard.owner_token().clone(),
            );
            tokio::task::yield_now().await;
            guard.release().await.unwrap();
            seen
        });
    }
    let mut seen = tasks.join_all().await;
    seen.sort();
    assert!(
        seen.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "a token was given twice"
    );
    // A grace at the least.
    assert!(
        seen.iter().all(|(_, remaining, _)| *remaining > grace / 4),
        "{seen:?}"
    );
    let owners: HashSet<_> = seen.iter().map(|(_, _, owner)| owner.clone()).collect();
    assert!(
        owners.len() > 1 && owners.len() < 40,
        "nothing was passed on locally, or everything"
    );
    let grants = |owner: &OwnerToken| seen.iter().filter(|seen| seen.2 == *owner).count();
    assert!(
        owners.iter().all(|owner| grants(owner) <= 6),
        "the budget was not kept"
    );
    assert!(monitor.commands(&server).len() < 3 * 40);
    nothing_left(&server).await;
}

#[tokio::test]
async fn w19_a_cancelled_local_waiter_is_skipped() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let holder = locks.lock("k").acquire().await.unwrap();
    let cancelled = tokio::spawn(locks.lock("k").acquire());
    tokio::task::yield_now().await;
    let next = tokio::spawn(locks.lock("k").acquire());
    tokio::task::yield_now().await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    let token = holder.fencing_token();
    holder.release().await.unwrap();
    let guard = timeout(DEADLINE, next).await.unwrap().unwrap().unwrap();
    assert!(guard.fencing_token() > token);
    guard.release().await.unwrap();
    nothing_left(&server).await;
}

//! W4: answers that are late, or come twice.

use super::*;

/// Asks for a free lock and for a taken one at the same time, where the answer to one question
/// comes to the other as well; tells by which connection.
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
        locks.lock("taken").wait(ms(2000)).acquire(),
        both_asked
    );
    assert_eq!(proxy.faults(), 1);
    let log = proxy.log();
    let asked = |key: &str| log.iter().find(|seen| seen.key == key).unwrap().connection;
    assert_eq!(asked("lock:free"), asked("lock:taken"));

    let error = taken.map(|_| "it is taken").unwrap_err();
    assert!(error.is_timeout(), "{error}");
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
async fn a_thread_that_is_blocked_as_it_releases_keeps_nobody_waiting() {
    let server = Server::start();
    let proxy = Arc::new(Proxy::start(server.port()));
    let builder = builder(proxy.url()).command_timeout(COMMAND);
    let locks = builder.local_passes(0).build().await.unwrap();
    let (unblock, blocked) = std::sync::mpsc::channel();
    let (tell, holds) = oneshot::channel();
    let (go, gone) = oneshot::channel();
    let (other, way) = (locks.clone(), Arc::clone(&proxy));
    let releaser = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            by_the_direct_link(&way, &other).await;
            tell.send(other.lock("k").acquire().await.unwrap()).unwrap();
            let guard: LockGuard = gone.await.unwrap();
            let mut releasing = pin!(guard.release());
            let first = poll_fn(|context| Poll::Ready(releasing.as_mut().poll(context))).await;
            assert!(first.is_pending());
            // The release leaves, and its answer is not read.
            tokio::task::yield_now().await;
            blocked.recv_timeout(DEADLINE).unwrap();
            // It was blocked for longer than a command takes.
            let error = releasing.await.unwrap_err();
            assert!(error.is_unavailable(), "{error}");
        });
    });

    let guard = holds.await.unwrap();
    let mut last = pin!(locks.lock("k").acquire());
    assert!(poll_once(last.as_mut()).is_pending());
    // It is not there before the thread is blocked, however slowly that gets on.
    proxy.fault("hand_over", Fault::DelayAnswer(DEADLINE / 2));
    assert!(go.send(guard).is_ok());
    let guard = timeout(DEADLINE / 3, last).await.expect("it waits");
    assert_eq!(proxy.faults(), 1);
    unblock.send(()).unwrap();
    guard.unwrap().release().await.unwrap();
    releaser.join().unwrap();
    nothing_left(&server).await;
}

/// A hand-over is told to the tokio runtime that queued the claim, where a thread that is blocked
/// hears of nothing. The next claims of that runtime are told by the thread of the backend.
#[tokio::test]
async fn a_runtime_that_is_blocked_costs_those_behind_it_one_grace() {
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
            // For when the direct link is there.
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
    eventually("a direct link", || {
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

/// The task that would send what waits is the next one of a thread that is blocked, from which no
/// other thread takes it.
#[test]
fn a_pipeline_that_nobody_sends_keeps_nobody_waiting() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let (server, proxy, locks) = runtime.block_on(start());
    runtime.block_on(by_the_direct_link(&proxy, &locks));
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
async fn a_late_answer_to_a_release_keeps_nobody_waiting() {
    let (server, proxy, _) = start().await;
    let locks = builder(proxy.url())
        .local_passes(0)
        .command_timeout(DEADLINE);
    let locks = locks.build().await.unwrap();
    by_the_direct_link(&proxy, &locks).await;
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
async fn a_late_answer_is_not_taken_for_that_to_a_later_question() {
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

#[tokio::test]
async fn answers_that_are_shifted_give_nobody_a_lock_of_another() {
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
async fn answers_that_are_shifted_by_the_direct_link_give_nobody_a_lock_of_another() {
    let (server, proxy, locks) = start_patient().await;
    by_the_direct_link(&proxy, &locks).await;
    let direct_link = || proxy.log().last().unwrap().connection;
    let before = direct_link();
    let shifted = with_answers_shifted(&server, &proxy, &locks).await;
    assert_eq!(shifted, before);
    by_the_direct_link(&proxy, &locks).await;
    assert!(direct_link() > shifted, "it was not replaced");
}

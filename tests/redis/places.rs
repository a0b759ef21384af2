//! A place in the queue names the channel by which its claim is told: that of the caller's own
//! connection, and once the claim is asked for again that of the backend's thread.

use std::sync::Arc;

use lock_conformance::inbox::Inbox;
use lock_runtime::backend::{Acquired, Backend, Claim, LockKey, Mode, OwnerToken, Release};
use lock_runtime::redis::RedisBackend;
use lock_runtime::redis::RedisSettings;
use lock_runtime::redis::deadpool_redis::Config;
use lock_tests::faults::proxy::{Fault, Proxy};
use lock_tests::faults::{
    COMMAND, DEADLINE, builder, can_be_had, channels, comes_true, eventually, free, listeners,
    queued, waiters,
};
use lock_tests::ms;
use lock_tests::redis_store::{connect, connect_shared};
use lock_tests::server::Server;

const QUEUE: &str = "{lock:k}:waiters";
const COUNTER: &str = "{lock:}:26:counter";

fn claim(key: &str) -> Claim {
    let key = LockKey::new("lock:", key).unwrap();
    let mut claim = Claim::new(key, OwnerToken::unique("test"), 2 * DEADLINE).queued();
    claim.grace = DEADLINE;
    claim.heartbeat = DEADLINE;
    claim
}

fn is_lane(channel: &str) -> bool {
    channel.ends_with(":0")
}

/// Takes the lock with a claim that does not wait, for others to wait for.
async fn taken(backend: &RedisBackend, key: &str) -> Claim {
    let mut holder = claim(key);
    holder.queue = false;
    let answer = backend.acquire(&holder).await.unwrap();
    assert!(matches!(answer, Acquired::Granted(_)), "{answer:?}");
    holder
}

async fn queue(backend: &RedisBackend, claim: &Claim) {
    let answer = backend.acquire(claim).await.unwrap();
    assert!(matches!(answer, Acquired::Queued(_)), "{answer:?}");
}

/// Waits until claims that are asked for here are told by a connection of this tokio runtime.
async fn by_the_direct_link(server: &Server, backend: &RedisBackend) {
    let holder = taken(backend, "warm").await;
    comes_true("a direct link", async || {
        let probe = claim("warm");
        queue(backend, &probe).await;
        let channel = channels(server, "warm").remove(0);
        backend.abandon(&probe).await.unwrap();
        !is_lane(&channel)
    })
    .await;
    let release = Release::new(holder.key.clone(), holder.owner);
    backend.release(&release).await.unwrap();
}

/// Which of the two claims stand in the queue, in its order, and whether the lane tells them.
fn places(server: &Server, claims: [&Claim; 2]) -> Vec<(usize, bool)> {
    let members: Vec<String> = server.run(&["ZRANGE", QUEUE, "0", "-1"]);
    let channels = channels(server, "k");
    let place = |(member, channel): (&String, &String)| {
        let is_of = |claim: &&Claim| member.starts_with(claim.owner.as_str());
        (claims.iter().position(is_of).unwrap(), is_lane(channel))
    };
    members.iter().zip(&channels).map(place).collect()
}

async fn a_claim_that_asks_again(server: &Server, backend: &RedisBackend) {
    by_the_direct_link(server, backend).await;
    taken(backend, "k").await;
    let (one, two) = (claim("k"), claim("k"));
    queue(backend, &one).await;
    queue(backend, &two).await;
    assert_eq!(places(server, [&one, &two]), [(0, false), (1, false)]);
    queue(backend, &one).await;
    assert_eq!(places(server, [&one, &two]), [(0, true), (1, false)]);
    queue(backend, &one).await;
    assert_eq!(places(server, [&one, &two]), [(0, true), (1, false)]);
    // The first question was late, and the claim stands there twice: it is told once.
    let (_, ticket): (String, String) = {
        let first: Vec<String> = server.run(&["ZRANGE", QUEUE, "0", "0", "WITHSCORES"]);
        (first[0].clone(), first[1].clone())
    };
    let earlier = channels(server, "k").remove(1);
    let lane = channels(server, "k").remove(0);
    let member: Vec<String> = server.run(&["ZRANGE", QUEUE, "0", "0"]);
    let width = |channel: &str| format!("{:04}", channel.len());
    let late = member[0].replace(&lane, &earlier).replace(
        &format!("/{}/", width(&lane)),
        &format!("/{}/", width(&earlier)),
    );
    server.run::<()>(&[
        "ZADD",
        QUEUE,
        &(ticket.parse::<f64>().unwrap() + 1e9).to_string(),
        &late,
    ]);
    assert_eq!(waiters(server, "k"), 3);
    queue(backend, &one).await;
    assert_eq!(places(server, [&one, &two]), [(0, true), (1, false)]);
}

#[tokio::test]
async fn a_claim_that_asks_again_is_told_by_the_lane_and_keeps_its_ticket() {
    let server = Server::start();
    a_claim_that_asks_again(&server, &connect(&server).await).await;
    server.finish();
    // The same where the question goes as those do that share a command.
    let server = Server::start();
    a_claim_that_asks_again(&server, &connect_shared(&server).await).await;
    server.finish();
}

#[tokio::test]
async fn a_claim_that_asks_again_keeps_its_place_where_the_memory_is_full() {
    let server = Server::start();
    let backend = connect(&server).await;
    by_the_direct_link(&server, &backend).await;
    taken(&backend, "k").await;
    let one = claim("k");
    queue(&backend, &one).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    queue(&backend, &one).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(places(&server, [&one, &one]), [(0, true)]);
    let left: i64 = server.run(&["PTTL", QUEUE]);
    assert!(left > 0, "{left}");
    server.finish();
}

/// A claim moves to another place, and its question is refused after that.
#[tokio::test]
async fn a_queue_has_an_end_after_a_question_that_is_refused_on_its_way() {
    let server = Server::start();
    let backend = connect(&server).await;
    by_the_direct_link(&server, &backend).await;
    taken(&backend, "k").await;
    let mut one = claim("k");
    one.mode = Mode::Shared;
    queue(&backend, &one).await;
    assert_eq!(places(&server, [&one, &one]), [(0, false)]);
    server.run::<()>(&["DEL", "lock:k"]);
    server.run::<()>(&["SET", COUNTER, "something else"]);
    assert!(backend.acquire(&one).await.unwrap_err().is_denied());
    assert_eq!(places(&server, [&one, &one]), [(0, true)]);
    let left: i64 = server.run(&["PTTL", QUEUE]);
    assert!(left > 0, "{left}");
    server.forgive(COUNTER);
    server.finish();
}

#[tokio::test]
async fn a_withdrawal_that_is_repeated_is_about_the_same_place() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let mut settings = RedisSettings::default();
    settings.command_timeout = COMMAND;
    let backend = RedisBackend::connect(Config::from_url(proxy.url()), settings);
    let backend = backend.await.unwrap();
    by_the_direct_link(&server, &backend).await;
    taken(&backend, "k").await;
    let (one, two) = (claim("k"), claim("k"));
    queue(&backend, &one).await;
    queue(&backend, &two).await;
    assert_eq!(places(&server, [&one, &two]), [(0, false), (1, false)]);
    proxy.fault("abandon", Fault::LoseRequest);
    let error = backend.abandon(&one).await.unwrap_err();
    assert_eq!(proxy.faults(), 1, "{error}");
    backend.abandon(&one).await.unwrap();
    assert_eq!(places(&server, [&one, &two]), [(1, false)]);
    // So is one of a claim that asked again, of which an early question is late.
    let early: Vec<String> = server.run(&["ZRANGE", QUEUE, "0", "0"]);
    queue(&backend, &two).await;
    assert_eq!(places(&server, [&one, &two]), [(1, true)]);
    server.run::<()>(&["ZADD", QUEUE, "1", &early[0]]);
    assert_eq!(places(&server, [&one, &two]), [(1, false), (1, true)]);
    backend.abandon(&two).await.unwrap();
    assert_eq!(places(&server, [&one, &two]), []);
}

#[tokio::test]
async fn a_claim_that_is_told_and_asks_whether_it_is_its_turn_stands_in_the_queue_once() {
    let server = Server::start();
    let backend = Arc::new(connect(&server).await);
    by_the_direct_link(&server, &backend).await;
    taken(&backend, "k").await;
    let (one, two) = (claim("k"), claim("k"));
    let inbox = Inbox::of(&*backend);
    queue(&backend, &one).await;
    queue(&backend, &two).await;
    // As a message that is so late that the grace has passed.
    let member: Vec<String> = server.run(&["ZRANGE", QUEUE, "0", "0"]);
    let channel = channels(&server, "k").remove(0);
    let message = format!("x/1/2/lock:k{}", member[0]);
    let told: usize = server.run(&["PUBLISH", &channel, &message]);
    assert_eq!(told, 1);
    let news = tokio::time::timeout(DEADLINE, inbox.changed(&one)).await;
    assert!(
        matches!(news, Ok(lock_conformance::inbox::Told::Granted { .. })),
        "{news:?}"
    );
    // On the thread of the backend, where such questions are asked.
    let (asker, asked) = (Arc::clone(&backend), one.clone());
    let asking = backend
        .handle()
        .spawn(async move { asker.acquire(&asked).await });
    let answer = asking.await.unwrap().unwrap();
    assert!(matches!(answer, Acquired::Queued(_)), "{answer:?}");
    assert_eq!(places(&server, [&one, &two]), [(0, true), (1, false)]);
    server.finish();
}

/// Whoever is told after a long wait asks whether the lock is still its own: nothing says how old
/// the message is. That is no sign of a blocked thread.
#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_taken_for_a_blocked_one() {
    let grace = ms(200);
    let server = Server::start();
    let locks = builder(server.url()).grace(grace).heartbeat(2 * DEADLINE);
    let locks = locks.build().await.unwrap();
    can_be_had(&locks, "warm").await;
    eventually("a direct link", || {
        server.run::<Vec<String>>(&["PUBSUB", "CHANNELS"]).len() == 2
    })
    .await;
    can_be_had(&locks, "warm").await;
    let backend = connect(&server).await;
    for _ in 0..2 {
        let holder = taken(&backend, "k").await;
        let waiter = tokio::spawn(locks.lock("k").acquire());
        queued(&server, "k", 1).await;
        let channel = channels(&server, "k").remove(0);
        assert!(!is_lane(&channel), "{channel}");
        tokio::time::sleep(3 * grace).await;
        let release = Release::new(holder.key.clone(), holder.owner);
        backend.release(&release).await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
    free(&server, "k").await;
}

/// A connection that is given up goes on as long as somebody is parked who waits for an answer by
/// it, and so is told of hand-overs.
#[tokio::test]
async fn what_a_connection_is_told_that_was_given_up_is_given_back_if_nobody_wants_it() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = builder(proxy.url()).command_timeout(COMMAND);
    let locks = locks.build().await.unwrap();
    lock_tests::faults::by_the_direct_link(&proxy, &locks).await;
    let direct_links = || {
        let mut channels: Vec<String> = server.run(&["PUBSUB", "CHANNELS"]);
        channels.retain(|channel| !is_lane(channel));
        channels
    };
    let old = direct_links().remove(0);
    // And whatever is sent after it.
    proxy.fault("acquire", Fault::LoseRequest);
    let mut parked = Box::pin(locks.lock("parked").acquire());
    assert!(lock_conformance::poll_once(parked.as_mut()).is_pending());
    eventually("its question is lost", || proxy.faults() == 1).await;
    let other = locks.lock("other").acquire().await.unwrap();
    eventually("another connection", || direct_links().len() == 2).await;

    // A claim whose withdrawal is done, and that was served before.
    server.run::<()>(&["SET", "lock:k", "forgotten/1", "PX", "60000"]);
    let place = format!("/0000000001/0005/0006/{old}/60000/{:04}/05/x", old.len());
    let message = format!("x/1/2/lock:kforgotten/1{place}");
    assert_eq!(server.run::<usize>(&["PUBLISH", &old, &message]), 1);
    free(&server, "k").await;
    other.release().await.unwrap();
    drop(parked);
}

#[tokio::test]
async fn a_waiter_whose_runtime_stands_still_is_told_by_the_lane_once_it_is_asked_for_again() {
    let server = Server::start();
    let locks = builder(server.url()).heartbeat(ms(3000));
    let locks = locks.build().await.unwrap();
    let backend = connect(&server).await;
    let holder = taken(&backend, "k").await;
    let (unblock, blocked) = std::sync::mpsc::channel();
    let waiting = locks.clone();
    let standing_still = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            for _ in 0..20 {
                can_be_had(&waiting, "warm").await;
                tokio::time::sleep(ms(2)).await;
            }
            let wait = waiting.lock("k").wait(ms(500)).acquire();
            let acquiring = tokio::spawn(wait);
            tokio::time::sleep(ms(50)).await;
            blocked.recv_timeout(DEADLINE).unwrap();
            assert!(acquiring.await.unwrap().unwrap_err().is_timeout());
        });
    });
    queued(&server, "k", 1).await;
    let channel = channels(&server, "k").remove(0);
    assert!(!is_lane(&channel), "{channel}");
    let next = tokio::spawn(locks.lock("k").acquire());
    eventually("the lane is told", || {
        channels(&server, "k")
            .iter()
            .all(|channel| is_lane(channel))
    })
    .await;
    assert_eq!(listeners(&server, "k"), [1]);
    // The wait of the first is over.
    let release = Release::new(holder.key.clone(), holder.owner);
    backend.release(&release).await.unwrap();
    let guard = tokio::time::timeout(DEADLINE / 2, next).await;
    guard
        .expect("it waits")
        .unwrap()
        .unwrap()
        .release()
        .await
        .unwrap();
    unblock.send(()).unwrap();
    standing_still.join().unwrap();
    free(&server, "k").await;
}

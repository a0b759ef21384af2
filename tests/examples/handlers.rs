//! The web service, asked by a real HTTP client.

use crate::example;
#[path = "../../examples/handlers.rs"]
mod service;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lock_runtime::LockRuntime;
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_tests::faults::comes_true;
use lock_tests::server::Server;
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use service::{App, Till};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Longer than any of this takes.
const DEADLINE: Duration = Duration::from_secs(10);

/// The service, as a client sees it.
#[derive(Clone)]
struct House {
    client: reqwest::Client,
    url: String,
}

impl House {
    /// Opens a house where a payment takes so long.
    async fn open(locks: &LockRuntime, payment: Duration) -> House {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = App::new(locks.clone(), Till { takes: payment });
        tokio::spawn(async move { axum::serve(listener, app.router()).await });
        House {
            client: reqwest::Client::new(),
            url,
        }
    }

    async fn reserve(&self, seat: &str, guest: &str) -> (StatusCode, String) {
        let request = self
            .client
            .put(format!("{}/seats/{seat}/{guest}", self.url));
        let response = timeout(DEADLINE, request.send()).await.unwrap().unwrap();
        (response.status(), response.text().await.unwrap())
    }
}

async fn in_memory() -> (MemoryBackend, LockRuntime) {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    (store, locks)
}

#[tokio::test]
async fn of_two_who_want_a_seat_one_gets_it_and_one_is_told() {
    let (store, locks) = in_memory().await;
    let house = House::open(&locks, Duration::from_millis(100)).await;
    let (alice, bob) = tokio::join!(house.reserve("12A", "alice"), house.reserve("12A", "bob"));
    let mut statuses = [alice.0, bob.0];
    statuses.sort();
    assert_eq!(
        statuses,
        [StatusCode::OK, StatusCode::CONFLICT],
        "{} / {}",
        alice.1,
        bob.1
    );
    assert!(store.is_idle());
}

#[tokio::test]
async fn different_seats_do_not_wait_for_each_other() {
    let (_, locks) = in_memory().await;
    let house = House::open(&locks, Duration::from_millis(1500)).await;
    // One after the other, the last would be refused: three payments take longer than a handler
    // waits.
    let (one, two, three) = tokio::join!(
        house.reserve("1", "alice"),
        house.reserve("2", "bob"),
        house.reserve("3", "carol"),
    );
    assert_eq!([one.0, two.0, three.0], [StatusCode::OK; 3]);
}

#[tokio::test]
async fn who_waits_too_long_gets_409() {
    let (store, locks) = in_memory().await;
    let house = House::open(&locks, Duration::ZERO).await;
    store.steal("seat:12A");
    let (status, text) = house.reserve("12A", "bob").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(text, "another holds the lock");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_503_and_not_409() {
    let (store, locks) = in_memory().await;
    let house = House::open(&locks, Duration::ZERO).await;
    store.fail_next(usize::MAX, Fault::Unavailable);
    assert_eq!(
        house.reserve("12A", "bob").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    store.heal();
    assert_eq!(house.reserve("12A", "bob").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_server_that_is_down_is_503_and_one_that_is_back_serves() {
    let mut server = Server::start();
    let locks = LockRuntime::redis(server.url()).build().await.unwrap();
    let house = House::open(&locks, Duration::ZERO).await;
    assert_eq!(house.reserve("1", "alice").await.0, StatusCode::OK);
    server.kill();
    assert_eq!(
        house.reserve("2", "bob").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    server.restart();
    comes_true("a reservation", async || {
        house.reserve("2", "bob").await.0 == StatusCode::OK
    })
    .await;
    locks.shutdown().await.unwrap();
    server.finish();
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_seat_at_once() {
    let server = Server::start();
    let locks = LockRuntime::redis(server.url()).build().await.unwrap();
    let house = House::open(&locks, Duration::from_secs(3600)).await;

    let alice = tokio::spawn({
        let house = house.clone();
        async move { house.reserve("12A", "alice").await }
    });
    let is_held = async || {
        locks
            .lock("seat:12A")
            .try_acquire()
            .await
            .unwrap()
            .is_none()
    };
    comes_true("the lock of the handler", is_held).await;
    let ttl: i64 = server.run(&["PTTL", "lock:seat:12A"]);
    assert!(
        ttl > 3000,
        "too little is left to tell a release from the end of the lease: {ttl} ms"
    );

    let gone_at = Instant::now();
    alice.abort();
    comes_true("the release", async || !is_held().await).await;
    let freed_after = gone_at.elapsed();
    assert!(
        freed_after < Duration::from_secs(2),
        "not at once, but after {freed_after:?}"
    );
    assert!(alice.await.unwrap_err().is_cancelled());
    locks.shutdown().await.unwrap();
    server.finish();
}

/// The example as a process, which does not outlive its test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn at_sigterm_who_is_being_served_is_served_to_the_end() {
    let server = Server::start();
    let mut command = example::command("handlers", Some(&server));
    command.arg("127.0.0.1:0").stdout(Stdio::piped());
    let mut service = Service(command.spawn().unwrap());
    let mut lines = BufReader::new(service.0.stdout.take().unwrap()).lines();
    let listening = lines.next().unwrap().unwrap();
    let house = House {
        client: reqwest::Client::new(),
        url: listening.strip_prefix("listening on ").unwrap().to_owned(),
    };
    let alice = tokio::spawn({
        let house = house.clone();
        async move { house.reserve("12A", "alice").await }
    });
    let is_paying = async || server.run::<bool>(&["EXISTS", "lock:seat:12A"]);
    comes_true("the payment", is_paying).await;

    kill_process(Pid::from_child(&service.0), Signal::TERM).unwrap();
    let is_refused = async || {
        let fresh = reqwest::Client::new();
        let answer = fresh.get(format!("{}/seats", house.url)).send().await;
        answer.is_err_and(|error| error.is_connect())
    };
    comes_true("a refusal of new clients", is_refused).await;
    assert!(is_paying().await, "the payment is over too early to tell");
    assert_eq!(alice.await.unwrap().0, StatusCode::OK);
    let status = tokio::task::spawn_blocking(move || service.0.wait().unwrap());
    assert!(timeout(DEADLINE, status).await.unwrap().unwrap().success());
    // Released, and not left to its ttl.
    assert!(!is_paying().await);
    server.finish();
}

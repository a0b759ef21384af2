//! What went wrong in other libraries when they were measured, and must not here.
//!
//! Contention is 4 processes of the operating system with 16 tasks each. They log who held the lock when, and the checker reads all of it.
//! `FAULT_SECONDS=40` makes it last longer.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_tests::checker::{self, Check, Event, Limits, Outcome, Report, What};
use lock_tests::faults::contention::Contention;
use lock_tests::faults::process::Process;
use lock_tests::faults::proxy::Proxy;
use lock_tests::faults::{
    DEADLINE, GRACE, SLACK, can_be_had, free, locks, ms, nothing_left, owner, queued, statistic,
    waiters,
};
use lock_tests::server::{Options, Server};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const HOLDER: &str = env!("CARGO_BIN_EXE_holder");
const PROCESSES: usize = 4;
const TASKS: usize = 16;
/// Longer than any waiter waits on a busy machine, and shorter than the wait of one that is
/// forgotten.
const LONGEST: Duration = Duration::from_secs(30);

fn contention() -> Duration {
    let seconds = std::env::var("FAULT_SECONDS").map_or(5, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Processes that contend, and where they log.
struct Contest {
    logs: TempDir,
    order: Contention,
    processes: Vec<Process>,
}

impl Contest {
    /// No waiter may wait for longer than `longest`.
    fn new(longest: Duration) -> Contest {
        let logs = tempfile::tempdir().unwrap();
        let order = Contention {
            url: String::new(),
            logs: logs.path().to_owned(),
            tasks: TASKS,
            lasts: contention(),
            longest,
            cancel: false,
            may_lose: false,
        };
        Contest {
            logs,
            order,
            processes: Vec::new(),
        }
    }

    /// Starts a process that takes the lock at `server`.
    async fn join(&mut self, server: &Server) {
        let mut process = Process::start(HOLDER, &server.url()).await;
        let order = Contention {
            url: server.url(),
            ..self.order.clone()
        };
        let order = serde_json::to_string(&order).unwrap();
        process.tell(&format!("contend {order}")).await;
        self.processes.push(process);
    }

    /// Lets the processes contend while `interfere` does its worst, and returns how often each task was served.
    async fn run(&mut self, interfere: impl AsyncFn()) -> Vec<u64> {
        let until = Instant::now() + self.order.lasts;
        while Instant::now() < until {
            interfere().await;
            sleep(ms(50)).await;
        }
        let mut served = Vec::new();
        for process in &mut self.processes {
            let answer = process.hear_within(self.order.longest + DEADLINE).await;
            let counts = answer.strip_prefix("served ").expect(&answer);
            served.extend(counts.split(' ').map(|count| count.parse::<u64>().unwrap()));
        }
        served
    }

    /// What all processes logged.
    fn events(&self) -> Vec<Event> {
        let events = checker::read_logs(self.logs.path()).unwrap();
        let processes: HashSet<u32> = events.iter().map(|event| event.process).collect();
        assert_eq!(processes.len(), PROCESSES);
        events
    }

    /// What it shows.
    fn report(&self) -> Report {
        checker::check(&self.events(), &Limits::default())
    }
}

/// Lets [`PROCESSES`] contend for a lock at `server`, and returns how often each task was served; asserts that never two held it
/// and that nothing is left.
async fn contend(server: &Server, contest: &mut Contest, interfere: impl AsyncFn()) -> Vec<u64> {
    for _ in 0..PROCESSES {
        contest.join(server).await;
    }
    let served = contest.run(interfere).await;
    let report = contest.report();
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.acquisitions as u64 >= served.iter().sum());
    nothing_left(server).await;
    served
}

#[tokio::test]
async fn p1_no_waiter_is_forgotten_under_contention() {
    let server = Server::start();
    let served = contend(&server, &mut Contest::new(LONGEST), async || ()).await;
    assert_eq!(served.len(), PROCESSES * TASKS);
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
}

#[tokio::test]
async fn p1_processes_that_share_no_server_are_seen_to_hold_at_once() {
    // Whether their turns meet is chance, on a machine with one core most of all.
    for _ in 0..10 {
        let mut contest = Contest::new(LONGEST);
        contest.order.lasts = ms(500);
        let servers = [(); PROCESSES].map(|()| Server::start());
        for server in &servers {
            contest.join(server).await;
        }
        contest.run(async || ()).await;
        if contest.report().count(Check::DisjointLeases) > 0 {
            return;
        }
    }
    panic!("nobody saw that they held at once");
}

#[tokio::test]
async fn p2_cancelled_waiters_swallow_no_wake_up_meant_for_others() {
    let server = Server::start();
    let mut contest = Contest::new(LONGEST);
    contest.order.cancel = true;
    let stayed = contend(&server, &mut contest, async || ()).await;
    let events = contest.events();
    let left = events.iter().filter(|event| is_unknown(event)).count();
    assert!(left > 0, "no waiter was cancelled");
    assert_eq!(stayed.len(), PROCESSES * TASKS / 2);
    assert!(stayed.iter().all(|served| *served > 0), "{stayed:?}");
}

#[tokio::test]
async fn p4_wake_up_connections_that_are_cut_all_the_time_cost_no_waiter_its_turn() {
    let server = Server::start();
    let mut contest = Contest::new(LONGEST);
    contest.order.may_lose = true;
    let (cuts, round) = (AtomicU64::new(0), AtomicU64::new(0));
    let served = contend(&server, &mut contest, async || {
        if round.fetch_add(1, Ordering::SeqCst).is_multiple_of(8) {
            let cut: u64 = server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            cuts.fetch_add(cut, Ordering::SeqCst);
        }
    })
    .await;
    assert!(cuts.into_inner() > 0, "nothing was cut");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
}

#[tokio::test]
async fn p5_stalls_of_the_server_hang_nobody() {
    let server = Options::default()
        .with(["--enable-debug-command", "yes"])
        .start();
    let stalls = AtomicU64::new(0);
    let served = contend(&server, &mut Contest::new(LONGEST), async || {
        if stalls.fetch_add(1, Ordering::SeqCst).is_multiple_of(4) {
            server.run::<()>(&["DEBUG", "SLEEP", "0.06"]);
        }
    })
    .await;
    assert!(stalls.into_inner() > 0, "it did not stall");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");

    // Also not one that takes a free lock.
    let locks = locks(server.url()).await;
    for _ in 0..10 {
        let mut client = server.client();
        let stall = std::thread::spawn(move || {
            redis::cmd("DEBUG")
                .arg("SLEEP")
                .arg("0.06")
                .exec(&mut client)
        });
        let guard = timeout(DEADLINE, locks.lock("free").acquire()).await;
        guard.expect("it hangs").unwrap().release().await.unwrap();
        stall.join().unwrap().unwrap();
    }
    nothing_left(&server).await;
}

#[tokio::test]
async fn p3_a_cancelled_head_of_the_queue_does_not_block_those_behind_it() {
    let server = Server::start();
    let (one, two, three) = (
        locks(server.url()).await,
        locks(server.url()).await,
        locks(server.url()).await,
    );
    let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
    let head = tokio::spawn(two.lock("k").wait(ms(60_000)).acquire());
    queued(&server, "k", 1).await;
    let next = tokio::spawn(three.lock("k").wait(ms(60_000)).acquire());
    queued(&server, "k", 2).await;
    head.abort();
    assert!(head.await.unwrap_err().is_cancelled());
    queued(&server, "k", 1).await;

    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    let released = Instant::now();
    holder.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert!(released.elapsed() < GRACE, "{:?}", released.elapsed());
    guard.release().await.unwrap();
    let calls = statistic(&server, "evalsha", "calls").unwrap();
    // A few for each second that a slow machine takes, where one that spins makes thousands.
    assert!(calls <= 60.0, "{calls} scripts: somebody spins");
    nothing_left(&server).await;
}

#[tokio::test]
async fn p4_a_wake_up_connection_cut_just_before_the_release_costs_no_ttl() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let (holding, waiting) = (locks(server.url()).await, locks(proxy.url()).await);
    for _ in 0..5 {
        let holder = holding.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        let waiter = tokio::spawn(waiting.lock("k").wait(ms(60_000)).acquire());
        queued(&server, "k", 1).await;
        proxy.cut();
        let cut = Instant::now();
        holder.release().await.unwrap();
        let guard = waiter.await.unwrap().unwrap();
        assert!(cut.elapsed() < ms(1500) + SLACK, "{:?}", cut.elapsed());
        guard.release().await.unwrap();
    }
    let connections = proxy.log().iter().map(|command| command.connection).max();
    assert!(connections >= Some(2), "it was not cut");
    nothing_left(&server).await;
}

#[tokio::test]
async fn p6_renewals_do_not_feed_themselves() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let guard = locks.lock("k").ttl(ms(4000)).acquire().await.unwrap();
    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    let started = Instant::now();
    sleep(ms(4000)).await;
    let renewals = statistic(&server, "evalsha", "calls").unwrap();
    // A tenth of the ttl, up to a quarter early.
    let most = started.elapsed().as_secs_f64() / 0.3 + 5.0;
    assert!(
        (1.0..=most).contains(&renewals),
        "{renewals} renewals in a ttl"
    );
    guard.release().await.unwrap();
}

#[tokio::test]
async fn p7_an_acquire_that_was_interrupted_in_flight_is_not_renewed_for_ever() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = locks(proxy.url()).await;
    for delay in 0..20 {
        let acquiring = tokio::spawn(locks.lock("k").ttl(ms(4000)).acquire());
        sleep(Duration::from_micros(delay * 100)).await;
        acquiring.abort();
        let _ = acquiring.await;
        free(&server, "k").await;
    }
    assert!(proxy.seen("acquire") > 0, "nothing was in flight");
    let renewals = proxy.seen("renew");
    sleep(ms(2000)).await;
    assert_eq!(
        proxy.seen("renew"),
        renewals,
        "somebody renews what nobody holds"
    );
    assert_eq!((owner(&server, "k"), waiters(&server, "k")), (None, 0));
    can_be_had(&locks, "k").await;
}

/// Whether it is an acquire of which nobody knows what came.
fn is_unknown(event: &Event) -> bool {
    let What::Acquire { outcome, .. } = &event.what else {
        return false;
    };
    *outcome == Outcome::Unknown
}

//! What went wrong in other libraries when they were measured, and must not here.
//!
//! Contention is 4 processes of the operating system with 16 tasks each. They log who held the lock
//! when, and the checker reads all of it. `FAULT_SECONDS=40` makes it last longer.

mod p1_forgotten_waiters;
mod p2_swallowed_wake_up;
mod p3_blocked_queue;
mod p4_cut_wake_up_connections;
mod p5_stalls;
mod p6_renewals_of_renewals;
mod p7_renewed_orphan;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_tests::checker::{self, Check, Event, Limits, Outcome, Report, What};
use lock_tests::faults::contention::Contention;
use lock_tests::faults::process::Process;
use lock_tests::faults::proxy::Proxy;
use lock_tests::faults::{
    DEADLINE, GRACE, SLACK, can_be_had, free, locks, nothing_left, owner, queued, statistic,
    waiters,
};
use lock_tests::ms;
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

    /// Lets the processes contend while `interfere` does its worst, and returns how often each task
    /// was served.
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

/// Lets [`PROCESSES`] contend for a lock at `server`, and returns how often each task was served;
/// asserts that never two held it and that nothing is left.
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

//! Promises about leases that go together: rows S1 to S4 of the fault catalogue.

mod s01_killed_holder;
mod s02_lost_hand_over;
mod s03_deletion;
mod s04_standstill;

use std::collections::HashMap;
use std::time::Duration;

use lock_runtime::{Lock, LockGuard, LockRuntime};
use lock_tests::alone;
use lock_tests::faults::process::{Process, token};
use lock_tests::faults::proxy::Fault;
use lock_tests::faults::{
    DEADLINE, GRACE, SLACK, eventually, locks, ms, nothing_left, owner, queued, start_patient,
};
use lock_tests::server::Server;
use tokio::time::{Instant, timeout};

const HOLDER: &str = env!("CARGO_BIN_EXE_holder");

/// What is wanted of a key, so that another process has the like beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Reader,
    Permit,
    Shard,
}

impl Part {
    const ALL: [Part; 3] = [Part::Reader, Part::Permit, Part::Shard];

    /// A key of its own.
    fn key(self) -> String {
        format!("{self:?}")
    }

    /// How a process of its own is asked for it.
    fn word(self) -> &'static str {
        match self {
            Part::Reader => "shared",
            Part::Permit => "permits=2",
            Part::Shard => "shards=2",
        }
    }

    fn of(self, lock: Lock) -> Lock {
        match self {
            Part::Reader => lock.shared(),
            Part::Permit => lock.permits(2),
            Part::Shard => lock.shards(2),
        }
    }
}

/// Each part in two processes, with leases of `ttl` that are renewed so often.
async fn hold_all(processes: [&LockRuntime; 2], ttl: Duration, renew: Duration) -> Vec<LockGuard> {
    let mut held = Vec::new();
    for part in Part::ALL {
        for locks in processes {
            let lock = locks.lock(part.key()).ttl(ttl).renew(renew);
            held.push(part.of(lock).acquire().await.unwrap());
        }
    }
    held
}

/// All are told that they hold nothing any more.
async fn all_are_told(held: &[LockGuard]) {
    for guard in held {
        let lost = timeout(DEADLINE, guard.lost()).await;
        lost.unwrap_or_else(|_| panic!("{:?} of {} is not told", guard.mode(), guard.key()));
        assert!(!guard.is_held());
    }
}

/// When each lease ends, in milliseconds of the server's clock.
fn ends(server: &Server, key: &str) -> HashMap<String, u64> {
    let holders = format!("{{lock:{key}}}:holders");
    server.run(&["ZRANGE", &holders, "0", "-1", "WITHSCORES"])
}

/// The clock of the server, in milliseconds.
fn clock(server: &Server) -> u64 {
    let (seconds, micros): (u64, u64) = server.run(&["TIME"]);
    seconds * 1000 + micros / 1000
}

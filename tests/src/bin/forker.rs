//! A process that forks while it holds the locks `dropped` and `kept`, and says how parent and
//! child fare.
//!
//! In the child of a process with threads, whatever a thread had locked stays locked: this one gets
//! on because the others sleep while it is made. It takes no orders; the parent goes on after the
//! first line on its standard input.

#![allow(clippy::unwrap_used)]

use std::fs::{DirEntry, read_dir};
use std::io::{BufRead, Write};
use std::process::exit;
use std::thread;
use std::time::{Duration, Instant};

use fork::{Fork, fork};
use lock_runtime::backend::OwnerToken;
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::faults::builder;
use lock_tests::faults::process::state;
use lock_tests::ms;
use tokio::runtime::{Builder, Runtime};

fn main() {
    let url = std::env::args().nth(1).expect("usage: forker URL");
    let executor = executor();
    let (locks, dropped, kept) = executor.block_on(async {
        let locks = builder(&url).build().await.unwrap();
        let dropped = acquire(&locks, "dropped").await;
        let kept = acquire(&locks, "kept").await;
        (locks, dropped, kept)
    });
    say("ready");
    let_others_sleep();
    match fork().unwrap() {
        Fork::Child => be_child(&url, &locks, dropped, &kept),
        Fork::Parent(_) => be_parent(&executor, dropped, kept),
    }
}

async fn acquire(locks: &LockRuntime, key: &str) -> LockGuard {
    // Renewed rarely, so that no renewal comes while it forks.
    let lock = locks.lock(key).ttl(ms(1000)).renew(ms(500));
    lock.acquire().await.unwrap()
}

/// Waits until no other thread of this process has anything to do.
fn let_others_sleep() {
    let this = std::process::id().to_string();
    let sleeps =
        |thread: &DirEntry| *thread.file_name() == *this || state(thread.path()) == Some('S');
    let all_sleep = || {
        read_dir("/proc/self/task")
            .unwrap()
            .all(|thread| sleeps(&thread.unwrap()))
    };
    while !all_sleep() {
        thread::sleep(ms(1));
    }
}

/// `child TOKEN`, `runs out` when the guard it was born with says that its lock is lost, whether it
/// can take the parent's locks, and whether the runtime it was born with can take another.
fn be_child(url: &str, inherited: &LockRuntime, dropped: LockGuard, kept: &LockGuard) -> ! {
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(20));
        exit(1)
    });
    say(&format!("child {}", OwnerToken::unique("same")));
    drop(dropped);
    let born = Instant::now();
    while kept.is_held() {
        assert!(born.elapsed() < Duration::from_secs(5), "held for ever");
        thread::sleep(ms(5));
    }
    say("runs out");
    executor().block_on(async {
        let locks = builder(url).build().await.unwrap();
        for key in ["dropped", "kept"] {
            let guard = locks.lock(key).try_acquire().await.unwrap();
            say(if guard.is_some() {
                "taken over"
            } else {
                "taken"
            });
        }
        let other = inherited.lock("other").wait(ms(300)).acquire().await;
        say(if other.is_ok() { "works" } else { "refused" });
    });
    // Destructors would be those of the parent's things.
    exit(0)
}

/// `parent TOKEN`, whether it still holds its locks, and what comes of releasing them.
fn be_parent(executor: &Runtime, dropped: LockGuard, kept: LockGuard) {
    std::io::stdin()
        .lock()
        .read_line(&mut String::new())
        .unwrap();
    say(&format!("parent {}", OwnerToken::unique("same")));
    for guard in [dropped, kept] {
        say(if guard.is_held() { "held" } else { "lost" });
        let released = executor.block_on(guard.release());
        say(if released.is_ok() {
            "released"
        } else {
            "not held"
        });
    }
}

fn executor() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

//! What the connections of the callers' tokio runtimes promise when many tasks share one.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use lock_runtime::LockRuntime;
use lock_tests::faults::proxy::Proxy;
use lock_tests::faults::{builder, by_the_short_way, eventually, ms, nothing_left};
use lock_tests::server::Server;
use tokio::task::JoinHandle;

/// More than go by themselves.
const TASKS: usize = 32;

/// Tasks that use a lock each, as fast as they can.
struct Users {
    stop: Arc<AtomicBool>,
    uses: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Users {
    fn start(locks: &LockRuntime) -> Users {
        let (stop, uses) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let tasks = (0..TASKS).map(|task| {
            let (locks, stop, uses) = (locks.clone(), Arc::clone(&stop), Arc::clone(&uses));
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    let guard = locks.lock(format!("own:{task}")).acquire().await.unwrap();
                    guard.release().await.unwrap();
                    uses.fetch_add(1, Ordering::AcqRel);
                }
            })
        });
        let tasks = tasks.collect();
        Users { stop, uses, tasks }
    }

    fn uses(&self) -> usize {
        self.uses.load(Ordering::Acquire)
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// As the command's timeout is 500 ms, nobody may wait for a thread that is blocked for longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_thread_holds_up_no_command_of_a_task_on_another() {
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    let locks = builder(proxy.url()).build().await.unwrap();
    by_the_short_way(&proxy, &locks).await;
    let users = Users::start(&locks);
    eventually("they are at work", || users.uses() > TASKS).await;
    for _ in 0..5 {
        let before = users.uses();
        let blocked = tokio::spawn(async { thread::sleep(ms(1000)) });
        eventually("others go on", || users.uses() > before + 4 * TASKS).await;
        assert!(!blocked.is_finished(), "they waited for it");
        blocked.await.unwrap();
    }
    users.stop().await;
    nothing_left(&server).await;
}

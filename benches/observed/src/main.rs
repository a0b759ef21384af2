//! Passes a lock on among eight tasks of one process, in memory, so often as is asked; for
//! `scripts/observed`, which counts what that takes by the features that are compiled in.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_runtime::LockRuntime;
use tokio::task::JoinSet;

const TASKS: u64 = 8;

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all of it is done by the allocator of the system.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as it was asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as it was asked for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `observed PASSES`: prints how many allocations and nanoseconds a pass took.
fn main() {
    let passes: u64 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000);
    #[cfg(feature = "metrics")]
    let exporter = metrics_exporter_prometheus::PrometheusBuilder::new()
        .set_buckets(&lock_runtime::observe::BUCKETS)
        .and_then(|builder| builder.install_recorder())
        .expect("the first recorder");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a tokio runtime");
    let (allocations, took) = runtime.block_on(async {
        // No process waits for the others, so that nearly all is passed on.
        let locks = LockRuntime::in_memory()
            .local_passes(10_000)
            .local_share(1.0);
        let locks = locks.build().await.expect("in memory");
        pass(&locks, passes / 10).await;
        let (before, since) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
        pass(&locks, passes).await;
        let took = since.elapsed();
        (ALLOCATIONS.load(Ordering::Relaxed) - before, took)
    });
    println!(
        "{:.2} {:.0}",
        allocations as f64 / passes as f64,
        took.as_nanos() as f64 / passes as f64
    );
    #[cfg(feature = "metrics")]
    {
        // That it was counted.
        let name = "distributed_lock_grants_total{lock=\"observed\",via=\"local\"} ";
        let text = exporter.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let passed: u64 = line.and_then(|n| n.parse().ok()).expect("local passes");
        assert!(passed * 10 > passes * 9, "{passed} of {passes} were local");
    }
}

async fn pass(locks: &LockRuntime, passes: u64) {
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let locks = locks.clone();
        tasks.spawn(async move {
            for _ in 0..passes / TASKS {
                let lock = locks
                    .lock("k")
                    .name("observed")
                    .wait(Duration::from_secs(60));
                let guard = lock.acquire().await.expect("its turn");
                tokio::task::yield_now().await;
                guard.release().await.expect("it was held");
            }
        });
    }
    tasks.join_all().await;
}

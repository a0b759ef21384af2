//! What the attribute costs over the guard written by hand: on the in-memory backend, where nothing
//! else costs much.
#![allow(missing_docs)]

use divan::{Bencher, black_box};
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

#[distributed_lock(key = "coupon:<id>", ttl = "5s", wait = "2s")]
async fn annotated(id: u64) -> Result<u64, LockError> {
    Ok(black_box(id))
}

async fn by_hand(id: u64) -> Result<u64, LockError> {
    let guard = LockRuntime::current()?
        .lock(format!("coupon:{id}"))
        .ttl(std::time::Duration::from_secs(5))
        .wait(std::time::Duration::from_secs(2))
        .acquire()
        .await?;
    let result = black_box(id);
    guard.release().await?;
    Ok(result)
}

async fn installed() -> Result<(), LockError> {
    LockRuntime::in_memory().build().await?.install()
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a tokio runtime can be made");
    // The second benchmark finds the runtime of the first.
    let _ = runtime.block_on(installed());
    runtime
}

#[divan::bench]
fn attribute(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    bencher.bench_local(|| {
        runtime
            .block_on(annotated(black_box(42)))
            .expect("nobody else wants it")
    });
}

#[divan::bench]
fn guard(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    bencher.bench_local(|| {
        runtime
            .block_on(by_hand(black_box(42)))
            .expect("nobody else wants it")
    });
}

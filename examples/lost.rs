//! What happens to my function when its lock is lost?
//!
//! A lease is lost when it can no longer be proven: the store forgot it, gave it to another, or
//! could not be reached until it ran out. Here the store, in memory, gives the lock to another in
//! the middle of the work. The function is dropped at the `.await` where it stands, its locals
//! included, and the caller gets an error that says so. Nobody waits for the ttl: the next renewal
//! finds out.
//!
//! ```text
//! $ cargo run --example lost
//! page 1 is printed
//! page 1 is put away
//! page 2 is printed
//! -- another takes the lock --
//! page 2 is put away
//! error: the lease of the lock `report:2026-11` was lost after 673ms: the store says that it ended
//! ```

use std::time::Duration;

use lock_runtime::memory::MemoryBackend;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use tokio::time::sleep;

struct Page(u32);

impl Drop for Page {
    fn drop(&mut self) {
        println!("page {} is put away", self.0);
    }
}

#[distributed_lock(key = "report:<month>", ttl = "1s", runtime = locks)]
async fn print_report(locks: &LockRuntime, month: &str) -> Result<(), LockError> {
    for number in 1..=5 {
        let page = Page(number);
        println!("page {} is printed", page.0);
        sleep(Duration::from_millis(400)).await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await?;

    let another = async {
        sleep(Duration::from_millis(600)).await;
        println!("-- another takes the lock --");
        store.steal("report:2026-11");
    };
    let (outcome, ()) = tokio::join!(print_report(&locks, "2026-11"), another);
    match outcome {
        Err(error) if error.is_lost() => println!("error: {error}"),
        other => println!("unexpected: {other:?}"),
    }
    Ok(())
}

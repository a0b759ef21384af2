use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "job:<id>", on_busy = skip)]
async fn job(id: u64) -> Result<(), LockError> {
    send(id).await;
    Ok(())
}

async fn send(_: u64) {}

fn main() {}

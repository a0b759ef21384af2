use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "job:<id>", once_per = "1h", on_taken = none, on_error = none)]
async fn job(id: u64) -> u64 {
    id
}

fn none(_: LockError) -> u64 {
    0
}

fn main() {}

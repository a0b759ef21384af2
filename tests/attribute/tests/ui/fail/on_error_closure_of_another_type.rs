use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>", on_error = |error: LockError| error.to_string())]
async fn claim(id: u64) -> Option<u64> {
    Some(id)
}

fn main() {}

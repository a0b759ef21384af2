use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> Result<String, LockError> {
    let answer: Result<u64, LockError> = Ok(id);
    answer
}

fn main() {}

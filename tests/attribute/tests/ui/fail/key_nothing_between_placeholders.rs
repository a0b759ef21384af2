use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "pair:<a><b>")]
async fn pair(a: String, b: String) -> Result<(), LockError> {
    drop((a, b));
    Ok(())
}

fn main() {}

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> Result<u64, LockError> {
    let shared = std::rc::Rc::new(id);
    tokio::task::yield_now().await;
    Ok(*shared)
}

fn spawnable<T: Send>(_: T) {}

fn main() {
    spawnable(claim(1));
}

use lock_runtime::{LockError, distributed_lock};

trait Coupons {
    #[distributed_lock(key = "coupon:<id>")]
    fn claim(&self, id: u64) -> impl Future<Output = Result<u64, LockError>>;
}

fn main() {}

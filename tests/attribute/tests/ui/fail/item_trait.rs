use lock_runtime::distributed_lock;

#[distributed_lock(key = "coupon")]
trait Coupons {
    fn claim(&self);
}

fn main() {}

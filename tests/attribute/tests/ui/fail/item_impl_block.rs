use lock_runtime::distributed_lock;

struct Coupon;

#[distributed_lock(key = "coupon")]
impl Coupon {
    async fn claim(&self) {}
}

fn main() {}

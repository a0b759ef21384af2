use lock_runtime::distributed_lock;

#[distributed_lock(key = "coupon")]
struct Coupon;

fn main() {}

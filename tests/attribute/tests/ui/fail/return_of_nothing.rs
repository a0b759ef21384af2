use lock_runtime::distributed_lock;

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) {
    drop(id);
}

fn main() {}

use lock_runtime::distributed_lock;

#[distributed_lock(key = "coupon:<id>", on_error = 5)]
async fn claim(id: u64) -> Option<u64> {
    Some(id)
}

fn main() {}

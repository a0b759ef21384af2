use lock_runtime::distributed_lock;

fn busy(_error: lock_runtime::LockError) -> u16 {
    503
}

#[distributed_lock(key = "coupon:<id>", on_error = busy)]
async fn claim(id: u64) -> Option<u64> {
    Some(id)
}

fn main() {}

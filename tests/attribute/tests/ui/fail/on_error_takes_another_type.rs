use lock_runtime::distributed_lock;

fn busy(_status: u16) -> Option<u64> {
    None
}

#[distributed_lock(key = "coupon:<id>", on_error = busy)]
async fn claim(id: u64) -> Option<u64> {
    Some(id)
}

fn main() {}

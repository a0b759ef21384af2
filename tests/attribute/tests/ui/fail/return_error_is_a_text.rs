use lock_runtime::distributed_lock;

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> Result<u64, String> {
    Ok(id)
}

fn main() {}

use lock_runtime::distributed_lock;

struct ClaimError;

#[distributed_lock(key = "coupon:<id>")]
async fn claim(id: u64) -> Result<u64, ClaimError> {
    if id == 0 { Err(ClaimError) } else { Ok(id) }
}

fn main() {}

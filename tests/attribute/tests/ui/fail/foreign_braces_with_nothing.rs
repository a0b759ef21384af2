use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "{t}:coupon:{}")]
async fn claim(tenant: u64, id: u64) -> Result<(u64, u64), LockError> {
    Ok((tenant, id))
}

fn main() {}

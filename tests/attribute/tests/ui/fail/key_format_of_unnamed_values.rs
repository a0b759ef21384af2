use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = &format!("order:{}:{}", tenant, id))]
async fn claim(tenant: String, id: u64) -> Result<(String, u64), LockError> {
    Ok((tenant, id))
}

fn main() {}

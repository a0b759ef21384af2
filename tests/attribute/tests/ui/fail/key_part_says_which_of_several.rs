use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "item:<id>:<name>:<price>")]
async fn sell(id: u64, name: &str, price: f64) -> Result<f64, LockError> {
    Ok(price * id as f64 * name.len() as f64)
}

fn main() {}
